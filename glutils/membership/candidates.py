"""The list of suspects: records, each with a label or with every label, as columns of one dictionary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import _validate
from ..data.batch import Batch
from ..observation import Observation


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates as columns: one for each, or one for each and every class where labels are not known.

    Attributes:
        images: (columns, ...).
        labels: (columns,), or (columns, targets).
        owner: (columns,) the number of the candidate that a column belongs to.
        count: candidates N.
        allowed: (columns,) bool: what told labels leave.
        notes: what was taken for granted.
    """

    images: Tensor
    labels: Tensor
    owner: np.ndarray
    count: int
    allowed: np.ndarray
    notes: tuple[str, ...] = ()


def candidates_of(seen: Observation, candidates: Batch | Tensor, labels: Tensor | None) -> Candidates:
    """Candidates that may be behind these messages, after all checks that need no work.

    Raises:
        TypeError, ValueError: see :func:`glutils.identify`.
    """
    if isinstance(seen, Batch):
        raise TypeError(
            "seen must be an Observation, got a Batch: the private batch is what the adversary does not have; "
            "gl.observe(model, protocol, payload, batch) makes the observation of its message"
        )
    _validate.instance("seen", seen, Observation)
    _check_messages(seen)
    _validate.instance("candidates", candidates, (Batch, Tensor))
    if isinstance(candidates, Batch):
        if labels is not None:
            raise ValueError("labels must be None for a Batch, which brings its own")
        images, given = candidates.images, candidates.labels
    else:
        images, given = candidates, labels
    if not images.ndim or not len(images):
        raise ValueError("candidates must hold at least one record, got none")
    if images.shape[1:] != torch.Size(seen.shape[1:]) and not seen.whole:  # texts are padded to any length
        raise ValueError(
            f"candidates must be of the shape of the client's records, {tuple(seen.shape[1:])}, "
            f"got {tuple(images.shape[1:])}"
        )
    device = next(seen.model.parameters()).device
    owner = np.arange(len(images))
    if given is None:
        if seen.protocol.criterion.targets != "classes" or not images.is_floating_point():
            raise ValueError(f"labels must be given, one for each candidate, with {seen.protocol.criterion}")
        owner = np.repeat(owner, seen.classes)
        given = torch.arange(seen.classes).repeat(len(images))
        images = images.repeat_interleave(seen.classes, 0)
    images, given = images.detach().to(device), given.detach().to(device)
    seen.protocol.check(seen.model, images, given)
    allowed, notes = _allowed(seen, given)
    if not all(message.protocol.keeps_linearity for message in seen.rounds):
        notes += ("a defence has left no slopes: what was sent is taken for them all the same",)
    return Candidates(images, given, owner, int(owner[-1]) + 1, allowed, notes)


def _check_messages(seen: Observation) -> None:
    """Refuse messages that are no mean of what records would have sent alone."""
    if seen.batchnorm == "train":
        raise ValueError(
            "seen must hold messages that are means over records; batch norm in 'train' mode mixes the records"
        )
    for message in seen.rounds:
        protocol = message.protocol
        exact = protocol.undefended.exact_gradient or protocol.undefended.sums_gradients
        if seen.kind != "scalars" and not exact:
            raise ValueError(f"seen must hold scalars, gradients or parameter differences, got {protocol}")


def _allowed(seen: Observation, labels: Tensor) -> tuple[np.ndarray, tuple[str, ...]]:
    """Columns whose label the client has, if its labels were told."""
    everybody = np.ones(len(labels), dtype=bool)
    if seen.labels is None or labels.shape[1:] != seen.labels.shape[1:] or labels.ndim != 1:
        return everybody, ()
    allowed = torch.isin(labels, seen.labels.to(labels.device)).cpu().numpy()
    if not allowed.any():
        raise ValueError(
            f"candidates must have some of the labels that were told, {sorted(set(seen.labels.tolist()))}, got none"
        )
    return allowed, (f"told labels leave {int(allowed.sum())} of {len(allowed)} candidates",)
