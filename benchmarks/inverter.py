"""Learning to Invert beside IG: one image, one gradient, and what the training costs.

Photographs of 16x16 pixels, networks with random weights, labels known, 576 public images. IG with 400 gradients and
its default weight. *Cleaned*: a denoiser after the map, in the manner of GUIDE, taught by what maps make of public
images that they did not see; its size was fixed on images of seeds 100 and 101. Controls: the map given a gradient with
its entries permuted, and a card in the mean colour. The hash, the penalties and the number of examples were fixed on
images of seeds 100 to 105. Seconds are processor seconds of one core. Rows that are in the record already are kept.

    python benchmarks/inverter.py [--seeds 6]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    inverter_cpu: python benchmarks/inverter.py

Stopped after seven of the twelve denoisers.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator

import torch
from common import arguments, measure

import glutils as gl
from glutils.attacks.closed_form import inverse_map

SIZE, ITERATIONS = 16, 400
NETWORKS = ("lenet", "convnet")
CASES = ("public images", "permuted gradient", "IG", "public images, cleaned")


@functools.lru_cache(maxsize=1)
def trained_for(model: str, seed: int) -> list:
    """Room for one map and its cost, so that the control does not train again."""
    return []


def learned(model: str, seed: int, seen: gl.Observation) -> tuple[inverse_map.Inverter, float]:
    """The map for a network, and the processor seconds of its training."""
    room = trained_for(model, seed)
    if not room:
        began = time.process_time()
        room += [inverse_map.train_inverter(seen, seed=seed), time.process_time() - began]
    return room[0], room[1]


def read(model: str, case: str, seed: int) -> dict:
    """One attack on one gradient."""
    batch = gl.data.sample("photos", size=SIZE, seed=seed, device="cpu")
    network, protocol = gl.models.build(model, batch, seed=seed), gl.protocols.FedSGD()
    public = gl.data.public(batch)
    sent = protocol.transmit(network, batch.images, batch.labels)
    seen = gl.observe(network, protocol, sent, batch, knows={"labels", "public"}, public=public)
    training, about, began = 0.0, {}, time.process_time()
    if case == "IG":
        result = gl.attack("ig", seen, iterations=ITERATIONS, seed=seed, progress=False)
    else:
        view = gl.tamper(seen, "permuted", seed=seed) if "permuted" in case else seen
        trained, training = learned(model, seed, seen)
        about = {"held out": trained.held_out, "examples": trained.examples, "penalty": trained.penalty}
        denoiser, began = None, time.process_time()
        if "cleaned" in case:
            denoiser = gl.attacks.train_denoiser(seen, seed=seed)
            training += time.process_time() - began
            about |= {"held out, found": denoiser.found, "held out, cleaned": denoiser.cleaned}
        began = time.process_time()
        result = gl.attack("inverter", view, trained=trained, denoiser=denoiser)
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
    parser.add_argument("--seeds", type=int, default=6)
    measure("inverter_cpu", cells(**vars(arguments(parser))), read, {"size": SIZE, "IG's gradients": ITERATIONS})


if __name__ == "__main__":
    main()
