"""Which records, each with its whole weight, explain a message best: non-negative least squares, then exchanges.

A message is the mean of its records' own messages, y = sum of mass_i a_i over the batch, divided by the batch's mass: a
vector in the span of few columns of a dictionary whose other columns belong to everybody else. The mass of a record is
1, or its number of targets where the loss is a mean over targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import nnls

ROUNDS = 60
"""Exchanges after which a search stops at the latest."""
PRICINGS, ADDED = 15, 12
"""Rounds of pricing that a search begins with, and columns that each adds: what is left to gain there, exchanges find
sooner."""
SHORT = 96
"""Candidates among which pairs are looked for."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """The messages that candidates would send by themselves.

    Attributes:
        columns: (M, N) float64, a candidate's numbers times its mass.
        mass: (N,) float64, above 0.
        kept: (N,) bool: candidates that may be chosen.
    """

    columns: np.ndarray
    mass: np.ndarray
    kept: np.ndarray

    @classmethod
    def of(cls, columns: np.ndarray) -> Dictionary:
        """Columns (M, N) of records that all count alike, and may all be chosen."""
        count = columns.shape[1]
        return cls(columns, np.ones(count), np.ones(count, dtype=bool))

    @cached_property
    def squares(self) -> np.ndarray:
        """Squared length of every column, (N,)."""
        return np.einsum("mn,mn->n", self.columns, self.columns)

    def without(self, gone: np.ndarray) -> Dictionary:
        """The same dictionary, from which the candidates ``gone`` may no longer be chosen."""
        kept = self.kept.copy()
        kept[gone] = False
        other = Dictionary(self.columns, self.mass, kept)
        other.__dict__["squares"] = self.squares
        return other

    def message(self, members: np.ndarray) -> np.ndarray:
        """(M,): what a batch of these candidates sends; one may be in it several times."""
        return self.columns[:, members].sum(1) / self.mass[members].sum()


@dataclass(frozen=True, eq=False)
class Explanation:
    """Records that explain a message, and how well.

    Attributes:
        members: (B,) numbers of candidates, rising; one that is there twice is named twice.
        residual: sum of squares of what they leave.
    """

    members: np.ndarray
    residual: float


def weights(
    dictionary: Dictionary, message: np.ndarray, rounds: int = 60, added: int | None = None
) -> np.ndarray:
    """(N,): non-negative least squares, ``min |columns w - message|, w >= 0`` (Lawson and Hanson 1974).

    scipy solves it on the few columns that could matter; columns whose slope says that they would help are added until
    there are none (pricing), ``added`` at a time, so that the answer is that of all N without a matrix of N x N.
    """
    columns, scale = dictionary.columns, np.sqrt(dictionary.squares)
    scale = np.where(scale > 0, scale, 1.0)
    price = np.where(dictionary.kept, columns.T @ message / scale, -np.inf)
    size = min(int(dictionary.kept.sum()), 2 * len(message) + 64 if added is None else added)
    active = np.argpartition(-price, size - 1)[:size]
    tolerance = 1e-9 * max(float(np.linalg.norm(message)), 1e-300)
    found = np.zeros(size)
    for _ in range(rounds):
        found, _ = nnls(columns[:, active], message, maxiter=30 * len(active))
        left = message - columns[:, active] @ found
        price = np.where(dictionary.kept, columns.T @ left / scale, -np.inf)
        price[active] = -np.inf
        better = np.flatnonzero(price > tolerance)
        active, found = active[found > 0], found[found > 0]
        if not len(better):
            break
        if len(better) > size:
            better = better[np.argpartition(-price[better], size - 1)[:size]]
        active, found = np.concatenate([active, better]), np.concatenate([found, np.zeros(len(better))])
    whole = np.zeros(columns.shape[1])
    whole[active] = found
    return whole


def explain(dictionary: Dictionary, message: np.ndarray, count: int, start: np.ndarray | None = None) -> Explanation:
    """The best explanation by ``count`` records that exchanges of one record for another find.

    They begin at the largest weights of :func:`weights`, or at ``start``.
    """
    if start is None:
        start = rounded(dictionary, weights(dictionary, message, PRICINGS, ADDED), count)
    return exchanged(dictionary, message, start)


def rounded(dictionary: Dictionary, share: np.ndarray, count: int) -> np.ndarray:
    """(count,) candidates whose shares are nearest to the weights, those with the largest remainders last."""
    total = max(float((share * dictionary.mass).sum()), 1e-300)
    wanted = share * dictionary.mass / total * count
    whole = np.floor(wanted + 1e-6).astype(int)
    members = np.repeat(np.arange(len(share)), whole)[:count]
    rest = np.where(dictionary.kept, wanted - whole, -np.inf)
    more = np.argsort(-rest, kind="stable")[: count - len(members)]
    members = np.concatenate([members, more])
    return members if len(members) == count else np.resize(members, count)


def exchanged(
    dictionary: Dictionary, message: np.ndarray, members: np.ndarray, pairs: bool = True
) -> Explanation:
    """From these members on the best exchange of one for another candidate, as long as one helps.

    With ``pairs``, two are exchanged for two where no single exchange helps.
    """
    along, members = dictionary.columns.T @ message, members.copy()
    residual = leftover(dictionary, message, members)
    for _ in range(ROUNDS):
        table = exchanges(dictionary, message, members, along)
        slot, other = np.unravel_index(int(table.argmin()), table.shape)
        changed = members.copy()
        changed[slot] = other
        if pairs and table[slot, other] >= residual * (1 - 1e-9):
            changed = _two_exchanged(dictionary, message, members, table)
        now = leftover(dictionary, message, changed)
        if now >= residual * (1 - 1e-9):
            break
        residual, members = now, changed
    return Explanation(np.sort(members), residual)


def _two_exchanged(dictionary: Dictionary, message: np.ndarray, members: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The best exchange of two members for two of the :data:`SHORT` candidates that come closest by themselves."""
    size = min(SHORT, int(dictionary.kept.sum()))
    near = np.argpartition(table.min(0), size - 1)[:size]
    columns, mass = dictionary.columns[:, near], dictionary.mass[near]
    gram, along, pairs = columns.T @ columns, message @ columns, mass[:, None] + mass
    square = dictionary.squares[near]
    both = square[:, None] + square + 2 * gram
    total, weight = dictionary.columns[:, members].sum(1), dictionary.mass[members].sum()
    best, found = np.inf, members
    for first in range(len(members) - 1):
        second = np.arange(first + 1, len(members))
        gone = dictionary.columns[:, members[[first]]] + dictionary.columns[:, members[second]]
        rest = total[:, None] - gone
        left = (weight - dictionary.mass[members[first]] - dictionary.mass[members[second]])[:, None, None] + pairs
        toward = rest.T @ columns
        inner = (message @ rest)[:, None, None] + (along[:, None] + along)
        cross = np.square(rest).sum(0)[:, None, None] + 2 * (toward[:, :, None] + toward[:, None]) + both
        value = message @ message - 2 * inner / left + cross / np.square(left)
        at, one, other = np.unravel_index(int(value.argmin()), value.shape)
        if value[at, one, other] < best:
            best, found = value[at, one, other], members.copy()
            found[[first, second[at]]] = near[[one, other]]
    return found


def leftover(dictionary: Dictionary, message: np.ndarray, members: np.ndarray) -> float:
    """Sum of squares of the message less that of these members."""
    return float(np.square(message - dictionary.message(members)).sum())


def exchanges(
    dictionary: Dictionary, message: np.ndarray, members: np.ndarray, along: np.ndarray | None = None
) -> np.ndarray:
    """(B, N): what is left if the member in this slot were that candidate; infinite for those that may not be chosen.

    By inner products alone: ``|y - (v + a) / U|^2 = |y|^2 - 2 (y.v + y.a) / U + |v + a|^2 / U^2``.
    """
    columns, mass = dictionary.columns, dictionary.mass
    along = columns.T @ message if along is None else along
    total, weight = columns[:, members].sum(1), mass[members].sum()
    rest = total[:, None] - columns[:, members]  # (M, B): the sum without each
    size = (weight - mass[members])[:, None] + mass[None]
    cross = rest.T @ columns
    inner = (message @ rest)[:, None] + along[None]
    square = np.square(rest).sum(0)[:, None] + 2 * cross + dictionary.squares[None]
    left = message @ message - 2 * inner / size + square / np.square(size)
    return np.where(dictionary.kept[None], np.maximum(left, 0.0), np.inf)
