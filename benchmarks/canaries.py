"""Canaries in private runs: the epsilon that guesses prove, beside the accountant's.

One client with ten 8x8 digits and 100 canaries, public digits that are in by the toss of a coin each; 10 rounds at
lr 0.3 of a tanh MLP. DP-SGD (clip 1) and private scalars (40 a round, clip 0.05), all records in every round or half
of them drawn (Poisson). The auditor sees every message. Half of the canaries are guessed. Each cell has a control whose
scores are shuffled, and noise multipliers are chosen for stated epsilons. ``count`` is a mechanism whose epsilon is
known in closed form: a count of one for each of 1,000 canaries. ``broken`` adds a tenth of the noise that it states.

    python benchmarks/canaries.py [--seeds 10] [--only dpsgd ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    canaries_cpu: python benchmarks/canaries.py
"""

from __future__ import annotations

import argparse
import functools
import itertools
from dataclasses import dataclass

import torch
from common import arguments, measure

import glutils as gl
from glutils import defenses

ROUNDS, LR, DELTA, CANARIES, COUNTS, SCALARS = 10, 0.3, 1e-3, 100, 1000, 40
EPSILONS = (2.0, 8.0)
CASES = ("count", "dpsgd", "dpsgd, half drawn", "scalars", "scalars, half drawn", "broken")


@dataclass(frozen=True)
class Forgetful(defenses.DPSGD):
    """DP-SGD with a tenth of the noise that it states."""

    def noise(self, payload, images):
        return super().noise(payload, images) / 10


@functools.cache
def multiplier(case: str, epsilon: float) -> float:
    """The noise that the accountant asks for."""
    rate = 0.5 if "drawn" in case else 1.0
    sigma = defenses.noise_multiplier(epsilon, rate, 1 if case == "count" else ROUNDS, DELTA)
    return sigma * SCALARS**0.5 if "scalars" in case else sigma  # scalars of a message are about one draw


def run(case: str, epsilon: float, seed: int) -> dict:
    """One run, and the guesses about its canaries."""
    sigma = multiplier(case, epsilon)
    shuffle = torch.Generator().manual_seed(seed)
    if case == "count":
        members = torch.rand(COUNTS, generator=shuffle) < 0.5
        scores = members + sigma * torch.randn(COUNTS, generator=shuffle)
        found = defenses.empirical_epsilon(scores, members, delta=DELTA)
        stated = defenses.epsilon(sigma, 1.0, 1, DELTA)
    else:
        inserted = gl.data.sample("digits", count=CANARIES, seed=100 + seed, split="public")
        records = gl.data.sample("digits", count=10, seed=seed)
        model = gl.models.build("mlp", records, hidden=(32,), activation="tanh", seed=seed)
        expected = len(records) + CANARIES // 2
        if "scalars" in case:
            defense = defenses.get("dp_scalars", clip=0.05, sigma=sigma, expected=expected)
            plain = gl.protocols.ZerothOrder(directions=SCALARS, mu=1e-4, dtype="float64", seed=seed)
        else:
            make = Forgetful if case == "broken" else defenses.DPSGD
            defense, plain = make(clip=1.0, sigma=sigma, expected=expected), gl.protocols.FedSGD()
        audit = gl.audit.canaries(
            model, defenses.Defended(plain, defense, private=seed), records, inserted, rounds=ROUNDS, lr=LR,
            delta=DELTA, sample_rate=0.5 if "drawn" in case else 1.0, seed=seed,
        )  # fmt: skip
        found, stated, scores, members = audit.found, audit.epsilon, audit.scores, audit.members
    control = defenses.empirical_epsilon(scores[torch.randperm(len(scores), generator=shuffle)], members, delta=DELTA)
    return {
        "sigma": sigma, "accountant": stated, "empirical": found.epsilon, "right": found.right,
        "guesses": found.guesses, "canaries": found.canaries, "advantage": found.advantage,
        "advantage, at most": defenses.membership_advantage(stated, DELTA),
        "shuffled": control.epsilon, "shuffled advantage": control.advantage,
    }  # fmt: skip


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    options = arguments(parser)
    parameters = {"rounds": ROUNDS, "lr": LR, "delta": DELTA, "scalars": SCALARS}
    cells = [
        {"case": case, "epsilon": epsilon, "seed": seed}
        for seed, case, epsilon in itertools.product(range(options.seeds), options.only, EPSILONS)
    ]
    measure("canaries_cpu", cells, run, parameters)


if __name__ == "__main__":
    main()
