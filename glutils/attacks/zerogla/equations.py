"""The scalars as equations: V grad_theta l(theta; x, y) = s, one row for each scalar that a client sent.

Everything a second-order solver needs of them: residual, the gradient of its square, and the matrix of the normal
equations, accumulated over chunks of rows so that neither V nor the Jacobian is ever needed whole.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ... import models
from ...observation import Observation
from ...observation.transcripts import Round
from .rounds import Decode, along, kept, parts, state_of

WHOLE = 2**15
"""Most entries of a Jacobian that is kept whole, in float64: products with it then cost next to nothing."""


class ScalarEquations:
    """r(u) = (V g(u) - s) / std(s) over all rounds, where g(u) is the gradient at the batch that u stands for.

    Args:
        seen: the observation; its rounds must be of a scalar protocol.
        decode: vector u (D,) to images (B, C, H, W) and labels, and to weights (messages, B) if they are ``weighted``;
            differentiable.
        unknowns: D.
        chunk: rows of the Jacobian of a large round that are computed at a time.
    """

    def __init__(self, seen: Observation, decode: Decode, unknowns: int, chunk: int = 256, *, weighted: bool = False):
        self.model: nn.Module = seen.model
        self.decode, self.unknowns = decode, unknowns
        self.parts = parts(self.model, lambda u: self.decode(u), seen.rounds, chunk, weighted)
        self.sizes = [part.count for part in self.parts]
        self.count = sum(self.sizes)
        self.targets = torch.cat([_received(entry) for entry in seen.rounds])
        spread = float(self.targets.std()) if self.count > 1 else float(self.targets.abs())
        self.scale = spread if spread > 0 else 1.0
        self.offset = torch.zeros_like(self.targets)
        self.noise = _known_noise(seen) / self.scale
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def residual(self, u: torch.Tensor) -> torch.Tensor:
        """r(u), shape (K,), float64."""
        return self.evaluate(u)[0]

    def evaluate(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """r(u), shape (K,), and J(u).T r(u), shape (D,): exact, in float64, for the price of one gradient of g."""
        targets = (self.targets - self.offset).split(self.sizes)
        pairs = [part.evaluate(u, target) for part, target in zip(self.parts, targets, strict=True)]
        return torch.cat([r for r, _ in pairs]) / self.scale, sum(back for _, back in pairs) / self.scale**2

    def product(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """J(u) v, shape (K,), and J(u).T J(u) v, shape (D,), float64: directions are drawn once for both."""
        if self._small:
            rows = self.whole(u)
            onward = rows @ v
            return onward, onward @ rows
        pairs = [part.product(u, v) for part in self.parts]
        return torch.cat([onward for onward, _ in pairs]) / self.scale, sum(back for _, back in pairs) / self.scale**2

    def pull(self, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """J(u).T r for any r of shape (K,); shape (D,), float64."""
        pieces = r.split(self.sizes)
        return sum(part.pull(u, piece) for part, piece in zip(self.parts, pieces, strict=True)) / self.scale

    def normal(self, u: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """J(u).T J(u), shape (D, D), float64, from rows in ``dtype``, a thousand at a time.

        Their products are float64, too. Float32 would halve their time, but lose all directions in which J is a few
        thousand times smaller than in its largest one; with as many equations as unknowns there are such (one photo of
        32 x 32 pixels through lenet then ends at 41 instead of 129 dB). Of a Jacobian of up to ``WHOLE`` entries the
        rows are float64, whatever ``dtype`` says, and kept for :meth:`product`.
        """
        if self._small:
            self._kept = None  # what stands behind u may have changed: labels taken as known, a sharper network
            rows = self.whole(u)
            return rows.T @ rows
        total = torch.zeros(self.unknowns, self.unknowns, dtype=torch.float64, device=u.device)
        for rows in _gathered(self.jacobian(u, dtype), 1024):
            add_gram(total, rows.double())
        for start, stop in _blocks(len(total)):  # in place: the matrix may be as large as memory allows
            total[stop:, start:stop] = total[start:stop, stop:].T
        return total

    @property
    def _small(self) -> bool:
        return self.count * self.unknowns <= WHOLE

    def whole(self, u: torch.Tensor) -> torch.Tensor:
        """J(u), (K, D), float64; the last one is kept for as long as nobody asks about another point."""
        if self._kept is None or not torch.equal(self._kept[0], u):
            self._kept = u.clone(), torch.cat(list(self.jacobian(u, torch.float64)))
        return self._kept[1]

    def jacobian(self, u: torch.Tensor, dtype: torch.dtype = torch.float32):
        """Chunks of rows of J(u), each (n, D), in ``dtype``."""
        for part in self.parts:
            for rows in part.rows(u, dtype):
                yield rows / self.scale

    def calibrate(self, u: torch.Tensor) -> tuple[float, float]:
        """Learn at u what the client's finite differences add to the exact slopes: (noise that is left, bias removed).

        The attacker runs the client's own arithmetic on its current guess. What float64 differences add is truncation,
        a smooth function of the images: it becomes an offset of the equations. What the client's precision adds on top
        is round-off, which nobody can predict. Both are root mean squares in units of r.
        """
        exact, fine, noise = (torch.cat(kind) for kind in zip(*(p.differences(u) for p in self.parts), strict=True))
        self.offset = fine - exact
        noise, bias = (float(error.square().mean().sqrt()) / self.scale for error in (noise, self.offset))
        return math.hypot(noise, self.noise), bias


def _received(entry: Round) -> torch.Tensor:
    """The scalars of a message, (K,), float64; zero where a defence cut them off."""
    weights = kept(entry)
    scalars = entry.payload.scalars.double()
    return scalars if weights is None else scalars * weights.to(scalars)


def _known_noise(seen: Observation) -> float:
    """Root mean square of the noise that defences are known to have added to the scalars, in units of the scalars."""
    squares = [
        len(entry.payload) * entry.protocol.noise(entry.payload, seen.local_batch or seen.shape[0]) ** 2
        for entry in seen.rounds
    ]
    return math.sqrt(sum(squares) / seen.scalars)


def singular_values(seen: Observation, images: torch.Tensor) -> torch.Tensor:
    """Singular values of the Jacobian of all messages at ``images``, largest first, shape (min(N, D),), float64.

    N counts the scalars, or the entries of the gradients; those values that are above round-off count the independent
    numbers among them. An analysis, not an attack: it is usually asked about the private images.

    Args:
        seen: scalars, or gradients of a :class:`~glutils.protocols.FedSGD` client, of known labels.
        images: (B, C, H, W), D pixel values.
    """
    plain = all(entry.protocol.exact_gradient for entry in seen.rounds) and seen.local_batch is None
    if seen.labels is None or not (seen.kind == "scalars" or plain):
        raise ValueError("singular_values needs an observation of scalars or gradients with knows={'labels'}")
    u = images.double().flatten()
    if plain:
        return torch.linalg.svdvals(_gradients_jacobian(seen, u))
    equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), images.numel())
    rows = equations.whole(u)
    return torch.linalg.svdvals(rows * equations.scale)


def _gradients_jacobian(seen: Observation, u: torch.Tensor) -> torch.Tensor:
    """The derivative of every round's gradient in every pixel value, (D, N): a row holds what one pixel value moves."""
    states = [state_of(seen.model, entry) for entry in seen.rounds]

    def gradients(v: torch.Tensor) -> torch.Tensor:
        of = torch.func.grad(lambda params: models.loss(seen.model, params, v.view(seen.shape), seen.labels))
        return torch.cat([models.flatten(of(state)) for state in states])

    unit = torch.eye(len(u), dtype=u.dtype, device=u.device)
    return torch.func.vmap(lambda v: along(gradients, u, v), chunk_size=64)(unit)


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
