"""From equations to a verdict: the best explanation, how strongly it supports each name, and which names stand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm.auto import tqdm

from .games import ROOM, Game, Supports, Table, evidence, explained
from .problem import Problem
from .search import Explanation, exchanges, leftover
from .shares import Shares
from .subsets import Parts

HARD = 3
"""Times as many games with one member missing, which is the hardest case. All but one part in so many of the risk of a
false name is spent where everything is explained down to the noise, and the last part where it is not; the other way
round if no game that lacks a member is explained so well."""
NEARLY = 2.0
MORE = 1
"""Times as many games again, at most, to find some that are like the case at hand."""


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


def decide(task: Problem, false_names: float, seed: int, show: bool) -> Verdict:
    """Explain, play, compare."""
    dictionary, message, count = task.dictionary, task.message, task.count
    generator = np.random.default_rng(seed)
    found, supports = explained(dictionary, message, count, task.floor)
    scores = _scores(task, found, supports)
    few = math.ceil(1 / false_names)
    games = {0: few, count: few} | {1: HARD * few}
    with tqdm(total=sum(games.values()), desc="games", leave=False, disable=not show) as bar:
        table = Table(dictionary, task.draw, count, task.floor, generator, bar.update)
        played = {absent: [table.play(absent) for _ in range(times)] for absent, times in games.items()}
    usual = _usual(task, played[0])
    fits = found.residual <= usual
    complete, notes = _complete(task, found, played, fits, false_names)
    rare = not any(game.residual <= usual for absent, kind in played.items() if absent for game in kind)
    part = 1 - 1 / HARD if fits != rare else 1 / HARD
    if fits:
        wrong = [[g.wrong if g.residual <= usual else -math.inf for g in kind] for kind in played.values()]
    else:
        wrong = _alike(table, played, found.residual, games)
    bar_ = _bar(wrong, part * false_names)
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
    return Verdict(scores, named, counts, complete, misfit, noise, bar_, task.notes + notes)


def _usual(task: Problem, whole: list[Game]) -> float:
    """The sum of squares that is left, at most, where nobody is missing, in all but few games."""
    rounding = float(np.square(task.rounding).sum())
    return max(game.residual for game in whole) + (ROOM - 1) * rounding


def _alike(table: Table, played: dict[int, list[Game]], left: float, games: dict[int, int]) -> list[list[float]]:
    """Wrong supports in games that leave about as much as the case at hand.

    What is left there is a member's share, or noise that nobody has declared, so that nothing is known of its size but
    what is left. Games that leave up to :data:`NEARLY` times as much, or as little, are taken as they are; those that
    leave less, with as much noise as it takes. Others take the place of the rest, as long as it is not in vain.
    """
    found = []
    for absent, kind in played.items():
        alike = [game for game in kind if game.residual <= NEARLY * left]
        for _ in range(MORE * games[absent] if alike else 0):
            if len(alike) >= games[absent]:
                break
            alike += [game for game in [table.play(absent)] if game.residual <= NEARLY * left]
        alike = [game if NEARLY * game.residual >= left else table.again(game, left) for game in alike]
        found.append([game.wrong for game in alike] or [-math.inf])
    return found


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


def joined(verdict: Verdict, parts: Parts, count: int) -> Verdict:
    """The verdict on all messages together, and on those of which every record was found."""
    named = verdict.named | parts.named
    scores = verdict.scores + parts.evidence
    note = f"{parts.solved} of {parts.tried} messages are the mean of one known subset, down to rounding"
    complete = int(parts.named.sum()) >= count
    notes = (note,) if complete else (*verdict.notes, note)
    return replace(
        verdict, scores=scores, named=named, counts=named.astype(np.int64), complete=complete, notes=notes
    )


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
    tiny = max(task.floor / ROOM, 1e-300)
    with np.errstate(divide="ignore"):
        scores = np.minimum(size / 2 * np.log(max(found.residual, tiny) / np.maximum(best, tiny)), 0.0)
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


def _complete(
    task: Problem, found: Explanation, played: dict[int, list[Game]], fits: bool, alpha: float
) -> tuple[bool, tuple[str, ...]]:
    """Whether the explanation is as good as those of games in which nobody is missing, and better than in others."""
    if not task.floor < float(task.message @ task.message):
        return False, ("noise and rounding are as large as the messages",)
    if not fits:
        why = "a member is not among the candidates, or the scalars hold noise that the protocol does not declare"
        return False, (f"not explained down to the noise: {why}",)
    for absent, kind in played.items():
        if absent and (1 + sum(game.residual <= found.residual for game in kind)) / (1 + len(kind)) > alpha:
            return False, ("too few scalars, or too much noise, to tell whether a member is missing",)
    return True, ()


def _bar(kinds: list[list[float]], alpha: float) -> float:
    """The support that wrong records exceed in at most a share alpha of the games of each kind, as far as there are
    enough of them: else the strongest."""
    places = [min(len(kind) - 1, math.ceil((1 - alpha) * (len(kind) + 1)) - 1) for kind in kinds]
    return max(0.0, *(sorted(kind)[place] for kind, place in zip(kinds, places, strict=True)))
