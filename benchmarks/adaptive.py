"""Defences against attackers who bring all that the book has: a prior of public digits, and a list of suspects.

Gradients: one 8x8 digit, a tanh MLP with 32 hidden units, weights at their start. "ig" is the attacker of chapters 15
and 16, who knows the defence. "posterior" (ours) knows, besides, what the mean and covariance of public digits of the
class are, and the size of the noise: Gauss-Newton to the most likely digit, from the class's mean. Its controls are
that mean and what it makes of a permuted message. The digit is also looked for among 100 candidates, the others being
public: by gl.identify, which knows of clips and noise but not of numbers that were left out or rounded, and by "fit",
the candidate whose simulated message, defence and all, is the nearest. Sums: the scalars of five clients with two
digits each, added up, half a scalar a pixel and one: the Gaussian prior of chapter 4 against no prior, and names among
200. "spear": four digits at once behind a ReLU layer of 128 units, by SPEAR, which answers exactly or refuses.

    python benchmarks/adaptive.py [--seeds 6] [--only noise topk ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    adaptive_cpu: python benchmarks/adaptive.py
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace

import torch
from common import arguments, measure

import glutils as gl
from glutils import defenses

GRADIENTS = {
    "none": [None],
    "noise": [3.0, 10.0, 30.0],
    "topk": [0.01, 0.003, 0.001],
    "dpsgd": [0.03, 0.1, 0.3],
    "bits": [4, 2],
}
"""Defence to strengths: noise over the gradient's size, share of it that is sent, noise multiplier, bits."""
SPEAR = {
    "spear, none": [None], "spear, clip": [0.1], "spear, topk": [0.5, 0.2, 0.1], "spear, half": ["float16"],
    "spear, noise": [1e-3], "spear, dpsgd": [0.0],
}  # fmt: skip
"""The same for SPEAR; of DP-SGD the clip alone."""
ALL = [*GRADIENTS, "sums", *SPEAR]
SUMS = (0.5, 1.0)
"""Scalars of a sum over pixels of all its clients."""
CLIENTS, PER_CLIENT, CANDIDATES, SUSPECTS, STEPS = 5, 2, 100, 200, 5


def defense_of(name: str, strength):
    """The wrapper; none for ``"none"``."""
    return {
        "none": lambda: None,
        "noise": lambda: defenses.get("gaussian_noise", sigma=strength, relative=True),
        "topk": lambda: defenses.get("topk", keep=strength, scope="global"),
        "dpsgd": lambda: defenses.get("dpsgd", clip=1.0, sigma=strength, expected=1),
        "bits": lambda: defenses.get("bits", bits=strength),
        "clip": lambda: defenses.get("clip", bound=strength),
        "half": lambda: defenses.get("half", format=strength),
    }[name]()


def most_likely(seen, public, start: torch.Tensor) -> torch.Tensor:
    """(D,) the digit that message and prior make most likely, by Gauss-Newton on a simulated client."""
    same = public.images[public.labels == seen.labels].flatten(1).double()
    center = same - same.mean(0)
    precision = torch.linalg.inv(center.T @ center / len(same) + 1e-3 * torch.eye(same.shape[1]).double())
    message = seen.rounds[0].payload.flat.double()
    # what is not declared, by rounding say, is taken for a hundredth of the message's size
    noise = max(float(seen.protocol.noise(seen.rounds[0].payload, 1)), 1e-2 * float(message.std()))

    @torch.no_grad()
    def said(x):
        return seen.protocol.simulate(seen.model, x.view(seen.shape), seen.labels).flat.double()

    def cost(x):
        away = x - same.mean(0)
        return float(((said(x) - message) / noise).square().sum() + away @ precision @ away)

    found = [start.double()]
    for _ in range(STEPS):
        x = found[-1]
        steps = 1e-4 * torch.eye(len(x)).double()
        slope = torch.stack([(said(x + s) - said(x - s)) / 2e-4 for s in steps], 1) / noise
        pull = slope.T @ ((message - said(x)) / noise) + precision @ (same.mean(0) - x)
        way = torch.linalg.solve(slope.T @ slope + precision, pull)
        found += [min((x + t * way for t in (1.0, 0.3, 0.1, 0.0)), key=cost)]
    return found[-1].clamp(0, 1)


def gradients(name: str, strength, seed: int) -> dict:
    """One digit behind a defended gradient."""
    batch, public = gl.data.sample("digits", seed=seed, device="cpu"), gl.data.public("digits", device="cpu")
    model = gl.models.build("mlp", batch, hidden=(32,), activation="tanh", seed=seed)
    protocol, defense = gl.protocols.FedSGD(), defense_of(name, strength)
    protocol = protocol if defense is None else defenses.Defended(protocol, defense, private=seed)
    sent = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, sent, batch, knows={"labels"})
    mean = public.images[public.labels == batch.labels].double().mean(0).flatten()
    row = {"class mean": psnr(mean, batch), "mean colour": psnr(batch.images.mean().expand(mean.shape), batch)}
    result = gl.attack("ig", seen, seed=seed, iterations=80, progress=False)
    row |= {"ig": float(gl.score(result, batch).psnr)}
    for what, view in {"": seen, ", permuted": gl.tamper(seen, "permuted", seed=seed)}.items():
        row["posterior" + what] = psnr(most_likely(view, public, mean), batch)
    others = torch.randperm(len(public), generator=torch.Generator().manual_seed(seed))[: CANDIDATES - 1]
    pool = gl.data.concatenate([batch, public[others.tolist()]])
    named = gl.identify(replace(seen, labels=None), pool, seed=seed, progress=False)
    row |= verdict(named, 1)
    for what, view in {"": seen, ", permuted": gl.tamper(seen, "permuted", seed=seed)}.items():
        message = view.rounds[0].payload.flat.double()
        with torch.no_grad():
            said = [
                view.protocol.simulate(model, x[None], y[None]).flat.double()
                for x, y in zip(pool.images, pool.labels, strict=True)
            ]
        misfit = torch.stack([(one - message).norm() for one in said])
        row["better fits" + what] = int((misfit[1:] <= misfit[0]).sum())
    return row


def verdict(named, members: int) -> dict:
    """How many are named rightly and wrongly, and how many of the members come first."""
    first = int((named.ranking[:members] < members).sum())
    return {"right": int(named.members[:members].sum()), "wrong": int(named.members[members:].sum()), "first": first}


def psnr(flat: torch.Tensor, batch) -> float:
    """Of one digit."""
    return float(gl.metrics.psnr(flat.view(batch.images.shape).float(), batch.images)[0])


def sums(ratio: float, seed: int) -> dict:
    """The mean of ten clients' scalars, which is what one client with all their digits would send."""
    deal = gl.data.partition("digits", clients=CLIENTS, per_client=PER_CLIENT, seed=seed, device="cpu")
    whole, public = gl.data.concatenate(deal), gl.data.public("digits", device="cpu")
    model = gl.models.build("mlp", whole, hidden=(32,), seed=seed)
    rounds = 40
    count = round(ratio * whole.images.numel() / rounds)
    protocol = gl.protocols.ZerothOrder(directions=count, mu=1e-4, dtype="float64", seed=seed)
    run = gl.federation.train(protocol, model, [whole], rounds=rounds, lr=0.1, seed=seed, progress=False)
    seen = replace(gl.observe(run, client=0, knows={"labels"}), public=public)
    row = {"scalars": seen.scalars, "pixels": whole.images.numel()}
    for prior in ("none", "gaussian"):
        result = gl.attack("zerogla", seen, prior=prior, seed=seed, restarts=1, check=False, progress=False)
        score = gl.score(result, whole)
        row[f"prior {prior}"] = score.psnr.tolist()
    row["mean colour"] = score.controls["mean_colour"].tolist()
    others = torch.randperm(len(public), generator=torch.Generator().manual_seed(seed))[: SUSPECTS - len(whole)]
    pool = gl.data.concatenate([whole, public[others.tolist()]])
    few = replace(seen, labels=None, rounds=seen.rounds[:10])
    named = gl.identify(few, pool, seed=seed, progress=False)
    return row | verdict(named, len(whole)) | {"members": len(whole), "scalars for names": few.scalars}


def spear(name: str, strength, seed: int) -> dict:
    """Four digits behind a defended gradient; a refusal is a row of its own."""
    batch = gl.data.sample("digits", count=4, seed=seed, device="cpu")
    model = gl.models.build("mlp", batch, hidden=(128,), activation="relu", seed=seed)
    protocol, defense = gl.protocols.FedSGD(), defense_of(name, strength)
    protocol = protocol if defense is None else defenses.Defended(protocol, defense, private=seed)
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"})
    return {"psnr": gl.score(gl.attack("spear", seen, seed=seed), batch).psnr.tolist()}


def run(defence: str, strength, seed: int) -> dict:
    """One row."""
    if defence in SPEAR:
        return spear(defence.removeprefix("spear, "), strength, seed)
    return sums(strength, seed) if defence == "sums" else gradients(defence, strength, seed)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6, help="of gradients; of sums three")
    parser.add_argument("--only", nargs="*", default=ALL, choices=ALL)
    options = arguments(parser)
    parameters = {"clients": CLIENTS, "per_client": PER_CLIENT, "candidates": CANDIDATES, "suspects": SUSPECTS}
    parameters |= {"steps": STEPS}
    cells = [
        {"defence": name, "strength": strength, "seed": seed}
        for name in options.only
        for strength, seed in itertools.product(
            SUMS if name == "sums" else (GRADIENTS | SPEAR)[name], range(3 if name == "sums" else options.seeds)
        )
    ]
    measure("adaptive_cpu", cells, run, parameters)


if __name__ == "__main__":
    main()
