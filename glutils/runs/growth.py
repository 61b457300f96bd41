"""How a cost grows with a size: the exponent of a power law, its interval, and where it would reach a limit.

On paper with two logarithmic axes a cost of ``a x^b`` is a straight line of slope b. So b is the slope of the line with
the least squares, and Student's interval of a slope says how well the points agree on it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .. import _validate
from .intervals import LEVEL, Interval


@dataclass(frozen=True)
class Growth:
    """A fitted power law.

    Attributes:
        exponent: with its interval; its ``runs`` is the number of points.
        last: the slope between the two largest points: above the interval, the law is still bending upwards.
        largest: the largest point, size and cost.
    """

    exponent: Interval
    last: float
    largest: tuple[float, float]

    def reach(self, limit: float | int) -> Interval:
        """The size at which the cost would be ``limit``, going on from the largest point: an extrapolation.

        By the steepest and by the flattest of the exponents, the last slope included; infinite where the flattest does
        not rise. The number between them is by the last slope.

        Raises:
            TypeError, ValueError: ``limit`` is not a number above 0.
        """
        _validate.number("limit", limit, above=0)
        size, cost = self.largest
        slopes = (self.exponent.low, self.exponent.high, self.last)
        one, other = (_reached(size, limit / cost, slope) for slope in (min(slopes), max(slopes)))
        runs = self.exponent.runs
        return Interval(_reached(size, limit / cost, self.last), min(one, other), max(one, other), runs)


def _reached(size: float, ratio: float, slope: float) -> float:
    """Where a cost has grown by ``ratio``; infinite where that is beyond any number."""
    power = math.log(ratio) / slope if slope > 0 else math.inf
    return size * math.exp(power) if power < 500 else math.inf


def fit(sizes: Sequence[float], costs: Sequence[float]) -> Growth:
    """The power law with the least squares of the logarithms.

    Args:
        sizes: (N,), above 0, ascending, at least three of them.
        costs: (N,), above 0.

    Raises:
        ValueError: fewer than three points, sizes that do not ascend, a number that is not above 0.

    Example:
        >>> from glutils.runs import growth
        >>> law = growth.fit([10, 20, 40, 80], [3 * x**2 for x in (10, 20, 40, 80)])
        >>> f"{law.exponent.value:.2f}, {law.reach(3e6).value:.0f}"
        '2.00, 1000'
    """
    if not len(sizes) == len(costs) >= 3:
        raise ValueError(f"sizes and costs must be as many, three at least; got {len(sizes)} and {len(costs)}")
    if any(not 0 < value < math.inf for value in (*sizes, *costs)):
        raise ValueError(f"sizes and costs must be finite and above 0, got {list(sizes)} and {list(costs)}")
    if any(one >= other for one, other in zip(sizes, sizes[1:], strict=False)):
        raise ValueError(f"sizes must ascend, got {list(sizes)}")
    from scipy import stats  # late: two seconds

    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    slope, start = statistics.linear_regression(x, y)
    left = sum((b - start - slope * a) ** 2 for a, b in zip(x, y, strict=True)) / (len(x) - 2)
    error = math.sqrt(left / (len(x) * statistics.pvariance(x)))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 2)) * error
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return Growth(Interval(slope, slope - half, slope + half, len(x)), last, (float(sizes[-1]), float(costs[-1])))
