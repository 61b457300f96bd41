"""From equations to a verdict: the best explanation, how strongly it supports each name, and which names stand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from .columns import Equations
from .games import Games, Supports, evidence, explained, play
from .search import Dictionary, Explanation, exchanges, leftover
from .shares import Shares

ROOM = 4.0
"""The sum of squares that is left may be so many times as large as noise and rounding make it in games: rounding is not
the same for all batches."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be explained: a message, by ``count`` of the dictionary's columns.

    Attributes:
        dictionary: of the candidates that may be chosen.
        message: (M,).
        count: members B; of mini-batches, the client's records.
        noise: (M,) standard deviations of what is added to each number.
        drawn: records behind each message where mini-batches were drawn, else None.
        blocks: rows of each message.
    """

    dictionary: Dictionary
    message: np.ndarray
    count: int
    noise: np.ndarray
    drawn: int | None = None
    blocks: tuple[tuple[int, int], ...] = ()

    def draw(self, members: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A message of these members, noise and all."""
        said = self.noise * generator.standard_normal(len(self.noise))
        if self.drawn is None:
            return said + self.dictionary.message(members)
        for start, stop in self.blocks:
            part = generator.choice(members, min(self.drawn, len(members)), replace=False)
            said[start:stop] += self.dictionary.columns[start:stop, part].sum(1) / self.dictionary.mass[part].sum()
        return said

    @property
    def floor(self) -> float:
        """Sum of squares that noise leaves of the truth."""
        return float(np.square(self.noise).sum())


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is said of every column: see :class:`glutils.membership.Named`, whose fields these become."""

    scores: np.ndarray
    named: np.ndarray
    counts: np.ndarray
    complete: bool
    misfit: float
    noise: float
    bar: float
    notes: tuple[str, ...] = field(default_factory=tuple)


def problem(
    system: Equations, mass: np.ndarray, allowed: np.ndarray, count: int, drawn: int | None, extra: float
) -> Problem:
    """The problem of these equations; of mini-batches, in coordinates in which the drawing is white noise.

    The K numbers of a message about b of n records share the part that was drawn: its covariance is that of the
    candidates' columns, (1 / b) (1 - (b - 1) / (n - 1)) of it, and its inverse root whitens the message's rows.
    """
    columns, message = system.columns, system.message
    noise = np.sqrt(np.square(system.noise) + extra**2)
    if drawn is not None and drawn < count:
        columns, message = columns.copy(), message.copy()
        share = (1 - (drawn - 1) / (count - 1)) / drawn
        for start, stop in system.blocks:
            part = columns[start:stop][:, allowed]
            spread = np.atleast_2d(np.cov(part)) * share + np.diag(np.square(noise[start:stop]))
            values, vectors = np.linalg.eigh(spread)
            values = np.maximum(values, 1e-12 * values.max() + 1e-300)
            white = (vectors / np.sqrt(values)) @ vectors.T
            columns[start:stop], message[start:stop] = white @ columns[start:stop], white @ message[start:stop]
        noise = np.zeros_like(noise)  # what there was is small beside the drawing, and in the whitening
    else:
        drawn = None
    return Problem(Dictionary(columns * mass, mass, allowed), message, count, noise, drawn, system.blocks)


def decide(task: Problem, false_names: float, seed: int, show: bool) -> Verdict:
    """Explain, play, compare."""
    dictionary, message, count = task.dictionary, task.message, task.count
    generator = np.random.default_rng(seed)
    found, supports = explained(dictionary, message, count, task.floor)
    scores = _scores(task, found, supports)
    games = math.ceil(1 / false_names)
    absent = tuple(sorted({0, 1, count}))
    with tqdm(total=games * len(absent), desc="games", leave=False, disable=not show) as bar:
        played = play(
            dictionary, task.draw, count, task.floor, absent=absent, games=games, generator=generator, tick=bar.update
        )
    complete, notes = _complete(task, found, played, false_names)
    bar_ = _bar(played, complete, false_names)
    named = np.zeros(len(scores), dtype=bool)
    records = np.unique(found.members)
    doubts = {int(record): _doubt(task, found, int(record), supports) for record in records if scores[record] > bar_}
    spent = 0.0  # the risk of all names together, the surest ones first
    for record, doubt in sorted(doubts.items(), key=lambda pair: pair[1]):
        spent += doubt
        named[record] = spent <= false_names
    unsure = len(records) - int(named.sum())
    if unsure:
        complete = False
        notes += (f"{unsure} of {len(records)} records of the best explanation are not named: others do as well",)
    counts = np.bincount(found.members, minlength=len(scores)) * named
    size = float(message @ message)
    misfit, noise = (math.sqrt(part / size) if size else math.inf for part in (found.residual, task.floor))
    return Verdict(scores, named, counts, complete, misfit, noise, bar_, notes)


def rank(task: Problem, false_names: float, seed: int) -> Verdict:
    """The decision for mini-batches: by :class:`~glutils.membership.shares.Shares`, and games with drawn parts.

    In half of the games the client's records are candidates, in the other half they are strangers, a half of the
    candidates that is taken off the list.
    """
    generator = np.random.default_rng(seed)
    scores = Shares(task.dictionary, task.count).scores(task.message)
    bar = _bar_of_parts(task, math.ceil(1 / false_names), false_names, generator)
    named = scores > bar
    size = float(task.message @ task.message)
    best = np.argsort(-scores, kind="stable")[: task.count]
    left = leftover(task.dictionary, task.message, best)
    misfit, noise = math.sqrt(left / size), math.sqrt(min(1.0, len(task.message) / size))
    note = f"messages about {task.drawn} of {task.count} records each: who is missing cannot be told"
    return Verdict(scores, named, named.astype(np.int64), False, misfit, noise, bar, (note,))


def _bar_of_parts(task: Problem, games: int, alpha: float, generator: np.random.Generator) -> float:
    """The score that wrong records exceed in at most a share alpha of the games of each half."""
    dictionary, open_to = task.dictionary, np.flatnonzero(task.dictionary.kept)
    strangers = generator.permutation(open_to)[: len(open_to) // 2]
    cases = [(Shares(dictionary, task.count), open_to)]
    if len(strangers):
        cases.append((Shares(dictionary.without(strangers), task.count), strangers))
    bar = 0.0
    for shares, drawn_from in cases:
        highest = np.empty(games)
        for k in range(games):
            members = generator.choice(drawn_from, task.count, replace=task.count > len(drawn_from))
            scores = shares.scores(task.draw(members, generator))
            scores[members] = -math.inf
            highest[k] = scores.max()
        bar = max(bar, float(np.sort(highest)[min(games - 1, math.ceil((1 - alpha) * (games + 1)) - 1)]))
    return bar


def _scores(task: Problem, found: Explanation, supports: Supports) -> np.ndarray:
    """(N,): of members their support; of others, that of the best exchange for a member, at most 0."""
    best = exchanges(task.dictionary, task.message, found.members).min(0)
    size = len(task.message)
    tiny = task.floor + 1e-300
    with np.errstate(divide="ignore"):
        scores = np.minimum(size / 2 * np.log((found.residual + tiny) / (best + tiny)), 0.0)
    for record, value in supports.items():
        scores[record] = value
    return scores


def _doubt(task: Problem, found: Explanation, record: int, supports: Supports) -> float:
    """Odds of all exchanges of this record for another candidate together, as if each were as likely beforehand."""
    slot = int(np.flatnonzero(found.members == record)[0])
    left = exchanges(task.dictionary, task.message, found.members)[slot]
    left[record] = np.inf
    logs = [-evidence(len(task.message), value, found.residual, task.floor) for value in left[np.isfinite(left)]]
    return float(np.exp(np.minimum(logs, 0.0)).sum()) + math.exp(-max(supports[record], 0.0))


def _complete(task: Problem, found: Explanation, played: Games, alpha: float) -> tuple[bool, tuple[str, ...]]:
    """Whether the explanation is as good as those of games in which nobody is missing, and better than in others."""
    if not task.floor < float(task.message @ task.message):
        return False, ("noise and rounding are as large as the messages",)
    whole = played.residuals[0]
    some = min((left for absent, left in played.residuals.items() if absent), key=lambda left: np.quantile(left, alpha))
    chance = (1 + (some <= found.residual).sum()) / (1 + len(some))
    usual = (1 + (ROOM * whole >= found.residual).sum()) / (1 + len(whole))
    if usual <= alpha:
        why = "a member is not among the candidates, or the scalars hold noise that the protocol does not declare"
        return False, (f"not explained down to the noise: {why}",)
    if chance > alpha:
        return False, ("too few scalars, or too much noise, to tell whether a member is missing",)
    return True, ()


def _bar(played: Games, complete: bool, alpha: float) -> float:
    """The support that wrong records exceed in at most a share alpha of the games that are like the case at hand."""
    kinds = [absent for absent in played.supports if (absent == 0) == complete]
    highest = [np.sort(played.supports[absent]) for absent in kinds]
    return max(0.0, *(float(s[min(len(s) - 1, math.ceil((1 - alpha) * (len(s) + 1)) - 1)]) for s in highest))
