"""A vision transformer's gradient: APRIL's linear system, and a search, beside their controls.

One image through a small vision transformer as drawn: digits of 8x8 pixels and photographs of 16x16. APRIL reads the
gradient of the position embeddings; IG searches, with the label told. Controls: both on a gradient that was spoiled,
and the image in its mean colour. Rows that are in the record already are kept.

    python benchmarks/transformers.py [--seeds 12] [--iterations 300]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    transformers_cpu: python benchmarks/transformers.py
"""

from __future__ import annotations

import argparse

import torch
from common import arguments, measure

import glutils as gl

DATA = {"digits": 8, "photos": 16}
PROTOCOLS = {
    "gradient": gl.protocols.FedSGD(),
    "5 local steps": gl.protocols.FedAvg(epochs=5, batch_size=1, lr=0.01),
}
ATTACKS = ("APRIL", "APRIL, wrong message", "IG", "IG, wrong message")


def read(data: str, message: str, attack: str, seed: int, iterations: int) -> dict:
    """One image, one message, one attack."""
    batch = gl.data.sample(data, size=DATA[data], count=1, seed=seed, device="cpu")
    model, protocol = gl.models.build("vit", batch, seed=seed), PROTOCOLS[message]
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"})
    if attack.endswith("wrong message"):
        seen = gl.tamper(seen, "wrong_gradient", seed=seed)
    how = {} if attack.startswith("APRIL") else {"iterations": iterations, "progress": False}
    found = gl.attack(attack.split(",")[0].lower(), seen, seed=seed, **how)
    score = gl.score(found, batch)
    return {
        "psnr": min(300.0, float(score.psnr)), "mean colour": float(score.controls["mean_colour"].psnr),
        "seconds": found.seconds, "labels right": score.label_accuracy,
    }  # fmt: skip


def main() -> None:
    """Measure what is missing."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=300)
    options = arguments(parser)
    cells = [
        {"data": data, "message": message, "attack": attack, "seed": seed, "iterations": options.iterations}
        for seed in range(options.seeds)
        for data in DATA
        for message in PROTOCOLS
        for attack in ATTACKS
        if attack != "IG, wrong message" or seed < 4
        if message == "gradient" or attack.startswith("APRIL")
    ]
    measure("transformers_cpu", cells, read, {"network": "vit"})


if __name__ == "__main__":
    main()
