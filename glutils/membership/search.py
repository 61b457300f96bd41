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
"""Exchanges, and rounds of pricing, after which a search stops at the latest."""


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


def weights(dictionary: Dictionary, message: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    """(N,): non-negative least squares, min |columns w - message|, w >= 0 (Lawson and Hanson 1974).

    scipy solves it on the few columns that could matter; columns whose slope says that they would help are added until
    there are none (pricing), so that the answer is that of all N without a matrix of N x N.
    """
    columns, scale = dictionary.columns, np.sqrt(dictionary.squares)
    scale = np.where(scale > 0, scale, 1.0)
    price = np.where(dictionary.kept, columns.T @ message / scale, -np.inf)
    size = min(int(dictionary.kept.sum()), 2 * len(message) + 64)
    active = np.argpartition(-price, size - 1)[:size]
    tolerance = 1e-9 * max(float(np.linalg.norm(message)), 1e-300)
    for _ in range(rounds):
        found, _ = nnls(columns[:, active], message, maxiter=30 * len(active))
        left = message - columns[:, active] @ found
        price = np.where(dictionary.kept, columns.T @ left / scale, -np.inf)
        price[active] = -np.inf
        better = np.flatnonzero(price > tolerance)
        if not len(better):
            break
        if len(better) > size:
            better = better[np.argpartition(-price[better], size - 1)[:size]]
        active = np.concatenate([active[found > 0], better])
    whole = np.zeros(columns.shape[1])
    whole[active] = found if len(found) == len(active) else 0.0
    return whole


def explain(dictionary: Dictionary, message: np.ndarray, count: int, start: np.ndarray | None = None) -> Explanation:
    """The best explanation by ``count`` records that exchanges of one record for another find.

    They begin at the largest weights of :func:`weights`, or at ``start``.
    """
    if start is None:
        start = rounded(dictionary, weights(dictionary, message), count)
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


def exchanged(dictionary: Dictionary, message: np.ndarray, members: np.ndarray) -> Explanation:
    """From these members on, the best exchange of one for another candidate, as long as one helps."""
    along, best = dictionary.columns.T @ message, np.inf
    members = members.copy()
    for _ in range(ROUNDS):
        table = exchanges(dictionary, message, members, along)
        residual = leftover(dictionary, message, members)
        slot, other = np.unravel_index(int(table.argmin()), table.shape)
        if residual >= best or table[slot, other] >= residual * (1 - 1e-9):
            break
        best, members[slot] = residual, other
    members = np.sort(members)
    return Explanation(members, leftover(dictionary, message, members))


def leftover(dictionary: Dictionary, message: np.ndarray, members: np.ndarray) -> float:
    """Sum of squares of the message less that of these members."""
    return float(np.square(message - dictionary.message(members)).sum())


def exchanges(
    dictionary: Dictionary, message: np.ndarray, members: np.ndarray, along: np.ndarray | None = None
) -> np.ndarray:
    """(B, N): what is left if the member in this slot were that candidate; infinite for those that may not be chosen.

    By inner products alone: |y - (v + a) / U|^2 = |y|^2 - 2 (y.v + y.a) / U + |v + a|^2 / U^2.
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
