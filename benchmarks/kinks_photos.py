"""Ten photographs through ReLU networks of two widths: how many does Gauss-Newton find by way of smooth networks?

Colour photographs of 8 x 8 pixels with something in them (a blank card below 18 dB), label told, float64 scalars, two
and four for each pixel value; the networks of ``kinks.py``, each from one start. Beside each ReLU run the same network
with GELU. At most 40 steps a search.

    python benchmarks/kinks_photos.py [--seeds 10] [--ratios 2 4]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    kinks_photos_cpu: python benchmarks/kinks_photos.py

It goes on where it was stopped.
"""

from __future__ import annotations

import argparse

import torch
from common import arguments, measure

import glutils as gl

SIZE, CONTENT, ITERATIONS = 8, 18.0, 40
WIDTHS = {"narrow": (8, 16), "wide": (16, 32)}
BENDS = {"ReLU": ("relu", {"soften": True}), "GELU": ("gelu", {})}


def search(width: str, bend: str, ratio: float, seed: int) -> dict:
    """One attack on one photograph's scalars."""
    batch = gl.data.sample("photos", size=SIZE, seed=seed, content=CONTENT, device="cpu")
    activation, how = BENDS[bend]
    network = {"channels": WIDTHS[width], "hidden": None, "activation": activation}
    model = gl.models.build("convnet", batch, seed=seed, **network)
    client = gl.protocols.ZerothOrder(
        directions=round(ratio * batch.images.numel()), mu=1e-4, scheme="central", dtype="float64", seed=seed
    )
    with torch.no_grad():
        scalars = client.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, client, scalars, batch, knows={"labels"})
    result = gl.attack("zerogla", seen, seed=seed, restarts=1, iterations=ITERATIONS, progress=False, **how)
    score = gl.score(result, batch)
    return {
        "psnr": score.mean_psnr, "mean colour": float(score.controls["mean_colour"].mean()), "loss": result.loss,
        "steps": result.history.steps[-1], "scalars": len(seen.payload), "unknowns": batch.images.numel(),
    }  # fmt: skip


def main() -> None:
    """Measure what is missing, photograph by photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--ratios", type=float, nargs="+", default=[2.0, 4.0])
    options = arguments(parser)
    cells = [
        {"width": width, "bend": bend, "ratio": ratio, "seed": seed}
        for seed in range(options.seeds)
        for ratio in options.ratios
        for width in WIDTHS
        for bend in BENDS
        if bend == "ReLU" or ratio == options.ratios[0]
    ]
    measure("kinks_photos_cpu", cells, search, {"size": SIZE, "content": CONTENT, "iterations": ITERATIONS})


if __name__ == "__main__":
    main()
