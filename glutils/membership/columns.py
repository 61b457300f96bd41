"""What each candidate would have sent alone: the columns of the system of equations that a client's messages are.

Scalars are computed as the client computes them, in its precision, along its directions, at the state of every round.
Gradients and parameter differences have far more numbers than it takes to name records: they are read along as many
random directions of our own as suffice, which turns them into scalars.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import models, zo
from ..observation import Observation, Round
from ..protocols import Payload
from ..solvers.engine import show_progress

SKETCH = 128
"""Directions along which a gradient is read, at least; 16 for each record of the batch if that is more."""
SKETCH_SEED = 20_27
PIXELS = 2**18
"""Numbers of candidates that are computed at a time, so that the activations of 32 networks fit into memory."""
OUTPUTS = 2**22
"""Numbers that a network answers with at a time: many, where it answers for every token."""
DECOYS = 4
"""Batches of candidates whose message is computed as a whole too, to see how far rounding lets it differ from the mean
of its records' own."""


@dataclass(frozen=True, eq=False)
class Equations:
    """All messages as one system: ``message`` = mean of the batch's ``columns``, and noise.

    Attributes:
        columns: (M, N) float64.
        message: (M,) float64.
        noise: (M,) standard deviations of what is added to each number: noise that the protocol declares, and rounding
            as it was found on decoys.
        blocks: first row and last (exclusive) of each message.
        notes: what was taken for granted.
    """

    columns: np.ndarray
    message: np.ndarray
    noise: np.ndarray
    blocks: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()


def equations(
    seen: Observation, images: Tensor, labels: Tensor, *, batch: int, chunk: int | None, progress: bool | None
) -> Equations:
    """The system of all messages of an observation, for these candidates.

    Args:
        seen: what the adversary holds.
        images, labels: (N, ...) and (N,) or (N, targets) of the candidates, on the model's device.
        batch: records behind a message.
        chunk: candidates at a time; None: as many as :data:`PIXELS` allows.
        progress: whether to show a bar.
    """
    answer = math.prod(models.outputs(seen.model, images[:1])[1:])
    size = chunk or max(1, min(PIXELS // images[0].numel(), OUTPUTS // answer))
    readers = [_reader(seen, message, batch) for message in seen.rounds]
    rows = [len(reader) for reader in readers]
    edges = np.concatenate([[0], np.cumsum(rows)])
    columns = np.empty((int(edges[-1]), len(images)))
    spans = [(start, min(start + size, len(images))) for start in range(0, len(images), size)]
    bar = {"total": len(spans) * len(readers), "desc": "candidates", "leave": False}
    with tqdm(**bar, disable=not show_progress(progress)) as shown, torch.no_grad():
        for reader, first, last in zip(readers, edges, edges[1:], strict=False):
            for start, stop in spans:
                found = reader.each(images[start:stop], labels[start:stop])
                columns[first:last, start:stop] = found.double().cpu().numpy()
                shown.update()
    message = np.concatenate([reader.received().double().cpu().numpy() for reader in readers])
    mass = torch.from_numpy(masses(seen, labels)).to(images.device)
    noise = np.concatenate(
        [
            _noise(reader, columns[a:b], images, labels, mass, batch)
            for reader, a, b in zip(readers, edges, edges[1:], strict=False)
        ]
    )
    blocks = tuple((int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False))
    return Equations(columns, message, noise, blocks, _notes(seen, batch))


def _notes(seen: Observation, batch: int) -> tuple[str, ...]:
    steps = max(message.protocol.local_steps(batch) for message in seen.rounds)
    if seen.kind != "delta" or steps == 1:
        return ()
    return (f"{steps} local steps are read as one gradient at the model that was sent; the rest counts as noise",)


def masses(seen: Observation, labels: Tensor) -> np.ndarray:
    """(N,) what each candidate counts in the mean of a batch: 1; its number of targets, or its class's weight, where
    the client's loss has it so."""
    like = torch.zeros((), dtype=torch.float64, device=labels.device)
    shares = seen.protocol.criterion.shares(labels, like)
    return np.ones(len(labels)) if shares is None else shares.double().cpu().numpy()


class _Reader:
    """One message, and how a record's share of it is computed."""

    def __init__(self, seen: Observation, message: Round, batch: int):
        self.message, self.protocol, self.model, self.batch = message, message.protocol, seen.model, batch
        own = {} if message.parameters is None else message.parameters
        self.start = models.parameters(seen.model) | {n: p.detach() for n, p in own.items()}
        self.declared = float(message.protocol.noise(message.payload, batch))


class _Scalars(_Reader):
    """Slopes along public directions, in the client's arithmetic."""

    def __init__(self, seen: Observation, message: Round, batch: int):
        super().__init__(seen, message, batch)
        self.directions = self.protocol.draw(self.model)
        self.state = self._state(message.payload)
        weights = self.protocol.scalar_weights(message.payload)
        self.kept = None if weights is None else weights.double()

    def __len__(self) -> int:
        return len(self.message.payload)

    def received(self) -> Tensor:
        """(K,): the scalars; zero where a defence cut them off."""
        return self._kept(self.message.payload.scalars.double())

    def each(self, images: Tensor, labels: Tensor) -> Tensor:
        """(K, n) of every record alone."""
        found = self._slopes(self.state, images, labels)
        bound = self.protocol.image_bound
        return self._kept(found if bound is None else found.clamp(-bound, bound))

    def error(self, images: Tensor, labels: Tensor, shares: Tensor, own: Tensor) -> Tensor:
        """(K,): by how much a batch's message differs from the mean of its records' ``own`` (K, B)."""
        whole = self._sent(images, labels)
        if not self.protocol.undefended.answers_slopes:  # another batch leads another way
            own = self._kept(self._slopes(self._state(whole), images, labels))
        return self._kept(whole.scalars.double()) - own @ shares

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
        slopes = self.protocol.arithmetic.slopes
        return slopes(self.model, images, labels, self.directions, params=state, each=True).double()

    def _kept(self, scalars: Tensor) -> Tensor:
        return scalars if self.kept is None else (scalars.T * self.kept.to(scalars)).T


class _Gradient(_Reader):
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
        return self._read(self.message.payload)

    def each(self, images: Tensor, labels: Tensor) -> Tensor:
        """(S, n) of every record alone."""
        loss = partial(models.loss, criterion=self.protocol.criterion)

        def one(x: Tensor, y: Tensor) -> Tensor:
            grads = torch.func.grad(lambda p: loss(self.model, p, x[None], y[None]))(self.start)
            return models.flatten(grads)

        parts, size = [], max(1, 2**24 // self.directions.dim)
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            grads = models.vectorised(self.model, one)(x, y).detach().double()
            blocks = [self.directions.rows(a, b, torch.float64) @ grads.T for a, b in self.directions.blocks()]
            parts.append(torch.cat(blocks))
        return torch.cat(parts, 1)

    def error(self, images: Tensor, labels: Tensor, shares: Tensor, own: Tensor) -> Tensor:
        """(S,): by how much a batch's message differs from the mean of its records' ``own`` (S, B)."""
        client = self.protocol.undefended
        with torch.enable_grad():
            whole = client.payload(client._client(self.model, images, labels, self.start, graph=False), self.model)
        return self._read(whole) - own @ shares


def _reader(seen: Observation, message: Round, batch: int) -> _Scalars | _Gradient:
    return _Scalars(seen, message, batch) if seen.kind == "scalars" else _Gradient(seen, message, batch)


def _noise(
    reader: _Scalars | _Gradient, columns: np.ndarray, images: Tensor, labels: Tensor, mass: Tensor, batch: int
) -> np.ndarray:
    """(rows,): what the protocol declares, and how far decoy batches are from the mean of their records."""
    errors = []
    for members in _decoys(len(images), min(batch, len(images))):
        own = torch.from_numpy(columns[:, members]).to(images.device)
        shares = mass[members] / mass[members].sum()
        if reader.protocol.image_bound is None:  # else what a client sends is the mean of the cut slopes itself
            errors.append(reader.error(images[members], labels[members], shares, own).square().mean())
    rounding = float(torch.stack(errors).mean()) if errors else 0.0
    return np.full(len(reader), (rounding + reader.declared**2) ** 0.5)


def _decoys(count: int, size: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(SKETCH_SEED)
    for _ in range(DECOYS):
        yield generator.choice(count, size, replace=False)
