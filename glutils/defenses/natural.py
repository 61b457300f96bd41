"""What clients do anyway, or can do cheaply: mix their images, or keep back what says the most."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from .. import _validate, models
from ..protocols import Payload, Protocol
from .base import DEFENSES, Defense, last_matrix
from .sparsification import Masked


@DEFENSES.register("mixup")
@dataclass(frozen=True)
class Mixup(Defense):
    """Every image mixed with another of the batch, labels alike (Zhang et al. 2018); shares from Beta(alpha, alpha).

    An attack then finds the mixtures. With one image nothing is mixed, so at least two are needed.

    Args:
        alpha: above 0; 1 makes all shares equally likely, small values leave most images alone.
    """

    alpha: float | int = 1.0
    title = "Mixup"
    needs_data = True
    of_tokens = False

    def __post_init__(self) -> None:
        _validate.number("alpha", self.alpha, above=0)

    def client(self, protocol, model, images, labels, generator, **how):
        if len(images) < 2:
            raise ValueError(f"mixup needs at least 2 images to mix, got {len(images)}")
        if not labels.is_floating_point():
            labels = F.one_hot(labels, models.class_count(model)).to(images.dtype)
        order = (torch.arange(len(images)) + torch.randint(1, len(images), (), generator=generator)) % len(images)
        share = _beta(float(self.alpha), len(images), generator).to(images)
        order = order.to(images.device)
        mixed = share[:, None, None, None] * images + (1 - share)[:, None, None, None] * images[order]
        return protocol.transmit(model, mixed, share[:, None] * labels + (1 - share)[:, None] * labels[order], **how)


@DEFENSES.register("prune_last")
@dataclass(frozen=True)
class PruneLast(Defense):
    """Keeps back the smallest numbers of the last linear layer's gradient, bias included; with ``keep=0`` all of them.

    That layer tells the labels and the features. The adversary sees the zeros and compares the rest.

    Args:
        keep: fraction of that layer that is sent, from 0 to 1.
    """

    keep: float | int = 0.0
    kinds = ("gradient", "delta")
    title = "Pruned last layer"

    def __post_init__(self) -> None:
        _validate.number("keep", self.keep, at_least=0, at_most=1)

    def check(self, protocol: Protocol, model: nn.Module) -> None:
        models.last_linear(model)

    def apply(self, payload, generator):
        names = _last(payload)
        values = torch.cat([payload[name].reshape(-1) for name in names])
        kept = values.abs().topk(round(float(self.keep) * len(values))).indices
        values = torch.zeros_like(values).index_copy(0, kept, values[kept])
        parts = values.split([payload[name].numel() for name in names])
        pruned = {n: part.view(payload[n].shape) for n, part in zip(names, parts, strict=True)}
        return replace(payload, content=payload.tensors | pruned)

    def as_seen(self, payload):
        sent = {name: (payload[name] != 0).to(payload[name].dtype) for name in _last(payload)}
        return Masked(replace(payload, content=payload.map(torch.ones_like).tensors | sent))


def _last(payload: Payload) -> list[str]:
    """Names of the last linear layer's tensors."""
    key = last_matrix(payload)
    return [name for name in (key, key.removesuffix("weight") + "bias") if name in payload]


def _beta(alpha: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """Shares from Beta(alpha, alpha), (count,), by two gamma draws of a generator of their own."""
    import numpy as np

    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count)).float()
