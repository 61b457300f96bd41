"""The scalars as equations: V grad_theta l(theta; x, y) = s, one row for each scalar that a client sent.

Everything a second-order solver needs of them: residual, the gradient of its square, and the matrix of the normal
equations, accumulated over chunks of rows so that neither V nor the Jacobian is ever needed whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.func import jvp, vjp, vmap

from .. import models, zo
from ..observation import Observation, Round

Decode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class ScalarEquations:
    """r(u) = (V g(u) - s) / std(s) over all rounds, where g(u) is the gradient at the batch that u stands for.

    Args:
        seen: the observation; its rounds must be of a scalar protocol.
        decode: vector u (D,) to images (B, C, H, W) and labels; differentiable.
        unknowns: D.
        chunk: rows of the Jacobian computed at a time.
    """

    def __init__(self, seen: Observation, decode: Decode, unknowns: int, chunk: int = 256):
        self.model: nn.Module = seen.model
        self.decode, self.unknowns, self.chunk = decode, unknowns, chunk
        self.rounds: tuple[Round, ...] = seen.rounds
        self.directions = [entry.protocol.draw(self.model) for entry in self.rounds]
        self.sizes = [len(directions) for directions in self.directions]
        self.count = sum(self.sizes)
        self.targets = torch.cat([entry.payload.double() for entry in self.rounds])
        spread = float(self.targets.std()) if self.count > 1 else float(self.targets.abs())
        self.scale = spread if spread > 0 else 1.0
        self.offset = torch.zeros_like(self.targets)
        self.params = [models.parameters(self.model, torch.float64) | _cast(e.parameters) for e in self.rounds]

    def _gradient(self, u: torch.Tensor, params: models.Parameters) -> torch.Tensor:
        images, labels = self.decode(u)
        value = models.loss
        grads = torch.func.grad(lambda p: value(self.model, p, images, labels))(params)
        return models.flatten(grads)

    def residual(self, u: torch.Tensor) -> torch.Tensor:
        """r(u), shape (K,), float64."""
        return self.evaluate(u)[0]

    def evaluate(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """r(u), shape (K,), and J(u).T r(u), shape (D,): exact, in float64, for the price of one gradient of g."""
        parts, back = [], torch.zeros_like(u)
        targets = (self.targets - self.offset).split(self.sizes)
        for params, directions, target in zip(self.params, self.directions, targets, strict=True):
            g, pull = vjp(lambda v, params=params: self._gradient(v, params), u)
            r = (directions.project(g) - target) / self.scale
            back += pull(directions.combine(r) / self.scale)[0]
            parts.append(r)
        return torch.cat(parts), back

    def push(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """J(u) v, shape (K,), float64."""
        parts = []
        for params, directions in zip(self.params, self.directions, strict=True):
            with warnings.catch_warnings():  # forward mode loads decompositions that torch itself calls deprecated
                warnings.filterwarnings("ignore", "`torch.jit.script`", DeprecationWarning)
                along = jvp(lambda w, params=params: self._gradient(w, params), (u,), (v,))[1]
            parts.append(directions.project(along) / self.scale)
        return torch.cat(parts)

    def pull(self, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """J(u).T r for any r of shape (K,); shape (D,), float64."""
        back = torch.zeros_like(u)
        for params, directions, part in zip(self.params, self.directions, r.split(self.sizes), strict=True):
            _, pull = vjp(lambda v, params=params: self._gradient(v, params), u)
            back += pull(directions.combine(part / self.scale))[0]
        return back

    def normal(self, u: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """J(u).T J(u), shape (D, D), float64: rows computed in ``dtype``, products accumulated in float64."""
        total = torch.zeros(self.unknowns, self.unknowns, dtype=torch.float64, device=u.device)
        for rows in _gathered(self.jacobian(u, dtype), 1024):
            add_gram(total, rows.double())
        return total.triu() + total.triu(1).T

    def jacobian(self, u: torch.Tensor, dtype: torch.dtype = torch.float32):
        """Chunks of rows of J(u), each (n, D), in ``dtype``: one vectorised pullback through g for each chunk."""
        u = u.to(dtype)
        for params, directions in zip(self.params, self.directions, strict=True):
            params = {name: p.to(dtype) for name, p in params.items()}
            _, pull = vjp(lambda v, params=params: self._gradient(v, params), u)
            for start, stop in directions.blocks(self.chunk):
                yield vmap(pull)(directions.rows(start, stop, dtype) / self.scale)[0]

    def calibrate(self, u: torch.Tensor) -> tuple[float, float]:
        """Learn at u what the client's finite differences add to the exact slopes: (noise that is left, bias removed).

        The attacker runs the client's own arithmetic on its current guess. What float64 differences add is truncation,
        a smooth function of the images: it becomes an offset of the equations. What the client's precision adds on top
        is round-off, which nobody can predict. Both are root mean squares in units of r.
        """
        images, labels = (part.detach() for part in self.decode(u))
        offsets, noises = [], []
        for entry, params, directions in zip(self.rounds, self.params, self.directions, strict=True):
            protocol = entry.protocol
            exact = zo.exact_slopes(self.model, images, labels, directions, dtype=torch.float64, params=params)
            if protocol.scheme == "exact":
                fine = exact
            else:
                how = {"mu": protocol.mu, "scheme": protocol.scheme}
                fine = zo.slopes(self.model, images, labels, directions, dtype=torch.float64, params=params, **how)
            offsets.append(fine - exact)
            if protocol.dtype == "float64":
                loss = float(models.loss(self.model, params, images, labels))
                noises.append(zo.roundoff(loss, protocol.mu, torch.float64, protocol.scheme) * torch.ones_like(fine))
            else:
                coarse = {name: p.float() for name, p in params.items()}
                rough = zo.slopes(
                    self.model, images, labels, directions, params=coarse, mu=protocol.mu, scheme=protocol.scheme
                )
                noises.append(rough.double() - fine)
        self.offset = torch.cat(offsets)
        return tuple(float(part.square().mean().sqrt()) / self.scale for part in (torch.cat(noises), self.offset))


def singular_values(seen: Observation, images: torch.Tensor) -> torch.Tensor:
    """Singular values of the scalars' Jacobian at ``images``, largest first, shape (min(K, D),), float64.

    An analysis, not an attack: it is usually asked about the private images. Labels must be known.
    """
    if seen.labels is None or seen.kind != "scalars":
        raise ValueError("singular_values needs an observation of scalars with knows={'labels'}")
    equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), images.numel())
    rows = torch.cat(list(equations.jacobian(images.double().flatten(), torch.float64)))
    return torch.linalg.svdvals(rows * equations.scale)


def add_gram(total: torch.Tensor, rows: torch.Tensor, blocks: int = 4) -> None:
    """Add rows.T @ rows to the upper triangle of ``total``, block by block; the blocks below it are left alone.

    With four blocks that is five eighths of the work. (A BLAS has a routine for it, but torch does not expose one, and a
    second library brings a second pool of threads, which fights with torch's over the cores.)
    """
    size = -(-len(total) // blocks)
    for start in range(0, len(total), size):
        total[start : start + size, start:].addmm_(rows[:, start : start + size].T, rows[:, start:])


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


def _cast(params: models.Parameters | None) -> models.Parameters:
    return {} if params is None else {name: p.detach().double() for name, p in params.items()}
