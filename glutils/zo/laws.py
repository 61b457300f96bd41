"""Laws of public directions: how a seed becomes a direction, in this book and in the programs that real clients run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .. import _validate

Shapes = Sequence[Sequence[int]]
"""Those of the parameters, in the order of the model."""
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Law:
    """How direction i of a step with seed s is drawn, and what everybody makes of the scalars along it.

    A direction is drawn on the CPU, whatever the device of the client.

    Attributes:
        name: what ``law`` of a protocol says.
        meaning: direction i of a step with seed s, in a sentence.
        source: the paper, as the bibliography calls it; None: this book.
        program: where it is written as code; None: here.
        seed_of: (s, i) to the seed of the torch generator that draws the direction.
        by_tensor: whether each parameter's part is drawn as a tensor of its own, one after the other. With the same
            generator that is another stream than one long vector.
        length: ``"as drawn"``; ``"one"``: of length one, by a factor in float64; ``"one, rounded"``: divided by its
            length in the precision in which it was drawn, as the program does.
        native: whether a client in half precision draws in its own, which is another stream than float32's. Otherwise
            it rounds float32 numbers. Whatever the law, a client in float64 uses float32 numbers.
    """

    name: str
    meaning: str
    source: str | None
    program: str | None
    seed_of: Callable[[int, int], int]
    by_tensor: bool = False
    length: str = "as drawn"
    native: bool = True

    @property
    def unit(self) -> bool:
        """Whether directions have length one."""
        return self.length != "as drawn"

    @property
    def streams(self) -> bool:
        """Whether a direction can be drawn without the others."""
        return True

    def factor(self, dim: int) -> int:
        """What the mean of scalar times direction is multiplied by, so that its mean is the gradient.

        d for this book's unit law. For every other law 1, for normalised directions too: the programs take the step as
        it is.
        """
        return dim if self.length == "one" else 1

    def check(self, dim: int, shapes: Shapes | None) -> None:
        """Refuse shapes that are missing, or are not those of ``dim`` parameters."""
        if shapes is None and (self.by_tensor or not self.streams):
            raise ValueError(f"shapes must be given for law {self.name!r}, which asks for those of the parameters")
        if shapes is not None and sum(map(math.prod, shapes)) != dim:
            raise ValueError(f"shapes must hold {dim} entries, got {[tuple(shape) for shape in shapes]}")

    def fill(self, rows: torch.Tensor, seed: int, first: int, shapes: Shapes | None, dtype: torch.dtype) -> None:
        """Draw directions ``first``, ``first + 1``, ... into ``rows`` (n, d), float32; ``dtype``: the client's."""
        own = dtype if self.native and dtype.itemsize < 4 else torch.float32
        generator, sizes = torch.Generator(), [math.prod(shape) for shape in shapes or ()]
        for i, row in enumerate(rows, first):
            # torch's CPU generator uses the low 32 bits of its seed, so nothing is lost
            generator.manual_seed(self.seed_of(seed, i) % 2**32)
            for part in row.split(sizes) if self.by_tensor else [row]:
                if own == torch.float32:
                    torch.randn(len(part), generator=generator, out=part)
                else:
                    part.copy_(torch.randn(len(part), generator=generator, dtype=own))
            if self.length == "one, rounded":
                z = row.to(own)
                row.copy_(z.div_(torch.norm(z)))


@dataclass(frozen=True)
class CallableLaw(Law):
    """A law of the caller's own: ``function`` (seed, count, shapes) to a (count, d) tensor, for all directions at once.

    It is asked more than once, and must answer the same. Its directions are taken as they are, and are kept.
    """

    function: Any = None

    @property
    def streams(self) -> bool:
        return False

    def fill(self, rows: torch.Tensor, seed: int, first: int, shapes: Shapes | None, dtype: torch.dtype) -> None:
        found, again = (self._ask(seed, first + len(rows), shapes or (), rows.shape[1]) for _ in range(2))
        if not torch.equal(found, again):
            raise ValueError(f"law {self.name} must answer the same when it is asked twice, got two answers")
        rows.copy_(found[first:])

    def _ask(self, seed: int, count: int, shapes: Shapes, dim: int) -> torch.Tensor:
        what = f"what law {self.name} returns"
        rows = _validate.instance(what, self.function(seed, count, [torch.Size(s) for s in shapes]), torch.Tensor)
        if rows.shape != (count, dim):
            raise ValueError(f"{what} must have shape ({count}, {dim}), got {tuple(rows.shape)}")
        if not rows.is_floating_point():
            raise TypeError(f"{what} must be floating-point numbers, got {rows.dtype}")
        return _validate.finite(what, rows).detach().to("cpu", torch.float32)


def _mixed(seed: int, i: int) -> int:
    """splitmix64 of the seed, so that neighbouring public seeds start far apart; from there one number a row."""
    z = (seed + _GOLDEN) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) + i


def _decomfl(seed: int, i: int) -> int:
    return seed * (i + 17) + i


def _mezo(seed: int, i: int) -> int:
    return seed + i


def _candidate(seed: int, i: int) -> int:
    """The i-th seed of the pool; how long the pool is does not matter to it."""
    return int(_pool(seed % 2**32, 1 << max(10, i.bit_length()))[i])


@lru_cache(maxsize=8)
def _pool(seed: int, size: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(1, 10**11, size)


_VECTOR = "one normal vector for all parameters in order, from a generator with seed s (i + 17) + i"
_TENSORS = "a normal tensor for each parameter in order, from one generator"
_DECOMFL = ("li2024decomfl", "github.com/ZidongLiu/DeComFL")
_MEZO = ("malladi2023mezo", "github.com/princeton-nlp/MeZO")
_FEDKSEED = ("qin2024fedkseed", "github.com/zhenqincn/FedKSeed")

_KNOWN = (
    Law("unit", "normal, divided by its length", None, None, _mixed, length="one", native=False),
    Law("gaussian", "normal, of length about the root of d", None, None, _mixed, native=False),
    Law("decomfl", _VECTOR, *_DECOMFL, _decomfl),
    Law("decomfl_unit", f"{_VECTOR}, divided by its length", *_DECOMFL, _decomfl, length="one, rounded"),
    Law(
        "mezo", f"{_TENSORS} with seed s + i. The program takes one direction a step, i = 0; with several (n-SPSA) it "
        "draws a fresh seed for each", *_MEZO, _mezo, by_tensor=True,
    ),
    Law(
        "fedkseed", f"{_TENSORS} with the i-th seed of a pool, numpy.random.RandomState(s).randint(1, 10**11, K)",
        *_FEDKSEED, _candidate, by_tensor=True,
    ),
)  # fmt: skip
KNOWN = {law.name: law for law in _KNOWN}
"""The laws by name; a function is a law too (:func:`find_law`)."""
LAWS = tuple(KNOWN)


def find_law(law: Any) -> Law:
    """The law of that name, or that a function (seed, count, shapes) is.

    ``"unit"`` and ``"gaussian"`` are this book's. ``"decomfl"`` (``"decomfl_unit"`` with its option to normalise),
    ``"mezo"`` and ``"fedkseed"`` are what clients of those programs draw; the list is ``LAWS``. A law of your own
    takes the seed, the number of directions and the parameters' shapes, and returns a tensor (count, d) of
    floating-point numbers, the same ones each time.

    Raises:
        TypeError, ValueError: neither a function nor one of the names.

    Example:
        >>> import torch
        >>> from glutils import zo
        >>> print(zo.find_law("decomfl").meaning)
        one normal vector for all parameters in order, from a generator with seed s (i + 17) + i
        >>> zo.find_law("unit").factor(100), zo.find_law("decomfl").factor(100)
        (100, 1)
        >>> own = zo.Directions(5, 3, 40, "decomfl").rows()[2]
        >>> torch.equal(own, torch.randn(40, generator=torch.Generator().manual_seed(5 * (2 + 17) + 2)))
        True
    """
    if callable(law):
        name = getattr(law, "__name__", repr(law))
        return CallableLaw(name, "what the function returns", None, None, _mezo, native=False, function=law)
    if not isinstance(law, str):
        raise TypeError(f"law must be one of {', '.join(map(repr, LAWS))}, or a function, got {law!r}")
    return KNOWN[_validate.choice("law", law, LAWS)]
