"""RTF inside FedAvg: how many images a malicious block still copies after several local steps and epochs.

A client of 20 photographs trains in shuffled batches of 5 on a network behind a block of 64 neurons. Images that are
alone in their bin are counted apart: of the others the block promises nothing. An image is copied if one of the found
images is within 40 dB of it. Each block is attacked at the survey's two step sizes, for one and five epochs; the server
sends its block anew in every round, so a round is all there is. Control: a payload of the same norm in a random
direction. Rows that are in the record already are kept.

    python benchmarks/rtf_fedavg.py [--seeds 5] [--images 20] [--batch 5] [--bins 64] [--size 16] [--model convnet]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    rtf_fedavg_cpu: python benchmarks/rtf_fedavg.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from common import arguments, measure

import glutils as gl

COPIED = 40.0
"""PSNR (dB) from which an image counts as copied."""
BLOCKS = {
    "two-sided, gain 1e-5": {"two_sided": True, "gain": 1e-5},
    "two-sided, gain 1e-4": {"two_sided": True, "gain": 1e-4},
    "two-sided, gain 1e-3": {"two_sided": True, "gain": 1e-3},
    "two-sided, gain 1": {"two_sided": True, "gain": 1.0},
    "one-sided, gain 1e-5": {"gain": 1e-5},
    "one-sided, gain 1e-4": {"gain": 1e-4},
    "one-sided, as published": {"gain": 1e-3, "strength": 1e3, "connection": "replace"},
}
"""``as published``: the original's gains of 1e-3 and 1e3, with the block's output in the image's place."""
RATES, EPOCHS = (0.004, 0.1), (1, 5)


def rob(
    block: str, lr: float, epochs: int, tampered: str, seed: int,
    images: int, batch: int, bins: int, size: int, model: str, data: str,
) -> dict:  # fmt: skip
    """One client, one round."""
    private = gl.data.sample(data, size=size, count=images, seed=seed, device="cpu")
    public = gl.data.public(private, count=400)
    small = {"channels": (8, 16), "hidden": 64} if model == "convnet" else {}
    network = gl.models.build(model, private, seed=seed, **small)
    trap = gl.imprint.imprint(network, public, bins=bins, seed=seed, **BLOCKS[block])
    protocol = gl.protocols.FedAvg(epochs=epochs, batch_size=batch, lr=lr, shuffle=seed)
    with torch.no_grad():
        payload = protocol.transmit(trap, private.images, private.labels)
    seen = gl.observe(trap, protocol, payload, private, knows={"labels"})
    seen = seen if tampered == "none" else gl.tamper(seen, tampered, seed=seed)
    result = gl.attack("rtf", seen)
    found = gl.metrics.pixels.nearest(result.images.clamp(0, 1), private.images).float()
    psnr, alone = gl.metrics.psnr(found, private.images), gl.imprint.is_alone(trap, private.images)
    mean = gl.metrics.psnr(private.images.mean((2, 3), keepdim=True).expand_as(private.images), private.images)
    copied = (psnr >= COPIED).double()
    return {
        "alone": int(alone.sum()), "copied of those alone": float(copied[alone].mean()),
        "copied of all": float(copied.mean()), "psnr of those alone": float(psnr[alone].median()),
        "psnr": float(psnr.median()), "mean colour": float(mean.median()), "hits": result.diagnostics["hits"],
    }  # fmt: skip


def cells(seeds: int, **fixed) -> Iterator[dict]:
    """Every block, step size and number of epochs; a tampered payload for the first block."""
    for seed in range(seeds):
        for block in BLOCKS:
            for lr in RATES:
                for epochs in EPOCHS:
                    yield {"block": block, "lr": lr, "epochs": epochs, "tampered": "none", "seed": seed} | fixed
        first = {"block": next(iter(BLOCKS)), "lr": RATES[-1], "epochs": 1, "tampered": "wrong_gradient", "seed": seed}
        yield first | fixed


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("seeds", 5), ("images", 20), ("batch", 5), ("bins", 64), ("size", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--model", default="convnet")
    parser.add_argument("--data", default="photos")
    measure("rtf_fedavg_cpu", cells(**vars(arguments(parser))), rob, {"copied (dB)": COPIED})


if __name__ == "__main__":
    main()
