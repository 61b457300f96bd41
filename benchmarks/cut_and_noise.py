"""Scalars that are cut, then hidden in noise, by attackers that are not stuck: what benchmarks/zo_defences.py leaves.

There the search cuts the scalars of its own guess, and stops with a misfit above the noise. Here the cut is taken as it
is on average (Bussgang 1952): over public records of the same classes, a cut scalar is a constant times the scalar, and
something that is uncorrelated with it. Divided by the constant, the messages are those of a client without a cut, with
a little more noise. The federation is that of zo_defences: five clients with ten 8x8 digits, 200 rounds of 10 scalars,
client 0's labels known. Attackers: "search", Gauss-Newton (zerogla) on the divided scalars, as good as nothing where
its misfit is above the noise; "posterior" (common/posterior.py), which cannot get stuck; both again with the noise
removed, and the posterior on permuted scalars. Controls of each digit: its mean colour, and the mean public digit of
its class.

    python benchmarks/cut_and_noise.py [--seeds 3] [--sigmas 0.5 1.0]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    cut_and_noise_cpu: python benchmarks/cut_and_noise.py

The first seed was looked at while this was written.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from types import SimpleNamespace

import torch
from common import arguments, measure, posterior
from common.sums import at

import glutils as gl
from glutils.defenses import Defended, get

ROUNDS, DIRECTIONS, LR, PER_CLIENT, CUT = 200, 10, 0.1, 10, 0.03
EVERY, MEMBERS = 10, 50
"""Of how many rounds one is used to learn the constant; public records of a class, behind the posterior."""


def scalars_of(entry, model, batch) -> torch.Tensor:
    """What a client with these records would send, without cut and noise."""
    at(model, entry)
    plain = entry.protocol.protocol
    return plain.transmit(model, batch.images, batch.labels, directions=plain.draw(model)).scalars.double()


def constant(seen, model, public, seed: int) -> tuple[float, float]:
    """By how much a cut scalar is less on average, and the deviation of the rest; from public records alone."""
    draw = torch.Generator().manual_seed(seed)
    groups = [(public.labels == label).nonzero()[:, 0] for label in seen.labels]
    alike = public[[int(group[torch.randint(len(group), (1,), generator=draw)]) for group in groups]]
    whole = torch.cat([scalars_of(entry, model, alike) for entry in seen.rounds[::EVERY]])
    cut = whole.clamp(-CUT, CUT)
    less = float(whole @ cut / (whole @ whole))
    return less, float((cut - less * whole).std())


def work(sigma: float, seed: int) -> dict:
    """Train, attack, score."""
    clients = gl.data.partition("digits", clients=5, per_client=PER_CLIENT, seed=seed, device="cpu")
    model, public = gl.models.build("mlp", clients[0], seed=0), gl.data.public("digits", device="cpu")
    plain = gl.protocols.ZerothOrder(directions=DIRECTIONS, mu=1e-4, dtype="float64", seed=7)
    both = (get("clip_scalars", bound=CUT), get("gaussian_noise", sigma=CUT * sigma))
    how = {"rounds": ROUNDS, "lr": LR, "seed": seed, "progress": False}
    run = gl.federation.train(Defended(plain, both, private=seed), model, clients, **how)
    truth, seen = clients[0], gl.observe(run, client=0, knows={"labels"})
    less, rest = constant(seen, model, public, seed)
    sent = torch.stack([entry.payload.scalars.double() for entry in seen.rounds])
    clean = torch.stack([scalars_of(entry, model, truth) for entry in seen.rounds]).clamp(-CUT, CUT)
    mixed = sent.flatten()[torch.randperm(sent.numel(), generator=torch.Generator().manual_seed(seed))].view_as(sent)
    loud, quiet = ((rest**2 + noise**2) ** 0.5 / less for noise in (CUT * sigma, 0.0))
    views = {"": (sent, loud), ", permuted": (mixed, loud), ", noise removed": (clean, quiet)}
    states = {n: torch.stack([e.parameters[n].double() for e in seen.rounds]) for n in seen.rounds[0].parameters}
    at(model, seen.rounds[0])
    drawn = [entry.protocol.protocol.draw(model) for entry in seen.rounds]
    rows = torch.stack([directions.rows(dtype=torch.float64) for directions in drawn])
    told = [posterior.Messages(model, s / less, noise, states, rows, None) for s, noise in views.values()]
    row = {
        "accuracy": float(run.accuracy[-1]),
        "constant": less,
        "saturated": float((clean.abs() >= CUT).double().mean()),
    }
    for what, found in zip(views, posterior.estimates(told, public, truth.labels, MEMBERS), strict=True):
        images = found.clamp(0, 1).view(truth.images.shape).float()
        row["posterior" + what] = scored(SimpleNamespace(images=images, labels=truth.labels), truth, public)
    for what in ("", ", noise removed"):
        numbers, noise = views[what]
        protocol = [Defended(e.protocol.protocol, get("gaussian_noise", sigma=noise)) for e in seen.rounds]
        rounds = [
            replace(e, payload=p.protocol.payload(one / less, model), protocol=p, client=None)
            for e, p, one in zip(seen.rounds, protocol, numbers, strict=True)
        ]
        view = replace(seen, rounds=tuple(rounds))
        result = gl.attack("zerogla", view, seed=0, restarts=1, check=False, progress=False)
        fit = {"misfit": result.loss**0.5, "noise": result.diagnostics["noise"]}
        row["search" + what] = scored(result, truth, public) | fit
    return row


def scored(result, truth, public) -> dict:
    """PSNR of each digit, and of the best control."""
    score = gl.score(result, truth, public=public)
    cards = torch.stack([score.controls[name].psnr for name in ("mean_colour", "class_mean")])
    return {"found": score.psnr.tolist(), "blank": cards.amax(0).tolist()}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.5, 1.0], help="noise over the cut")
    options = arguments(parser)
    parameters = {"rounds": ROUNDS, "directions": DIRECTIONS, "lr": LR, "per_client": PER_CLIENT, "cut": CUT}
    parameters |= {"members": MEMBERS}
    cells = [{"sigma": s, "seed": k} for s, k in itertools.product(options.sigmas, range(options.seeds))]
    measure("cut_and_noise_cpu", cells, work, parameters)


if __name__ == "__main__":
    main()
