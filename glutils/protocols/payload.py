"""What leaves a client, as a value: its numbers, what kind of numbers they are, and the mode they were computed in."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping
from dataclasses import dataclass, replace
from numbers import Number
from typing import Any

import numpy as np
import torch

from .. import _validate, models

KINDS = ("gradient", "delta", "scalars")
"""Of a payload: named gradients, named parameter differences, or a vector of slopes."""
UNKNOWN = "unknown"
"""The mode of a message whose sender did not say in which mode its layers ran."""
_MODES = ("train", "eval", None, UNKNOWN)


def _read(name: str) -> Callable[..., Any]:
    """A method of the vector of scalars, by its name, for :class:`Payload`."""

    def method(self: Payload, *args: Any, **options: Any) -> Any:
        return getattr(self.scalars, name)(*args, **options)

    method.__name__, method.__doc__ = name, f"``scalars.{name}(...)``, a plain tensor."
    return method


@dataclass(frozen=True, eq=False)
class Payload:
    """One client's message. Payloads of a kind form a vector space: ``+ - * /`` keep kind and mode.

    A payload of scalars reads like the vector that it holds: it has a length, entries and slices, and torch functions
    take it where they take a tensor; they give plain tensors. A payload of named tensors reads like a mapping.

    Args:
        kind: ``"gradient"``, ``"delta"`` (parameters before less parameters after) or ``"scalars"``.
        content: (K,) tensor for scalars, else named tensors, which are put into a dict of the payload's own.
        mode: of the layers with statistics (batch norm) when it was computed: ``"train"``, ``"eval"``; None: the model
            has no such layer; :data:`UNKNOWN`: nobody said.

    Raises:
        TypeError, ValueError: an unknown kind or mode, content of the other form.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> sent = gl.protocols.Payload("scalars", torch.tensor([1.0, -2.0]), mode="eval")
        >>> mean = (sent + 3 * sent) / 4
        >>> mean.mode, mean.scalars.tolist(), torch.allclose(mean, sent)
        ('eval', [1.0, -2.0], True)
        >>> named = gl.protocols.Payload("gradient", {"0.bias": torch.ones(2)})
        >>> list(named), named["0.bias"].tolist(), (-named).flat.tolist()
        (['0.bias'], [1.0, 1.0], [-1.0, -1.0])
    """

    kind: str
    content: torch.Tensor | dict[str, torch.Tensor]
    mode: str | None = None

    def __post_init__(self) -> None:
        _validate.choice("kind", self.kind, KINDS)
        _validate.choice("mode", self.mode, _MODES)
        _check_form("content", self.kind, self.content)
        if not isinstance(self.content, torch.Tensor):
            object.__setattr__(self, "content", dict(self.content))

    @classmethod
    def of(cls, kind: str, value: Payload | torch.Tensor | Mapping, name: str = "payload") -> Payload:
        """``value`` as a message of this kind; a bare tensor, or bare named tensors, are of an unknown mode.

        Raises:
            TypeError, ValueError: content of the other form, or a payload of another kind; ``name`` is what the message
                calls it.
        """
        if not isinstance(value, Payload):
            _check_form(name, kind, value)
            return cls(kind, value if isinstance(value, torch.Tensor) else dict(value), UNKNOWN)
        if value.kind != kind:
            raise ValueError(f"{name} must be of kind {kind!r}, which the protocol sends, got kind {value.kind!r}")
        return value

    # --- its numbers ---

    @property
    def scalars(self) -> torch.Tensor:
        """The vector (K,); ``TypeError`` for named tensors."""
        if not isinstance(self.content, torch.Tensor):
            raise TypeError(f"payload must hold scalars for that, got named tensors of kind {self.kind!r}")
        return self.content

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name; ``TypeError`` for scalars."""
        if isinstance(self.content, torch.Tensor):
            raise TypeError(f"payload must hold named tensors for that, got {len(self.content)} scalars")
        return self.content

    @property
    def numbers(self) -> list[torch.Tensor]:
        """The tensors without their names; of scalars the vector alone."""
        return [self.content] if isinstance(self.content, torch.Tensor) else list(self.content.values())

    @property
    def flat(self) -> torch.Tensor:
        """All numbers as one vector."""
        return self.content.reshape(-1) if isinstance(self.content, torch.Tensor) else models.flatten(self.content)

    def with_flat(self, vector: torch.Tensor) -> Payload:
        """This payload with other numbers, given as one vector; the inverse of :attr:`flat`."""
        if isinstance(self.content, torch.Tensor):
            return replace(self, content=vector.view(self.content.shape))
        return replace(self, content=models.unflatten(vector, self.content))

    def numel(self) -> int:
        """How many numbers there are."""
        return sum(tensor.numel() for tensor in self.numbers)

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers, as they are held here."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.numbers)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Payload:
        """The payload of ``function`` of every tensor."""
        if isinstance(self.content, torch.Tensor):
            return replace(self, content=function(self.content))
        return replace(self, content={name: function(tensor) for name, tensor in self.content.items()})

    def clone(self) -> Payload:
        """A copy of the numbers."""
        return self.map(torch.clone)

    def detach(self) -> Payload:
        """The same numbers without their graph."""
        return self.map(torch.detach)

    def to(self, *args: Any, **options: Any) -> Payload:
        """Every tensor moved or cast, see :meth:`torch.Tensor.to`."""
        return self.map(lambda tensor: tensor.to(*args, **options))

    # --- a vector space ---

    def _combined(self, other: Any, function: Callable[[Any, Any], Any]) -> Payload:
        """``function`` of every tensor and what stands beside it in ``other``."""
        if isinstance(other, Payload):
            mode = self._common_mode(other)
            if isinstance(self.content, torch.Tensor):
                return replace(self, content=function(self.content, other.scalars), mode=mode)
            beside = other.tensors
            found = {name: function(tensor, beside[name]) for name, tensor in self.content.items()}
            return replace(self, content=found, mode=mode)
        fits = isinstance(other, Number) or (
            isinstance(other, torch.Tensor) and (self.kind == "scalars" or not other.dim())
        )
        return self.map(lambda tensor: function(tensor, other)) if fits else NotImplemented

    def _common_mode(self, other: Payload) -> str | None:
        if other.kind != self.kind:
            raise ValueError(f"payloads must be of one kind to be combined, got {self.kind!r} and {other.kind!r}")
        if self.kind != "scalars" and self.keys() != other.keys():
            raise ValueError(f"payloads must name the same tensors, differ in {sorted({*self} ^ {*other})}")
        if UNKNOWN in (self.mode, other.mode):
            return UNKNOWN
        if other.mode != self.mode:
            raise ValueError(f"payloads must be of one mode to be combined, got {self.mode!r} and {other.mode!r}")
        return self.mode

    def __add__(self, other: Any) -> Payload:
        return self._combined(other, lambda a, b: a + b)

    def __radd__(self, other: Any) -> Payload:
        return self._combined(other, lambda a, b: b + a)

    def __sub__(self, other: Any) -> Payload:
        return self._combined(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> Payload:
        return self._combined(other, lambda a, b: b - a)

    def __mul__(self, other: Any) -> Payload:
        return self._combined(other, lambda a, b: a * b)

    def __rmul__(self, other: Any) -> Payload:
        return self._combined(other, lambda a, b: b * a)

    def __truediv__(self, other: Any) -> Payload:
        return self._combined(other, lambda a, b: a / b)

    def __neg__(self) -> Payload:
        return self.map(torch.neg)

    # --- named tensors read like a mapping, scalars like a vector ---

    def __len__(self) -> int:
        return len(self.content)

    def __iter__(self) -> Iterator:
        return iter(self.content)

    def __getitem__(self, key: Any) -> torch.Tensor:
        return self.content[key]  # pyright: ignore[reportArgumentType, reportCallIssue]

    def __contains__(self, name: Any) -> bool:
        return name in self.content

    def keys(self) -> KeysView[str]:
        """Names of the tensors."""
        return self.tensors.keys()

    def items(self) -> ItemsView[str, torch.Tensor]:
        """Names and tensors."""
        return self.tensors.items()

    def values(self) -> list[torch.Tensor]:
        """As :attr:`numbers`."""
        return self.numbers

    def get(self, name: str, default: torch.Tensor | None = None) -> torch.Tensor | None:
        """The tensor of this name, or ``default``."""
        return self.tensors.get(name, default)

    @property
    def shape(self) -> torch.Size:
        """(K,), of scalars."""
        return self.scalars.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the first tensor."""
        return self.numbers[0].dtype

    @property
    def device(self) -> torch.device:
        """Of the first tensor."""
        return self.numbers[0].device

    @property
    def requires_grad(self) -> bool:
        """Whether any tensor does."""
        return any(tensor.requires_grad for tensor in self.numbers)

    abs, double, float = _read("abs"), _read("double"), _read("float")
    mean, norm, square, std = _read("mean"), _read("norm"), _read("square"), _read("std")
    sum, tolist = _read("sum"), _read("tolist")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.scalars.detach().cpu(), dtype)

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), options: dict | None = None) -> Any:
        return function(*_bare(args), **_bare(options or {}))


def _bare(value: Any) -> Any:
    """Arguments of a torch function with vectors in place of payloads of scalars."""
    if isinstance(value, Payload):
        return value.scalars
    if type(value) in (list, tuple):
        return type(value)(map(_bare, value))
    return {name: _bare(entry) for name, entry in value.items()} if type(value) is dict else value


def _check_form(name: str, kind: str, value: Any) -> None:
    """``TypeError`` unless ``value`` is a tensor, for scalars, or a mapping, for any other kind."""
    _validate.instance(name, value, torch.Tensor if kind == "scalars" else Mapping)
