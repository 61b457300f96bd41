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
NEAR = 256
"""Candidates among whom those are looked for who could stand in for a member."""
TURNS = 20
"""Times that a better explanation is looked at, at most."""
ROOM = 4.0
"""The sum of squares that rounding leaves may be so many times as large, or as small, as it is on decoys: rounding is
not the same for all batches."""


@dataclass(frozen=True, eq=False)
class Game:
    """One game: who was in the batch, what it sent, and what came of it.

    Attributes:
        members: (B,) numbers of the candidates that were drawn.
        absent: how many of them were taken off the list, the first ones.
        message: (M,) that the batch sent.
        residual: sum of squares that the best explanation left.
        wrong: the strongest support of a wrong record; -inf where no record was wrong.
    """

    members: np.ndarray
    absent: int
    message: np.ndarray
    residual: float
    wrong: float


@dataclass(frozen=True, eq=False)
class Table:
    """Where games are played.

    Attributes:
        dictionary: of all candidates.
        draw: of members and a generator to a message, noise and all.
        count: members of a batch.
        floor: sum of squares that noise leaves of the truth.
        generator: of everything that is drawn.
        tick: called after each game.
    """

    dictionary: Dictionary
    draw: Draw
    count: int
    floor: float
    generator: np.random.Generator
    tick: Callable[[], object] = lambda: None

    def play(self, absent: int) -> Game:
        """One game with so many members taken off the list."""
        open_to = np.flatnonzero(self.dictionary.kept)
        members = self.generator.choice(open_to, self.count, replace=self.count > len(open_to))
        return self._ended(members, absent, self.draw(members, self.generator))

    def again(self, game: Game, left: float) -> Game:
        """The same game with so much more noise that about ``left``, a sum of squares, is left."""
        more = math.sqrt(max(left - game.residual, 0.0) / len(game.message))
        noise = more * self.generator.standard_normal(len(game.message))
        return self._ended(game.members, game.absent, game.message + noise)

    def _ended(self, members: np.ndarray, absent: int, message: np.ndarray) -> Game:
        rest = self.dictionary.without(members[:absent])
        found, supported = explained(rest, message, self.count, self.floor)
        wrong = max((value for record, value in supported.items() if record not in members), default=-math.inf)
        self.tick()
        return Game(members, absent, message, found.residual, wrong)


def explained(dictionary: Dictionary, message: np.ndarray, count: int, floor: float) -> tuple[Explanation, Supports]:
    """The best explanation, and how strongly each of its records is supported.

    A support says how much better the best explanation with a record is than the best without it, in nats. Looking for
    the latter may come upon a better explanation: then that one is looked at in turn.
    """
    found = explain(dictionary, message, count)
    supports: Supports = {}
    for _ in range(TURNS):
        near = _shortlist(dictionary, message, found)
        short = Dictionary(dictionary.columns[:, near], dictionary.mass[near], dictionary.kept[near])
        here, supports = np.searchsorted(near, found.members), {}
        for record in map(int, np.unique(here)):
            other = _without(short, message, here, record)
            supports[int(near[record])] = evidence(len(message), other.residual, found.residual, floor)
            if other.residual < found.residual * (1 - 1e-9):
                found = exchanged(dictionary, message, near[other.members])
                break
        else:
            break
    return found, supports


def _shortlist(dictionary: Dictionary, message: np.ndarray, found: Explanation) -> np.ndarray:
    """Members, and the candidates who come closest in place of one of them, rising."""
    best = exchanges(dictionary, message, found.members).min(0)
    size = min(NEAR, int(dictionary.kept.sum()))
    return np.union1d(found.members, np.argpartition(best, size - 1)[:size])


def _without(dictionary: Dictionary, message: np.ndarray, members: np.ndarray, record: int) -> Explanation:
    """The best explanation without this record, from the given members on."""
    rest = dictionary.without(np.array([record]))
    start = members.copy()
    for slot in np.flatnonzero(start == record):
        start[slot] = int(exchanges(rest, message, start)[slot].argmin())
    return exchanged(rest, message, start, pairs=False)


def evidence(count: int, without: float, with_it: float, floor: float) -> float:
    """(M / 2) log(residual without / residual with), in nats.

    The log-likelihood ratio of normal noise of unknown size. ``floor``: the sum of squares that noise leaves of the
    truth. What is left below a quarter of it counts as a quarter, so that nobody counts digits of round-off.
    """
    tiny = max(floor / ROOM, 1e-300)
    return count / 2 * math.log(max(without, tiny) / max(with_it, tiny))
