"""Photographs from scalars through residual networks with batch norm, by Gauss-Newton.

One colour photograph with something in it (a blank card below 18 dB), its label told, 1.25 float64 scalars for each
pixel value from one state (mu 1e-4), two where there are kinks. *Running*: the network normalises by its running
statistics, which a server keeps itself and knows exactly. *Own*: the network normalises by the photograph's own
statistics, which the attack computes from its guess. GELU stands in the place of the network's ReLU; *ReLU* is the
network as it is. The controls are the blank card, and for photographs that were found the same attack on permuted
scalars.

    python benchmarks/batch_norm.py [--only "resnet8, GELU, running, 16"] [--seeds 6]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    batch_norm_cpu: python benchmarks/batch_norm.py

It goes on where it was stopped. Other cases can be added to the table below. Through resnet18 eleven million numbers
for each of 1,280 directions take two minutes of one core to draw and multiply; an attack does so twice a step.
"""

from __future__ import annotations

import argparse
import resource

import torch
from common import arguments, measure
from torch import nn

import glutils as gl

CONTENT, MU = 18.0, 1e-4
CASES = {
    "resnet8, GELU, running, 16": 6,
    "resnet8, ReLU, running, 8": 6,
    "resnet8, GELU, own, 16": 3,
}
"""Network, activation, statistics and pixels a side; with the most photographs."""


def smooth(model: nn.Module) -> nn.Module:
    """The network without kinks, in place."""
    for name, part in model.named_children():
        if isinstance(part, nn.ReLU):
            setattr(model, name, nn.GELU())
        else:
            smooth(part)
    return model


def found(case: str, seed: int) -> dict:
    """One photograph through one network."""
    name, bend, statistics, size = case.split(", ")
    batch = gl.data.sample("photos", size=int(size), seed=seed, content=CONTENT, device="cpu")
    model = gl.models.build(name, batch, seed=seed)
    model = smooth(model) if bend == "GELU" else model
    model.train(statistics == "own")
    directions = round((1.25 if bend == "GELU" else 2) * batch.images.numel())
    client = gl.protocols.ZerothOrder(directions=directions, mu=MU, scheme="central", dtype="float64", seed=seed)
    with torch.no_grad():
        scalars = client.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, client, scalars, batch, knows={"labels"})
    result = gl.attack("zerogla", seen, seed=seed, restarts=1, progress=False)
    score = gl.score(result, batch)
    row = {
        "psnr": score.mean_psnr, "mean colour": float(score.controls["mean_colour"].mean()), "loss": result.loss,
        "steps": result.history.steps[-1], "scalars": directions, "unknowns": batch.images.numel(),
        "parameters": sum(weight.numel() for weight in model.parameters()), "notes": list(result.notes),
    }  # fmt: skip
    if score.mean_psnr > 25:
        lost = gl.attack("zerogla", gl.tamper(seen, "permuted", seed=seed), seed=seed, restarts=1, progress=False)
        row["permuted"] = gl.score(lost, batch).mean_psnr
    return row | {"peak memory (GiB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> None:
    """Measure what is missing, case by case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    options = arguments(parser)
    cells = [
        {"case": case, "seed": seed} for case in options.only for seed in range(min(options.seeds, CASES[case]))
    ]
    measure("batch_norm_cpu", cells, found, {"content": CONTENT, "mu": MU})


if __name__ == "__main__":
    main()
