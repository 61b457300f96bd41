"""APRIL: an image from the gradient of a vision transformer's positions (Lu, Zhang, Zhao, He, Cheng, CVPR 2022)."""

from __future__ import annotations

import math

import torch
from torch import nn

from ... import _validate, labels, models
from ...observation import Observation
from ..base import Card, Reconstruction, register
from .held import gradient_of

LEAST = 1e-5
"""Smallest singular value of the positions' gradient, in units of the largest: below, float32 does not tell patches
apart."""


@register(
    "april",
    Card(
        title="APRIL",
        kinds=("gradient", "delta"),
        simulates="nothing: one linear system",
        variable="-",
        distance="-",
        prior="none",
        solver="closed form",
        labels="inferred",
        source="lu2022april",
    ),
)
def april(seen: Observation, *, seed: int = 0) -> Reconstruction:
    """The image behind the gradient of a vision transformer with learned positions.

    A position is added to its token. So the gradient of the position is what the loss says to that token: delta_t, in
    the open, for every patch t. The gradient of the layer that embeds patches is the sum of ``delta_t x_t.T`` over
    patches: with all delta known, a linear system for all x, with as many equations for every pixel of a patch as the
    model is wide. Exact if the patches are no more than that, whatever lies behind the embedding.

    Of several local steps with the same image the sums of both gradients are related in the same way. ``seed`` is not
    used. Diagnostics: ``condition``, largest over smallest singular value of the system; ``residual``, share of the
    embedding's gradient that no image explains: for one image nothing but rounding.

    Deviations: the paper solves at the first attention, which sees its tokens as they are only in a network without
    the normalisation and the shortcut in front of it (its architecture A); the embedding of patches has the same
    gradients delta, and no such condition. The paper's second attack, which adds the distance of the positions'
    gradients to a search, is not here: 'ig' and 'dlg_adam' match them as all others.

    Raises:
        ValueError: more than one image; a model whose first layer does not cut the image into patches, or without
            learned positions, or with more patches than it is wide; a gradient that does not tell patches apart.
    """
    name, embed = _embedding(seen)
    tokens = math.prod(length // side for length, side in zip(seen.shape[2:], embed.kernel_size, strict=True))
    position = _position(seen, tokens, embed.out_channels)
    if seen.shape[0] > 1:
        raise ValueError(
            f"attack 'april' needs a single image, whose positions nobody shares, got {seen.shape[0]}; 'ig' takes more"
        )
    if tokens > embed.out_channels:
        raise ValueError(
            f"attack 'april' needs a model as wide as an image has patches ({tokens}), got {embed.out_channels}; 'ig' "
            "does not"
        )
    key = f"{name}.weight" if name else "weight"
    by_patch, by_position = (gradient_of(seen, "april", name) for name in (key, position))
    delta = by_position.double().flatten(0, 1)[-tokens:].mT  # class tokens come first
    values = torch.linalg.svdvals(delta)
    if not float(values[-1]) > LEAST * float(values[0]):
        raise ValueError(
            f"attack 'april' needs positions whose gradient tells {tokens} patches apart: singular values from "
            f"{float(values[0]):.2g} down to {float(values[-1]):.2g}; 'ig' has other parts of the gradient"
        )
    wanted = by_patch.double().flatten(1)
    patches = torch.linalg.lstsq(delta, wanted).solution
    residual = float((delta @ patches - wanted).norm() / wanted.norm())
    rows, columns = (length // side for length, side in zip(seen.shape[2:], embed.kernel_size, strict=True))
    images = patches.view(rows, columns, seen.shape[1], *embed.kernel_size).permute(2, 0, 3, 1, 4).reshape(seen.shape)
    notes: tuple[str, ...] = ()
    if residual > 1e-3:
        notes = (f"{residual:.1%} of the embedding's gradient comes from no image: something was added to it",)
    if seen.labels is not None:
        told = seen.labels
    elif seen.kind == "gradient":
        told = labels.infer("idlg", seen).labels
    else:
        told, notes = (
            torch.zeros(1, dtype=torch.int64, device=images.device),
            (*notes, "labels are not inferred: zeros"),
        )
    found = {"condition": float(values[0] / values[-1]), "residual": residual}
    return Reconstruction(images, told, residual, notes=notes, diagnostics=found, evaluations=0, pullbacks=0)


def _embedding(seen: Observation) -> tuple[str, nn.Conv2d]:
    """The layer that embeds patches: the first one, if it is a convolution whose windows tile the image."""
    layers = models.layers_with_parameters(seen.model, seen.shape)  # a model with positions of its own is among them
    name, layer = next(((n, part) for n, part in layers if isinstance(part, (nn.Conv2d, nn.Linear))), ("", None))
    tiles = isinstance(layer, nn.Conv2d) and layer.stride == layer.kernel_size and layer.kernel_size[0] > 1
    if not isinstance(layer, nn.Conv2d) or not tiles or any(layer.padding) or layer.groups != 1:
        raise ValueError(
            "attack 'april' needs a vision transformer, whose first layer cuts the image into patches, got "
            f"{_validate.brief(layer)}; 'ig' takes any network"
        )
    return name, layer


def _position(seen: Observation, tokens: int, width: int) -> str:
    """Name of the learned positions: one row a patch, after those of class tokens."""
    shapes = {name: tuple(p.shape) for name, p in models.parameters(seen.model).items()}
    found = [n for n, s in shapes.items() if len(s) == 3 and s[0] == 1 and s[2] == width and s[1] >= tokens]
    if len(found) != 1:
        raise ValueError(
            f"attack 'april' needs learned positions that are trained, one parameter of shape (1, {tokens} or more, "
            f"{width}), got {', '.join(found) or 'none'}; 'ig' needs none"
        )
    return found[0]
