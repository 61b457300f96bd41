"""Every scalar about other images: mini-batches drawn anew for each direction, or for each message."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .. import _validate, models
from ..protocols import Protocol
from .base import DEFENSES, Defense

PER = ("direction", "message")


@DEFENSES.register("resample")
@dataclass(frozen=True)
class Resample(Defense):
    """Each scalar is the slope of the loss on ``images`` of the client's images, drawn anew and kept to itself.

    Per message all scalars of a message are about the same images, as with ``gl.federation.train(local_batch=)``; per
    direction each scalar is about other ones. The attacker simulates the mean, which is the slope of the whole batch:
    what the draw adds it has to take for noise, of a size that it does not know in advance. (Unknown members of a
    whole message can be solved for, see chapter 5; those of a single scalar would be as many unknowns as images for
    each equation.)

    Args:
        images: behind each scalar, 1 or more, at most as many as the client holds.
        per: ``"direction"`` or ``"message"``.
    """

    images: int
    per: str = "direction"
    kinds = ("scalars",)
    title = "Mini-batch per direction"
    needs_data = True

    def __post_init__(self) -> None:
        _validate.integer("images", self.images, at_least=1)
        _validate.choice("per", self.per, PER)

    def check(self, protocol: Protocol, model: nn.Module) -> None:
        if not protocol.answers_slopes:
            raise ValueError(f"protocol must be ZerothOrder for mini-batches by direction, got {protocol}")
        if models.batchnorm_mode(model) == "train":
            raise ValueError("model must not be in train mode with batch norm: a slope would depend on all images")

    def client(self, protocol, model, images, labels, generator, **how):
        if self.images > len(images):
            raise ValueError(f"images must be at most the {len(images)} that the client holds, got {self.images}")
        slopes = protocol.of_each(model, images, labels, how.get("directions")).detach()
        draws = 1 if self.per == "message" else len(slopes)
        drawn = torch.stack([torch.randperm(len(images), generator=generator)[: self.images] for _ in range(draws)])
        chosen = torch.zeros(draws, len(images)).scatter_(1, drawn, 1.0 / self.images).to(slopes)
        counts = protocol.criterion.shares(labels, slopes)
        if counts is not None:  # a mini-batch's loss is a mean by these
            chosen = chosen * counts
            chosen = chosen / chosen.sum(1, keepdim=True)
        return protocol.payload((chosen * slopes).sum(1), model)
