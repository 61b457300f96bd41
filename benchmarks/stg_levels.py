"""What batch norm statistics are worth to STG: none, running, exact; paired by image. And what seeing kinks is worth.

The same network with group norm, which has no statistics to share, stands beside them.

One photograph, a ResNet-8 in evaluation mode whose running statistics were learned from public photographs. Every
level gets the same image, network and start. Finished rows are kept, so the benchmark can be stopped and started again;
rows of other settings are refused.

    python benchmarks/stg_levels.py [--first 300] [--images 18] [--iterations 1000] [--folder benchmarks/results]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    stg_levels_cpu: python benchmarks/stg_levels.py

Of the last two variants it has five seeds only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import RESULTS, Rows, arguments

import glutils as gl
from glutils.attacks.matching.objective import size as squared_size

LEVELS = {
    "none": {"bn": "none"},
    "running": {"bn": "running"},
    "exact": {"bn": "exact"},
    "none, blind to kinks": {"bn": "none", "kinks": 0.0},
    "group norm": {"bn": "none", "tv_weight": 1e-4},  # as its neighbours
}
PASSES = 30
"""Passes over the public images in training mode, after which the running statistics stand still."""


def observe(seed: int, size: int, public: gl.data.Batch, norm: str = "batch"):
    """A private photograph, and what an adversary with every kind of knowledge holds; group norm has no statistics."""
    batch = gl.data.sample("photos", size=size, seed=seed, device="cpu")
    model = gl.models.build("resnet8", batch, seed=seed, norm=norm).train()
    with torch.no_grad():
        for _ in range(PASSES):
            model(public.images)
    protocol = gl.protocols.FedSGD()
    payload = protocol.transmit(model.eval(), batch.images, batch.labels)
    knows = {"labels"} | ({"batch_stats"} if norm == "batch" else set())
    return batch, gl.observe(model, protocol, payload, batch, knows=knows)


def misfit(seen: gl.Observation, images: torch.Tensor) -> float:
    """Squared distance of the images' gradient from the observed one, over the observed one's squared length."""
    found = gl.models.flatten(gl.models.gradient(seen.model, None, images, seen.labels))
    return float((found - gl.models.flatten(seen.payload)).square().sum()) / squared_size(seen)


def main() -> None:
    """Run what is missing, and write the record every now and then."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=300, help="first seed")
    parser.add_argument("--images", type=int, default=18)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--only", nargs="*", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--name", default="stg_levels_cpu")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = arguments(parser)
    settings = {"iterations": options.iterations, "size": options.size, "model": "resnet8", "data": "photos"}
    public = gl.data.sample("photos", size=options.size, count=256, seed=7, split="public", device="cpu")
    with Rows(options.name, settings, image_is=("seed", "image"), folder=options.folder) as rows:
        for seed in range(options.first, options.first + options.images):
            batch, seen = observe(seed, options.size, public)
            for name in options.only:
                if {"variant": name, "seed": seed} in rows:
                    continue
                how = {"iterations": options.iterations, "seed": seed, "progress": False}
                view = observe(seed, options.size, public, "group")[1] if name == "group norm" else seen
                result = gl.attack("stg", view, **LEVELS[name], **how)
                found = gl.runs.rows_from(result, gl.score(result, batch), variant=name, seed=seed)
                rows.add(*(row | {"misfit": misfit(view, result.images)} for row in found))
                print(seed, name, f"{found[-1]['psnr']:.2f} dB, misfit {rows.rows[-1]['misfit']:.3f}", flush=True)


if __name__ == "__main__":
    main()
