"""Learning to Invert beside IG: one image, one gradient, and what the training costs.

Photographs of 16x16 pixels, networks with random weights, labels known, 576 public images. IG with 400 gradients and
its default weight. Controls: the map given a gradient with its entries permuted, and a card in the mean colour. The
hash, the penalties and the number of examples were fixed on images of seeds 100 to 105. Seconds are processor seconds
of one core. Rows that are in the record already are kept.

    python benchmarks/inverter.py [--seeds 8]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    inverter_cpu: python benchmarks/inverter.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import torch
from common import arguments, measure

import glutils as gl
from glutils.attacks.closed_form import inverse_map

SIZE, ITERATIONS = 16, 400
NETWORKS = ("lenet", "convnet")
CASES = ("public images", "no public images", "permuted gradient", "IG", "IG, permuted gradient")


def read(model: str, case: str, seed: int) -> dict:
    """One attack on one gradient."""
    batch = gl.data.sample("photos", size=SIZE, seed=seed, device="cpu")
    network, protocol = gl.models.build(model, batch, seed=seed), gl.protocols.FedSGD()
    public = gl.data.public(batch)
    shown: dict[str, Any] = {"knows": {"labels"}}
    if case != "no public images":
        shown = {"knows": {"labels", "public"}, "public": public}
    seen = gl.observe(network, protocol, protocol.transmit(network, batch.images, batch.labels), batch, **shown)
    view = gl.tamper(seen, "permuted", seed=seed) if "permuted" in case else seen
    training, about = 0.0, {}
    if "IG" in case:
        began = time.process_time()
        result = gl.attack("ig", view, iterations=ITERATIONS, seed=seed, progress=False)
    else:
        began = time.process_time()
        trained = inverse_map.train_inverter(seen, seed=seed)
        training, began = time.process_time() - began, time.process_time()
        result = gl.attack("inverter", view, trained=trained)
        about = {"held out": trained.held_out, "examples": trained.examples, "penalty": trained.penalty}
    seconds = time.process_time() - began
    flat = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
    nearest = gl.metrics.psnr(public.images, batch.images.expand_as(public.images)).max()
    return {
        "psnr": float(gl.metrics.psnr(result.images, batch.images)), "loss": result.loss, "seconds": seconds,
        "training": training, "mean colour": float(gl.metrics.psnr(flat, batch.images)),
        "nearest public": float(nearest),
    } | about  # fmt: skip


def cells(seeds: int) -> Iterator[dict]:
    """Every case on every image and network."""
    for seed in range(seeds):
        for model in NETWORKS:
            for case in CASES:
                yield {"model": model, "case": case, "seed": seed}


def main() -> None:
    """Measure what is missing."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    measure("inverter_cpu", cells(**vars(arguments(parser))), read, {"size": SIZE, "IG's gradients": ITERATIONS})


if __name__ == "__main__":
    main()
