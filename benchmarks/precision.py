"""Ten photographs from the scalars of clients that compute more or less coarsely: what round-off costs the attack.

Photographs such as the one of chapter 3, 12 x 12 pixels in colour, each with something in them (a blank card below
18 dB), label told, the classic lenet, one state of the model, Gauss-Newton with its defaults. Clients compute in
float64 (mu 1e-4) or float32 (mu 1e-3) and send so many scalars for each pixel value; the controls are the blank card,
and the float32 client's scalars in another order.

    python benchmarks/precision.py [--seeds 10]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    precision_cpu: python benchmarks/precision.py

It goes on where it was stopped.
"""

from __future__ import annotations

import argparse

import torch
from common import arguments, measure

import glutils as gl

SIZE, CONTENT, ITERATIONS = 12, 18.0, 40
MU = {"float64": 1e-4, "float32": 1e-3}
CLIENTS = (("float64", 0.4), ("float64", 1.2), ("float32", 1.2), ("float32", 2.4), ("float32", 4.8))
"""Arithmetic, and scalars for each pixel value."""
SPOILED = ("float32", 1.2)
"""The client whose scalars are permuted, too."""


def recover(dtype: str, ratio: float, told: str, seed: int) -> dict:
    """One photograph from one client's scalars."""
    batch = gl.data.sample("photos", size=SIZE, seed=seed, content=CONTENT, device="cpu")
    model = gl.models.build("lenet", batch, seed=seed)
    client = gl.protocols.ZerothOrder(
        directions=int(ratio * batch.images.numel()), mu=MU[dtype], dtype=dtype, seed=seed
    )
    with torch.no_grad():
        scalars = client.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, client, scalars, batch, knows={"labels"})
    if told != "honest":
        seen = gl.tamper(seen, told, seed=seed)
    result = gl.attack("zerogla", seen, seed=seed, iterations=ITERATIONS, progress=False)
    score = gl.score(result, batch)
    return {
        "psnr": score.mean_psnr, "mean colour": float(score.controls["mean_colour"].mean()), "loss": result.loss,
        "noise": result.diagnostics["noise"], "steps": result.history.steps[-1], "scalars": len(seen.payload),
        "unknowns": batch.images.numel(),
    }  # fmt: skip


def main() -> None:
    """Measure what is missing, photograph by photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    options = arguments(parser)
    cells = [
        {"dtype": dtype, "ratio": ratio, "told": told, "seed": seed}
        for seed in range(options.seeds)
        for dtype, ratio in CLIENTS
        for told in ("honest", *(["permuted"] if (dtype, ratio) == SPOILED else []))
    ]
    measure("precision_cpu", cells, recover, {"size": SIZE, "content": CONTENT, "iterations": ITERATIONS, "mu": MU})


if __name__ == "__main__":
    main()
