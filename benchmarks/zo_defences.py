"""Defences of zeroth-order clients against Gauss-Newton ZeroGLA, which knows them; accuracy beside it.

Five clients with ten 8x8 digits each, a tanh MLP with 64 hidden units, 10 scalars a round along unit directions,
200 rounds at lr 0.1. Client 0 is attacked with its whole transcript and its labels known. Finished rows are kept, so
that the benchmark can be stopped and started again.

    python benchmarks/zo_defences.py [--seeds 2] [--only noise bits ...]
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from timing import RESULTS

import glutils as gl
from glutils.defenses import Defended, get

LEVELS = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 10.0)
CASES = {
    "undefended": [(None, {})],
    "noise": [("gaussian_noise", {"sigma": s, "relative": True}) for s in LEVELS],
    "bits": [("bits", {"bits": b}) for b in (8, 4, 3, 2)],
    "clip": [("clip_scalars", {"bound": b}) for b in (0.03, 0.01, 0.003)],
    "dp": [("dp_scalars", {"clip": 0.05, "sigma": s}) for s in (0.3, 1.0, 3.0, 10.0)],
    "batches": [("local_batch", {"local_batch": b}) for b in (2, 5)],
    "fewer": [("rounds", {"rounds": r}) for r in (10, 20, 40, 80)],
    "directions": [("directions", {"directions": p}) for p in (1, 3, 5)],
}
"""Case to defences with their strengths; the last three are ways to train, not wrappers."""
ROUNDS, DIRECTIONS, LR, PER_CLIENT, DELTA = 200, 10, 0.1, 10, 1e-2


def measure(name: str | None, strength: dict, seed: int) -> dict:
    """Train, attack with and without knowledge of the defence, and score."""
    clients = gl.data.partition("digits", clients=5, per_client=PER_CLIENT, seed=seed, device="cpu")
    model = gl.models.build("mlp", clients[0], seed=0)
    count = strength.get("directions", DIRECTIONS)
    protocol = gl.protocols.ZerothOrder(directions=count, mu=1e-4, dtype="float64", seed=7)
    wrapped = name is not None and name in gl.defenses.names()
    used = Defended(protocol, get(name, **strength), private=seed) if wrapped else protocol
    options = {"local_batch": strength["local_batch"]} if "local_batch" in strength else {}
    rounds = strength.get("rounds", ROUNDS)
    run = gl.federation.train(used, model, clients, rounds=rounds, lr=LR, seed=seed, progress=False, **options)
    seen = gl.observe(run, client=0, knows={"labels"})
    row = {"defence": name or "none", "strength": strength, "seed": seed, "accuracy": float(run.accuracy[-1])}
    row |= {"rounds": rounds, "scalars": run.sent(0), "unknowns": clients[0].images.numel()}
    if name == "dp_scalars":  # K scalars a message are K releases about all images
        row["epsilon"] = gl.defenses.epsilon(strength["sigma"], 1.0, rounds * count, DELTA)
    views = {"adaptive": seen} | ({"naive": gl.observation.naive(seen)} if wrapped else {})
    if not wrapped:
        views["permuted"] = gl.tamper(seen, "permuted")
    for who, view in views.items():
        begin = time.perf_counter()
        result = gl.attack("zerogla", view, seed=0, restarts=1, check=False, progress=False)
        score = gl.score(result, clients[0])
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
    """Run what is missing, and write the record after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--name", default="zo_defences_cpu")
    options = parser.parse_args()
    path = RESULTS / f"{options.name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    done = {json.dumps([row["defence"], row["strength"], row["seed"]]) for row in rows}
    parameters = {"rounds": ROUNDS, "directions": DIRECTIONS, "lr": LR, "per_client": PER_CLIENT, "delta": DELTA}
    for seed in range(options.seeds):
        for case in options.only:
            for name, strength in CASES[case]:
                if json.dumps([name or "none", strength, seed]) in done:
                    continue
                begin = time.perf_counter()
                rows.append(measure(name, strength, seed) | {"seconds": time.perf_counter() - begin})
                last = rows[-1]
                print(case, strength, seed, f"accuracy {last['accuracy']:.3f}", *(
                    f"{who} {last[who]['worst']:.1f}/{last[who]['median']:.1f}"
                    for who in ("adaptive", "naive", "permuted") if who in last
                ), f"{last['seconds']:.0f} s", flush=True)  # fmt: skip
                spent = sum(row["seconds"] for row in rows)
                gl.runs.record(options.name, parameters=parameters | {"threads": torch.get_num_threads()}, rows=rows,
                               seeds=range(options.seeds), seconds=spent, folder=RESULTS)  # fmt: skip


if __name__ == "__main__":
    main()
