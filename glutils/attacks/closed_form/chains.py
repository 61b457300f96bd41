"""Networks as chains of layers, as R-GAP reads them, and the equations that a layer's gradient gives for its input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

INVERTIBLE = (nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Softplus)
"""Activations whose input can be computed from their output."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights: its name, the module, the activation behind it, the shape of its input for one image."""

    name: str
    module: nn.Conv2d | nn.Linear
    activation: nn.Module | None
    shape: tuple[int, ...]

    @property
    def unknowns(self) -> int:
        """Entries of the layer's input."""
        return int(np.prod(self.shape))

    @property
    def equations(self) -> int:
        """Most independent equations that weights and gradient give for the input.

        A linear layer's gradient k x.T holds x itself. A convolution gives one equation for every output and one for
        every weight, less those that say the same twice: for every pair of output channels the sum over the weights
        of one times the gradient of the other is a sum over outputs.
        """
        if isinstance(self.module, nn.Linear):
            return self.unknowns
        weight, out = self.module.weight, self.module.out_channels
        places = int(np.prod(convolve(self.module, torch.zeros(1, *self.shape).to(weight)).shape[2:]))
        outputs = places * min(out, weight[0].numel())
        return outputs + weight.numel() - out * min(out, places, weight[0].numel())


def rank_analysis(model: nn.Module, shape: tuple[int, int, int]) -> list[dict[str, object]]:
    """Equations and unknowns of every layer, first to last, from the network alone; they predict whether R-GAP works.

    Args:
        model: as for the attack.
        shape: (C, H, W) of an image.

    Returns:
        One row a layer, with its name and kind, unknowns (entries of its input), the most equations there can be for
        them, and whether that is enough.
    """
    return [
        {
            "layer": layer.name,
            "kind": type(layer.module).__name__,
            "unknowns": layer.unknowns,
            "equations": layer.equations,
            "enough": layer.equations >= layer.unknowns,
        }
        for layer in layer_chain(model, shape)
    ]


def layer_chain(model: nn.Module, shape: tuple[int, ...]) -> list[Layer]:
    """The network as a chain of layers with weights; ``ValueError`` with the reason if it is none."""
    found: list[Layer] = []
    x = torch.zeros(1, *shape).to(next(model.parameters()))
    for name, module in modules_in_order(model):
        shape = tuple(x.shape[1:])
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if found and found[-1].activation is None:
                raise _refusal(f"layer {name!r} follows layer {found[-1].name!r} without an activation between them")
            if isinstance(module, nn.Conv2d) and not _is_plain(module):
                raise _refusal(f"layer {name!r} is {module}: groups, and padding by name or with other than zeros")
            found.append(Layer(name, module, None, shape))
        elif isinstance(module, INVERTIBLE):
            if not found or found[-1].activation is not None:
                raise _refusal(f"activation {name!r} does not follow a layer with weights")
            if isinstance(module, nn.LeakyReLU) and module.negative_slope <= 0:
                raise _refusal(f"activation {name!r} with slope {module.negative_slope} cannot be inverted")
            found[-1] = Layer(found[-1].name, found[-1].module, module, found[-1].shape)
        elif not isinstance(module, (nn.Flatten, nn.Identity)):
            raise _refusal(f"layer {name!r} is {type(module).__name__}: {_refusal_reason(module)}")
        with torch.no_grad():
            x = module(x)
    if not found or not isinstance(found[-1].module, nn.Linear) or found[-1].activation is not None:
        raise _refusal("its last layer must be linear, with the logits as output")
    return found


def modules_in_order(model: nn.Module, prefix: str = ""):
    """Names and modules of nested ``nn.Sequential`` containers in the order in which they are applied; any other model
    is a single module."""
    if type(model).forward is not nn.Sequential.forward:
        yield prefix.rstrip("."), model
        return
    for name, child in model._modules.items():  # named_children leaves out a module that comes back
        yield from modules_in_order(child, f"{prefix}{name}.")


def _is_plain(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _refusal(reason: str) -> ValueError:
    return ValueError(f"attack 'rgap' cannot read this model: {reason}; 'ig' takes any network, 'dlg' any smooth one")


def _refusal_reason(module: nn.Module) -> str:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "batch norm is not part of the chain of linear systems"
    if isinstance(module, (nn.ReLU, nn.GELU)):
        return "different inputs give the same output, so the activation cannot be inverted"
    if any(isinstance(child, (nn.Conv2d, nn.Linear)) for child in module.modules()):
        return "a block with its own way from input to output, such as a residual one, is not a chain of layers"
    return "only convolutions, linear layers, leaky_relu, tanh, sigmoid and softplus are solved for"


def convolve(conv: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Output of a convolution on ``x`` without its bias, with ``weight`` in place of its own if given."""
    return F.conv2d(x, conv.weight if weight is None else weight, None, conv.stride, conv.padding, conv.dilation)
