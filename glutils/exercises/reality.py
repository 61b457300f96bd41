"""Exercises of chapters 13 and 14: fair comparisons, and what local steps leave of a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from .base import Case, exercise, integer, normal


@exercise(
    "Seed by seed: the attack's PSNR minus that of the control that does best there. Then the median.",
    {
        "This compares with one control for all seeds. Another one may be the best elsewhere; take the maximum "
        "seed by seed.":
            lambda psnr, controls: float((psnr - controls).median(1).values.min()),
        "A difference of medians mixes up seeds. Take differences first.": lambda psnr, controls: float(
            psnr.median() - controls.max(0).values.median()
        ),
        "This is the margin over the worst control. The best one counts.": lambda psnr, controls: float(
            (psnr - controls.min(0).values).median()
        ),
        "One outlier moves a mean. Take the median.": lambda psnr, controls: float(
            (psnr - controls.max(0).values).mean()
        ),
    },
)
def best_margin(draw: torch.Generator) -> Iterator[Case]:
    """best_margin(psnr, controls): by how many dB an attack beats its best control, median over an odd number of seeds,
    from its PSNR, (seeds,), and that of its controls, (controls, seeds); a number."""
    for _ in range(4):
        seeds, count = 2 * integer(draw, 2, 5) + 1, integer(draw, 2, 4)
        psnr, controls = 20 + 8 * normal(draw, seeds), 14 + 5 * normal(draw, count, seeds)
        ahead = sorted(float(psnr[s]) - max(controls[:, s].tolist()) for s in range(seeds))
        yield Case(f"{seeds} seeds and {count} controls", (psnr, controls), ahead[seeds // 2])


@exercise(
    "A delta is lr times the sum of one gradient for each local step. How many steps are there, with a smaller "
    "last batch in every epoch?",
    {
        "The last batch of an epoch may be smaller, but it is a step all the same: round up.":
            lambda delta, lr, images, batch_size, epochs: delta / (lr * epochs * max(1, images // batch_size)),
        "Batches do not run over the end of an epoch: round up before you multiply by the epochs.":
            lambda delta, lr, images, batch_size, epochs: delta / (lr * math.ceil(epochs * images / batch_size)),
        "This is the sum of the gradients. Divide by the number of local steps.":
            lambda delta, lr, images, batch_size, epochs: delta / lr,
        "The local step size is missing.": lambda delta, lr, images, batch_size, epochs: (
            delta / (epochs * math.ceil(images / batch_size))
        ),
    },
)
def mean_gradient(draw: torch.Generator) -> Iterator[Case]:
    """mean_gradient(delta, lr, images, batch_size, epochs): the mean of the gradients of all local steps, (d,), from
    a FedAvg client's delta (parameters before minus after), (d,)."""
    for epochs in (1, 2, 3):
        images, d, lr = 2 * integer(draw, 3, 8) + 1, integer(draw, 2, 6), 0.05 * epochs
        steps = [normal(draw, d) for _ in range(epochs) for start in range(0, images, 4)]
        about = f"{images} images, batches of 4, {epochs} epoch(s) and lr = {lr:g}"
        yield Case(about, (lr * sum(steps), lr, images, 4, epochs), torch.stack(steps).mean(0))
