"""What the last layer's gradient says about the labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from . import _check, models
from ._registry import Registry
from .observation import Observation

_RULES = Registry("label rule")


@dataclass(frozen=True, eq=False)
class LabelEstimate:
    """Estimated labels: ``counts`` (C,) int64 that add up to the batch size, ``labels`` (B,) int64, sorted."""

    counts: torch.Tensor
    labels: torch.Tensor


def names() -> list[str]:
    """Names that :func:`infer` accepts."""
    return _RULES.names()


def infer(name: str, seen: Observation) -> LabelEstimate:
    """Apply a rule to an observation.

    Raises:
        ValueError: an unknown rule, or an observation that the rule cannot read.
    """
    rule = _RULES.get(name)
    _check.instance("seen", seen, Observation)
    labels = rule(seen)
    return LabelEstimate(torch.bincount(labels, minlength=seen.classes), labels.sort().values)


@_RULES.register("idlg")
def idlg(seen: Observation) -> torch.Tensor:
    """The class whose last-layer gradient has the opposite sign of all others (Zhao et al. 2020, eq. 5); one image.

    With a bias: the class with the smallest bias gradient, which is p - 1 < 0 for the label and p > 0 elsewhere.
    Without: the row of the weight gradient with the smallest sum, valid if the layer's inputs are not negative.
    """
    if seen.kind != "gradient":
        raise ValueError(f"label rule 'idlg' reads a gradient, got a payload of kind {seen.kind!r}")
    if seen.shape[0] != 1:
        raise ValueError(f"label rule 'idlg' reads the label of one image, got a batch of {seen.shape[0]}")
    name, layer = last_linear(seen.model)
    if layer.bias is not None:
        return seen.payload[f"{name}.bias"].argmin()[None]
    return seen.payload[f"{name}.weight"].sum(1).argmin()[None]


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last linear layer; ``ValueError`` if there is none."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not found or f"{found[-1][0]}.weight" not in models.parameters(model):
        raise ValueError("model has no trainable linear layer to read labels from")
    return found[-1]
