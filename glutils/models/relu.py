"""ReLU networks with another activation in ReLU's place: smooth ones, whose kinks do not stop Gauss-Newton, and ones
whose derivative says how a gradient moves when neurons switch on and off."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .calls import within


def replace_relu(model: nn.Module, replacement: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy of ``model`` that calls ``replacement`` wherever it would call ReLU: as a layer, function or method."""

    def handler(name: str, function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return replacement(args[0]) if name == "relu" else function(*args, **named)

    return within(model, lambda: handler)


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


def smooth_relu(model: nn.Module, sharpness: float) -> nn.Module:
    """A copy of ``model`` with a :class:`SmoothReLU` of this sharpness in ReLU's place; ``math.inf`` is ReLU itself."""
    return replace_relu(model, SmoothReLU(sharpness))


class SurrogateReLU(nn.Module):
    """ReLU, and its derivative, exactly; but the derivative of that derivative is a bump instead of zero.

    The gradient of a ReLU network jumps wherever the image switches a neuron on or off, and the jumps are most of what
    moving the image does to it. Automatic differentiation calls a step's derivative zero and so does not see them. Here
    it is that of a logistic curve, ``s (1 - s) / w`` with ``s = sigmoid(x / w)``, whose integral is that of the step's
    derivative: one. Networks of spiking neurons are trained by such surrogate gradients (Neftci, Mostafa and Zenke
    2019).

    Args:
        width: ``w`` in units of the root mean square of the layer's inputs; above 0.
    """

    def __init__(self, width: float):
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.detach().square().mean().sqrt().clamp_min(torch.finfo(x.dtype).tiny)
        return _ReLU.apply(x, self.width * scale)


def with_surrogates(model: nn.Module, width: float) -> nn.Module:
    """A copy of ``model`` with a :class:`SurrogateReLU` in ReLU's place."""
    return replace_relu(model, SurrogateReLU(width))


class _ReLU(torch.autograd.Function):
    generate_vmap_rule = True  # attacks that look at many candidates at once

    @staticmethod
    def forward(x, width):
        return x.relu()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        return slope * _Step.apply(*ctx.saved_tensors), None


class _Step(torch.autograd.Function):
    """1 where x is positive, else 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, width):
        return (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        x, width = ctx.saved_tensors
        on = torch.sigmoid(x / width)
        return slope * on * (1 - on) / width, None
