"""What each candidate would have sent alone: the columns of the system of equations that a client's messages are.

Scalars are computed as the client computes them, in its precision, along its directions, at the state of every round.
Gradients and parameter differences have far more numbers than it takes to name records: they are read along as many
random directions of our own as suffice, which turns them into scalars.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import models, zo
from ..observation import Observation, Round, as_gradient
from ..solvers.engine import show_progress

SKETCH = 256
"""Directions along which a gradient is read, at least; 32 for each record of the batch if that is more."""
SKETCH_SEED = 20_27
PIXELS = 2**18
"""Numbers of candidates that are computed at a time, so that the activations of 32 networks fit into memory."""
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
    notes: tuple[str, ...] = ()
    if seen.kind == "delta":
        seen, notes = _as_gradients(seen)
    size = chunk or max(1, PIXELS // images[0].numel())
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
    noise = np.concatenate(
        [_noise(r, columns[a:b], images, labels, batch) for r, a, b in zip(readers, edges, edges[1:], strict=False)]
    )
    blocks = tuple((int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False))
    return Equations(columns, message, noise, blocks, notes)


def masses(labels: Tensor, ignored: int = -100) -> np.ndarray:
    """(N,) what each candidate weighs in a mean: 1, or its number of targets where labels are (N, targets)."""
    if labels.ndim == 1 or labels.is_floating_point():
        return np.ones(len(labels))
    return (labels != ignored).sum(1).double().cpu().numpy()


class _Reader:
    """One message, and how a record's share of it is computed."""

    def __init__(self, seen: Observation, message: Round, batch: int):
        self.message, self.protocol, self.model = message, message.protocol, seen.model
        self.declared = message.protocol.noise(message.payload, batch)
        own = {} if message.parameters is None else message.parameters
        self.params = models.parameters(seen.model) | {n: p.detach() for n, p in own.items()}


class _Scalars(_Reader):
    """Slopes along public directions, in the client's arithmetic."""

    def __init__(self, seen: Observation, message: Round, batch: int):
        super().__init__(seen, message, batch)
        self.directions = self.protocol.draw(self.model)
        self.params = self.protocol.linearisation_state(self.params, message.payload, self.directions) \
            if not self.protocol.answers_slopes else self.params
        arithmetic = self.protocol.arithmetic
        if arithmetic.plain:  # a client in half precision casts by itself
            self.params = {name: p.to(zo.DTYPES[arithmetic.dtype]) for name, p in self.params.items()}
        weights = self.protocol.scalar_weights(message.payload)
        self.kept = None if weights is None else weights.double()

    def __len__(self) -> int:
        return len(self.message.payload)

    def received(self) -> Tensor:
        """(K,): the scalars; zero where a defence cut them off."""
        return self._kept(self.message.payload.scalars.double())

    def each(self, images: Tensor, labels: Tensor) -> Tensor:
        """(K, n) of every record alone."""
        found = self._slopes(images, labels, True).double()
        bound = self.protocol.image_bound
        return self._kept(found if bound is None else found.clamp(-bound, bound))

    def together(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """(K,) of a batch; None where it is the mean of the records' own by construction."""
        return self._kept(self._slopes(images, labels, False).double()) if self.protocol.image_bound is None else None

    def _slopes(self, images: Tensor, labels: Tensor, each: bool) -> Tensor:
        how = {"params": self.params, "each": each}
        return self.protocol.arithmetic.slopes(self.model, images, labels, self.directions, **how)

    def _kept(self, scalars: Tensor) -> Tensor:
        if self.kept is None:
            return scalars
        return (scalars.T * self.kept.to(scalars)).T


class _Gradient(_Reader):
    """A gradient, read along random directions of our own."""

    def __init__(self, seen: Observation, message: Round, batch: int):
        super().__init__(seen, message, batch)
        dim = sum(p.numel() for p in self.params.values())
        self.directions = zo.Directions(
            SKETCH_SEED, min(dim, max(SKETCH, 32 * batch)), dim, "unit", device=next(iter(self.params.values())).device
        )

    def __len__(self) -> int:
        return len(self.directions)

    def received(self) -> Tensor:
        """(S,): the gradient along our directions."""
        return self.directions.project(self.message.payload.flat.double())

    def each(self, images: Tensor, labels: Tensor) -> Tensor:
        """(S, n) of every record alone."""
        dim = self.directions.dim

        def one(x: Tensor, y: Tensor) -> Tensor:
            grads = torch.func.grad(lambda p: models.loss(self.model, p, x[None], y[None]))(self.params)
            return models.flatten(grads)

        parts = []
        for x, y in zip(*(t.split(max(1, 2**24 // dim)) for t in (images, labels)), strict=True):
            grads = models.vectorised(self.model, one)(x, y).detach().double()
            blocks = [self.directions.rows(a, b, torch.float64) @ grads.T for a, b in self.directions.blocks()]
            parts.append(torch.cat(blocks))
        return torch.cat(parts, 1)

    def together(self, images: Tensor, labels: Tensor) -> Tensor:
        """(S,) of a batch."""
        with torch.enable_grad():
            grads = models.gradient(self.model, self.params, images, labels)
        return self.directions.project(models.flatten(grads).double())


def _reader(seen: Observation, message: Round, batch: int) -> _Scalars | _Gradient:
    return _Scalars(seen, message, batch) if seen.kind == "scalars" else _Gradient(seen, message, batch)


def _as_gradients(seen: Observation) -> tuple[Observation, tuple[str, ...]]:
    """Parameter differences as mean gradients; of several local steps these are of a model that moved."""
    steps = max(message.protocol.local_steps(seen.local_batch or seen.shape[0]) for message in seen.rounds)
    rounds: list[Round] = []
    for message in seen.rounds:
        rounds += as_gradient(replace(seen, rounds=(message,))).rounds
    moved = f"{steps} local steps are read as one gradient at the model that was sent: what they leave is unexplained"
    return replace(seen, rounds=tuple(rounds)), (moved,) if steps > 1 else ()


def _noise(reader: _Scalars | _Gradient, columns: np.ndarray, images: Tensor, labels: Tensor, batch: int) -> np.ndarray:
    """(rows,): what the protocol declares, and how far decoy batches are from the mean of their records."""
    found = np.zeros(len(columns))
    mass, size = masses(labels), min(batch, len(images))
    decoys = list(_decoys(len(images), size))
    for members in decoys:
        with torch.no_grad():
            whole = reader.together(images[members], labels[members])
        if whole is None:
            break
        mean = columns[:, members] @ mass[members] / mass[members].sum()
        found += np.square(whole.cpu().numpy() - mean) / len(decoys)
    rounding = float(found.mean())
    declared = reader.declared
    if isinstance(reader, _Gradient):
        declared = float(declared)  # unit directions keep the size of independent noise
    return np.full(len(columns), np.sqrt(rounding + declared**2))


def _decoys(count: int, size: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(SKETCH_SEED)
    for _ in range(DECOYS):
        yield generator.choice(count, size, replace=False)
