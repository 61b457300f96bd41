"""Fishing: a head that lets a single image speak (Wen, Geiping, Fowl, Goldblum, Goldstein, ICML 2022)."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from ... import _validate, models
from ...observation import Observation
from ..base import Card, Reconstruction, register
from ..closed_form.held import gradient_of

STRENGTH = 1000.0
"""What the logits of other classes are raised by: a softmax in float32 is exactly zero from about 100 on."""


def fish(model: nn.Module, target: int, *, strength: float | int = STRENGTH) -> nn.Module:
    """A copy whose last layer lets only images of one class speak to the layers in front of it.

    The weights of every other class are set to zero, and their biases to ``strength``. Then an image of another class
    moves the layers in front by the probability it gives to ``target``, which is nothing, and an image of that class by
    one minus it, which is all: in a sum over any number of clients its gradient stands alone (section 3.2, class
    fishing). The server sends this model to everybody.

    Args:
        model: whose last layer is linear, with a bias; it is left as it is.
        target: the class to fish for. If several images have it, their gradients add up.
        strength: of the other biases.

    Raises:
        ValueError: a model without such a layer, a class that it does not have, or a strength that is not above zero.

    Example:
        >>> import glutils as gl
        >>> photos = gl.data.sample("photos", size=16, count=8, seed=0)
        >>> model = gl.models.build("mlp", photos, activation="relu", seed=0)
        >>> bait = gl.attacks.fish(model, int(photos.labels[3]))
        >>> protocol = gl.protocols.FedSGD()
        >>> seen = gl.observe(bait, protocol, protocol.transmit(bait, photos.images, photos.labels), photos)
        >>> caught = gl.attack("fishing", seen).images[:1]
        >>> bool(gl.metrics.psnr(caught.float(), photos.images[3:4]) > 100)
        True
    """
    strength = _validate.number("strength", strength, above=0)
    shape = (1, *cast("tuple[int, ...]", model.shape))
    bait = copy.deepcopy(model)
    head = _head(bait, shape)
    target = _validate.integer("target", target, at_least=0)
    if target >= head.out_features:
        raise ValueError(f"target must be one of the model's {head.out_features} classes, got {target}")
    with torch.no_grad():
        others = torch.arange(head.out_features) != target
        head.weight[others] = 0
        head.bias[others] = float(strength)
    return bait


@register(
    "fishing",
    Card(
        title="Fishing",
        adversary="malicious server",
        kinds=("gradient", "delta"),
        simulates="nothing: one division",
        variable="-",
        distance="-",
        prior="none",
        solver="closed form",
        labels="the server's own choice",
        source="wen2022fishing",
    ),
)
def fishing(seen: Observation, *, seed: int = 0) -> Reconstruction:
    """The one image that speaks through a head made by :func:`glutils.attacks.fish`.

    What is left of a batch, or of a secure sum of many clients, is the gradient of the images of one class. If there is
    one, the division of a fully connected first layer gives it exactly: the neuron with the largest bias gradient, its
    weights' gradient over that. It is the first of the images that are returned; the others are grey, not found.
    ``seed`` is not used. ``diagnostics["alone"]``: how well the neurons agree about the image, the share of the layer's
    gradient that is explained by it; a note says so where several images spoke.

    Deviations: the paper hands the gradient to an optimiser, for any network; here only fully connected first layers
    are read. Classes alone are fished for: where an image shares its class, the paper fishes by features, too.

    Raises:
        ValueError: a model with an ordinary head, or whose first layer is not linear with a bias.
    """
    head = _head(seen.model, tuple(seen.shape))
    loud = (head.weight.detach() != 0).any(1).nonzero()[:, 0].tolist()
    if len(loud) != 1:
        raise ValueError(
            "attack 'fishing' needs a head in which one class has weights (gl.attacks.fish makes one), got "
            f"{len(loud)} classes; 'spear' and 'ig' attack models as they are"
        )
    layers = models.layers_with_parameters(seen.model, seen.shape)
    name, layer = layers[0]
    if not isinstance(layer, nn.Linear) or layer.bias is None or layer is head:
        raise ValueError(
            f"attack 'fishing' needs a fully connected first layer with a bias, got {_validate.brief(layer)}; behind "
            "this head 'ig' takes a single image's gradient of any network"
        )
    prefix = f"{name}." if name else ""
    weight, bias = (gradient_of(seen, "fishing", prefix + part).double() for part in ("weight", "bias"))
    if not bool(bias.any()):
        raise ValueError(f"attack 'fishing' caught nothing: no image of class {loud[0]} makes a neuron fire")
    one = weight[bias.abs().argmax()] / bias[bias.abs().argmax()]
    alone = 1 - float((weight - bias[:, None] * one).norm() / weight.norm())
    images = torch.full(seen.shape, 0.5, dtype=torch.float64, device=one.device)
    images[0] = one.view(seen.shape[1:])
    notes = () if seen.shape[0] == 1 else (f"{seen.shape[0] - 1} of {seen.shape[0]} images are grey, not looked for",)
    if alone < 1 - 1e-3:
        notes += (f"several images are of class {loud[0]}: the first is a mixture of them",)
    labels = torch.full(seen.shape[:1], loud[0], dtype=torch.int64, device=one.device)
    return Reconstruction(
        images, labels, 1 - alone, notes=notes, diagnostics={"alone": alone}, evaluations=0, pullbacks=0
    )


def _head(model: nn.Module, shape: tuple[int, ...]) -> nn.Linear:
    head = models.last_linear(model, shape)[1]
    if head.bias is None:
        raise ValueError(f"model must end in a linear layer with a bias to fish with, got {head}")
    return head
