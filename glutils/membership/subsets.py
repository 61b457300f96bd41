"""Mini-batches to the last digit: which b of N candidates a single message is the mean of.

A few scalars in single precision hold more bits than it takes to tell all subsets of b candidates apart. Nobody can
try them all. But a sum over b records is a sum over one half of them and one over the other, so it is enough to list
halves: for each, what is missing of the message is looked up among the others (meet in the middle, Horowitz and Sahni
1974). A subset falls into halves in C(b, b / 2) ways, so that a part of all halves will do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .columns import Equations

HALVES = 2**20
"""Halves that are listed, at most."""
CELL = 16.0
"""Side of a cell in which a half is looked up, in standard deviations of rounding."""
FAR = 5.0
"""Standard deviations of rounding by which a sum may miss the message in any scalar."""
MESSAGES, TRIALS = 60, 8
"""Messages that are looked at, at most; and those after which it is given up if none was solved."""
KEYS = 4
"""Scalars by which halves are looked up; the others are compared afterwards."""
HITS = 0.5
"""Ways to find a subset that are expected, at least: else it is not looked for."""


@dataclass(frozen=True, eq=False)
class Halves:
    """Two lists of halves of subsets of ``size`` of ``count`` candidates.

    Attributes:
        first, second: (H, size // 2) and (H', size - size // 2), candidates of each half, rising.
        hits: ways in which a subset is expected to be found in them.
    """

    first: np.ndarray
    second: np.ndarray
    hits: float

    @classmethod
    def of(cls, count: int, size: int, generator: np.random.Generator) -> Halves:
        """All of them, or :data:`HALVES` drawn at random."""
        lists, share = [], 1.0
        for part in (size // 2, size - size // 2):
            total = math.comb(count, part)
            if total <= HALVES:
                flat = np.fromiter((i for c in combinations(range(count), part) for i in c), np.int32, total * part)
                lists.append(flat.reshape(total, part))
            else:
                drawn = np.sort(generator.integers(count, size=(HALVES, part)), 1)
                lists.append(drawn[(np.diff(drawn, axis=1) > 0).all(1)].astype(np.int32))
            share *= min(1.0, len(lists[-1]) / total)
        return cls(lists[0], lists[1], share * math.comb(size, size // 2))


def chance(columns: np.ndarray, message: np.ndarray, size: int, error: float) -> float:
    """How many subsets of ``size`` candidates are expected to meet a message by chance.

    All of them are C(N, size). Their means are about normal, and as many of these as fit into the box around the
    message, as wide as rounding, do.
    """
    scalars, count = columns.shape
    spread = np.atleast_2d(np.cov(columns)) / size * (1 - (size - 1) / max(count - 1, 1))
    spread = spread + np.eye(scalars) * error**2
    off = message - columns.mean(1)
    _, logdet = np.linalg.slogdet(2 * math.pi * spread)
    density = -0.5 * (float(off @ np.linalg.solve(spread, off)) + float(logdet))
    subsets = math.lgamma(count + 1) - math.lgamma(size + 1) - math.lgamma(count - size + 1)
    return math.exp(min(700.0, subsets + density + scalars * math.log(2 * FAR * error)))


def found(
    columns: np.ndarray, message: np.ndarray, size: int, error: float, halves: Halves, generator: np.random.Generator
) -> list[tuple[int, ...]]:
    """All subsets, that the halves hold, whose mean is the message within rounding.

    Args:
        columns: (K, N) what each candidate would have sent alone.
        message: (K,).
        size: records of the subset, b.
        error: standard deviation of rounding of the mean.
        halves: of subsets of ``size`` of the N.
        generator: of the hash.
    """
    used = np.argsort(-columns.std(1))[:KEYS]  # the scalars by which halves are looked up
    side, own, total = CELL * error * size, columns[used].astype(np.float32), size * message
    steps = generator.integers(1, 2**62, size=len(used)) * 2 + 1

    def cells(part: np.ndarray, rest: bool) -> np.ndarray:
        found = np.zeros(len(part), dtype=np.int64)
        for row, step in enumerate(steps):
            whole = own[row].take(part[:, 0])
            for other in part.T[1:]:
                whole += own[row].take(other)
            place = np.float32(total[used[row]]) - whole if rest else whole
            found += np.floor(place / np.float32(side)).astype(np.int64) * step  # a hash: it may wrap around
        return found

    keys, wanted = cells(halves.first, rest=False), cells(halves.second, rest=True)
    both = np.flatnonzero(np.isin(wanted, keys))
    there = np.flatnonzero(np.isin(keys, wanted[both]))
    there = there[np.argsort(keys[there], kind="stable")]
    begin, end = (np.searchsorted(keys[there], wanted[both], how) for how in ("left", "right"))
    subsets = set()
    for place, first, last in zip(both, begin, end, strict=True):
        for match in there[first:last]:
            members = np.union1d(halves.first[match], halves.second[place])
            if len(members) == size and (np.abs(columns[:, members].sum(1) - total) < FAR * error * size).all():
                subsets.add(tuple(members.tolist()))
    return sorted(subsets)


@dataclass(frozen=True, eq=False)
class Parts:
    """What single messages say about who is behind them.

    Attributes:
        evidence: (N,) in nats: of those who were found, how unlikely that is by chance; of others, how unlikely it is
            that a member is in none of the messages that were solved.
        named: (N,) bool: who was found.
        solved: messages of which one subset was found.
        tried: messages that were looked at.
    """

    evidence: np.ndarray
    named: np.ndarray
    solved: int
    tried: int


def of_messages(
    system: Equations, allowed: np.ndarray, size: int, count: int, risk: float, generator: np.random.Generator
) -> Parts | None:
    """The subsets behind one message after the other, until ``count`` records are named; None where it is hopeless.

    Args:
        system: equations of messages about ``size`` records each, all of which count alike.
        allowed: (N,) bool, candidates that may be behind them.
        size: b.
        count: records of the client.
        risk: the number of subsets that meet a message by chance, at most, in all messages together.
        generator: of halves and hashes.
    """
    open_to = np.flatnonzero(allowed)
    if not 2 <= size < min(len(open_to), count):
        return None
    ways = math.prod(min(1.0, HALVES / math.comb(len(open_to), part)) for part in (size // 2, size - size // 2))
    if ways * math.comb(size, size // 2) < HITS:
        return None
    halves, solved, tried = None, 0, 0
    evidence, named = np.zeros(len(allowed)), np.zeros(len(allowed), dtype=bool)
    for first, last in system.blocks:
        error = float(np.hypot(system.declared[first:last], system.rounding[first:last]).max())
        rows = np.flatnonzero(system.columns[first:last].any(1)) + first
        if not len(rows) or not error > 0:
            continue
        columns, message = system.columns[np.ix_(rows, open_to)], system.message[rows]
        unlikely = chance(columns, message, size, error)
        if unlikely > risk:
            continue
        halves = Halves.of(len(open_to), size, generator) if halves is None else halves
        risk, tried = risk - unlikely, tried + 1
        subsets = found(columns, message, size, error, generator=generator, halves=halves)
        if len(subsets) == 1:
            members = open_to[list(subsets[0])]
            inside = np.isin(np.arange(len(allowed)), members)
            evidence += np.where(inside, -math.log(unlikely + 1e-300), math.log1p(-size / count))
            named, solved = named | inside, solved + 1
        if named.sum() >= count or tried >= MESSAGES or (tried >= TRIALS and not solved):
            break
    return Parts(evidence, named, solved, tried) if tried else None
