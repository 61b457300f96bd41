"""Networks that clients train, by name.

Pixels live in [0, 1] everywhere; a network that wants normalised input carries the normalisation as its first layer.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TypedDict, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import _validate
from .._registry import Registry
from ..data.vocabulary import Vocabulary
from . import loading

Shape = tuple[int, int, int]
MODELS = Registry[Callable[..., nn.Module]]("model")
TAKES = {"mlp": ("images", "tables"), "gpt": ("tokens",)}
"""Kinds of records of the networks that take others than images."""
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Options(TypedDict, total=False):
    """What :func:`glutils.models.build` hands on to the network; which of them it takes, its docstring and an error
    say."""

    activation: str
    blocks: int
    channels: tuple[int, int]
    context: int
    depth: int
    heads: int
    hidden: tuple[int, ...] | int | None
    norm: str
    patch: int | None
    weights: str | os.PathLike[str] | None
    width: int


def describe(
    model: nn.Module, *, name: str, shape: tuple[int, ...] | None, classes: int, vocabulary: Vocabulary | None = None
) -> None:
    """Note on a network what it is called, and the records and classes it is for; `image_shape`, `class_count` read it.

    ``shape`` is None for texts, which may be of any length; ``vocabulary`` is theirs. (torch lets type checkers believe
    that every attribute of a module is a tensor or a module.)
    """
    about = {"name": name, "shape": shape and tuple(shape), "classes": classes, "vocabulary": vocabulary}
    for attribute, value in about.items():
        if value is not None:
            setattr(model, attribute, value)


def image_shape(model: nn.Module) -> Shape:
    """Shape (C, H, W) of the images that a network of :func:`glutils.models.build` takes.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> gl.models.image_shape(model)
        (1, 8, 8)
    """
    return cast("Shape", model.shape)


def class_count(model: nn.Module) -> int:
    """Number of classes of a network of :func:`glutils.models.build`.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> gl.models.class_count(model)
        10
    """
    return cast("int", model.classes)


def _activation(name: str) -> nn.Module:
    return ACTIVATIONS[_validate.choice("activation", name, ACTIVATIONS)]()


@MODELS.register("lenet")
def lenet(shape: Shape, classes: int, activation: str = "sigmoid", width: int = 12) -> nn.Module:
    """The network of DLG (Zhu et al. 2019): three 5x5 convolutions of 12 channels, strides 2, 2, 1, and one linear
    layer, with all weights and biases uniform in [-0.5, 0.5]. 15,826 parameters at 3x32x32 and 10 classes.

    ``width`` is the number of channels. With 12 of them, the gradient holds fewer independent numbers than an image of
    3x64x64 has pixel values (:func:`glutils.attacks.gradient_rank_bound`): a larger image needs a wider network.

    Example:
        >>> import glutils as gl
        >>> sum(p.numel() for p in gl.models.lenet((3, 32, 32), 10).parameters())
        15826
    """
    _validate.integer("width", width, at_least=1)
    channels, rows, columns = shape
    layers: list[nn.Module] = []
    for stride in (2, 2, 1):
        layers += [nn.Conv2d(channels, width, 5, stride=stride, padding=2), _activation(activation)]
        channels = width
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * -(-rows // 4) * -(-columns // 4), classes))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return model


@MODELS.register("mlp")
def mlp(shape: tuple[int, ...], classes: int, hidden: tuple[int, ...] = (64,), activation: str = "tanh") -> nn.Module:
    """Fully connected layers of the given widths, PyTorch's default initialisation; for images and for tables.

    Example:
        >>> import glutils as gl
        >>> sum(p.numel() for p in gl.models.mlp((1, 8, 8), 10, hidden=(32,)).parameters())
        2410
    """
    features = math.prod(shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(features, _validate.integer("hidden", width, at_least=1)), _activation(activation)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


@MODELS.register("convnet")
def convnet(
    shape: Shape, classes: int, activation: str = "relu", channels: tuple[int, int] = (16, 32), hidden: int | None = 128
) -> nn.Module:
    """conv3x3-16, conv3x3-32 with stride 2, a linear layer of 128, a linear layer; PyTorch's default initialisation.

    ``channels`` and ``hidden`` resize it; ``hidden=None`` drops the first linear layer.

    Example:
        >>> import glutils as gl
        >>> sum(p.numel() for p in gl.models.convnet((1, 8, 8), 10).parameters())
        71754
    """
    first, second = channels
    features = second * -(-shape[1] // 2) * -(-shape[2] // 2)
    head: list[nn.Module] = [nn.Flatten()]
    if hidden is not None:
        head += [nn.Linear(features, hidden), _activation(activation)]
        features = hidden
    return nn.Sequential(
        nn.Conv2d(shape[0], first, 3, padding=1),
        _activation(activation),
        nn.Conv2d(first, second, 3, stride=2, padding=1),
        _activation(activation),
        *head,
        nn.Linear(features, classes),
    )


@MODELS.register("cnn")
def cnn(shape: Shape, classes: int, activation: str = "relu", hidden: int = 512) -> nn.Module:
    """The CNN of a survey of attacks on federated learning (Zhu, Huang, Xie 2024): conv3x3-32, conv3x3-64, 2x2 maximum
    pooling, a linear layer of 512, a linear layer; PyTorch's default initialisation. Padding 1 and stride 1 are this
    book's choice. 548,746 parameters for an 8x8 grey image and 10 classes.

    Example:
        >>> import glutils as gl
        >>> sum(p.numel() for p in gl.models.cnn((3, 32, 32), 10).parameters())
        8413642
    """
    if min(shape[1:]) < 2:
        raise ValueError(f"images must be at least 2x2 for cnn, got {shape[1]}x{shape[2]}")
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3, padding=1),
        _activation(activation),
        nn.Conv2d(32, 64, 3, padding=1),
        _activation(activation),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (shape[1] // 2) * (shape[2] // 2), hidden),
        _activation(activation),
        nn.Linear(hidden, classes),
    )


NORMS = ("batch", "group")


def _norm(name: str, channels: int) -> nn.Module:
    """Batch norm; or group norm in groups of about eight channels (Wu and He 2018), which no other image takes part in
    and which keeps no statistics."""
    if _validate.choice("norm", name, NORMS) == "batch":
        return nn.BatchNorm2d(channels)
    groups = next(groups for groups in range(max(1, channels // 8), 0, -1) if channels % groups == 0)
    return nn.GroupNorm(groups, channels)


class _Residual(nn.Module):
    """Two 3x3 convolutions with normalisation, added to the input (He et al. 2016, basic block)."""

    def __init__(self, before: int, after: int, stride: int, activation: str, norm: str = "batch") -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), _norm(norm, after)
        self.conv2, self.norm2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), _norm(norm, after)
        self.act = _activation(activation)
        self.shortcut = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), _norm(norm, after))

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        inner = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return self.act(inner + self.shortcut(x))


@MODELS.register("resnet8")
def resnet8(
    shape: Shape, classes: int, width: int = 16, activation: str = "relu", norm: str = "batch"
) -> nn.Module:
    """A stem and three residual blocks of ``width``, 2 ``width``, 4 ``width`` channels with batch norm (or ``norm``
    ``"group"``), global average pooling, a linear layer; 78 k parameters at width 16 and 10 classes.

    Example:
        >>> import glutils as gl
        >>> sum(p.numel() for p in gl.models.resnet8((3, 16, 16), 10).parameters())
        78042
    """
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, padding=1, bias=False),
        _norm(norm, width),
        _activation(activation),
        _Residual(width, width, 1, activation, norm),
        _Residual(width, 2 * width, 2, activation, norm),
        _Residual(2 * width, 4 * width, 2, activation, norm),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


class Normalise(nn.Module):
    """(x - mean) / std per channel, so that networks that expect it can be fed pixels in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        return (x - self.mean) / self.std


def _torchvision(name: str) -> Callable[..., nn.Module]:
    def make(shape: Shape, classes: int, weights: str | os.PathLike[str] | None = None) -> nn.Module:
        import torchvision

        if min(shape[1:]) < 32:
            raise ValueError(f"images must be at least 32x32 for {name}, got {shape[1]}x{shape[2]}")
        network = getattr(torchvision.models, name)(weights=None)
        last = "fc" if name.startswith("resnet") else "classifier.6"
        head = nn.Linear(network.get_submodule(last).in_features, classes)
        if weights is not None:
            found = loading.read(weights)
            mine = isinstance(found, dict) and any(
                key.endswith(f"{last}.weight") and len(tensor) == classes for key, tensor in found.items()
            )
            if mine:  # a head for as many classes is theirs, and kept
                network.set_submodule(last, head)
            loading.load(found, network)
            head = network.get_submodule(last) if mine else head
        if shape[0] != 3 and name.startswith("resnet"):
            network.conv1 = nn.Conv2d(shape[0], 64, 7, 2, 3, bias=False)
        elif shape[0] != 3:
            network.features[0] = nn.Conv2d(shape[0], 64, 3, padding=1)
        network.set_submodule(last, head)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if shape[0] == 3 else ((0.5,) * shape[0], (0.25,) * shape[0])
        return nn.Sequential(Normalise(mean, std), network)

    make.__doc__ = f"torchvision's {name} with a new last layer; ``weights`` is the path of a torchvision state dict."
    return MODELS.register(name)(make)


resnet18, resnet50, vgg16 = (_torchvision(name) for name in ("resnet18", "resnet50", "vgg16"))
