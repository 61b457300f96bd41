"""Public random directions: a matrix V of K rows in parameter space that is never needed whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from .. import _threads, _validate
from .laws import Law, Shapes, find_law

MEMORY = 2 * 2**30
"""Bytes of directions that are kept; more than that is drawn again from the seed, block by block, at every use."""
_BLOCK_BYTES = 2**23  # rows drawn or cast at a time
_CACHE_BYTES = 2**22  # rows that stay in a cache between two products
_SHARED_BYTES = 2**24  # all rows, if they stay in the cache that all cores share
LONG = 2**22  # parameters from which on a concatenated vector costs more page faults than it saves calls
_WORTH = 2**17  # entries drawn, or a few times as many multiplied, that are worth a thread


class Directions:
    """K public directions in d dimensions: a K x d matrix V that is never needed whole.

    Row i depends on ``(seed, i)`` alone. It is drawn as float32 normals on the CPU whatever the device and precision of
    the work: CPU and GPU generators differ, and a public seed must mean the same direction to everybody. Law
    ``"gaussian"`` leaves it so; law ``"unit"`` divides it by its length (in float64). The laws of other programs:
    :func:`glutils.zo.find_law`.

    Args:
        seed: public seed, 0 or more.
        count: number of directions K.
        dim: number of parameters d.
        law: one of ``glutils.zo.LAWS``, or a function (seed, count, shapes) to a (count, d) tensor.
        device: where products are computed.
        memory: bytes that may be kept; beyond it blocks are drawn again at every use.
        shapes: of the parameters, in order; for laws that draw each by itself, and for functions.
        dtype: of the client: in half precision, other programs draw other numbers.

    Raises:
        TypeError, ValueError: an unknown law, shapes that are missing or do not fit; a function that returns another
            shape, no floating-point numbers, entries that are not finite, or another answer the second time.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        dim: int,
        law: Any = "unit",
        *,
        device: torch.device | str = "cpu",
        memory: int = MEMORY,
        shapes: Shapes | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        self.seed = _validate.integer("seed", seed, at_least=0)
        self._describe(count, dim, find_law(law), device, memory)
        self._rule.check(self.dim, shapes)
        self._shapes, self._drawn_in = shapes, dtype
        self._scaled = torch.zeros(self.count, dtype=torch.bool)  # rows whose length is known
        if 4 * self.count * self.dim <= memory or not self._rule.streams:
            self._kept = self._draw(0, self.count).to(self.device)

    def _describe(self, count: int, dim: int, law: Law, device: torch.device | str, memory: int) -> None:
        """All that products need to know of the matrix, apart from its rows."""
        self.count = _validate.integer("count", count, at_least=1)
        self.dim = _validate.integer("dim", dim, at_least=1)
        self._rule, self.law = law, law.name
        self.device = torch.device(device)
        self._length = self.dim  # of a row as it is drawn
        self._columns: torch.Tensor | None = None  # which of it are used
        self._memory = memory
        self._kept: torch.Tensor | None = None
        self._scale = torch.ones(self.count, dtype=torch.float64)
        self._weights: torch.Tensor | None = None
        self.block = min(self.count, max(1, _BLOCK_BYTES // (4 * self.dim)))

    def __len__(self) -> int:
        return self.count

    @property
    def factor(self) -> int:
        """What the mean of scalar times direction is multiplied by, so that its mean is the gradient."""
        return self._rule.factor(self.dim)

    def weighted(self, weights: torch.Tensor) -> Directions:
        """The same directions, row i times ``weights[i]``, shape (K,): an attacker leaves out a scalar with a zero."""
        other = copy.copy(self)
        other._weights = weights.double().cpu()
        return other

    def narrowed(self, columns: torch.Tensor, memory: int | None = None) -> Directions:
        """The same directions without the other entries: ``columns`` (d',) int64, for parameters that cannot matter.

        Lengths are those of whole directions. ``memory``: bytes of what is left that may be kept; default: as before.
        """
        other = copy.copy(self)
        other._columns = columns if self._columns is None else self._columns[columns]
        other.dim, other._memory = len(columns), self._memory if memory is None else memory
        if self._kept is not None:
            other._kept = self._kept[:, columns.to(self.device)]
        elif 4 * other.count * other.dim <= other._memory:
            kept = torch.empty(other.count, other.dim, device=self.device)
            for start, stop in other.blocks():
                kept[start:stop] = other.normals(start, stop)
            other._kept = kept
        return other

    def scales(self, start: int, stop: int, like: torch.Tensor) -> torch.Tensor:
        """What rows ``start`` to ``stop`` are multiplied by; their lengths are known once they have been drawn."""
        factor = self._scale[start:stop]
        return (factor if self._weights is None else factor * self._weights[start:stop]).to(like)

    def _draw(self, start: int, stop: int) -> torch.Tensor:
        """float32 normals of rows ``start`` to ``stop`` on the CPU; their lengths are noted on the way."""
        rows = torch.empty(stop - start, self._length)
        _threads.split(stop - start, partial(self._fill, rows, start), least=max(1, _WORTH // self._length))
        self._scaled[start:stop] = True
        return rows if self._columns is None else rows[:, self._columns]

    def _fill(self, rows: torch.Tensor, start: int, first: int, last: int) -> None:
        """Draw ``rows[first:last]``, of which the first is direction ``start + first``."""
        self._rule.fill(rows[first:last], self.seed, start + first, self._shapes, self._drawn_in)
        if self._rule.length == "one":
            for i in range(first, last):
                if not self._scaled[start + i]:
                    self._scale[start + i] = 1 / rows[i].double().norm()

    def normals(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` before scaling, float32, shape (stop - start, d), on the device."""
        return self._draw(start, stop).to(self.device) if self._kept is None else self._kept[start:stop]

    def rows(self, start: int = 0, stop: int | None = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Directions ``start`` to ``stop`` (default: all) in ``dtype``, shape (stop - start, d)."""
        stop = self.count if stop is None else stop
        normals = self.normals(start, stop).to(dtype)
        plain = self._rule.length != "one" and self._weights is None
        return normals if plain else normals * self.scales(start, stop, normals)[:, None]

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, int]]:
        """``(start, stop)`` of consecutive blocks of at most ``size`` rows (default: 8 MiB of them)."""
        size = self.block if size is None else size
        for start in range(0, self.count, size):
            yield start, min(start + size, self.count)

    def _size(self, dtype: torch.dtype) -> int:
        """Rows at a time: all where the kept normals can be used as they are, else as many as a cache holds."""
        if self._kept is None:
            return self.block
        return self.count if dtype == torch.float32 else max(1, _CACHE_BYTES // (dtype.itemsize * self.dim))

    def _passed(
        self, dtype: torch.dtype, size: int, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(start, stop, normals in ``dtype``) of rows ``first`` to ``last``, ``size`` at a time.

        What is cast is cast to the same place every time: fresh memory costs as much as the products with it.
        """
        last, room = self.count if last is None else last, None
        for start in range(first, last, size):
            normals = self.normals(start, min(start + size, last))
            if normals.dtype != dtype:
                room = torch.empty(normals.shape, dtype=dtype, device=normals.device) if room is None else room
                normals = room[: len(normals)].copy_(normals)
            yield start, start + len(normals), normals

    def project(self, vector: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """V @ vector, shape (K,): the slope along every direction, in the vector's precision.

        The vector may come in pieces, as tensors of any shapes with d entries in all: then it is never copied.
        """
        pieces = [vector] if isinstance(vector, torch.Tensor) else [piece.reshape(-1) for piece in vector]
        parts = []
        for _, _, normals in self._passed(pieces[0].dtype, self._size(pieces[0].dtype)):
            columns = normals.split([len(piece) for piece in pieces], 1) if len(pieces) > 1 else [normals]
            parts.append(sum(c @ piece for c, piece in zip(columns, pieces, strict=True)))
        slopes = parts[0] if len(parts) == 1 else torch.cat(parts)
        return slopes * self.scales(0, self.count, slopes)

    def combine(self, weights: torch.Tensor, sizes: Sequence[int] | None = None) -> Any:
        """V.T @ weights, shape (d,): the directions added up with the given weights.

        With ``sizes``, a list of pieces of these lengths: one long fresh tensor costs more page faults than arithmetic.
        """
        sizes = [self.dim] if sizes is None else sizes
        out: list[torch.Tensor] = []
        for start, stop, normals in self._passed(weights.dtype, self._size(weights.dtype)):
            scaled = weights[start:stop] * self.scales(start, stop, weights)
            columns = normals.split(sizes, 1) if len(sizes) > 1 else [normals]
            if out:
                for total, c in zip(out, columns, strict=True):
                    total.addmv_(c.T, scaled)
            else:
                out = [scaled @ c for c in columns]
        return out[0] if len(sizes) == 1 else out

    def match(
        self, vector: Sequence[torch.Tensor], target: torch.Tensor, times: float | int = 1.0
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """r = V @ vector - target, shape (K,), and V.T @ (times r) in pieces like those of ``vector``.

        What every iteration of an attack asks for; K numbers are multiplied sooner than d. Where rows have to be drawn
        again, or cast, both products are taken while they are in the cache.
        """
        dtype, sizes = vector[0].dtype, [piece.numel() for piece in vector]
        ready = self._kept is not None and dtype == torch.float32
        if ready and self.dim >= LONG:
            r = self.project(vector) - target
            back = self.combine(times * r, sizes)
            back = [back] if isinstance(back, torch.Tensor) else back
        else:
            whole = torch.cat([piece.reshape(-1) for piece in vector])
            size = self.block if self._kept is None else max(1, _CACHE_BYTES // (dtype.itemsize * self.dim))
            size = self.count if ready and 4 * self.count * self.dim <= _SHARED_BYTES else size
            products = partial(self._products, whole, target, times, size)
            # rows that have to be drawn are drawn by all threads already
            threads = self._kept is not None and not whole.is_cuda
            least = max(1, 16 * _WORTH // self.dim) if threads else self.count
            found = _threads.split(self.count, products, least=least)
            r = torch.cat([part for part, _ in found])
            back = sum((part for _, part in found), start=whole.new_zeros(())).split(sizes)
        return r, [part.view(piece.shape) for part, piece in zip(back, vector, strict=True)]

    def _products(
        self, vector: torch.Tensor, target: torch.Tensor, times: float | int, size: int, first: int, last: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What :meth:`match` returns, of rows ``first`` to ``last`` alone: ``size`` of them serve both products."""
        total, parts = torch.zeros_like(vector), []
        for start, stop, normals in self._passed(vector.dtype, size, first, last):
            scale = self.scales(start, stop, vector)
            parts.append((normals @ vector).mul_(scale).sub_(target[start:stop]))
            total.addmv_(normals.T, parts[-1] * (times * scale))
        return torch.cat(parts), total


class GivenDirections(Directions):
    """Directions that somebody has found, not drawn: ``rows`` (K, d), taken as they are.

    They have no seed, and are kept whole.
    """

    def __init__(self, rows: torch.Tensor):
        self._describe(len(rows), rows.shape[1], find_law("gaussian"), rows.device, 0)
        self._kept = rows
