"""Numbers with a 95 % interval, and conditions on them that are true, false, or not to be told.

A verdict rests on a condition such as ``one > four + 3``. Here it is asked of the ends of intervals: it is true where
it is true of every pair of numbers in them, false where it is true of none, and ``None`` in between. So a comparison of
two means whose intervals overlap decides nothing, whatever the means are.

Source: Student's t for means, Clopper and Pearson (1934) for shares, Kleene's three values for ``and`` and ``or``.
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

LEVEL = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Interval:
    """A number, and where it may lie.

    Attributes:
        value: the number. low, high: ends of its interval; equal to it for a fact, such as a record's lowest.
        runs: how many runs (seeds) it is from; 0 for a number that was typed.
        shown: ``False`` for a score that does not certainly beat its blank card. It may be no better than nothing: in
            conditions its lower end is minus infinity, so it is never the larger of two, and may be the smaller.
        difference: whether it is one of two scores, run by run. If it is not ``shown``, nothing is known of it.
    """

    value: float
    low: float
    high: float
    runs: int = 0
    shown: bool = True
    difference: bool = False

    def __format__(self, spec: str) -> str:
        """The number and its ends: ``34.5 (31.0 to 38.0)``; from one run, only the number and so much."""
        text = format(self.value, spec)
        if self.low == self.high:
            return text
        if math.isinf(self.low) and math.isinf(self.high):
            return f"{text} (one run)"
        return f"{text} ({format(self.low, spec)} to {format(self.high, spec)})"


def mean(values: Sequence[float]) -> Interval:
    """The mean of runs with Student's interval; one run has none, and its ends are infinite.

    Example:
        >>> from glutils.runs import intervals
        >>> f"{intervals.mean([30.0, 32.0, 34.0]):.1f}"
        '32.0 (27.0 to 37.0)'
    """
    middle, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(middle, -math.inf, math.inf, count)
    from scipy import stats  # late: two seconds

    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return Interval(middle, middle - half, middle + half, count)


def within(interval: Interval, low: float, high: float) -> Interval:
    """The interval without what cannot be: the ends of a mean of shares lie in [0, 1]. That of one run stays as it is.

    Example:
        >>> from glutils.runs import intervals
        >>> f"{intervals.within(intervals.mean([0.9, 1.0]), 0, 1):.0%}"
        '95% (31% to 100%)'
    """
    if math.isinf(interval.low):
        return interval
    return replace(interval, low=max(interval.low, low), high=min(interval.high, high))


def share(values: Sequence[float]) -> Interval:
    """The mean of shares in [0, 1], each from one run, with the exact interval of so many runs (Clopper and Pearson).

    A run counts once, however many images are in it: images of one run are not independent.

    Raises:
        ValueError: a value that is no share.

    Example:
        >>> from glutils.runs import intervals
        >>> f"{intervals.share([1, 1, 1]):.0%}"
        '100% (29% to 100%)'
    """
    if any(not 0 <= value <= 1 for value in values):
        raise ValueError(f"values of a share must be in [0, 1], got {min(values)} to {max(values)}")
    from scipy import stats

    count, hits, tail = len(values), sum(values), (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, hits, count - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, count - hits)) if hits < count else 1.0
    return Interval(hits / count, low, high, count)


def fact(value: float, runs: int) -> Interval:
    """A number that is what it is: the lowest of a record's runs, their count."""
    return Interval(float(value), float(value), float(value), runs)


def holds(condition: str, values: Mapping[str, Interval]) -> bool | None:
    """Whether a condition is true (of all numbers in the intervals), false (of all), or neither (``None``).

    Args:
        condition: comparisons of sums, differences, products, quotients, ``min``, ``max``, ``abs`` of values and
            numbers, joined by ``and``, ``or``, ``not``.
        values: name to number.

    Raises:
        ValueError: anything else in the condition, or a name that is no value.

    Example:
        >>> from glutils.runs import intervals
        >>> high, low = intervals.mean([30, 31, 32]), intervals.mean([20, 21, 22])
        >>> intervals.holds("high > low + 3", {"high": high, "low": low})
        True
        >>> print(intervals.holds("high > low + 10", {"high": high, "low": low}))
        None
    """
    return _truth(ast.parse(condition, mode="eval").body, values)


def names(condition: str) -> set[str]:
    """The values that a condition speaks of.

    Example:
        >>> from glutils.runs import intervals
        >>> sorted(intervals.names("min(one, two) > 25"))
        ['one', 'two']
    """
    return {node.id for node in ast.walk(ast.parse(condition, mode="eval")) if isinstance(node, ast.Name)} - FUNCTIONS


FUNCTIONS = {"min", "max", "abs"}
ORDER: dict[type[ast.cmpop], Callable[[Interval, Interval], bool | None]] = {
    ast.Gt: lambda a, b: True if a.low > b.high else False if a.high <= b.low else None,
    ast.GtE: lambda a, b: True if a.low >= b.high else False if a.high < b.low else None,
    ast.Eq: lambda a, b: True if a.low == a.high == b.low == b.high else _apart(a, b),
}
ORDER[ast.Lt] = lambda a, b: ORDER[ast.Gt](b, a)
ORDER[ast.LtE] = lambda a, b: ORDER[ast.GtE](b, a)
SUMS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def _apart(one: Interval, other: Interval) -> bool | None:
    """``False`` where two intervals do not meet."""
    return False if one.high < other.low or other.high < one.low else None


def _truth(node: ast.expr, values: Mapping[str, Interval]) -> bool | None:
    """Kleene's logic over comparisons."""
    if isinstance(node, ast.BoolOp):
        found, strong = [_truth(part, values) for part in node.values], isinstance(node.op, ast.Or)
        return strong if strong in found else None if None in found else not strong
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _truth(node.operand, values)
        return None if inner is None else not inner
    if isinstance(node, ast.Compare):
        sides = [_number(side, values) for side in (node.left, *node.comparators)]
        if strangers := [sign for sign in node.ops if type(sign) not in ORDER]:
            raise ValueError(f"comparisons must be among >, >=, <, <=, ==, got {type(strangers[0]).__name__}")
        found = [ORDER[type(sign)](*pair) for sign, pair in zip(node.ops, itertools.pairwise(sides), strict=True)]
        return False if False in found else None if None in found else True
    raise ValueError(f"a condition must be made of comparisons, got {ast.unparse(node)!r}")


def _number(node: ast.expr, values: Mapping[str, Interval]) -> Interval:
    """Interval arithmetic."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return fact(node.value, 0)
    if isinstance(node, ast.Name):
        if node.id not in values:
            raise ValueError(f"{node.id!r} is no value; there are {', '.join(sorted(values))}")
        named = values[node.id]
        if named.shown:
            return named
        return replace(named, low=-math.inf, high=math.inf if named.difference else named.high)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand, values)
        return Interval(-inner.value, -inner.high, -inner.low, inner.runs)
    if isinstance(node, ast.BinOp) and (work := SUMS.get(type(node.op))):
        return _joined(work, _number(node.left, values), _number(node.right, values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        parts = [_number(part, values) for part in node.args]
        if node.func.id == "abs":
            (one,) = parts
            low = 0.0 if one.low < 0 < one.high else min(abs(one.low), abs(one.high))
            return Interval(abs(one.value), low, max(abs(one.low), abs(one.high)), one.runs)
        take = min if node.func.id == "min" else max
        ends = (take(part.value for part in parts), take(part.low for part in parts), take(part.high for part in parts))
        return Interval(*ends, min(part.runs for part in parts))
    raise ValueError(f"numbers must be values, constants, sums, min, max, abs, got {ast.unparse(node)!r}")


def _joined(work: Callable[[float, float], float], one: Interval, other: Interval) -> Interval:
    """A sum, difference, product or quotient; a divisor whose interval holds zero leaves nothing known."""
    runs = max(one.runs, other.runs)
    if work is operator.truediv and other.low <= 0 <= other.high:
        return Interval(math.nan, -math.inf, math.inf, runs)
    ends = [work(a, b) for a in (one.low, one.high) for b in (other.low, other.high)]
    ends = [-math.inf, math.inf] if any(map(math.isnan, ends)) else ends
    return Interval(work(one.value, other.value), min(ends), max(ends), runs)
