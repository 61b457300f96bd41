"""Zeroth-order queries: public random directions, and the slope of the loss along them.

A zeroth-order client answers K questions. Question i is a direction z_i in parameter space, which everybody can draw
from a public seed; the answer is one number, the slope of the client's loss along it (Spall 1992;
DeComFL, Li et al. 2024). With V the K x d matrix whose rows are the directions, the answers are V times the
gradient, up to the error of finite differences.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap

from . import _check, _threads, models

LAWS = ("gaussian", "unit")
SCHEMES = ("forward", "central", "exact")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
MEMORY = 2 * 2**30
"""Bytes of directions that are kept; more than that is drawn again from the seed, block by block, at every use."""
_BLOCK_BYTES = 2**23  # rows drawn or cast at a time
_CACHE_BYTES = 2**22  # rows that stay in a cache between two products
_SHARED_BYTES = 2**24  # all rows, if they stay in the cache that all cores share
_WORTH = 2**17  # entries drawn, or a few times as many multiplied, that are worth a thread
_LONG = 2**22  # parameters from which on a concatenated gradient costs more page faults than it saves calls
_GOLDEN = 0x9E3779B97F4A7C15


class Directions:
    """K public directions in d dimensions: a K x d matrix V that is never needed whole.

    Row i depends on ``(seed, i)`` alone. It is drawn as float32 normals on the CPU whatever the device and precision of
    the work: CPU and GPU generators differ, and a public seed must mean the same direction to everybody. Law
    ``"gaussian"`` leaves it so; law ``"unit"`` divides it by its length (in float64).

    Args:
        seed: public seed, 0 or more.
        count: number of directions K.
        dim: number of parameters d.
        law: ``"gaussian"`` or ``"unit"``.
        device: where products are computed.
        memory: bytes that may be kept; beyond it blocks are drawn again at every use.
    """

    def __init__(self, seed: int, count: int, dim: int, law: str = "unit", *, device="cpu", memory: int = MEMORY):
        self.seed = _check.integer("seed", seed, at_least=0)
        self.count = _check.integer("count", count, at_least=1)
        self.dim = _check.integer("dim", dim, at_least=1)
        self.law = _check.choice("law", law, LAWS)
        self.device = torch.device(device)
        self._start = _mix(self.seed)
        self._length = self.dim  # of a row as it is drawn
        self._columns: torch.Tensor | None = None  # which of it are used
        self._memory = memory
        self._kept: torch.Tensor | None = None
        self._scale = torch.ones(self.count, dtype=torch.float64)
        self._scaled = torch.zeros(self.count, dtype=torch.bool)  # rows whose length is known
        self._weights: torch.Tensor | None = None
        self.block = min(self.count, max(1, _BLOCK_BYTES // (4 * self.dim)))
        if 4 * self.count * self.dim <= memory:
            self._kept = self._draw(0, self.count).to(self.device)

    def __len__(self) -> int:
        return self.count

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

    def _factor(self, start: int, stop: int, like: torch.Tensor) -> torch.Tensor:
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
        generator = torch.Generator()
        for i in range(first, last):
            # torch's CPU generator uses the low 32 bits of its seed: consecutive numbers are distinct for every row
            own = generator.manual_seed((self._start + start + i) % 2**32)
            torch.randn(self._length, generator=own, out=rows[i])
            if self.law == "unit" and not self._scaled[start + i]:
                self._scale[start + i] = 1 / rows[i].double().norm()

    def normals(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` before scaling, float32, shape (stop - start, d), on the device."""
        return self._draw(start, stop).to(self.device) if self._kept is None else self._kept[start:stop]

    def rows(self, start: int = 0, stop: int | None = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Directions ``start`` to ``stop`` (default: all) in ``dtype``, shape (stop - start, d)."""
        stop = self.count if stop is None else stop
        normals = self.normals(start, stop).to(dtype)
        plain = self.law == "gaussian" and self._weights is None
        return normals if plain else normals * self._factor(start, stop, normals)[:, None]

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, int]]:
        """``(start, stop)`` of consecutive blocks of at most ``size`` rows (default: 8 MiB of them)."""
        size = self.block if size is None else size
        for start in range(0, self.count, size):
            yield start, min(start + size, self.count)

    def _spans(self, dtype: torch.dtype) -> Iterator[tuple[int, int]]:
        """One span where the kept normals can be used as they are, cache-sized ones where they are drawn or cast."""
        return self.blocks(self.count if self._kept is not None and dtype == torch.float32 else None)

    def project(self, vector: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """V @ vector, shape (K,): the slope along every direction, in the vector's precision.

        The vector may come in pieces, as tensors of any shapes with d entries in all: then it is never copied.
        """
        pieces = [vector] if isinstance(vector, torch.Tensor) else [piece.reshape(-1) for piece in vector]
        parts = []
        for start, stop in self._spans(pieces[0].dtype):
            normals = self.normals(start, stop).to(pieces[0].dtype)
            columns = normals.split([len(piece) for piece in pieces], 1) if len(pieces) > 1 else [normals]
            parts.append(sum(c @ piece for c, piece in zip(columns, pieces, strict=True)))
        slopes = parts[0] if len(parts) == 1 else torch.cat(parts)
        return slopes * self._factor(0, self.count, slopes)

    def combine(self, weights: torch.Tensor, sizes: Sequence[int] | None = None) -> Any:
        """V.T @ weights, shape (d,): the directions added up with the given weights.

        With ``sizes``, a list of pieces of these lengths: one long fresh tensor costs more page faults than arithmetic.
        """
        sizes = [self.dim] if sizes is None else sizes
        out: list[torch.Tensor] = []
        for start, stop in self._spans(weights.dtype):
            normals = self.normals(start, stop).to(weights.dtype)
            scaled = weights[start:stop] * self._factor(start, stop, weights)
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
        if ready and self.dim >= _LONG:
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
            r, back = torch.cat([part for part, _ in found]), sum(part for _, part in found).split(sizes)
        return r, [part.view(piece.shape) for part, piece in zip(back, vector, strict=True)]

    def _products(
        self, vector: torch.Tensor, target: torch.Tensor, times: float | int, size: int, first: int, last: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What :meth:`match` returns, of rows ``first`` to ``last`` alone: ``size`` of them serve both products."""
        total, parts = torch.zeros_like(vector), []
        for start in range(first, last, size):
            stop = min(start + size, last)
            normals = self.normals(start, stop).to(vector.dtype)
            scale = self._factor(start, stop, vector)
            parts.append((normals @ vector).mul_(scale).sub_(target[start:stop]))
            total.addmv_(normals.T, parts[-1] * (times * scale))
        return torch.cat(parts), total


def _mix(seed: int) -> int:
    """splitmix64, so that neighbouring public seeds start far apart."""
    z = (seed + _GOLDEN) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def slopes(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    directions: Directions,
    *,
    mu: float,
    scheme: str = "central",
    dtype: torch.dtype = torch.float32,
    params: models.Parameters | None = None,
    each: bool = False,
) -> torch.Tensor:
    """What an honest client answers: the K slopes of its loss, shape (K,), in ``dtype``.

    With ``each``, those of every image's own loss, shape (K, B); their mean over images is the former.

    ``"central"``: (l(theta + mu z) - l(theta - mu z)) / (2 mu); ``"forward"``: (l(theta + mu z) - l(theta)) / mu;
    ``"exact"``: the directional derivative itself. Losses are computed in ``dtype``. The model's own parameters and
    buffers are never written to, so they are bit-identical afterwards. Differentiable in ``images``.
    """
    _check.choice("scheme", scheme, SCHEMES)
    mu = _check.number("mu", mu, above=0)
    if scheme == "exact":
        if each:
            pairs = [(x[None], y[None]) for x, y in zip(images, labels, strict=True)]
            how = {"dtype": dtype, "params": params}
            return torch.stack([exact_slopes(model, x, y, directions, **how) for x, y in pairs], 1)
        return exact_slopes(model, images, labels, directions, dtype=dtype, params=params)
    params = models.parameters(model, dtype) if params is None else params
    images = images.to(dtype)
    labels = labels.to(dtype) if labels.is_floating_point() else labels
    theta = models.flatten(params)
    loss = partial(_loss, model, params, images, labels, each)
    with torch.set_grad_enabled(images.requires_grad and torch.is_grad_enabled()):
        slope = partial(difference, loss, theta, mu, loss(theta) if scheme == "forward" else None)
        size = max(1, min(32, 2**25 // directions.dim))  # many small networks at once; a large one alone
        parts = []
        for start, stop in directions.blocks(size):
            z = directions.rows(start, stop, dtype)
            parts.append(vmap(slope)(z) if stop - start > 1 else slope(z[0])[None])
        return torch.cat(parts)


def _loss(
    model: nn.Module,
    like: models.Parameters,
    images: torch.Tensor,
    labels: torch.Tensor,
    each: bool,
    theta: torch.Tensor,
) -> torch.Tensor:
    """The loss at the flat parameters ``theta``; with ``each``, those of all images, (B,)."""
    params = models.unflatten(theta, like)
    if each:
        return F.cross_entropy(models.logits(model, params, images), labels, reduction="none")
    return models.loss(model, params, images, labels)


def difference(
    loss: Callable, theta: torch.Tensor, mu: float, here: torch.Tensor | None, z: torch.Tensor
) -> torch.Tensor:
    """The slope of ``loss`` at ``theta`` (d,) along z (d,): a forward difference from ``here``, the loss at ``theta``;
    if that is None, a central difference."""
    if here is None:
        return (loss(theta + mu * z) - loss(theta - mu * z)) / (2 * mu)
    return (loss(theta + mu * z) - here) / mu


def exact_slopes(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    directions: Directions,
    *,
    dtype: torch.dtype = torch.float32,
    params: models.Parameters | None = None,
) -> torch.Tensor:
    """The limit mu -> 0 of :func:`slopes`: V times the gradient, shape (K,). Differentiable in ``images``."""
    if params is None and not models.own_precision(model, dtype):
        params = models.parameters(model, dtype)
    labels = labels.to(dtype) if labels.is_floating_point() else labels
    graph = torch.is_grad_enabled() and (images.requires_grad or labels.requires_grad)
    gradient = list(models.gradient(model, params, images.to(dtype), labels, create_graph=graph).values())
    if directions.dim < _LONG:
        gradient = [torch.cat([part.reshape(-1) for part in gradient])]
    return _Project.apply(directions, *gradient) if graph else directions.project(gradient)


class _Project(torch.autograd.Function):
    """V @ gradient with V.T as its backward, neither of which needs V whole. The gradient may come in pieces."""

    @staticmethod
    def forward(ctx, directions, *pieces):
        ctx.directions, ctx.shapes = directions, [piece.shape for piece in pieces]
        return directions.project(pieces)

    @staticmethod
    def backward(ctx, weights):
        back = ctx.directions.combine(weights, [shape.numel() for shape in ctx.shapes])
        back = [back] if len(ctx.shapes) == 1 else back
        return None, *(piece.view(shape) for piece, shape in zip(back, ctx.shapes, strict=True))


def estimate(scalars: torch.Tensor, directions: Directions, *, unbiased: bool = True) -> torch.Tensor:
    """Gradient estimate (1/K) sum_i s_i z_i, shape (d,).

    Its mean is the gradient for Gaussian directions, and the gradient divided by d for unit ones; ``unbiased=True``
    multiplies the latter by d. The reference code of ZeroGLA leaves that factor out (``unbiased=False``).
    """
    if scalars.shape != (directions.count,):
        raise ValueError(f"scalars must have shape ({directions.count},), got {tuple(scalars.shape)}")
    factor = directions.dim if unbiased and directions.law == "unit" else 1
    return directions.combine(scalars) * (factor / directions.count)


def replay(
    params: models.Parameters, scalars: torch.Tensor, directions: Directions, lr: float, *, unbiased: bool = True
) -> models.Parameters:
    """Parameters after one step of SGD along the estimate: what every party computes from seed and scalars alone."""
    step = models.unflatten(estimate(scalars.to(directions.device), directions, unbiased=unbiased), params)
    return {name: p - lr * step[name].to(p.dtype) for name, p in params.items()}


def roundoff(loss: float, mu: float, dtype: torch.dtype = torch.float32, scheme: str = "central") -> float:
    """Expected size of a slope's round-off: machine epsilon x loss / (2 mu) (twice that for forward differences)."""
    return torch.finfo(dtype).eps * abs(loss) / (mu * (2 if scheme == "central" else 1))
