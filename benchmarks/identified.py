"""Photographs from few scalars, looked up among 1,000: is the private one the nearest to what was reconstructed?

Private colour photographs of 12 x 12 pixels behind a tanh network of 64 units (chapter 4's kind), float64, so many
scalars for each pixel value. Attacks: total variation, and the Gaussian prior of public photographs; the label is told.
What they return is compared with 1,000 candidates: the private photograph and 999 public crops, which have no pixel in
common with it. The rank counts how many candidates are at least as near as the private one, itself included: 1 is
found, 500 is chance. Nearness is the mean squared error once each image's mean colour is taken off, as the colour alone
would name many. All candidates obey one rule, as private ones do: a blank card has less than 18 dB.

Three ranks are kept: among crops of all nine photographs; among 999 public crops of the same photograph, for whoever is
told the label; and, for comparison, the first one with colours left on. Controls: the blank card, the mean of public
photographs (the prior alone), and both attacks on permuted scalars. The prior's public crops are another draw.

    python benchmarks/identified.py [--seeds 24]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    identified_photos_cpu: python benchmarks/identified.py

It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator

import torch
from common import arguments, measure
from common.narrow_client import HIDDEN, MU, PRIORS, attacked

import glutils as gl

SIZE, CONTENT, OTHERS = 12, 18.0, 999
RATIOS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1.05)
SPOILED = (0.1, 0.5, 1.05)
"""Scalars for each pixel value where they are permuted, too."""
DRAWN = 1000
"""Seed of the candidates of photograph 0; photograph n has this plus n."""


@functools.cache
def public() -> gl.data.Batch:
    """Public photographs that the prior is made of."""
    return gl.data.public("photos", size=SIZE, device="cpu")


@functools.lru_cache(maxsize=4)
def others(seed: int, label: int | None = None) -> torch.Tensor:
    """Public crops with something in them, of all photographs or of one."""
    classes = None if label is None else [label]
    how = {"split": "public", "size": SIZE, "content": CONTENT, "classes": classes, "device": "cpu"}
    return gl.data.sample("photos", count=OTHERS, seed=DRAWN + seed, **how).images


def rank(found: torch.Tensor, private: torch.Tensor, candidates: torch.Tensor, colours: bool = False) -> int:
    """How many of the candidates and the private image, each (n, C, H, W), are at least as near to the found one."""
    away = torch.cat([private, candidates]).double() - found.double()
    if not colours:
        away = away - away.mean((2, 3), keepdim=True)
    far = away.square().mean((1, 2, 3))
    return int((far <= far[0]).sum())


def look_up(source: str, ratio: float, told: str, seed: int) -> dict:
    """One picture: its decibels, and the rank of the private photograph among candidates."""
    batch = gl.data.sample("photos", size=SIZE, seed=seed, content=CONTENT, device="cpu")
    pictures = {
        "blank card": batch.images.mean((2, 3), keepdim=True).expand_as(batch.images),
        "mean of public photographs": public().images.mean(0, keepdim=True),
    }
    loss = None
    if source in PRIORS:
        result = attacked(source, batch, public(), ratio=ratio, told=told, seed=seed)
        pictures[source], loss = result.images, result.loss
    found, label = pictures[source].clamp(0, 1), int(batch.labels[0])
    return {
        "psnr": min(float(gl.metrics.psnr(found.float(), batch.images)[0]), 100.0), "loss": loss, "class": label,
        "rank": rank(found, batch.images, others(seed)),
        "rank in its photograph": rank(found, batch.images, others(seed, label)),
        "rank with colours": rank(found, batch.images, others(seed), colours=True),
    }  # fmt: skip


def cells(seeds: int) -> Iterator[dict]:
    """What is measured, photograph by photograph."""
    for seed in range(seeds):
        for control in ("blank card", "mean of public photographs"):
            yield {"source": control, "ratio": 0.0, "told": "honest", "seed": seed}
        for source in PRIORS:
            yield from ({"source": source, "ratio": ratio, "told": "honest", "seed": seed} for ratio in RATIOS)
            yield from ({"source": source, "ratio": ratio, "told": "permuted", "seed": seed} for ratio in SPOILED)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=24)
    options = arguments(parser)
    about = {"size": SIZE, "content": CONTENT, "hidden": HIDDEN, "mu": MU, "candidates": OTHERS + 1, "drawn": DRAWN}
    measure("identified_photos_cpu", cells(options.seeds), look_up, about)


if __name__ == "__main__":
    main()
