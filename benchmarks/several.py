"""Several images behind scalars from one state of the model: how many at once, from how many scalars.

Colour photographs of 8 x 8 pixels with something in them (a blank card below 18 dB), labels told, the client's loss
their mean, Gauss-Newton from one start. Networks: the classic lenet ("wide"), whose gradient has room for all of them,
and a smooth convolutional network of four channels ("narrow"), whose gradient by count holds two at most. Labels:
all different, or all the same. ``held``: independent numbers of one gradient, at most, counted from the network. The
controls are the blank card, and permuted scalars.

    python benchmarks/several.py [--seeds 6]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    several_cpu: python benchmarks/several.py

It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from common import arguments, measure

import glutils as gl

SIZE, CONTENT, ITERATIONS, POOL = 8, 18.0, 40, 40
MU = {"float64": 1e-4, "float32": 1e-3}
NETWORKS = {"wide": ("lenet", {}), "narrow": ("convnet", {"channels": (4, 4), "hidden": None, "activation": "gelu"})}
RATIOS, ENOUGH, PLENTY = (0.5, 0.8, 1.05), 1.25, 2.0
"""Scalars for each pixel value of all images together."""


def photographs(images: int, labels: str, seed: int) -> gl.data.Batch:
    """So many photographs of different classes, or of the class that a larger draw has most of."""
    how = {"size": SIZE, "seed": seed, "content": CONTENT, "device": "cpu"}
    if labels == "different":
        return gl.data.sample("photos", count=images, distinct=True, **how)
    pool = gl.data.sample("photos", count=POOL, **how)
    return pool[(pool.labels == pool.labels.mode().values).nonzero()[:images, 0].tolist()]


def recover(network: str, images: int, labels: str, ratio: float, dtype: str, told: str, seed: int) -> dict:
    """All photographs of one client from its scalars."""
    batch = photographs(images, labels, seed)
    name, options = NETWORKS[network]
    model = gl.models.build(name, batch, seed=seed, **options)
    client = gl.protocols.ZerothOrder(
        directions=int(ratio * batch.images.numel()), mu=MU[dtype], dtype=dtype, seed=seed
    )
    with torch.no_grad():
        scalars = client.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, client, scalars, batch, knows={"labels"})
    values = gl.attacks.singular_values(seen, batch.images) if ratio > 1 and told == "honest" else None
    if told != "honest":
        seen = gl.tamper(seen, told, seed=seed)
    result = gl.attack("zerogla", seen, seed=seed, restarts=1, iterations=ITERATIONS, progress=False)
    score = gl.score(result, batch)
    return {
        "psnr": score.mean_psnr, "psnrs": score.psnr.tolist(), "worst": float(score.psnr.min()),
        "mean colour": float(score.controls["mean_colour"].mean()), "loss": result.loss,
        "noise": result.diagnostics["noise"], "steps": result.history.steps[-1], "scalars": len(seen.payload),
        "unknowns": batch.images.numel(), "held": gl.attacks.gradient_rank_bound(model, batch.shape, batch=images),
        "condition number": None if values is None else float(values[0] / values[-1]),
    }  # fmt: skip


def cells(seeds: int) -> Iterator[dict]:
    """What is measured, seed by seed."""
    for seed in range(seeds):
        for images in (1, 2, 4):
            plain = {"network": "wide", "images": images, "labels": "different", "ratio": ENOUGH, "dtype": "float64"}
            plain |= {"told": "honest", "seed": seed}
            yield plain
            yield from (plain | {"ratio": ratio} for ratio in RATIOS)
            yield plain | {"told": "permuted"}
            yield plain | {"dtype": "float32"}
            yield plain | {"network": "narrow"}
            if images == 2:
                yield from (plain | {"labels": "the same", "ratio": ratio} for ratio in (ENOUGH, PLENTY))


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    options = arguments(parser)
    about = {"size": SIZE, "content": CONTENT, "iterations": ITERATIONS, "mu": MU}
    measure("several_cpu", cells(options.seeds), recover, about)


if __name__ == "__main__":
    main()
