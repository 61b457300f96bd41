"""The architecture of DCGAN's generator, without a training of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ... import _validate
from .network import Network


def dcgan(size: int, shape: tuple[int, int, int], width: int = 16) -> nn.Module:
    """A linear layer to a small image of many channels, then transposed 4x4 convolutions of stride 2.

    Each halves the channels and doubles the sides, from 4 or a little more (Radford, Metz and Chintala, ICLR 2016).
    Deviations: no batch norm, which would tie the images of a batch together; GELU for ReLU, so that second-order
    solvers work in z; a convolution and a sigmoid at the end, since pixels are in [0, 1].

    Args:
        size: numbers in z.
        shape: (C, H, W).
        width: channels before the last convolution.

    Raises:
        ValueError: a height or width that is odd or below 8.
    """
    channels, *sides = shape
    if any(side % 2 or side < 8 for side in sides):
        raise ValueError(f"shape must have even sides of 8 or more for a DCGAN, got {sides[0]}x{sides[1]}")
    steps = 1
    while all(side % 2 ** (steps + 1) == 0 and side >= 4 * 2 ** (steps + 1) for side in sides):
        steps += 1
    corner = [side >> steps for side in sides]
    now = width << (steps - 1)
    layers: list[nn.Module] = [nn.Linear(size, now * corner[0] * corner[1]), nn.Unflatten(1, (now, *corner))]
    for _ in range(steps):
        layers += [nn.GELU(), nn.ConvTranspose2d(now, after := max(now // 2, width), 4, 2, 1)]
        now = after
    return nn.Sequential(*layers, nn.GELU(), nn.Conv2d(now, channels, 3, padding=1), nn.Sigmoid())


def untrained(shape: Any, size: Any, *, width: Any = 16, seed: Any = 0) -> Network:
    """A DCGAN generator with random weights, which has seen no image: a "deep image prior".

    Its convolutions alone make smooth images likelier than noise (Ulyanov, Vedaldi and Lempitsky, CVPR 2018). Only of
    use to attacks that change its weights.
    """
    size, width = _validate.integer("size", size, at_least=1), _validate.integer("width", width, at_least=1)
    seed = _validate.integer("seed", seed, at_least=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = dcgan(size, shape, width)
    return Network(module, size, tuple(shape))
