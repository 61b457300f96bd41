"""The statistics, given to an attack on gradients too: STG on the estimate from twelve scalars, beside ZeroGLA.

The comparison that decides whether ZeroGLA's scalars or its batch norm statistics win. The setting is that of
``ablation.py``, photograph by photograph: a residual network, twelve scalars, exact statistics of the private batch.
STG reads the gradient that the scalars estimate, with the total variation, the box and the 600 steps of ZeroGLA there,
without surrogate kinks; its misfit is relative to the estimate's length, so that the factor d does not matter. Control:
the estimate from permuted scalars, with the same statistics.

    python benchmarks/estimate_statistics.py [--seeds 10]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    estimate_statistics_cpu: python benchmarks/estimate_statistics.py

It goes on where it was stopped; ``ablation_cpu`` has ten seeds of ZeroGLA.
"""

from __future__ import annotations

import argparse
import functools

import torch
from common import arguments, measure

import glutils as gl

SETTING = {"model": "resnet8", "size": 32, "directions": 12, "iterations": 600}
HOW = {"bn": "exact", "bn_weight": 0.1, "tv_weight": 1e-4, "kinks": 0.0, "box": True}


@functools.cache
def client(seed: int) -> tuple[gl.data.Batch, gl.Observation]:
    """The photograph and the message of ``ablation.py``."""
    batch = gl.data.sample("photos", size=SETTING["size"], count=1, seed=seed, device="cpu")
    model = gl.models.build(SETTING["model"], batch, seed=seed).train()
    public = gl.data.public(batch, count=256, seed=seed)
    with torch.no_grad():
        for part in public.images.split(8):
            model(part)  # fills the running statistics
    protocol = gl.protocols.ZerothOrder(directions=SETTING["directions"], seed=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    return batch, gl.observe(model, protocol, payload, batch, knows={"labels", "batch_stats"})


def fed(case: str, seed: int) -> dict:
    """STG on the estimate."""
    batch, seen = client(seed)
    if case != "estimate and statistics":
        seen = gl.tamper(seen, "permuted", seed=seed)
    given = gl.observation.as_gradient(seen)
    result = gl.attack("stg", given, seed=seed, iterations=SETTING["iterations"], progress=False, **HOW)
    score = gl.score(result, batch)
    return {"psnr": score.mean_psnr, "mean colour": float(score.controls["mean_colour"].mean()), "loss": result.loss}


def main() -> None:
    """Measure what is missing, photograph by photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    options = arguments(parser)
    cases = ("estimate and statistics", "estimate from permuted scalars and statistics")
    cells = [{"case": case, "seed": seed} for seed in range(options.seeds) for case in cases]
    measure("estimate_statistics_cpu", cells, fed, SETTING | HOW)


if __name__ == "__main__":
    main()
