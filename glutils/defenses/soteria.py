"""Soteria: some features of the last layer say nothing (Sun et al., CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.func import vjp, vmap

from .. import _validate, models
from ..protocols import Protocol
from .base import DEFENSES, Defense, last_matrix
from .sparsification import Masked


@DEFENSES.register("soteria")
@dataclass(frozen=True)
class Soteria(Defense):
    """Zeroes those columns of the last linear layer's weight gradient whose features depend on the pixels the least.

    For feature f of the layer's input r the score is ``|d r_f / d x| / |r_f|``, over the whole batch; the columns with
    the lowest scores go, as in the authors' code: the paper's largest ``|r_f (d r_f / d x)^-1|``, where a little error
    in the feature stands for the most pixels. The adversary sees the zero columns and compares the others.

    Args:
        prune: fraction of the features whose columns are zeroed, at least 0, below 1.

    Deviations: divides by ``|r_f| + 1e-10``; the reference divides by r_f, which turns the order of negative features
    round. Features of all images are scored together, as the defence is written for one image.
    """

    prune: float | int
    kinds = ("gradient",)
    title = "Soteria"
    needs_data = True
    of_tokens = False

    def __post_init__(self) -> None:
        if _validate.number("prune", self.prune, at_least=0) >= 1:
            raise ValueError(f"prune must be less than 1, got {self.prune}")

    def check(self, protocol: Protocol, model: nn.Module) -> None:
        models.last_linear(model)

    def client(self, protocol, model, images, labels, generator, **how):
        payload = protocol.transmit(model, images, labels, **how)
        name, _ = models.last_linear(model)
        scores = feature_scores(model, images.detach())
        gone = scores.argsort()[: int(float(self.prune) * len(scores))]
        key = f"{name}.weight"
        return replace(payload, content=payload.tensors | {key: payload[key].index_fill(1, gone, 0.0)})

    def as_seen(self, payload):
        key = last_matrix(payload)
        columns = (payload[key] != 0).any(0).to(payload[key].dtype).expand_as(payload[key])
        return Masked(replace(payload, content=payload.map(torch.ones_like).tensors | {key: columns}))


def feature_scores(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """|d r_f / d x| / |r_f| for every input r_f of the last linear layer, over the batch, shape (features,)."""
    _, layer = models.last_linear(model)

    def features(x: torch.Tensor) -> torch.Tensor:
        return models.layer_input(model, layer, models.parameters(model, x.dtype), x)

    r, pull = vjp(features, images)[:2]
    slopes = []
    for block in torch.eye(r.shape[1], dtype=r.dtype, device=r.device).split(64):
        (back,) = vmap(pull)(block[:, None].expand(-1, len(r), -1).contiguous())
        slopes.append(back.flatten(2).square().sum((1, 2)).sqrt())
    return torch.cat(slopes) / (r.norm(dim=0) + 1e-10)
