"""One's own generator, trained elsewhere."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import nn

from ... import _validate
from ...models import loading
from .dcgan import dcgan
from .network import Network


def load(
    source: Any,
    shape: Any,
    size: Any,
    *,
    module: Any = None,
    spatial: bool = False,
    low: Any = 0.0,
    high: Any = 1.0,
) -> Network:
    """A pretrained generator as a latent.

    Args:
        source: a torch module, or the path of its weights, in any form that :func:`glutils.models.load` takes (read
            without running any code in it).
        shape: (C, H, W) of the images it makes.
        size: numbers in z; the attack takes them to be standard normal.
        module: of which network the file holds the weights; by default :func:`glutils.priors.latent.dcgan`. It is
            copied.
        spatial: feed it (B, size, 1, 1) instead of (B, size), as the DCGAN of PyTorch's examples expects.
        low, high: the pixel values that it makes for black and white, -1 and 1 for one that ends in tanh.

    Raises:
        TypeError, ValueError: a file that is missing or cannot be read, weights that do not fit the module (the message
            names them), a module that makes no images of this shape out of this many numbers.
    """
    size, shape = _validate.integer("size", size, at_least=1), _shape(shape)
    low, high = _validate.number("low", low), _validate.number("high", high)
    if not low < high:
        raise ValueError(f"high must be above low, {low}; got {high}")
    if isinstance(source, nn.Module):
        if module is not None:
            raise ValueError("module belongs to a source that is a file; source is a module already")
        module = source
    elif isinstance(source, (str, os.PathLike)):
        module = dcgan(size, shape) if module is None else _validate.instance("module", module, nn.Module)
        module = loading.fit(source, copy.deepcopy(module), argument="source")
    else:
        raise TypeError(f"source must be a torch module or the path of its weights, got {type(source).__name__}")
    whole = _Wrapped(module, spatial, low, high)
    latent = Network(whole, size, shape)
    try:
        made = latent.decode(torch.zeros(2, size))
    except RuntimeError as error:
        raise ValueError(f"source does not take {size} numbers: {str(error).splitlines()[0]}") from error
    if tuple(made.shape) != (2, *shape):
        raise ValueError(f"source must make images of shape {shape}, makes {tuple(made.shape[1:])}")
    return latent


def _shape(shape: Any) -> tuple[int, int, int]:
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise ValueError(f"shape must be (C, H, W), got {shape!r}")
    return tuple(_validate.integer("shape", part, at_least=1) for part in shape)


class _Wrapped(nn.Module):
    """The generator between what this package feeds and what it expects."""

    def __init__(self, module: nn.Module, spatial: bool, low: float, high: float):
        super().__init__()
        self.module, self.spatial, self.low, self.high = module, spatial, low, high

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        made = self.module(z[:, :, None, None] if self.spatial else z)
        return (made - self.low) / (self.high - self.low)
