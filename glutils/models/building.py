"""Networks by name: the book's own, and the reader's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Unpack

import torch
from torch import nn

from .. import _validate
from ..data.batch import Batch
from ..data.texts import messages_vocabulary
from . import factories
from .zoo import MODELS, TAKES, Options, describe


def build(
    name: str,
    batch: Batch,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    **options: Unpack[Options],
) -> nn.Module:
    """A network whose input shape and classes come from ``batch``.

    Args:
        name: one of :func:`names`, or ``"package.module:factory"`` for a function from a batch to a network.
        batch: decides channels, height and width, or columns, or vocabulary, number of classes and, by default, the
            device.
        seed: of the initial weights; the global random state is left as it was.
        device: where the network lives; default: where the batch's images are.
        options: ``activation`` (one of tanh, sigmoid, gelu, softplus, relu, leaky_relu) for ``lenet``, ``mlp``,
            ``convnet``, ``cnn`` and ``resnet8``; ``hidden`` (tuple of layer widths) for ``mlp``; ``width`` (channels)
            for ``lenet``, ``resnet8``, ``vit`` and ``gpt``; ``norm`` ("batch" or "group") for ``resnet8``; ``patch``,
            ``blocks`` and ``heads`` for ``vit``; ``depth`` (blocks), ``heads`` and ``context`` (most pieces of a text)
            for ``gpt``; ``weights`` (what :func:`glutils.models.load` takes) for torchvision's nets and ``gpt``, for
            which ``"trained"`` stands for the book's own. A network of the reader's own has none.

    Returns:
        The network in ``eval`` mode (batch norm uses its running statistics, dropout is off), float32. Attribute
        ``classes`` holds the number of classes, ``name`` the name.

    Raises:
        TypeError: ``batch`` is not a :class:`~glutils.data.Batch`, or an unknown option.
        ValueError: an unknown name or activation, a factory that cannot be imported or makes no network, records of a
            kind that the network does not take, or images too small for it.

    Example:
        >>> import glutils as gl
        >>> model = gl.models.build("mlp", gl.data.sample("digits"), hidden=(16,), activation="relu", seed=0)
        >>> sum(parameter.numel() for parameter in model.parameters()), model.training
        (1210, False)
    """
    _validate.instance("batch", batch, Batch)
    seed = _validate.integer("seed", seed, at_least=0)
    own = factories.find(name)
    if own is not None and options:
        raise TypeError(f"model {name!r} has no option {min(options)!r}: what it is like, its factory decides")
    make = _ready(name, batch, options) if own is None else partial(factories.make, name, own, batch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    shape = None if batch.kind == "tokens" else batch.shape
    describe(model, name=name, shape=shape, classes=len(batch.classes), vocabulary=batch.vocabulary)
    return model.to(batch.images.device if device is None else device).eval()


def _ready(name: str, batch: Batch, options: Options) -> Callable[[], nn.Module]:
    """What makes one of the book's own networks, once name, kind of records and options are found to fit."""
    try:
        make = MODELS.get(name)
    except ValueError as error:
        own = [other for other in factories.names() if other not in MODELS.names()]
        more = f", {', '.join(own)}" if own else ""
        raise ValueError(f"{error}{more}, or package.module:factory") from None
    if batch.kind not in (kinds := TAKES.get(name, ("images",))):
        able = ", ".join(other for other, taken in TAKES.items() if batch.kind in taken)
        raise ValueError(f"batch must hold {' or '.join(kinds)} for model {name!r}, got {batch.kind}, as {able} takes")
    if options.get("weights") == "trained" and name == "gpt" and batch.vocabulary != messages_vocabulary():
        raise ValueError("weights must be None or a file for a vocabulary other than the messages', got 'trained'")
    allowed = list(inspect.signature(make).parameters)[2:]
    for option in sorted(options.keys() - set(allowed)):
        raise TypeError(f"model {name!r} has no option {option!r}; its options: {', '.join(allowed)}")
    return partial(make, batch.shape, len(batch.classes), **options)
