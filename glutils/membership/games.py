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
Supports = dict[int, float]
"""Of each record of an explanation its support, in nats."""
TURNS = 20
"""Times that a better explanation is looked at, at most."""


@dataclass(frozen=True, eq=False)
class Games:
    """What happened in games, by the number of members that were taken off the list.

    Attributes:
        residuals: sums of squares that explanations left, for each number of absent members.
        supports: the strongest support of a wrong record in each game; -inf where no record was wrong.
    """

    residuals: dict[int, np.ndarray]
    supports: dict[int, np.ndarray]


def explained(dictionary: Dictionary, message: np.ndarray, count: int, floor: float) -> tuple[Explanation, Supports]:
    """The best explanation, and how strongly each of its records is supported.

    A support says how much better the best explanation with a record is than the best without it, in nats. Looking for
    the latter may come upon a better explanation: then that one is looked at in turn.
    """
    found = explain(dictionary, message, count)
    supports: Supports = {}
    for _ in range(TURNS):
        supports = {}
        for record in map(int, np.unique(found.members)):
            other = _without(dictionary, message, found, record)
            supports[record] = evidence(len(message), other.residual, found.residual, floor)
            if other.residual < found.residual * (1 - 1e-9):
                found = exchanged(dictionary, message, other.members)
                break
        else:
            break
    return found, supports


def _without(dictionary: Dictionary, message: np.ndarray, found: Explanation, record: int) -> Explanation:
    """The best explanation without this record, from the given one on."""
    rest = dictionary.without(np.array([record]))
    start = found.members.copy()
    for slot in np.flatnonzero(start == record):
        start[slot] = int(exchanges(rest, message, start)[slot].argmin())
    return exchanged(rest, message, start, pairs=False)


def evidence(count: int, without: float, with_it: float, floor: float) -> float:
    """(M / 2) log((residual without + floor) / (residual with + floor)), in nats.

    The log-likelihood ratio of normal noise of unknown size. ``floor``: the sum of squares that noise leaves of the
    truth, so that nobody counts digits of round-off.
    """
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
            found, supported = explained(rest, message, count, floor)
            left[k] = found.residual
            wrong[k] = max((value for record, value in supported.items() if record not in members), default=-np.inf)
            tick()
        residuals[gone], supports[gone] = left, wrong
    return Games(residuals, supports)
