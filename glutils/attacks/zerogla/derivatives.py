"""How a client's gradient moves with the numbers of its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ... import models
from .rounds import directional_derivative

TANGENTS = 64
"""Numbers of the records along which the gradients are derived at a time."""


def gradients_jacobian(
    model: nn.Module,
    states: Sequence[models.Parameters],
    images: torch.Tensor,
    labels: torch.Tensor,
    criterion: models.losses.Loss,
) -> torch.Tensor:
    """The derivative of the gradients at all ``states``, one after the other, in every number of ``images``, (D, N).

    Rows are written where they stay: they may be gigabytes, and another copy of them costs as much as their making.
    """
    sizes = [part.numel() for state in states for part in state.values()]
    found = images.new_empty(images.numel(), sum(sizes))
    begin = 0
    for parts in gradient_tangents(model, states, images, labels, criterion):
        rows = found[begin : begin + len(parts[0])]
        for place, part in zip(rows.split(sizes, 1), parts, strict=True):
            place.copy_(part.flatten(1))
        begin += len(rows)
    return found


def gradient_tangents(
    model: nn.Module,
    states: Sequence[models.Parameters],
    images: torch.Tensor,
    labels: torch.Tensor,
    criterion: models.losses.Loss,
) -> Iterator[list[torch.Tensor]]:
    """For some numbers of ``images`` after the other: how each parameter's gradient moves with them, (n, *shape)."""
    u = images.flatten()

    def gradients(v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shown = v.view(images.shape)
        of = torch.func.grad(lambda params: models.loss(model, params, shown, labels, criterion=criterion))
        return tuple(part for state in states for part in of(state).values())

    along = models.vectorised(model, lambda v: directional_derivative(gradients, u, v))
    for unit in torch.eye(len(u), dtype=u.dtype, device=u.device).split(TANGENTS):
        yield [part.detach() for part in along(unit)]
