"""Digits from few scalars, scored by classifiers that recognise digits, beside decibels.

Private digits of 8 x 8 pixels behind a tanh network of 64 units (chapter 4's), float64, so many scalars for each pixel.
Attacks: total variation, and the Gaussian prior of public digits. Two judges, a convolutional network and a fully
connected one, learnt public digits and nothing of these clients; a picture is recognised if *both* read its class. The
attacker is told the label, as elsewhere, and its priors are not of one class. Controls: the private digits themselves,
the blank card, the mean of public digits (the prior alone), and both attacks on permuted scalars.

    python benchmarks/recogniser.py [--seeds 40]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    recogniser_cpu: python benchmarks/recogniser.py

It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator

import torch
from common import arguments, measure
from common.judges import JUDGES, judge
from common.narrow_client import HIDDEN, MU, PRIORS, attacked

import glutils as gl

RATIOS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.05)
SPOILED = (0.1, 0.5)
"""Scalars for each pixel where they are permuted, too."""


@functools.cache
def judges() -> dict[str, torch.nn.Module]:
    """Classifiers of public digits."""
    return {kind: judge(kind, public()) for kind in JUDGES}


@functools.cache
def public() -> gl.data.Batch:
    """All public digits."""
    return gl.data.public("digits", count="all", device="cpu")


def seen_as(images: torch.Tensor, label: int) -> dict:
    """Whether both judges read the class, each alone, and the mean probability that they give it."""
    images, models, found, sure = images.float().clamp(0, 1), judges(), {}, []
    with torch.no_grad():
        for kind, model in models.items():
            logits = model(images)
            found[kind] = int(logits.argmax(1)) == label
            sure.append(float(logits.softmax(1)[0, label]))
    return found | {"recognised": all(found.values()), "probability": sum(sure) / len(sure)}


def score(source: str, ratio: float, told: str, seed: int) -> dict:
    """One picture: its decibels, and what the judges make of it."""
    batch = gl.data.sample("digits", seed=seed, device="cpu")
    pictures = {
        "private digit": batch.images, "blank card": batch.images.mean((2, 3), keepdim=True).expand_as(batch.images),
        "mean of public digits": public().images.mean(0, keepdim=True),
    }  # fmt: skip
    loss = None
    if source in PRIORS:
        result = attacked(source, batch, public(), ratio=ratio, told=told, seed=seed)
        pictures[source], loss = result.images, result.loss
    psnr = gl.metrics.psnr(pictures[source].float(), batch.images)
    return {"psnr": min(float(psnr[0]), 100.0), "loss": loss} | seen_as(pictures[source], int(batch.labels[0]))


def cells(seeds: int) -> Iterator[dict]:
    """What is measured, digit by digit."""
    for seed in range(seeds):
        for control in ("private digit", "blank card", "mean of public digits"):
            yield {"source": control, "ratio": 0.0, "told": "honest", "seed": seed}
        for source in PRIORS:
            yield from ({"source": source, "ratio": ratio, "told": "honest", "seed": seed} for ratio in RATIOS)
            yield from ({"source": source, "ratio": ratio, "told": "permuted", "seed": seed} for ratio in SPOILED)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40)
    options = arguments(parser)
    measure("recogniser_cpu", cells(options.seeds), score, {"hidden": HIDDEN, "mu": MU, "judged by": list(JUDGES)})


if __name__ == "__main__":
    main()
