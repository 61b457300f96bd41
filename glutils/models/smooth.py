"""ReLU networks made smooth: kinks stop Gauss-Newton, and a sequence of smooth networks leads around them."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class SmoothReLU(nn.Module):
    """x sigmoid(2 sharpness x): the swish (Ramachandran et al. 2017), which is ReLU in the limit of infinite sharpness.

    Its mean over a symmetric distribution is nearer to ReLU's than softplus's, which lifts every neuron by
    log(2) / sharpness.
    """

    def __init__(self, sharpness: float = math.inf):
        super().__init__()
        self.sharpness = sharpness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() if math.isinf(self.sharpness) else x * torch.sigmoid(2 * self.sharpness * x)


def has_kinks(model: nn.Module) -> bool:
    """Whether the model has ReLU layers."""
    return any(isinstance(module, nn.ReLU) for module in model.modules())


def smoothed(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with every ReLU layer replaced by a :class:`SmoothReLU`; parameters keep their names."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, SmoothReLU())
    return model


def sharpen(model: nn.Module, sharpness: float) -> None:
    """Set the sharpness of every :class:`SmoothReLU` in ``model``; ``math.inf`` is ReLU itself."""
    for module in model.modules():
        if isinstance(module, SmoothReLU):
            module.sharpness = sharpness
