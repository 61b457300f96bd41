"""GIFD beside IG, GGL and GIAS: the same gradients, the same number of gradients evaluated, and its controls.

The scene of benchmarks/generative.py: photographs of 16x16 pixels, a small residual network with random weights in
evaluation mode, one image, label known, one generator (GLO) for all. GIFD's radius and step size were fixed beforehand
on three other images (seeds 100 to 102). Rows that are in the record already are kept.

    python benchmarks/gifd.py [--seeds 8]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    gifd_cpu: python benchmarks/gifd.py
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator

import torch
from common import arguments, measure

import glutils as gl
from glutils.priors.latent import GLO

SIZE, ITERATIONS, COMPONENTS = 16, 300, 32
WAYS = {
    "IG": ("ig", {"tv_weight": 0.1}),
    "GGL": ("ggl", {}),
    "GIAS": ("gias", {}),
    "GIFD": ("gifd", {}),
    "GIFD, no ball": ("gifd", {"radius": None}),
    "GIFD, latent only": ("gifd", {"latent_share": 1.0, "radius": 1e-9}),
    "GIFD, permuted gradient": ("gifd", {}),
}


@functools.cache
def generator() -> GLO:
    """Trained once, on the public images."""
    return GLO.fit(gl.data.public("photos", size=SIZE, device="cpu"), COMPONENTS, progress=False)


def read(attack: str, seed: int) -> dict:
    """One attack on one image."""
    batch = gl.data.sample("photos", size=SIZE, seed=seed, device="cpu")
    model, protocol = gl.models.build("resnet8", batch, seed=seed), gl.protocols.FedSGD()
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"})
    view = gl.tamper(seen, "permuted", seed=seed) if "permuted" in attack else seen
    name, options = WAYS[attack]
    options = options if name == "ig" else options | {"prior": generator()}
    result = gl.attack(name, view, iterations=ITERATIONS, seed=seed, progress=False, **options)
    flat = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
    return {
        "psnr": float(gl.metrics.psnr(result.images, batch.images)), "loss": result.loss,
        "mean colour": float(gl.metrics.psnr(flat, batch.images)), "evaluations": result.evaluations,
        "ceiling": float(gl.metrics.psnr(generator().project(batch.images)[1], batch.images)),
        "layer": result.diagnostics.get("layer"),
    }  # fmt: skip


def cells(seeds: int) -> Iterator[dict]:
    """Every attack on every image."""
    for seed in range(seeds):
        for attack in WAYS:
            yield {"attack": attack, "seed": seed}


def main() -> None:
    """Measure what is missing."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    asked = {"size": SIZE, "iterations": ITERATIONS, "components": COMPONENTS, "model": "resnet8"}
    measure("gifd_cpu", cells(**vars(arguments(parser))), read, asked)


if __name__ == "__main__":
    main()
