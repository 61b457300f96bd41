"""What batch norm statistics are worth to STG: none, running (as published or by scatter), exact; paired by image.

The same network with group norm, which has no statistics to share, stands beside them.

One photograph, a ResNet-8 in evaluation mode whose running statistics were learned from public photographs. Every
level gets the same image, network and start. Finished rows are kept, so the benchmark can be stopped and started again.

    python benchmarks/stg_levels.py [--first 200] [--images 8] [--iterations 1000]
"""

from __future__ import annotations

import argparse
import time

import torch
from timing import RESULTS

import glutils as gl

LEVELS = {
    "none": {"bn": "none"},
    "running": {"bn": "running"},
    "running, by scatter": {"bn": "running", "scatter": True},
    "exact": {"bn": "exact"},
    "group norm": {"bn": "none"},
}
PASSES = 30
"""Passes over the public images in training mode, after which the running statistics stand still."""


def told(seed: int, size: int, public: gl.data.Batch, norm: str = "batch"):
    """A private photograph, and what an adversary with every kind of knowledge holds; group norm has no statistics."""
    batch = gl.data.sample("photos", size=size, seed=seed, device="cpu")
    model = gl.models.build("resnet8", batch, seed=seed, norm=norm).train()
    with torch.no_grad():
        for _ in range(PASSES):
            model(public.images)
    protocol = gl.protocols.FedSGD()
    payload = protocol.transmit(model.eval(), batch.images, batch.labels)
    knows = {"labels", "public"} | ({"batch_stats"} if norm == "batch" else set())
    return batch, gl.observe(model, protocol, payload, batch, knows=knows, public=public)


def main() -> None:
    """Run what is missing, and write the record after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=200, help="first seed")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--only", nargs="*", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--name", default="stg_levels_cpu")
    options = parser.parse_args()
    settings = {"iterations": options.iterations, "size": options.size, "model": "resnet8", "data": "photos"}
    path = RESULTS / f"{options.name}.json"
    old = gl.runs.load(path) if path.is_file() else None
    rows, spent = (old.rows, old.seconds) if old else ([], 0.0)
    done, begin = {(row["variant"], row["seed"]) for row in rows}, time.perf_counter()
    public = gl.data.sample("photos", size=options.size, count=256, seed=7, split="public", device="cpu")
    for seed in range(options.first, options.first + options.images):
        batch, seen = told(seed, options.size, public)
        for name in options.only:
            if (name, seed) in done:
                continue
            how = {"iterations": options.iterations, "seed": seed, "progress": False}
            view = told(seed, options.size, public, "group")[1] if name == "group norm" else seen
            result = gl.attack("stg", view, **LEVELS[name], **how)
            rows += gl.runs.rows_from(result, gl.score(result, batch), variant=name, seed=seed)
            print(seed, name, f"{rows[-1]['psnr']:.2f} dB", flush=True)
            gl.runs.record(
                options.name, parameters=settings, rows=rows, seeds=sorted({row["seed"] for row in rows}),
                seconds=spent + time.perf_counter() - begin, folder=RESULTS,
            )  # fmt: skip


if __name__ == "__main__":
    main()
