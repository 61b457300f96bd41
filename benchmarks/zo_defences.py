"""Defences of zeroth-order clients against Gauss-Newton ZeroGLA, which knows them; accuracy beside it.

Five clients with ten 8x8 digits each, a tanh MLP with 64 hidden units, 10 scalars a round along unit directions,
200 rounds at lr 0.1. Client 0 is attacked with its whole transcript and its labels known. Finished rows are kept, so
that the benchmark can be stopped and started again.

    python benchmarks/zo_defences.py [--seeds 2] [--only noise bits ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    zo_defences_cpu: python benchmarks/zo_defences.py --seeds 3

It has three seeds of every row. Its noise of fixed size, and the first seeds of others, are of an earlier commit.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace

import torch
from common import Rows, arguments

import glutils as gl
from glutils.defenses import Defended, get
from glutils.observation import as_slopes
from glutils.observation.transcripts import Transcript
from glutils.protocols.zo_variants import HiddenDirections, SeedPool

LEVELS = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 10.0)
CASES = {
    "undefended": [(None, {})],
    "noise": [("gaussian_noise", {"sigma": s, "relative": True}) for s in LEVELS],
    "bits": [("bits", {"bits": b}) for b in (8, 4, 3, 2)],
    "clip": [("clip_scalars", {"bound": b}) for b in (0.03, 0.01, 0.003)],
    "dp": [("dp_scalars", {"clip": 0.05, "sigma": s}) for s in (0.3, 1.0, 3.0, 10.0)],
    "batches": [("local_batch", {"local_batch": b}) for b in (2, 5)],
    "resample": [("resample", {"images": b}) for b in (1, 2, 5)],
    "sums": [("secure sum", {"clients": n}) for n in (2, 5)],
    "pool": [("pool", {"passes": p}) for p in (1, 4)],
    "hidden": [("hidden", {"directions": p}) for p in (1, 10)],
    "precision": [("float32", {"mu": m}) for m in (1e-2, 1e-3, 1e-4, 1e-5)],
    "half": [("half", {"format": f}) for f in ("float16", "bfloat16")],
    "fixed": [("fixed noise", {"sigma": s}) for s in (0.015, 0.01)],
    "both": [("clip and noise", {"clip": c, "sigma": s}) for c, s in ((0.03, 0.5), (0.03, 1.0))],
    "fewer": [("rounds", {"rounds": r}) for r in (10, 20, 40, 80)],
    "directions": [("directions", {"directions": p}) for p in (1, 3, 5)],
}
"""Case to defences with their strengths. Those that are no wrapper are ways to train, see :func:`setting`."""
POOL, POOL_ROUNDS, POOL_LR = 100, 20, 1.0
"""Seeds of a pool, rounds, step: as many scalars as in all other cases, and a step that their smaller noise allows."""
ROUNDS, DIRECTIONS, LR, PER_CLIENT, DELTA = 200, 10, 0.1, 10, 1e-2


def setting(name: str | None, strength: dict, seed: int) -> tuple[gl.protocols.Protocol, dict]:
    """The protocol of a case, and options of the training."""
    how = {"directions": DIRECTIONS, "mu": 1e-4, "dtype": "float64", "seed": 7}
    options = {"rounds": ROUNDS, "lr": LR}
    if name == "directions":
        how |= strength
    elif name == "float32":
        how |= strength | {"dtype": "float32"}
    elif name in ("local_batch", "rounds"):
        options |= strength
    elif name == "pool":
        options |= {"rounds": POOL_ROUNDS, "lr": POOL_LR}
        return SeedPool(**how | {"directions": POOL, "local_lr": POOL_LR}, order=seed, **strength), options
    elif name == "hidden":
        return HiddenDirections(**how | strength | {"seed": 7 + seed}), options
    protocol = gl.protocols.ZerothOrder(**how)
    if name == "fixed noise":  # in units of the scalars, so that it grows beside them as they shrink
        return Defended(protocol, get("gaussian_noise", **strength), private=seed), options
    if name == "clip and noise":  # of the scalars, by the client's own hand: no accountant counts it
        noise = get("gaussian_noise", sigma=strength["clip"] * strength["sigma"])
        return Defended(protocol, (get("clip_scalars", bound=strength["clip"]), noise), private=seed), options
    return Defended(protocol, get(name, **strength), private=seed) if name in gl.defenses.names() else protocol, options


def sum_of_clients(run: Transcript, count: int):
    """What a secure sum of the first clients shows: one client with all their images, and the mean of their scalars."""
    cohort = run.clients[:count]
    images, labels = (torch.cat([getattr(c, name) for c in cohort]) for name in ("images", "labels"))
    coding, rounds = gl.defenses.FixedPoint(step=2.0**-40, bits=64), []
    for entry in run.messages:
        said = [entry[k][0] for k in range(count)]
        scalars = [message.payload.scalars for message in said]
        total = gl.defenses.secure_sum(scalars, coding=coding, seed=said[0].number).total
        rounds.append(replace(said[0], payload=total.double() / count, client=None))
    seen = gl.observe(run, client=0, knows={"labels"})
    return replace(cohort[0], images=images, labels=labels), replace(
        seen, rounds=tuple(rounds), shape=tuple(images.shape), labels=labels
    )


def measure(name: str | None, strength: dict, seed: int) -> dict:
    """Train, attack with and without knowledge of the defence, and score."""
    clients = gl.data.partition("digits", clients=5, per_client=PER_CLIENT, seed=seed, device="cpu")
    model = gl.models.build("mlp", clients[0], seed=0)
    used, options = setting(name, strength, seed)
    run = gl.federation.train(used, model, clients, seed=seed, progress=False, **options)
    truth, seen = clients[0], gl.observe(run, client=0, knows={"labels"})
    if name == "secure sum":
        truth, seen = sum_of_clients(run, strength["clients"])
    if name == "hidden":
        seen = as_slopes(seen)
    row = {"defence": name or "none", "strength": strength, "seed": seed, "accuracy": float(run.accuracy[-1])}
    row |= {"rounds": options["rounds"], "scalars": seen.scalars, "unknowns": truth.images.numel()}
    if name == "dp_scalars":  # K scalars a message are K releases about all images
        row["epsilon"] = gl.defenses.epsilon(strength["sigma"], 1.0, ROUNDS * DIRECTIONS, DELTA, relation="replace_one")
    wrapped = isinstance(used, Defended)
    views = {"adaptive": seen}
    if wrapped and name != "fixed noise":
        views["naive"] = gl.observation.naive(seen)
    if not wrapped:
        how = "wrong_gradient" if name == "hidden" else "permuted"  # of one scalar a message nothing can be permuted
        views["permuted"] = gl.tamper(seen, how)
    for who, view in views.items():
        begin = time.perf_counter()
        result = gl.attack("zerogla", view, seed=0, restarts=1, check=False, progress=False)
        score = gl.score(result, truth)
        row[who] = {
            "worst": float(score.psnr.min()),
            "median": float(score.psnr.median()),
            "best": float(score.psnr.max()),
            "per image": score.psnr.tolist(),
            "noise": result.diagnostics.get("noise"),
            "misfit": result.loss**0.5,
            "seconds": time.perf_counter() - begin,
        }
    row["mean colour"] = score.controls["mean_colour"].tolist()
    return row


def main() -> None:
    """Run what is missing, and write the record every now and then."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--name", default="zo_defences_cpu")
    options = arguments(parser)
    parameters = {"rounds": ROUNDS, "directions": DIRECTIONS, "lr": LR, "per_client": PER_CLIENT, "delta": DELTA}
    same = list(parameters)
    with Rows(options.name, parameters | {"threads": torch.get_num_threads()}, same=same) as rows:
        for seed, case in itertools.product(range(options.first, options.seeds), options.only):
            for name, strength in CASES[case]:
                if {"defence": name or "none", "strength": strength, "seed": seed} in rows:
                    continue
                begin = time.perf_counter()
                rows.add(measure(name, strength, seed) | {"seconds": time.perf_counter() - begin})
                last = rows.rows[-1]
                print(case, strength, seed, f"accuracy {last['accuracy']:.3f}", *(
                    f"{who} {last[who]['worst']:.1f}/{last[who]['median']:.1f}"
                    for who in ("adaptive", "naive", "permuted") if who in last
                ), f"{last['seconds']:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
