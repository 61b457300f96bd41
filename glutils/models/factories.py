"""Networks of the reader's own, by name: registered ones, and any function that Python can import."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from torch import nn

from .. import _validate
from ..data.batch import Batch
from .probe import probe
from .zoo import MODELS

Factory = Callable[[Batch], nn.Module]
_OWN: dict[str, Factory] = {}


def register(name: str, factory: Factory) -> None:
    """Let ``name`` stand for a network of your own wherever a model's name may stand, in this process.

    A name may be registered again, and then stands for the later one. Worker processes do not know it; they import
    ``"package.module:factory"``, which needs no registration and may stand in the same places.

    Args:
        name: letters, digits, ``.``, ``_`` and ``-``; none of the book's own networks.
        factory: takes a :class:`~glutils.data.Batch`, which tells shape and classes, and returns the network.

    Raises:
        TypeError, ValueError: a name that is taken or malformed, a factory that cannot be called.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> gl.models.register("linear", lambda batch: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
        >>> gl.models.build("linear", gl.data.sample("digits"), seed=0).name
        'linear'
    """
    _validate.file_name("name", name)
    if name in MODELS.names():
        raise ValueError(f"name must be none of the book's own networks ({', '.join(MODELS.names())}), got {name!r}")
    if not callable(factory):
        raise TypeError(f"factory must be a function from a batch to a network, got {type(factory).__name__}")
    _OWN[name] = factory


def names() -> list[str]:
    """Names that :func:`build` accepts, the reader's own last; beside them any ``"package.module:factory"``.

    Example:
        >>> import glutils as gl
        >>> gl.models.names()[:3]
        ['lenet', 'mlp', 'convnet']
    """
    return [*MODELS.names(), *_OWN]


def find(name: str) -> Factory | None:
    """The factory that a name stands for; None: it is no name of the reader's own.

    Raises:
        ValueError: a module that cannot be imported, or that has no such function.
    """
    if not isinstance(name, str) or name in _OWN or ":" not in name:
        return _OWN.get(name) if isinstance(name, str) else None
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model {name!r} must name a function as package.module:factory: {error}") from error
    if not callable(found):
        raise ValueError(f"model {name!r} must name a function, got {type(found).__name__}")
    return found


def make(name: str, factory: Factory, batch: Batch) -> nn.Module:
    """The network of a factory, tried on the batch; ``ValueError``, which names the factory, if it is none."""
    try:
        model = factory(batch)
    except Exception as error:
        raise ValueError(f"model {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {name!r} must be a torch module, its factory returned {type(model).__name__}")
    model = model.to(batch.images.device).eval()
    try:
        given = probe(model, batch.images)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model {name!r} cannot be used: {error}") from error
    if given != len(batch.classes):
        raise ValueError(f"model {name!r} must give {len(batch.classes)} logits, one for each class, gives {given}")
    return model
