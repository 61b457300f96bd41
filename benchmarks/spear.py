"""SPEAR: exact batches from the gradient of a ReLU layer, by batch size and width; and through a secure sum.

A network of one hidden layer and PyTorch's initialisation, photographs of 16x16 pixels. Controls: the same gradient
with its entries permuted, and the division, as sharp an image as one row gives. An image is exact above 100 dB.
Seconds are those of one core, labels included. Rows that are in the record already are kept.

    python benchmarks/spear.py [--seeds 6] [--large]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    spear_cpu: python benchmarks/spear.py
    spear_large_cpu: python benchmarks/spear.py --large
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from common import arguments, measure

import glutils as gl

WIDTHS = (64, 128, 256, 512)
SIZES = (4, 6, 8, 10)
MANY = ((4, 64), (10, 128), (10, 256), (16, 512), (25, 512))
"""Images and widths of the record with a descent: where draws alone failed once, and large (the paper: to 25)."""
EXACT = 100.0
"""dB."""
SAMPLES = 30_000


def read(case: str, images: int, width: int, seed: int) -> dict:
    """One batch, one gradient, the attack and its controls."""
    batch = gl.data.sample("photos", size=16, count=images, seed=seed, distinct=images <= 9, device="cpu")
    model = gl.models.build("mlp", batch, hidden=(width,), activation="relu", seed=seed)
    protocol = gl.protocols.FedSGD()
    if case == "secure sum":
        parts = [dict(protocol.transmit(model, one.images, one.labels)) for one in batch]
        coding = gl.defenses.FixedPoint(step=2.0**-36, bits=64)
        total = gl.defenses.secure_sum([gl.models.flatten(part) for part in parts], coding=coding, seed=seed).total
        payload = gl.models.unflatten((total / images).float(), parts[0])
    else:
        payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch)
    began = time.process_time()
    try:
        result = gl.attack("spear", seen, seed=seed, samples=SAMPLES)
    except ValueError as error:
        return {"refused": str(error), "exact": 0, "psnr": [], "seconds": time.process_time() - began}
    seconds = time.process_time() - began
    psnr = gl.metrics.psnr(gl.metrics.pixels.nearest(result.images.float(), batch.images), batch.images)
    try:
        gl.attack("spear", gl.tamper(seen, "permuted", seed=seed), seed=seed)
        permuted = "answered"
    except ValueError:
        permuted = "refused"
    divided = gl.attack("fc_inversion", seen).images
    division = gl.metrics.psnr(gl.metrics.pixels.nearest(divided.clamp(0, 1).float(), batch.images), batch.images)
    flat = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
    return {
        "exact": int((psnr > EXACT).sum()), "psnr": psnr.clamp(max=300).tolist(), "refused": "", "permuted": permuted,
        "division": float(division.median()), "mean colour": float(gl.metrics.psnr(flat, batch.images).median()),
        "labels right": gl.score(result, batch).label_accuracy, "seconds": seconds,
    } | {key: result.diagnostics[key] for key in ("agreement", "samples")}  # fmt: skip


def cells(seeds: int) -> Iterator[dict]:
    """Every size and width, as often as asked, and ten clients with one photograph each behind a secure sum."""
    for seed in range(seeds):
        for images in SIZES:
            for width in WIDTHS:
                yield {"case": "batch", "images": images, "width": width, "seed": seed}
        for width in WIDTHS[2:]:
            yield {"case": "secure sum", "images": 10, "width": width, "seed": seed}


def large(seeds: int) -> Iterator[dict]:
    """The batches that draws alone do not take apart."""
    for seed in range(seeds):
        for images, width in MANY:
            yield {"case": "batch", "images": images, "width": width, "seed": seed}


def main() -> None:
    """Measure what is missing."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--large", action="store_true", help="the record of large batches")
    options = arguments(parser)
    if options.large:
        measure("spear_large_cpu", large(options.seeds), read, {"size": 16, "samples": SAMPLES})
    else:
        measure("spear_cpu", cells(options.seeds), read, {"size": 16, "samples": SAMPLES})


if __name__ == "__main__":
    main()
