"""What each candidate would have sent alone: the columns of the system of equations that a client's messages are.

Scalars are computed as the client computes them, in its precision, along its directions, at the state of every round.
Gradients and parameter differences have far more numbers than it takes to name records: they are read along as many
random directions of our own as suffice, which turns them into scalars.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import models
from ..observation import Observation, Round
from ..solvers.engine import show_progress
from .readers import SKETCH_SEED, Gradient, Scalars, cuts_each

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
        declared: (M,) standard deviation of noise on each number that the protocol declares.
        rounding: (M,) that of rounding, as it was found on decoys.
        blocks: first row and last (exclusive) of each message.
        shared: whether messages are sums that were divided by a public number: the mean is then in units of ``batch``.
        shortened: for each message, whether a defence may have multiplied it as a whole by a factor that is not known.
        notes: what was taken for granted.
    """

    columns: np.ndarray
    message: np.ndarray
    declared: np.ndarray
    rounding: np.ndarray
    blocks: tuple[tuple[int, int], ...]
    shared: bool = False
    shortened: tuple[bool, ...] = ()
    notes: tuple[str, ...] = ()


def equations(
    seen: Observation,
    images: Tensor,
    labels: Tensor,
    *,
    batch: int,
    chunk: int | None = None,
    quick: bool = False,
    progress: bool | None = None,
) -> Equations:
    """The system of all messages of an observation, for these candidates.

    Args:
        seen: what the adversary holds.
        images, labels: (N, ...) and (N,) or (N, targets) of the candidates, on the model's device.
        batch: records behind a message.
        chunk: candidates at a time; None: as many as :data:`PIXELS` allows.
        quick: whether scalars are computed from one gradient of each candidate.
        progress: whether to show a bar.
    """
    answer = math.prod(models.outputs(seen.model, images[:1])[1:])
    size = chunk or max(1, min(PIXELS // images[0].numel(), OUTPUTS // answer))
    readers = [_reader(seen, message, batch, quick) for message in seen.rounds]
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
    blocks = tuple((int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False))
    there = [np.ones(len(r)) if r.kept is None else r.kept.cpu().numpy() for r in readers]
    pairs = list(zip(readers, there, blocks, strict=True))
    rounding = np.concatenate(
        [_rounding(r, kept, columns[a:b], images, labels, mass, batch) for r, kept, (a, b) in pairs]
    )
    declared = np.concatenate([reader.declared * kept for reader, kept, _ in pairs])
    shortened = tuple(reader.shortened for reader in readers)
    shared = any(reader.protocol.public_count is not None for reader in readers)
    return Equations(
        columns, message, declared, rounding, blocks, shared, shortened, _notes(seen, batch, any(shortened))
    )


def _notes(seen: Observation, batch: int, shortened: bool) -> tuple[str, ...]:
    steps = max(message.protocol.local_steps(batch) for message in seen.rounds)
    notes = ("messages may have been shortened: by how much is estimated with the names",) if shortened else ()
    if seen.kind != "delta" or steps == 1:
        return notes
    return (
        *notes, f"{steps} local steps are read as one gradient at the model that was sent; the rest counts as noise",
    )  # fmt: skip


def masses(seen: Observation, labels: Tensor) -> np.ndarray:
    """(N,) what each candidate counts in the mean of a batch: 1; its number of targets, or its class's weight, where
    the client's loss has it so, unless a defence adds up what it leaves of each record's own loss."""
    if cuts_each(seen.protocol):
        return np.ones(len(labels))
    like = torch.zeros((), dtype=torch.float64, device=labels.device)
    shares = seen.protocol.criterion.shares(labels, like)
    return np.ones(len(labels)) if shares is None else shares.double().cpu().numpy()


def _reader(seen: Observation, message: Round, batch: int, quick: bool) -> Scalars | Gradient:
    return Scalars(seen, message, batch, quick) if seen.kind == "scalars" else Gradient(seen, message, batch)


def _rounding(
    reader: Scalars | Gradient,
    kept: np.ndarray,
    columns: np.ndarray,
    images: Tensor,
    labels: Tensor,
    mass: Tensor,
    batch: int,
) -> np.ndarray:
    """(rows,): how far decoy batches are from the mean of their records, root mean square."""
    errors = []
    for members in _decoys(len(images), min(batch, len(images))):
        own = torch.from_numpy(columns[:, members]).to(images.device)
        shares = mass[members] / mass[members].sum()
        errors.append(float(reader.error(images[members], labels[members], shares, own).square().sum()))
    return kept * math.sqrt(sum(errors) / len(errors) / max(1.0, float(kept.sum())))


def _decoys(count: int, size: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(SKETCH_SEED)
    for _ in range(DECOYS):
        yield generator.choice(count, size, replace=False)
