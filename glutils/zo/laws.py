"""Laws of public directions: how a seed becomes a direction, in this book and in the programs that real clients run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import _validate

Shapes = Sequence[torch.Size]
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Law:
    """How direction i of a step with seed s is drawn, and what everybody makes of the scalars along it.

    Attributes:
        name: what ``law`` of a protocol says.
        meaning: direction i of a step with seed s, in a sentence.
        source: where that is written.
        seed_of: (s, i) to the seed of the torch generator that draws the direction, on the CPU.
        by_tensor: whether each parameter's part is drawn as a tensor of its own, one after the other. With the same
            generator that is another stream than one long vector.
        length: ``"as drawn"``; ``"one"``: of length one, by a factor in float64; ``"one, rounded"``: divided by its
            length in the precision in which it was drawn, as the source does.
        native: whether a client in half precision draws in its own, which is another stream than float32's. Otherwise
            it rounds float32 numbers.
    """

    name: str
    meaning: str
    source: str
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
        """Whether a direction can be drawn by itself."""
        return True

    def factor(self, dim: int) -> int:
        """What the mean of scalar times direction is multiplied by, so that its mean is the gradient.

        d for this book's unit law; 1 for all others: the sources of the normalised ones have no such factor either.
        """
        return dim if self.length == "one" else 1

    def check(self, dim: int, shapes: Shapes | None) -> None:
        """Refuse shapes that are missing, or are not those of ``dim`` parameters."""
        if shapes is None and self.by_tensor:
            raise ValueError(f"shapes must be given for law {self.name!r}, which draws every parameter by itself")
        if shapes is not None and sum(shape.numel() for shape in shapes) != dim:
            raise ValueError(f"shapes must hold {dim} entries, got {[tuple(shape) for shape in shapes]}")

    def fill(self, rows: torch.Tensor, seed: int, first: int, shapes: Shapes | None, dtype: torch.dtype) -> None:
        """Draw directions ``first``, ``first + 1``, ... into ``rows`` (n, d), float32; ``dtype``: the client's."""
        generator, own = torch.Generator(), dtype if self.native and dtype.itemsize < 4 else torch.float32
        for i, row in enumerate(rows, first):
            # torch's CPU generator uses the low 32 bits of its seed: consecutive numbers are distinct for every row
            generator.manual_seed(self.seed_of(seed, i) % 2**32)
            if self.by_tensor:
                for shape, part in zip(shapes or (), row.split([shape.numel() for shape in shapes or ()]), strict=True):
                    part.copy_(torch.randn(shape, generator=generator, dtype=own).reshape(-1))
            elif own == torch.float32:
                torch.randn(len(row), generator=generator, out=row)
            else:
                row.copy_(torch.randn(len(row), generator=generator, dtype=own))
            if self.length == "one, rounded":
                z = row.to(own)
                row.copy_(z.div_(torch.linalg.vector_norm(z)))


class CallableLaw(Law):
    """A law of your own: a function (seed, count, shapes) to a (count, d) tensor, called for all directions at once.

    It may be called any number of times, and must answer the same. Its directions are taken as they are, and are kept.
    """

    def __init__(self, function: Callable[[int, int, Shapes], torch.Tensor]):
        about = {"meaning": "row i of what it returns", "source": "the caller", "seed_of": lambda s, i: s}
        super().__init__(getattr(function, "__name__", repr(function)), **about)
        object.__setattr__(self, "function", function)

    @property
    def streams(self) -> bool:
        return False

    def check(self, dim: int, shapes: Shapes | None) -> None:
        super().check(dim, shapes)
        if shapes is None:
            raise ValueError(f"shapes must be given for the law {self.name}, a function of seed, count and shapes")

    def fill(self, rows: torch.Tensor, seed: int, first: int, shapes: Shapes | None, dtype: torch.dtype) -> None:
        found = [self._call(seed, first + len(rows), shapes, rows.shape[1]) for _ in range(2)]
        if not torch.equal(*found):
            raise ValueError(f"law {self.name} must answer the same when it is asked twice, got two answers")
        rows.copy_(found[0][first:])

    def _call(self, seed: int, count: int, shapes: Any, dim: int) -> torch.Tensor:
        rows = _validate.instance(f"what law {self.name} returns", vars(self)["function"](seed, count, shapes), torch.Tensor)
        if rows.shape != (count, dim):
            raise ValueError(f"law {self.name} must return shape ({count}, {dim}), got {tuple(rows.shape)}")
        if not rows.is_floating_point():
            raise TypeError(f"law {self.name} must return floating-point numbers, got {rows.dtype}")
        return _validate.finite(f"what law {self.name} returns", rows).detach().cpu()


def _mixed(seed: int, i: int) -> int:
    """splitmix64 of the seed, so that neighbouring public seeds start far apart; then one number a row."""
    z = (seed + _GOLDEN) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) + i


def _decomfl(seed: int, i: int) -> int:
    return seed * (i + 17) + i


def _candidate(seed: int, i: int) -> int:
    """The i-th seed of the pool."""
    return int(np.random.RandomState(seed % 2**32).randint(1, 10**11, i + 1)[i])


_OURS = "this book"
_DECOMFL = "github.com/ZidongLiu/DeComFL, RandomGradientEstimator (Li et al. 2024)"
_ONE_VECTOR = "a normal vector for all parameters in order, from a generator with seed s (i + 17) + i"
_EACH = "a normal tensor for each parameter in order, from one generator"

_KNOWN = (
    Law("unit", "normal, divided by its length", _OURS, _mixed, length="one", native=False),
    Law("gaussian", "normal, of length about sqrt(d)", _OURS, _mixed, native=False),
    Law("decomfl", _ONE_VECTOR, _DECOMFL, _decomfl),
    Law("decomfl_unit", _ONE_VECTOR + ", divided by its length", _DECOMFL, _decomfl, length="one, rounded"),
    Law(
        "mezo", _EACH + " with seed s + i; the program asks for one direction a step, and where it takes several "
        "(n-SPSA) it draws a fresh seed for each", "github.com/princeton-nlp/MeZO (Malladi et al. 2023)",
        lambda seed, i: seed + i, by_tensor=True,
    ),
    Law(
        "fedkseed", _EACH + " with the i-th seed of a pool: numpy.random.RandomState(s).randint(1, 10**11, K)",
        "github.com/zhenqincn/FedKSeed (Qin et al. 2024)", _candidate, by_tensor=True,
    ),
)  # fmt: skip
KNOWN = {law.name: law for law in _KNOWN}
LAWS = tuple(KNOWN)


def find_law(law: Any) -> Law:
    """The law of that name, or that a function (seed, count, shapes) is.

    Raises:
        TypeError, ValueError: neither a function nor one of :data:`LAWS`; the message lists them.

    Example:
        >>> from glutils import zo
        >>> zo.find_law("unit").factor(100), zo.find_law("decomfl").factor(100)
        (100, 1)
        >>> print(zo.find_law("decomfl").meaning)
        a normal vector for all parameters in order, from a generator with seed s (i + 17) + i
    """
    if callable(law):
        return CallableLaw(law)
    if not isinstance(law, str):
        raise TypeError(f"law must be one of {', '.join(map(repr, LAWS))} or a function, got {law!r}")
    return KNOWN[_validate.choice("law", law, LAWS)]
