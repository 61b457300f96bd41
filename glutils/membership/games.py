"""Where to draw the line: the attack played against batches of candidates, whose members we know.

Nobody tells the attacker whether a name is right. But it can draw batches from its own candidates, compute what they
would have sent, take some of their members off the list, and look for the rest. How strongly a wrong record is ever
supported in such games, and how well a batch is ever explained that lacks a member, are the yardsticks for the message
that came from the client. They hold as far as the client's records are like the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .search import Dictionary, Explanation, exchanged, exchanges, explain

Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Of members (B,) and a generator to the message (M,) that they send, noise and all."""


@dataclass(frozen=True, eq=False)
class Games:
    """What happened in games, by the number of members that were taken off the list.

    Attributes:
        residuals: sums of squares that explanations left, for each number of absent members.
        supports: the strongest support of a wrong record in each game; -inf where no record was wrong.
    """

    residuals: dict[int, np.ndarray]
    supports: dict[int, np.ndarray]


def support(
    dictionary: Dictionary, message: np.ndarray, found: Explanation, record: int, floor: float
) -> tuple[float, Explanation]:
    """How much better the best explanation with a record is than the best without it, and that other explanation.

    In nats: (M / 2) log of the ratio of residuals, the log-likelihood ratio of normal noise of unknown size. ``floor``:
    sum of squares that noise leaves of the truth, so that nobody counts digits of round-off.
    """
    rest = dictionary.without(np.array([record]))
    start = found.members.copy()
    for slot in np.flatnonzero(start == record):
        table = exchanges(rest, message, start)
        start[slot] = int(table[slot].argmin())
    other = exchanged(rest, message, start)
    return evidence(len(message), other.residual, found.residual, floor), other


def evidence(count: int, without: float, with_it: float, floor: float) -> float:
    """(M / 2) log((residual without + floor) / (residual with + floor)), in nats."""
    tiny = 1e-300
    return count / 2 * math.log((without + floor + tiny) / (with_it + floor + tiny))


def play(
    dictionary: Dictionary,
    draw: Draw,
    count: int,
    floor: float,
    *,
    absent: tuple[int, ...],
    games: int,
    generator: np.random.Generator,
    tick: Callable[[], object] = lambda: None,
) -> Games:
    """Games of each kind: ``count`` members drawn from the candidates, ``absent`` of them taken off the list."""
    open_to = np.flatnonzero(dictionary.kept)
    residuals, supports = {}, {}
    for gone in absent:
        left, wrong = np.empty(games), np.full(games, -np.inf)
        for k in range(games):
            members = generator.choice(open_to, count, replace=count > len(open_to))
            rest = dictionary.without(members[:gone])
            message = draw(members, generator)
            found = explain(rest, message, count)
            left[k] = found.residual
            for record in np.setdiff1d(found.members, members):
                wrong[k] = max(wrong[k], support(rest, message, found, int(record), floor)[0])
            tick()
        residuals[gone], supports[gone] = left, wrong
    return Games(residuals, supports)
