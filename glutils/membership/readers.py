"""One message of a client, and what any record would have added to it.

Scalars are computed as the client computes them; a gradient or a difference is read along random directions of ours. A
defence that cuts every record's own share is run on every record; one that divides a sum by a public number is undone,
so that all that is received here is a mean over the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import models, zo
from ..observation import Observation, Round
from ..protocols import Payload, Protocol

SKETCH = 128
"""Directions along which a gradient is read, at least; 16 for each record of the batch if that is more."""
SKETCH_SEED = 20_27
SHORTENED = 1e-3
"""A message so near to the length at which a defence cuts is taken for one that was cut."""
SURE = 4.0
"""Standard deviations of noise by which a scalar must be below the bound at which scalars were cut before."""


def gradient_bound(protocol: Protocol) -> float | None:
    """The length to which a defence cuts every record's gradient; None: it does not."""
    return protocol.defenses[0].gradient_bound if protocol.defenses else None


def cuts_each(protocol: Protocol) -> bool:
    """Whether every record's own share is cut before the batch's is taken."""
    return protocol.image_bound is not None or gradient_bound(protocol) is not None


class Reader:
    """One message, and how a record's share of it is computed.

    Attributes:
        divided: what was sent, times this, is the mean over the batch: 1, or N / B of a sum divided by a public N.
        declared: standard deviation of the noise on that mean that the protocol declares.
        shortened: whether a defence may have shortened the message as a whole.
        kept: (rows,) 1 for numbers of which something is left, else 0; None: all.
    """

    def __init__(self, seen: Observation, message: Round, batch: int):
        self.message, self.protocol, self.model, self.batch = message, message.protocol, seen.model, batch
        own = {} if message.parameters is None else message.parameters
        self.start = models.parameters(seen.model) | {n: p.detach() for n, p in own.items()}
        shared, sent = self.protocol.public_count, float(self.protocol.noise(message.payload, batch))
        self.divided = 1.0 if shared is None else shared / batch
        self.declared = sent * self.divided
        bounds = [entry.message_bound for entry in self.protocol.defenses if entry.message_bound is not None]
        bound = min(bounds, default=None)
        length = float(torch.linalg.vector_norm(message.payload.flat.double()))
        self.kept: Tensor | None = None
        self.shortened = bound is not None and (sent > 0 or length >= bound * (1 - SHORTENED))

    def each(self, images: Tensor, labels: Tensor) -> Tensor:
        """(rows, n) of every record alone."""
        raise NotImplementedError

    def error(self, images: Tensor, labels: Tensor, shares: Tensor, own: Tensor) -> Tensor:
        """(rows,): by how much a batch's message differs from the mean of its records' ``own`` (rows, B)."""
        if cuts_each(self.protocol):  # the client too adds up what is left of every record
            return self.each(images, labels).float().mean(1).double() - own @ shares
        return self._error(images, labels, shares, own)

    def _error(self, images: Tensor, labels: Tensor, shares: Tensor, own: Tensor) -> Tensor:
        raise NotImplementedError


def gradients(
    model: nn.Module, start: models.Parameters, criterion: models.losses.Loss, images: Tensor, labels: Tensor
) -> Iterator[Tensor]:
    """Gradients (n, d) of records by themselves, for some records after the other, in the precision of ``start``."""
    wide = next(iter(start.values())).dtype
    images = images.to(wide) if images.is_floating_point() else images

    def one(x: Tensor, y: Tensor) -> Tensor:
        loss = partial(models.loss, criterion=criterion)
        return models.flatten(torch.func.grad(lambda p: loss(model, p, x[None], y[None]))(start))

    size = max(1, 2**24 // sum(p.numel() for p in start.values()))
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        yield models.vectorised(model, one)(x, y).detach()


class Scalars(Reader):
    """Slopes along public directions, in the client's arithmetic; or, to be quick, from one gradient of each record."""

    def __init__(self, seen: Observation, message: Round, batch: int, quick: bool = False):
        super().__init__(seen, message, batch)
        self.quick = quick
        self.directions = self.protocol.draw(self.model)
        self.state = self._state(message.payload)
        self.kept = self._through()

    def __len__(self) -> int:
        return len(self.message.payload)

    def received(self) -> Tensor:
        """(K,): the scalars; zero where a defence cut them off."""
        return self._kept(self.message.payload.scalars.double() * self.divided)

    def each(self, images: Tensor, labels: Tensor) -> Tensor:
        """(K, n) of every record alone."""
        found = self._slopes(self.state, images, labels)
        bound = self.protocol.image_bound
        return self._kept(found if bound is None else found.clamp(-bound, bound))

    def _error(self, images: Tensor, labels: Tensor, shares: Tensor, own: Tensor) -> Tensor:
        whole = self._sent(images, labels)
        if not self.protocol.undefended.answers_slopes:  # another batch leads another way
            own = self._kept(self._slopes(self._state(whole), images, labels))
        return self._kept(whole.scalars.double()) - own @ shares

    def _through(self) -> Tensor | None:
        """(K,): 1 for scalars that no defence cut off, as far as can be told, else 0; None: all."""
        payload, bound = self.message.payload, self.protocol.mean_bound
        weights = self.protocol.scalar_weights(payload)
        if bound is not None:  # cut before the last defence, which may have hidden it
            room = bound - SURE * self.protocol.noise(payload, self.batch)
            below = (payload.scalars.abs() < room).double()
            weights = below if weights is None else weights * below
        return None if weights is None else weights.double()

    def _sent(self, images: Tensor, labels: Tensor) -> Payload:
        """What an undefended client with this batch would have sent."""
        client: Any = self.protocol.undefended
        if any(field.name == "order" for field in fields(client)):  # the adversary's copy has no order: any will do
            client = replace(client, order=0)
        found = client._client(self.model, images, labels, self._cast(self.start), directions=self.directions)
        return client.payload(found.detach(), self.model)

    def _state(self, payload: Payload) -> models.Parameters:
        """Where the slopes were taken: where the client began, for one that moves meanwhile the middle of its way."""
        if self.protocol.undefended.answers_slopes:
            return self._cast(self.start)
        return self._cast(self.protocol.linearisation_state(self.start, payload, self.directions))

    def _cast(self, state: models.Parameters) -> models.Parameters:
        """In the client's precision, unless it casts by itself."""
        arithmetic = self.protocol.arithmetic
        return {n: p.to(zo.DTYPES[arithmetic.dtype]) for n, p in state.items()} if arithmetic.plain else state

    def _slopes(self, state: models.Parameters, images: Tensor, labels: Tensor) -> Tensor:
        if self.quick:
            found = gradients(self.model, state, self.protocol.criterion, images, labels)
            return torch.cat([self._along(grads) for grads in found], 1).double()
        slopes = self.protocol.arithmetic.slopes
        return slopes(self.model, images, labels, self.directions, params=state, each=True).double()

    def _along(self, grads: Tensor) -> Tensor:
        """(K, n) of gradients (n, d)."""
        return torch.cat([self.directions.rows(a, b, grads.dtype) @ grads.T for a, b in self.directions.blocks()])

    def _kept(self, scalars: Tensor) -> Tensor:
        if self.kept is None:
            return scalars
        kept = self.kept.to(scalars)
        return scalars * (kept[:, None] if scalars.ndim == 2 else kept)


class Gradient(Reader):
    """A gradient, or a difference read as one, along random directions of our own.

    They have length one, so independent noise on the gradient's entries is as large along them.
    """

    def __init__(self, seen: Observation, message: Round, batch: int):
        super().__init__(seen, message, batch)
        dim, device = sum(p.numel() for p in self.start.values()), next(iter(self.start.values())).device
        self.directions = zo.Directions(SKETCH_SEED, min(dim, max(SKETCH, 16 * batch)), dim, device=device)
        self.factor = 1.0
        if seen.kind == "delta":  # a mean gradient is the difference times this, but for momentum and weight decay
            unit = {name: torch.ones_like(p) for name, p in self.start.items()}
            zero = {name: torch.zeros_like(p) for name, p in self.start.items()}
            mean = [self.protocol.undefended.average_gradient(self.start, d, self._steps()) for d in (unit, zero)]
            self.factor = float(next(iter(mean[0].values())).flatten()[0] - next(iter(mean[1].values())).flatten()[0])
        self.declared *= abs(self.factor)

    def _steps(self) -> int:
        return self.protocol.local_steps(self.batch)

    def __len__(self) -> int:
        return len(self.directions)

    def _read(self, payload: Payload) -> Tensor:
        named = payload.tensors
        if payload.kind == "delta":
            named = self.protocol.undefended.average_gradient(self.start, named, self._steps())
        return self.directions.project(models.flatten(named).double())

    def received(self) -> Tensor:
        """(S,): the gradient along our directions."""
        return self._read(self.message.payload) * self.divided

    def each(self, images: Tensor, labels: Tensor) -> Tensor:
        """(S, n) of every record alone."""
        parts, bound = [], gradient_bound(self.protocol)
        for grads in gradients(self.model, self.start, self.protocol.criterion, images, labels):
            grads = grads.double()
            if bound is not None:
                grads *= (bound / torch.linalg.vector_norm(grads, dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1)
            blocks = [self.directions.rows(a, b, torch.float64) @ grads.T for a, b in self.directions.blocks()]
            parts.append(torch.cat(blocks))
        return torch.cat(parts, 1)

    def _error(self, images: Tensor, labels: Tensor, shares: Tensor, own: Tensor) -> Tensor:
        client = self.protocol.undefended
        with torch.enable_grad():
            whole = client.payload(client._client(self.model, images, labels, self.start, graph=False), self.model)
        return self._read(whole) - own @ shares
