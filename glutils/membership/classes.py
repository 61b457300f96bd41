"""How many records of each class are behind a message: from fewer scalars than names take, without their records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from .. import _validate
from ..data.batch import Batch
from ..observation import Observation
from .candidates import candidates_of
from .columns import equations

SHRUNK = 0.1
"""Share of a class's covariance that is taken from that of all classes: of few records none is known well."""


@dataclass(frozen=True, eq=False)
class Counts:
    """What a message says about the classes of its records.

    Attributes:
        counts: (classes,) the likeliest numbers of records.
        margin: by how much, in nats, they are likelier than the best others that exchange one record's class.
    """

    counts: Int64[Tensor, " classes"]
    margin: float


def class_counts(
    seen: Observation, public: Batch, *, members: int | None = None, progress: bool | None = None
) -> Counts:
    """The classes of a batch, from its message and from records that are only like the client's.

    What a record of a class sends alone has a mean and a covariance, which public records tell. A message is the mean
    of B records: for any counts of classes, it is about normal, with the mean and the covariance that follow. The
    likeliest counts are found by exchanges of one record's class for another.

    Args:
        seen: scalars, gradients or parameter differences, as :func:`glutils.identify` takes them.
        public: at least two records of every class, which need not hold any of the client's.
        members: records behind a message; None: as the observation says.
        progress: True or False; default: a bar in notebooks and terminals.

    Raises:
        TypeError, ValueError: what :func:`glutils.identify` refuses; a class with fewer than two public records.

    Ours, not peer-reviewed.

    Example:
        >>> import glutils as gl
        >>> public = gl.data.sample("digits", count=400, split="public", seed=1, device="cpu")
        >>> model = gl.models.build("mlp", public, seed=0)
        >>> batch = gl.data.sample("digits", count=2, split="private", seed=2, device="cpu")
        >>> protocol = gl.protocols.ZerothOrder(directions=24, law="gaussian", seed=7)
        >>> seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        >>> found = gl.membership.class_counts(seen, public, progress=False).counts
        >>> found.nonzero().flatten().tolist(), sorted(set(batch.labels.tolist()))
        ([1, 5], [1, 5])
    """
    pool = candidates_of(seen, _validate.instance("public", public, Batch), None)
    count = seen.shape[0] if members is None else _validate.integer("members", members, at_least=1)
    labels = pool.labels.cpu().numpy()
    if labels.ndim != 1:
        raise ValueError("public must hold records of one class each")
    classes = np.arange(seen.classes)
    few = [int(c) for c in classes if (labels == c).sum() < 2]
    if few:
        raise ValueError(f"public must hold at least two records of every class, got fewer of {few}")
    system = equations(seen, pool.images, pool.labels, batch=count, progress=progress)
    means = np.stack([system.columns[:, labels == c].mean(1) for c in classes])
    own = np.stack([np.atleast_2d(np.cov(system.columns[:, labels == c])) for c in classes])
    spreads = (1 - SHRUNK) * own + SHRUNK * own.mean(0)
    noise = np.diag(np.square(system.declared) + np.square(system.rounding) + 1e-12)

    def likelihood(numbers: np.ndarray) -> float:
        spread = np.tensordot(numbers, spreads, 1) / count**2 + noise
        off = system.message - numbers @ means / count
        return -0.5 * (float(off @ np.linalg.solve(spread, off)) + float(np.linalg.slogdet(spread)[1]))

    numbers = np.bincount(np.arange(count) % len(classes), minlength=len(classes))
    best, second = likelihood(numbers), -np.inf
    while True:
        moves = [numbers - np.eye(len(classes), dtype=int)[a] + np.eye(len(classes), dtype=int)[b]
                 for a in np.flatnonzero(numbers) for b in classes if a != b]  # fmt: skip
        values = [likelihood(move) for move in moves]
        if not moves or max(values) <= best:
            second = max(values, default=-np.inf)
            break
        numbers, best = moves[int(np.argmax(values))], max(values)
    return Counts(torch.from_numpy(numbers), best - second)
