"""The scalars as equations: V grad_theta l(theta; x, y) = s, one row for each scalar that a client sent.

Everything a second-order solver needs of them: residual, the gradient of its square, and the matrix of the normal
equations, accumulated over chunks of rows so that neither V nor the Jacobian is ever needed whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from ... import models
from ...observation import Observation
from ...observation.transcripts import Round
from ...protocols import Protocol
from ...solvers import Calibration, Tally
from .clipped_rounds import ClippedRounds
from .messages import received
from .rounds import Block, Decode, StackedRounds, StreamedRound

STACK = 2**28
"""Most bytes of float64 directions in one stack of rounds."""
GLANCE = 256
"""Scalars of a round that tell how large its round-off is."""
WHOLE = 2**15
"""Most entries of a Jacobian that is kept whole, in float64: products with it then cost next to nothing."""


class ScalarEquations:
    """r(u) = (V g(u) - s) / std(s) over all rounds, where g(u) is the gradient at the batch that u stands for.

    Equations are never changed. Other unknowns, a sharper network, or differences that the client's arithmetic adds
    make other equations (:meth:`with_decode`, :meth:`with_model`, :meth:`with_offset`), which share the directions and
    the :class:`~glutils.solvers.Tally` of what was computed. So a Jacobian that is kept is that of these equations.

    Args:
        seen: the observation; its rounds must be of a scalar protocol.
        decode: vector u (D,) to images (B, C, H, W) and labels, and to weights (messages, B) if they are ``weighted``;
            a differentiable function of u and of nothing that changes.
        unknowns: D.
        chunk: rows of the Jacobian of a large round that are computed at a time.
        tally: counts what is computed; default: a new one.

    Attributes:
        count: K.
        offset: what the client's finite differences are believed to add to the exact slopes, (K,).
        noise: root mean square of the noise that defences are known to have added, in units of r.
    """

    model: nn.Module
    decode: Decode
    unknowns: int
    offset: torch.Tensor
    noise: float
    tally: Tally

    def __init__(
        self, seen: Observation, decode: Decode, unknowns: int, chunk: int = 256, *, weighted: bool = False,
        tally: Tally | None = None,
    ):  # fmt: skip
        blocks = residual_blocks(seen.model, decode, seen.rounds, chunk, weighted)
        targets = torch.cat([received(entry) for entry in seen.rounds])
        spread = float(targets.std()) if len(targets) > 1 else float(targets.abs())
        scale = spread if spread > 0 else 1.0
        vars(self).update(
            model=seen.model, decode=decode, unknowns=unknowns, blocks=blocks, sizes=[block.count for block in blocks],
            count=len(targets), targets=targets, scale=scale, offset=torch.zeros_like(targets),
            noise=_known_noise(seen) / scale, tally=Tally() if tally is None else tally, _jacobian_at={},
            _last={},
        )  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"equations are never changed; {name} is given by with_decode, with_model or with_offset")

    def _replaced(self, **changes: Any) -> ScalarEquations:
        """Equations that share everything but ``changes``, and no Jacobian unless it is among them."""
        other = copy.copy(self)
        vars(other).update({"_jacobian_at": {}, "_last": {}} | changes)
        return other

    def with_decode(self, decode: Decode, unknowns: int) -> ScalarEquations:
        """The same scalars as equations for other unknowns."""
        blocks = tuple(block.replaced(decode=decode) for block in self.blocks)
        return self._replaced(decode=decode, unknowns=unknowns, blocks=blocks)

    def with_model(self, model: nn.Module) -> ScalarEquations:
        """The same parameters in another network, of which nothing is known yet: the offset is zero."""
        blocks = tuple(block.replaced(model=model) for block in self.blocks)
        return self._replaced(model=model, blocks=blocks, offset=torch.zeros_like(self.offset))

    def with_offset(self, offset: torch.Tensor) -> ScalarEquations:
        """The same equations for clients whose differences add ``offset`` (K,) to the exact slopes."""
        return self._replaced(offset=offset, _jacobian_at=self._jacobian_at)  # of which an offset is no part

    def residual(self, u: torch.Tensor) -> torch.Tensor:
        """r(u), shape (K,), float64."""
        return self.evaluate(u)[0]

    def evaluate(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """r(u), shape (K,), and J(u).T r(u), shape (D,): exact, in float64, for the price of one gradient of g."""
        self.tally.add()
        targets = (self.targets - self.offset).split(self.sizes)
        found = [block.evaluate(u, target) for block, target in zip(self.blocks, targets, strict=True)]
        r = torch.cat([r for r, *_ in found]) / self.scale
        self._last.update(r=r.detach().clone(), backs=[back.detach() / self.scale for *_, back in found])
        return r, sum(pulled for _, pulled, _ in found) / self.scale**2

    def jtj_vector(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """J(u) v, shape (K,), and J(u).T J(u) v, shape (D,), float64: directions are drawn once for both."""
        if self._small:
            rows = self.jacobian(u)
            onward = rows @ v
            return onward, onward @ rows
        self.tally.add(evaluations=2)  # g moves along v, and again for the way back
        pairs = [block.jtj_vector(u, v) for block in self.blocks]
        return torch.cat([onward for onward, _ in pairs]) / self.scale, sum(back for _, back in pairs) / self.scale**2

    def vjp(self, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """J(u).T r for any r of shape (K,); shape (D,), float64.

        Of the r that :meth:`evaluate` gave last, at whatever point, V.T r is known: no pass over V is needed.
        """
        self.tally.add()
        if self._last and torch.equal(r, self._last["r"]):
            backs = self._last["backs"]
        else:
            backs = [block.combine(piece) for block, piece in zip(self.blocks, r.split(self.sizes), strict=True)]
        return sum(block.pull(u, back) for block, back in zip(self.blocks, backs, strict=True)) / self.scale

    def gram(
        self, u: torch.Tensor, dtype: torch.dtype = torch.float32, products: torch.dtype = torch.float64
    ) -> torch.Tensor:
        """J(u).T J(u), shape (D, D), float64, from rows in ``dtype``, a thousand at a time.

        Their products are float64, too, unless ``products`` says otherwise. Float32 halves their time, but loses all
        directions in which J is a few thousand times smaller than in its largest one; with as many equations as
        unknowns there are such (one photo of 32 x 32 pixels through lenet then ends at 41 instead of 129 dB), and where
        they are damped it makes no difference: :meth:`rough_gram`. Of a Jacobian of up to ``WHOLE`` entries the rows
        are float64, whatever is asked for, and kept for :meth:`jtj_vector`.
        """
        if self._small:
            rows = self.jacobian(u)
            return rows.T @ rows
        self.tally.add(pullbacks=self.count)
        total = torch.zeros(self.unknowns, self.unknowns, dtype=torch.float64, device=u.device)
        for rows in _gathered(self.jacobian_rows(u, dtype), 1024):
            add_gram(total, rows.to(products))
        for start, stop in _blocks(len(total)):  # in place: the matrix may be as large as memory allows
            total[stop:, start:stop] = total[start:stop, stop:].T
        return total

    def rough_gram(self, u: torch.Tensor) -> torch.Tensor:
        """:meth:`gram` with products of a thousand rows in float32, added in float64."""
        return self.gram(u, products=torch.float32)

    @property
    def _small(self) -> bool:
        return self.count * self.unknowns <= WHOLE

    def jacobian(self, u: torch.Tensor) -> torch.Tensor:
        """J(u), (K, D), float64; the last one is kept for as long as nobody asks about another point."""
        kept = self._jacobian_at
        if not kept or not torch.equal(kept["u"], u):
            self.tally.add(pullbacks=self.count)
            kept |= {"u": u.clone(), "rows": torch.cat(list(self.jacobian_rows(u, torch.float64)))}
        return kept["rows"]

    def jacobian_rows(self, u: torch.Tensor, dtype: torch.dtype = torch.float32) -> Iterator[torch.Tensor]:
        """Chunks of rows of J(u), each (n, D), in ``dtype``."""
        for block in self.blocks:
            for rows in block.rows(u, dtype):
                yield rows / self.scale

    def calibrate(self, u: torch.Tensor) -> Calibration:
        """What the client's finite differences at u add to the exact slopes; the equations with it as their offset.

        The attacker runs the client's own arithmetic on its current guess. What float64 differences add is truncation,
        a smooth function of the images: it becomes an offset of the equations. What the client's precision adds on top
        is round-off, which nobody can predict. Both are root mean squares in units of r.
        """
        noise, offset = self._found(u)
        return Calibration(math.hypot(self._size(noise), self.noise), self._size(offset), self.with_offset(offset))

    def glance(self, u: torch.Tensor) -> tuple[float, float]:
        """Noise and bias as :meth:`calibrate` finds them, from :data:`GLANCE` scalars of each large round."""
        noise, offset = self._found(u, GLANCE)
        return math.hypot(self._size(noise), self.noise), self._size(offset)

    def _found(self, u: torch.Tensor, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Round-off, and what finite differences add to exact slopes, of all scalars or of some of every block."""
        self.tally.add(pullbacks=0)
        found = (block.differences(u, most) for block in self.blocks)
        exact, fine, noise = (torch.cat(kind) for kind in zip(*found, strict=True))
        return noise, fine - exact

    def _size(self, error: torch.Tensor) -> float:
        return float(error.square().mean().sqrt()) / self.scale


def residual_blocks(
    model: nn.Module, decode: Decode, rounds: Sequence[Round], chunk: int = 256, weighted: bool = False
) -> tuple[Block, ...]:
    """Consecutive rounds that are alike in stacks as large as :data:`STACK` allows, every other one alone.

    ``weighted`` messages, and those of clients that cut each image's slope, are stacked in any case.
    """
    dim = sum(p.numel() for p in models.parameters(model).values())
    found, held, first = [], [], 0

    def close() -> None:
        if held and not (held[0].protocol.image_bound is held[0].protocol.mean_bound is None):
            found.append(ClippedRounds(model, decode, tuple(held), first))
        elif len(held) == 1 and not weighted:
            found.append(StreamedRound(model, decode, held[0], chunk))
        elif held:
            found.append(StackedRounds(model, decode, tuple(held), first))
        held.clear()

    for number, entry in enumerate(rounds):
        size = 8 * dim * entry.protocol.directions * (len(held) + 1)
        if held and (not _alike(held[0].protocol, entry.protocol) or size > STACK):
            close()
        if not held:
            first = number
        held.append(entry)
    close()
    return tuple(found)


def _alike(one: Protocol, other: Protocol) -> bool:
    """Whether two messages differ in seed and state alone."""
    names = ("directions", "law", "arithmetic", "image_bound", "mean_bound")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _known_noise(seen: Observation) -> float:
    """Root mean square of the noise that defences are known to have added to the scalars, in units of the scalars."""
    squares = [
        len(entry.payload) * entry.protocol.noise(entry.payload, seen.local_batch or seen.shape[0]) ** 2
        for entry in seen.rounds
    ]
    return math.sqrt(sum(squares) / seen.scalars)


def add_gram(total: torch.Tensor, rows: torch.Tensor, blocks: int = 16) -> None:
    """Add rows.T @ rows to the upper triangle of ``total``, block by block; the blocks below it are left alone.

    With sixteen blocks that is little more than half of the work. (A BLAS has a routine for it, but torch does not
    expose one, and a second library brings a second pool of threads, which fights with torch's over the cores.)
    """
    for start, stop in _blocks(len(total), blocks):
        total[start:stop, start:].add_(rows[:, start:stop].T @ rows[:, start:])


def _blocks(length: int, blocks: int = 16):
    size = -(-length // blocks)
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _gathered(chunks, rows: int):
    """Chunks joined until they hold at least ``rows`` rows: products of few rows are limited by memory traffic."""
    held: list[torch.Tensor] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(map(len, held)) >= rows:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)
