"""A client's digits from the transcript of zeroth-order federated training: PSNR, steps and seconds by setting.

Five clients with ten 8x8 digits each, a tanh MLP with 64 hidden units (4,810 parameters), unit directions.

    python benchmarks/transcript.py [--seeds 3] [--only digits-float64 ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    transcript_cpu: python benchmarks/transcript.py
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from common import RESULTS, arguments

import glutils as gl

SETTINGS = {
    "one-digit": {"per_client": 1, "rounds": 10, "directions": 8},
    "digits-float64": {"rounds": 100, "directions": 10},
    "digits-float32": {"rounds": 100, "directions": 20, "dtype": "float32"},
    "digits-float32-lr": {"rounds": 100, "directions": 20, "dtype": "float32", "lr": 0.1},
    "local-steps": {"rounds": 50, "directions": 10, "local_steps": 2},
    "varied-directions": {"rounds": 100, "directions": [4 + turn % 13 for turn in range(100)]},
    "labels-unknown": {"rounds": 120, "directions": 10, "knows": ()},
    "mini-batches": {"rounds": 200, "directions": 20, "local_batch": 5},
}
"""What differs from 5 clients x 10 digits, float64, mu 1e-4 (float32: 1e-3), lr 0.01, labels known, full batches."""

BARS = {
    "one-digit": (100, 20),
    "digits-float64": (100, 180),
    "digits-float32": (35, None),
    "labels-unknown": (100, 240),
}
"""Worst PSNR (dB) and seconds, where the project has set itself a bar."""


def observe(setting: dict, seed: int):
    """The transcript, and what the server sees of client 0."""
    dtype = setting.get("dtype", "float64")
    clients = gl.data.partition("digits", clients=5, per_client=setting.get("per_client", 10), seed=seed, device="cpu")
    model = gl.models.build("mlp", clients[0], seed=0)
    counts, rounds = setting["directions"], setting["rounds"]
    protocol = gl.protocols.ZerothOrder(mu=1e-4 if dtype == "float64" else 1e-3, dtype=dtype, seed=7)
    each = [replace(protocol, directions=n) for n in (counts if isinstance(counts, list) else [counts] * rounds)]
    options = {name: setting[name] for name in ("local_steps", "local_batch") if name in setting}
    lr = setting.get("lr", 0.01)
    transcript = gl.federation.train(each, model, clients, rounds=rounds, lr=lr, seed=seed, progress=False, **options)
    return transcript, gl.observe(transcript, client=0, knows=setting.get("knows", {"labels"}))


def row(name: str, how: str, seen: gl.Observation, truth, seed: int, **options) -> dict:
    """One attack in one line."""
    begin = time.perf_counter()
    result = gl.attack("zerogla", seen, seed=0, progress=False, **options)
    seconds = time.perf_counter() - begin
    score = gl.score(result, truth)
    found = {
        "setting": name, "attacker": how, "seed": seed, "scalars": sum(len(r.payload) for r in seen.rounds),
        "unknowns": truth.images.numel(), "worst PSNR": float(score.psnr.min()),
        "median PSNR": float(score.psnr.median()),
        "mean PSNR": float(score.psnr.mean()), "mean colour": float(score.controls["mean_colour"].mean()),
        "labels right": int(score.label_hits.sum()), "labels": truth.labels.tolist(), "seconds": seconds,
        "steps": result.history.steps[-1], "restarts": len(result.history.restarts), "misfit": result.loss**0.5,
        "noise": result.diagnostics.get("noise"), "notes": list(result.notes),
    }  # fmt: skip
    shown = (
        "setting",
        "attacker",
        "seed",
        "worst PSNR",
        "median PSNR",
        "mean colour",
        "seconds",
        "labels right",
        "misfit",
        "noise",
    )
    print({key: round(v, 5) if isinstance(v := found[key], float) else v for key in shown}, flush=True)
    return found


def main() -> None:
    """Run the settings asked for, each with its controls, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--name", default="transcript_cpu")
    options = arguments(parser)
    rows, begin = [], time.perf_counter()
    for name in options.only:
        for seed in range(options.seeds):
            transcript, seen = observe(SETTINGS[name], seed)
            truth = transcript.clients[0]
            rows.append(row(name, "as is", seen, truth, seed))
            rows[-1] |= {"accuracy": float(transcript.accuracy[-1])}
            if name in BARS:
                rows[-1] |= dict(zip(("bar (dB)", "bar (s)"), BARS[name], strict=True))
            for how in ("wrong_seed", "permuted") if name in ("one-digit", "digits-float64", "digits-float32") else ():
                rows.append(row(name, how, gl.tamper(seen, how), truth, seed, restarts=1))
    parameters = {"settings": {name: SETTINGS[name] for name in options.only}, "threads": torch.get_num_threads()}
    parameters["settings"] = {
        n: {k: list(v) if k == "knows" else v for k, v in s.items()} for n, s in parameters["settings"].items()
    }
    seconds = time.perf_counter() - begin
    gl.runs.record(
        options.name, parameters=parameters, rows=rows, seeds=range(options.seeds), seconds=seconds, folder=RESULTS
    )


if __name__ == "__main__":
    main()
