"""Rounds of scalars as blocks of one system of equations: one large round, or many small ones at once.

A block holds its share of V grad_theta l(theta; x, y) and of its derivatives in u, the vector that images and labels
are decoded from. A large round streams its directions in blocks. Many small ones of the same shape (a transcript) are
stacked, and one vectorised call does the work of a loop over rounds.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import jvp, vjp

from ... import models, zo
from ...observation.transcripts import Round
from ...protocols import Protocol
from .messages import as_computed, as_seen

Decode = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""u to images (B, C, H, W) and labels; and, where each message is of a weighted batch, weights (messages, B)."""


class Block:
    """A share of the equations; never changed once it is made, so that whoever holds it may keep what it computed."""

    model: nn.Module
    decode: Decode
    protocol: Protocol

    def pull(self, u: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        """From what :meth:`combine` gave to u, shape (D,), by the derivative at u."""
        raise NotImplementedError

    def combine(self, r: torch.Tensor) -> torch.Tensor:
        """V.T r, for any r of shape (K,): what a pullback takes from the equations, whatever u is."""
        raise NotImplementedError

    def vjp(self, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """The pullback of r, shape (D,)."""
        return self.pull(u, self.combine(r))

    def loss(self, *batch: Any) -> torch.Tensor:
        """What the clients minimise, see :func:`glutils.models.loss`."""
        return models.loss(self.model, *batch, criterion=self.protocol.criterion)

    def replaced(self, **changes: Any) -> Block:
        """Another block with another ``decode`` or ``model``; directions and parameters are shared."""
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other


class StreamedRound(Block):
    """One message; V may be larger than memory."""

    def __init__(self, model: nn.Module, decode: Decode, entry: Round, chunk: int = 256):
        self.model, self.decode, self.protocol, self.chunk = model, decode, entry.protocol, chunk
        self.entry = entry
        self.directions, self.params = as_seen(model, entry)
        self.count = len(self.directions)

    def _gradient(self, u: torch.Tensor, params: models.Parameters) -> torch.Tensor:
        images, labels = self.decode(u)
        return models.flatten(torch.func.grad(lambda p: self.loss(p, images, labels))(params))

    def one_state(self) -> tuple[models.Parameters, Callable[[], Iterator[torch.Tensor]]]:
        """A state of the model that stands for the block, and its directions, a few rows at a time."""
        return self.params, lambda: (self.directions.rows(*span) for span in self.directions.blocks(self.chunk))

    def evaluate(self, u: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """r = V g(u) - target, shape (K,), its pullback to u, shape (D,), and what of it does not depend on u."""
        g, pull = vjp(lambda v: self._gradient(v, self.params), u)
        r, (back,) = self.directions.match([g], target)
        return r, pull(back)[0], back

    def jtj_vector(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The derivative of V g along v, shape (K,), and its pullback to u: one pass over V for both."""
        moved = directional_derivative(lambda w: self._gradient(w, self.params), u, v)
        onward, (back,) = self.directions.match([moved], moved.new_zeros(self.count))
        return onward, self.pull(u, back)

    def combine(self, r: torch.Tensor) -> torch.Tensor:
        """See :meth:`Block.combine`; shape (d,)."""
        return self.directions.combine(r)

    def pull(self, u: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        """See :meth:`Block.pull`."""
        return vjp(lambda v: self._gradient(v, self.params), u)[1](back)[0]

    def rows(self, u: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """Rows of the Jacobian, chunk by chunk, each (n, D): one vectorised pullback through g for each chunk."""
        params = {name: p.to(dtype) for name, p in self.params.items()}
        _, pull = vjp(lambda v: self._gradient(v, params), u.to(dtype))
        for start, stop in self.directions.blocks(self.chunk):
            rows = models.vectorised(self.model, pull)(self.directions.normals(start, stop).to(dtype))[0]
            yield rows * self.directions.scales(start, stop, rows)[:, None]  # a row of J is shorter than one of V

    def differences(self, u: torch.Tensor, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """At u: exact slopes, the client's differences in float64, and its round-off, each (K,), or of the first
        ``most`` scalars alone, where that saves something."""
        images, labels = (part.detach() for part in self.decode(u))
        protocol, model, directions = self.protocol, self.model, self.directions
        if most is not None and most < self.count and protocol.arithmetic.plain:
            directions = zo.GivenDirections(directions.rows(0, most))
        criterion = protocol.criterion
        precise = {"dtype": torch.float64, "params": self.params, "criterion": criterion}
        exact = zo.exact_slopes(model, images, labels, directions, **precise)
        if not protocol.arithmetic.plain:
            return exact, *as_computed(model, (self.entry,), images, labels)
        if protocol.scheme == "exact":
            fine = exact
        else:
            how = {"mu": protocol.mu, "scheme": protocol.scheme}
            fine = zo.slopes(model, images, labels, directions, **precise, **how)
        if protocol.dtype == "float64":
            loss = float(self.loss(self.params, images, labels))
            noise = torch.full_like(fine, zo.roundoff(loss, protocol.mu, torch.float64, protocol.scheme))
        else:
            coarse = {name: p.float() for name, p in self.params.items()}
            how = {"mu": protocol.mu, "scheme": protocol.scheme, "params": coarse, "criterion": criterion}
            noise = zo.slopes(model, images, labels, directions, **how).double() - fine
        return exact, fine, noise


class StackedRounds(Block):
    """R messages of K scalars each, from number ``first`` on, stacked: parameters (R, ...), directions (R, K, d)."""

    def __init__(self, model: nn.Module, decode: Decode, entries: Sequence[Round], first: int = 0):
        self.model, self.decode, self.protocol, self.entries = model, decode, entries[0].protocol, tuple(entries)
        pairs = [as_seen(model, entry) for entry in entries]
        every = [params for _, params in pairs]
        self.params = {name: torch.stack([params[name] for params in every]) for name in every[0]}
        self.directions = torch.stack([directions.rows(dtype=torch.float64) for directions, _ in pairs])
        self.shape = self.directions.shape[:2]
        self.count = self.shape.numel()
        self.first = first

    def _decoded(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Images, labels, and the weights of this stack's messages (R, B), if there are weights."""
        images, labels, *weights = self.decode(u)
        return images, labels, weights[0][self.first : self.first + self.shape[0]] if weights else None

    def _decoded_for_one(self, u: torch.Tensor, number: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The same for the ``number``-th message of the stack: its weights are (B,)."""
        images, labels, weights = self._decoded(u)
        return images, labels, None if weights is None else weights[number]

    def _gradients(self, u: torch.Tensor) -> torch.Tensor:
        images, labels, weights = self._decoded(u)
        grad = torch.func.grad(lambda p, w: self.loss(p, images, labels, w))
        grads = models.vectorised(self.model, grad, in_dims=(0, None if weights is None else 0))(self.params, weights)
        return torch.cat([part.flatten(1) for part in grads.values()], 1)

    def _project(self, vectors: torch.Tensor) -> torch.Tensor:
        return (self.directions @ vectors[:, :, None]).flatten()

    def combine(self, r: torch.Tensor) -> torch.Tensor:
        """See :meth:`Block.combine`; shape (R, d)."""
        return (r.view(self.shape)[:, None] @ self.directions)[:, 0]

    def one_state(self) -> tuple[models.Parameters, Callable[[], Iterator[torch.Tensor]]]:
        """See :meth:`StreamedRound.one_state`; here the state in the middle."""
        middle = {name: p[self.shape[0] // 2] for name, p in self.params.items()}
        return middle, lambda: iter(self.directions.flatten(0, 1).split(256))

    def evaluate(self, u: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :meth:`StreamedRound.evaluate`."""
        g, pull = vjp(self._gradients, u)
        r = self._project(g) - target
        back = self.combine(r)
        return r, pull(back)[0], back

    def jvp(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The derivative of all scalars along v."""
        return self._project(directional_derivative(self._gradients, u, v))

    def jtj_vector(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`StreamedRound.jtj_vector`."""
        onward = self.jvp(u, v)
        return onward, self.vjp(u, onward)

    def pull(self, u: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        """See :meth:`Block.pull`."""
        return vjp(self._gradients, u)[1](back)[0]

    def rows(self, u: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """See :meth:`StreamedRound.rows`."""
        of, size = partial(self._rows_of_one, u.to(dtype)), max(1, 512 // self.shape[1])
        for start in range(0, self.shape[0], size):
            params = {name: p[start : start + size].to(dtype) for name, p in self.params.items()}
            numbers = torch.arange(self.shape[0], device=u.device)[start : start + size]
            directions = self.directions[start : start + size].to(dtype)
            yield models.vectorised(self.model, of)(params, directions, numbers).flatten(0, 1)

    def _rows_of_one(
        self, u: torch.Tensor, params: models.Parameters, directions: torch.Tensor, number: torch.Tensor
    ) -> torch.Tensor:
        """The rows (K, D) of one message, the ``number``-th of the stack."""
        pull = vjp(lambda v: self._gradient_of_one(v, params, number), u)[1]
        return models.vectorised(self.model, pull)(directions)[0]

    def _gradient_of_one(self, u: torch.Tensor, params: models.Parameters, number: torch.Tensor) -> torch.Tensor:
        images, labels, own = self._decoded_for_one(u, number)
        return models.flatten(torch.func.grad(lambda p: self.loss(p, images, labels, own))(params))

    def differences(self, u: torch.Tensor, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :meth:`StreamedRound.differences`."""
        batch = self._decoded(u.detach())
        exact = self._project(self._gradients(u)).detach()
        protocol = self.protocol
        if not protocol.arithmetic.plain:
            return exact, *as_computed(self.model, self.entries, *batch)
        fine = exact if protocol.scheme == "exact" else self._differences(batch, torch.float64)
        if protocol.dtype == "float64":
            images, labels, weights = batch
            in_dims = (0, None if weights is None else 0)
            of = models.vectorised(self.model, lambda p, w: self.loss(p, images, labels, w), in_dims)
            losses = of(self.params, weights)
            unit = zo.roundoff(1.0, protocol.mu, torch.float64, protocol.scheme)
            return exact, fine, (unit * losses.abs())[:, None].expand(self.shape).flatten()
        return exact, fine, self._differences(batch, torch.float32).double() - fine

    def _differences(self, batch: tuple[torch.Tensor | None, ...], dtype: torch.dtype) -> torch.Tensor:
        """What the clients would send if these were their images; see :func:`glutils.zo.slopes`."""
        images, labels, weights = (p.to(dtype) if p is not None and p.is_floating_point() else p for p in batch)
        mu = self.protocol.mu

        def slopes(params: models.Parameters, directions: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
            theta = models.flatten(params)

            def loss(at: torch.Tensor) -> torch.Tensor:
                return self.loss(models.unflatten(at, params), images, labels, own)

            if self.protocol.scheme == "exact":
                grad = torch.func.grad(lambda p: self.loss(p, images, labels, own))(params)
                return directions @ models.flatten(grad)
            here = loss(theta) if self.protocol.scheme == "forward" else None
            return models.vectorised(self.model, partial(zo.difference, loss, theta, mu, here))(directions)

        params = {name: p.to(dtype) for name, p in self.params.items()}
        in_dims = (0, 0, None if weights is None else 0)
        together = models.vectorised(self.model, slopes, in_dims, chunk_size=16)
        return together(params, self.directions.to(dtype), weights).flatten().detach()


def directional_derivative(function: Callable[[Any], Any], u: Any, v: Any) -> Any:
    """The derivative of ``function`` at u along v, both a tensor or named tensors, by forward mode; like its value."""
    with warnings.catch_warnings():  # forward mode loads decompositions that torch itself calls deprecated
        warnings.filterwarnings("ignore", "`torch.jit.script`", DeprecationWarning)
        return jvp(function, (u,), (v,))[1]
