"""Exercises of chapter 14: what local steps leave of a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from .base import Case, exercise, normal, whole


@exercise(
    "A delta is lr times the sum of one gradient for each local step. How many steps are there, with a smaller "
    "last batch in every epoch?",
    {
        "The last batch of an epoch may be smaller, but it is a step all the same: round up.":
            lambda delta, lr, images, batch_size, epochs: (
            delta / (lr * epochs * max(1, images // batch_size))
        ),
        "Batches do not run over the end of an epoch: round up before you multiply by the epochs.":
            lambda delta, lr, images, batch_size, epochs: (
            delta / (lr * math.ceil(epochs * images / batch_size))
        ),
        "This is the sum of the gradients. Divide by the number of local steps.":
            lambda delta, lr, images, batch_size, epochs: (
            delta / lr
        ),
        "The local step size is missing.": lambda delta, lr, images, batch_size, epochs: (
            delta / (epochs * math.ceil(images / batch_size))
        ),
    },
)
def mean_gradient(draw: torch.Generator) -> Iterator[Case]:
    """mean_gradient(delta, lr, images, batch_size, epochs): the mean of the gradients of all local steps, (d,), from
    a FedAvg client's delta (parameters before minus after), (d,)."""
    for epochs in (1, 2, 3):
        images, d, lr = 2 * whole(draw, 3, 8) + 1, whole(draw, 2, 6), 0.05 * epochs
        steps = [normal(draw, d) for _ in range(epochs) for start in range(0, images, 4)]
        about = f"{images} images, batches of 4, {epochs} epoch(s) and lr = {lr:g}"
        yield Case(about, (lr * sum(steps), lr, images, 4, epochs), torch.stack(steps).mean(0))
