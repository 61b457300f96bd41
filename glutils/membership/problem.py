"""From equations to a problem for the search: units, unknown factors, and how many records there are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .columns import Equations
from .search import ADDED, PRICINGS, Dictionary, exchanged, explain, rounded, weights

TURNS = 5
"""Times that weights and unknown factors of messages are found in turn."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be explained: a message, by ``count`` of the dictionary's columns.

    Attributes:
        dictionary: of the candidates that may be chosen.
        message: (M,).
        count: members B; of mini-batches, the client's records.
        declared: (M,) standard deviations of noise that is known to be added to each number.
        rounding: (M,) those of rounding, which is not the same for all batches.
        drawn: records behind each message where mini-batches were drawn, else None.
        poisson: whether each record was drawn by itself, so that ``drawn`` is their expected number.
        blocks: rows of each message.
        shared: whether the message is a sum divided by a public number, given here as the mean of ``count`` records.
        notes: what was found out on the way.
    """

    dictionary: Dictionary
    message: np.ndarray
    count: int
    declared: np.ndarray
    rounding: np.ndarray
    drawn: int | None = None
    poisson: bool = False
    blocks: tuple[tuple[int, int], ...] = ()
    shared: bool = False
    notes: tuple[str, ...] = ()

    @property
    def noise(self) -> np.ndarray:
        """(M,): noise and rounding together."""
        return np.hypot(self.declared, self.rounding)

    def draw(self, members: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A message of these members, noise and all."""
        said = self.noise * generator.standard_normal(len(self.message))
        if self.drawn is None:
            return said + self.dictionary.message(members)
        for start, stop in self.blocks:
            if self.poisson:
                part = members[generator.random(len(members)) < self.drawn / self.count]
                total = float(self.drawn)
            else:
                part = generator.choice(members, min(self.drawn, len(members)), replace=False)
                total = self.dictionary.mass[part].sum()
            said[start:stop] += self.dictionary.columns[start:stop, part].sum(1) / total
        return said

    @property
    def floor(self) -> float:
        """Sum of squares that noise and rounding leave of the truth."""
        return float(np.square(self.noise).sum())

    def of(self, count: int) -> Problem:
        """The same for another number of members."""
        factor = self.count / count if self.shared else 1.0
        scaled = {name: getattr(self, name) * factor for name in ("message", "declared", "rounding")}
        return replace(self, count=count, **scaled)


def problem(
    system: Equations,
    mass: np.ndarray,
    allowed: np.ndarray,
    count: int,
    drawn: int | None,
    extra: float,
    poisson: bool = False,
) -> Problem:
    """The problem of these equations; of mini-batches, in coordinates in which the drawing is white noise.

    The K numbers of a message about b of n records share the part that was drawn: its covariance is that of the
    candidates' columns, (1 / b) (1 - (b - 1) / (n - 1)) of it, and its inverse root whitens the message's rows. Where
    each record is drawn by itself, and the sum divided by b, it is their second moment, (1 / b) (1 - b / n) of it.
    """
    columns, message = system.columns, system.message
    declared, rounding = np.hypot(system.declared, extra), system.rounding
    if any(system.shortened):
        message, declared = _at_full_length(system, mass, allowed, declared, count if drawn is None else None)
    if drawn is not None and drawn < count:
        columns, message = columns.copy(), message.copy()
        share = (1 - drawn / count if poisson else 1 - (drawn - 1) / (count - 1)) / drawn
        for start, stop in system.blocks:
            part = columns[start:stop][:, allowed]
            spread = part @ part.T / part.shape[1] if poisson else np.atleast_2d(np.cov(part))
            noise = np.square(declared[start:stop]) + np.square(rounding[start:stop])
            values, vectors = np.linalg.eigh(spread * share + np.diag(noise))
            values = np.maximum(values, 1e-12 * values.max() + 1e-300)
            white = (vectors / np.sqrt(values)) @ vectors.T
            columns[start:stop], message[start:stop] = white @ columns[start:stop], white @ message[start:stop]
        declared = rounding = np.zeros_like(rounding)  # what there was is in the whitening
    else:
        drawn = None
    dictionary = Dictionary(columns * mass, mass, allowed)
    return Problem(dictionary, message, count, declared, rounding, drawn, poisson, system.blocks, system.shared)


def _at_full_length(
    system: Equations, mass: np.ndarray, allowed: np.ndarray, declared: np.ndarray, count: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Messages and their noise, divided by the factors by which a defence has shortened them.

    Weights whose sum is free, and factors given the weights, are found in turn; then factors given the best ``count``.
    """
    message, declared = system.message.copy(), declared.copy()
    dictionary = Dictionary(system.columns * mass, mass, allowed)
    for turn in range(TURNS):
        if count is not None and turn == TURNS - 1:
            whole = dictionary.message(explain(dictionary, message, count).members)
        else:
            share = weights(dictionary, message)
            whole = dictionary.columns @ share / max(float(share @ mass), 1e-300)
        for (start, stop), short in zip(system.blocks, system.shortened, strict=True):
            rows = slice(start, stop)
            size = float(whole[rows] @ whole[rows])
            factor = float(message[rows] @ whole[rows]) / size if short and size else 1.0
            if factor > 0:
                message[rows] /= factor
                declared[rows] /= factor
    return message, declared


def counted(task: Problem, least: int, most: int) -> Problem:
    """The problem of as many members, from ``least`` to ``most``, as explain the message best.

    Best is what a description of batch and misfit makes shortest: log C(N, B) + (M / 2) log(residual), where no misfit
    below noise and rounding counts. A mean of B records is that of each of them twice, so of equals the fewest win.
    """
    share = weights(task.dictionary, task.message, PRICINGS, ADDED)
    size, total, tiny = len(task.message), int(task.dictionary.kept.sum()), max(task.floor, 1e-300)
    best, found = math.inf, task
    for count in range(least, min(most, total) + 1):
        one = task.of(count)
        start = rounded(one.dictionary, share, count)
        left = exchanged(one.dictionary, one.message, start).residual * (task.floor / one.floor if one.floor else 1.0)
        cost = size / 2 * math.log(max(left, tiny)) + math.lgamma(total + 1)
        cost -= math.lgamma(count + 1) + math.lgamma(total - count + 1)
        if cost < best - 1e-9:
            best, found = cost, one
    return replace(found, notes=(f"{found.count} members explain best, of {least} to {most} that were allowed",))
