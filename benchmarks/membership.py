"""Names of records from scalars: who is named, wrongly or not at all, against members, scalars, candidates and noise.

Each row is one draw: a fresh network, fresh directions, fresh members. ``named``: the share of the members who are
named; ``false``: wrong names; ``complete``: whether the attack says that nobody is missing. Of the scores alone:
``clean``, the share of members above everybody else; AUC; true positives at 1 % false ones.

- ``bars``: the scalars that the project has set itself, two networks, two precisions. ``noise``: 10 % of their spread
  at twice as many, declared or not. ``absent``: one of the members is no candidate.
- ``controls``: scalars that say nothing, candidates of another kind, near copies in place of the members.
- ``curve``: scalars in units of B log2(N / B). ``precision``: what half precision leaves. ``messages``: gradients and
  differences. ``photos``: crops of photographs and a ReLU network. ``logs``: real DeComFL clients, message by message.
- ``schedules``: a fresh mini-batch for every message, as DeComFL's and MeZO's programs draw it, while the model learns;
  as many strangers as members among the candidates.

    python benchmarks/membership.py [--only bars noise ...] [--draws 20]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    membership_cpu: python benchmarks/membership.py --only bars absent controls logs
    membership_noise_cpu: python benchmarks/membership.py --only noise photos --name membership_noise_cpu
    membership_curve_cpu: python benchmarks/membership.py --only curve precision messages --name membership_curve_cpu
    membership_schedules_cpu: python benchmarks/membership.py --only schedules --name membership_schedules_cpu --draws 2
"""

from __future__ import annotations

import argparse
import itertools
import math
import warnings
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from common import arguments, measure

import glutils as gl

FIRST = 1000
"""The first seed; those below were used while the method was made."""
BARS = ((1, 16), (5, 64), (10, 128))
NETWORKS = {"mlp 32": ("mlp", {"hidden": (32,)}), "mlp 64": ("mlp", {}), "convnet": ("convnet", {})}
SCHEDULES = ((50, 32, 5, 300), (50, 8, 5, 300), (200, 32, 5, 667), (200, 16, 1, 1500))
"""Records of the client, of a message, scalars of a message, messages."""
RATIOS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@cache
def digits() -> gl.data.Batch:
    """All 1,797 digits of scikit-learn."""
    parts = [gl.data.load("digits", split=split, device="cpu") for split in ("private", "public")]
    return gl.data.concatenate(parts)


@cache
def crops() -> gl.data.Batch:
    """2,000 crops of photographs, 12 x 12 in colour."""
    return gl.data.sample("photos", size=12, count=2000, seed=0, device="cpu")


def cells(only: list[str], draws: int) -> Iterator[dict]:
    """One for each draw."""
    default = {"network": "mlp 32", "dtype": "float32", "N": 1797, "noise": 0.0, "absent": 0, "how": ""}
    for name in only:
        for case, count in CASES[name](draws):
            for seed in range(FIRST, FIRST + count):
                yield {"measure": name} | default | case | {"seed": seed}


CASES = {
    "bars": lambda n: [
        ({"network": net, "dtype": dtype, "B": b, "K": k}, n)
        for net in ("mlp 32", "mlp 64") for dtype in ("float32", "float64") for b, k in BARS
    ],
    "noise": lambda n: [({"noise": 0.1, "B": b, "K": 2 * k, "how": how}, n if how == "declared" and b < 10 else n // 2)
                        for how in ("declared", "unknown") for b, k in (BARS if how == "declared" else BARS[:2])],
    "absent": lambda n: [({"absent": 1, "B": b, "K": k}, times * n)
                         for (b, k), times in zip(BARS, (2, 2, 1), strict=True)],
    "controls": lambda n: [({"B": 5, "K": 64, "how": how}, n // 4) for how in
                           ("wrong_seed", "permuted", "wrong_gradient", "zero", "strangers", "shifted", "copies")],
    "curve": lambda n: [({"B": b, "K": math.ceil(r * b * math.log2(count / b)), "N": count, "ratio": r}, n // 4)
                        for count in (200, 1797) for b in (1, 2, 5, 10, 20) for r in RATIOS],
    "precision": lambda n: [({"B": 5, "K": k, "dtype": dtype}, n // 4) for k in (64, 256) for dtype in
                            ("float16+float32", "float16", "bfloat16+float32", "bfloat16")],
    "messages": lambda n: [({"B": 5, "K": 0, "how": how}, n // 4) for how in
                           ("FedSGD", "FedAvg, 1 step", "FedAvg, 2 epochs", "FedAvg, 5 batches")],
    "photos": lambda n: [({"network": "convnet", "N": 2000, "B": 5, "K": 128, "absent": a}, n // 4) for a in (0, 1)],
}  # fmt: skip


OTHERS = ("logs", "schedules")


def protocol(cell: dict) -> gl.protocols.Protocol:
    """The client's protocol."""
    local = {"FedSGD": None, "FedAvg, 1 step": (1, 5), "FedAvg, 2 epochs": (2, 5), "FedAvg, 5 batches": (1, 1)}
    if cell["how"] in local:
        steps = local[cell["how"]]
        return gl.protocols.FedSGD() if steps is None else gl.protocols.FedAvg(steps[0], steps[1], lr=0.1)
    dtype, _, loss = cell["dtype"].partition("+")
    how = {"dtype": dtype, "loss_dtype": loss or None, "mu": 1e-3, "law": "gaussian", "seed": cell["seed"]}
    return gl.protocols.ZerothOrder(directions=cell["K"], **how)


def named(**cell) -> dict:
    """One draw: the members' message, seen, and what is made of it."""
    everybody = crops() if cell["network"] == "convnet" else digits()
    generator = np.random.default_rng(cell["seed"])
    listed = generator.choice(len(everybody), min(cell["N"], len(everybody)), replace=False).tolist()
    pool, count = everybody[listed], cell["B"]
    kind, options = NETWORKS[cell["network"]]
    model, client, batch = gl.models.build(kind, pool, seed=cell["seed"], **options), protocol(cell), pool[:count]
    sigma = None
    if cell["noise"]:
        sigma = cell["noise"] * float(client.transmit(model, batch.images, batch.labels).std())
        client = gl.defenses.Defended(client, gl.defenses.get("gaussian_noise", sigma=sigma), private=cell["seed"])
    seen = gl.observe(model, client, client.transmit(model, batch.images, batch.labels), batch)
    if cell["how"] == "unknown":
        seen = gl.observation.naive(seen)
    if cell["how"] in ("wrong_seed", "permuted", "wrong_gradient", "zero"):
        seen = gl.tamper(seen, cell["how"], seed=cell["seed"])
    candidates, truth = listed_for(cell, pool)
    alpha = 0.5 if cell["measure"] == "curve" else 0.05  # of the curve only the scores are used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more members than scalars
        found = gl.identify(seen, candidates, progress=False, seed=cell["seed"], false_names=alpha)
    return judged(found, truth) | {"sigma": sigma}


def listed_for(cell: dict, pool: gl.data.Batch) -> tuple[gl.data.Batch, np.ndarray]:
    """The candidates, and which of them are members."""
    count = cell["B"]
    if cell["how"] == "strangers":  # upside down and mirrored: none is a digit of anybody
        return gl.data.Batch(pool.images.flip(-1, -2), pool.labels, pool.classes), np.zeros(len(pool), dtype=bool)
    if cell["how"] in ("shifted", "copies"):  # each member moved by a pixel, in its place or beside it
        moved = gl.data.Batch(pool.images[:count].roll(1, -1), pool.labels[:count], pool.classes)
        rest = pool if cell["how"] == "copies" else pool[count:]
        merged = gl.data.Batch(
            torch.cat([rest.images, moved.images]), torch.cat([rest.labels, moved.labels]), pool.classes
        )
        return merged, np.arange(len(merged)) < (count if cell["how"] == "copies" else 0)
    members = np.arange(len(pool)) < count
    return pool[cell["absent"] :], members[cell["absent"] :]


def judged(found: gl.membership.Named, truth: np.ndarray) -> dict:
    """What a row says of a result."""
    said, scores = found.members.numpy(), found.scores.numpy()
    row = {
        "named": float(said[truth].mean()) if truth.any() else 0.0, "false": int((said & ~truth).sum()),
        "complete": found.complete, "misfit": found.misfit, "expected": found.noise, "score needed": found.bar,
    }  # fmt: skip
    return row | (ranked(scores, truth) if truth.any() else {})


def ranked(scores: np.ndarray, truth: np.ndarray) -> dict:
    """What the scores alone say."""
    others = np.sort(scores[~truth])
    below = np.searchsorted(others, scores[truth]) + np.searchsorted(others, scores[truth], side="right")
    level = others[len(others) - 1 - int(0.01 * len(others))]
    return {
        "clean": float((scores[truth] > others[-1]).mean()), "AUC": float(below.mean() / 2 / len(others)),
        "TPR at 1 % FPR": float((scores[truth] > level).mean()),
    }  # fmt: skip


def from_log(log: str, client: int, rounds: int, **_) -> dict:
    """A real client: its records among all digits, from the first rounds of its server's log."""
    run = gl.transcripts.recorded(log)
    transcript, truth = gl.transcripts.read(run.path, run.model, run.protocol, lr=run.lr), run.clients[client]
    turns = sorted({message.number for message in transcript.of(client)})[:rounds]
    seen = gl.observe(transcript, client=client, rounds=turns, shape=truth.images.shape, classes=10)
    found = gl.identify(seen, digits(), progress=False, seed=0)
    apart = (digits().images[:, None] - truth.images[None]).abs().flatten(2).sum(2)
    members = (apart.min(1).values < 1e-6).numpy()
    return {"B": len(truth), "K": seen.scalars, "N": len(digits())} | judged(found, members)


def scheduled(seed: int, n: int, b: int, K: int, T: int, **_) -> dict:
    """A client that draws a fresh mini-batch for every message."""
    everybody, generator = digits(), np.random.default_rng(seed)
    pool = everybody[generator.choice(len(everybody), 2 * n, replace=False).tolist()]
    model = gl.models.build("mlp", pool, hidden=(32,), seed=seed)
    client = gl.protocols.ZerothOrder(directions=K, law="gaussian", seed=seed)
    how = {"rounds": T, "lr": 1e-2, "local_batch": b, "seed": seed, "test": everybody[:50], "progress": False}
    run = gl.federation.train(client, model, [pool[:n]], **how)
    found = gl.identify(gl.observe(run, client=0), pool, progress=False, seed=seed)
    return judged(found, np.arange(2 * n) < n) | {"accuracy": float(run.accuracy[-1])}


def main() -> None:
    """Make what is missing of the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[*CASES, *OTHERS], choices=[*CASES, *OTHERS])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--name", default="membership_cpu")
    options = arguments(parser)
    asked = {key: value for key, value in vars(options).items() if key == "draws"}
    drawn = [name for name in options.only if name in CASES]
    measure(options.name, cells(drawn, options.draws), named, asked)
    if "logs" in options.only:
        keys = itertools.product(gl.observation.recorded.RECORDED, range(3), (1, 2, 3, 7))
        every = ({"measure": "logs", "log": log, "client": k, "rounds": r, "seed": 0} for log, k, r in keys)
        measure(options.name, every, from_log, asked)
    if "schedules" in options.only:
        named_so = ({"measure": "schedules"} | dict(zip("nbKT", case, strict=True)) for case in SCHEDULES)
        every = (case | {"seed": seed} for case in named_so for seed in range(FIRST, FIRST + options.draws))
        measure(options.name, every, scheduled, asked)


if __name__ == "__main__":
    main()
