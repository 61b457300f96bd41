"""Gauss-Newton between bounds: what is left to gain once the data alone have said what they can.

Many pixels of a digit are exactly black. Where noise leaves two images of a class hard to tell apart, that no pixel is
below black or above white is worth more than any smoothness.
"""

from __future__ import annotations

import torch

from .. import _validate
from .engine import Recorder
from .least_squares import LeastSquares, Solution


def boxed(
    problem: LeastSquares,
    start: torch.Tensor,
    trace: Recorder,
    *,
    low: float | int = 0.0,
    high: float | int = 1.0,
    iterations: int = 20,
    damping: float | int = 1e-3,
) -> Solution:
    """Minimise ``|r(u)|^2`` over low <= u <= high, from a start near the solution; accepted iterates go to ``trace``.

    Each step solves the damped normal equations as a quadratic program with bounds. There is no other prior, so the
    equations must determine u. Ends when a step lowers the sum by less than a part in 100,000, or none lowers it.

    Args:
        problem: see :class:`~glutils.solvers.least_squares.LeastSquares`; its ``calibrate`` is not called.
        start: (D,) float64; moved to the bounds where it is beyond them.
        low, high: the bounds.
        iterations: most steps.
        damping: first damping, relative to the mean diagonal of J.T J.

    Returns:
        Where it ended; the noise is zero, as there is no prior to weigh against it.
    """
    low, high = _validate.number("low", low), _validate.number("high", high)
    if not low < high:
        raise ValueError(f"high must be greater than low ({low}), got {high}")
    iterations = _validate.integer("iterations", iterations, at_least=1)
    lam = _validate.number("damping", damping, above=0)
    u = start.clamp(low, high)
    r, slope = problem.evaluate(u)
    total = float(r.square().sum())
    ending = trace.report(0, total / problem.count, (u,))
    for step in range(1, iterations + 1):
        if ending:
            break
        matrix = problem.gram(u)
        scale = matrix.diagonal().mean()
        for _ in range(8):
            damped = matrix.clone()
            damped.diagonal().add_(lam * scale)
            new = (u + bounded_quadratic(damped, slope, low - u, high - u)).clamp(low, high)
            new_r, new_slope = problem.evaluate(new)
            if accepted := float(new_r.square().sum()) < total:
                break
            lam *= 5
        if not accepted:
            break
        before, total = total, float(new_r.square().sum())
        u, slope, lam = new, new_slope, lam / 10
        ending = trace.report(step, total / problem.count, (u,))
        if before - total < 1e-5 * before:
            break
    return Solution(u, 0.0, problem, ending)


def bounded_quadratic(
    matrix: torch.Tensor, slope: torch.Tensor, low: torch.Tensor, high: torch.Tensor, turns: int = 50
) -> torch.Tensor:
    """The d between ``low`` and ``high`` with the smallest d.T A d / 2 + slope.T d, shape (D,).

    Primal-dual active sets (Hintermueller, Ito and Kunisch 2002): guess which entries sit at a bound, solve for the
    others, correct the guess. It nearly always ends after a few turns; if it cycles, the last d is cut to size.

    Args:
        matrix: A (D, D), symmetric and positive definite.
        slope, low, high: (D,).
    """
    at_low = torch.zeros_like(slope, dtype=torch.bool)
    at_high = torch.zeros_like(at_low)
    for _ in range(turns):
        free = (~(at_low | at_high)).nonzero()[:, 0]
        d = torch.where(at_low, low, torch.where(at_high, high, torch.zeros_like(low)))
        factor = torch.linalg.cholesky(matrix[free][:, free])
        d[free] = torch.cholesky_solve(-(slope + matrix @ d)[free, None], factor)[:, 0]
        force = matrix @ d + slope
        fixed = at_low | at_high
        next_low = torch.where(fixed, at_low & (force > 0), d < low)
        next_high = torch.where(fixed, at_high & (force < 0), d > high)
        if torch.equal(next_low, at_low) and torch.equal(next_high, at_high):
            break
        at_low, at_high = next_low, next_high
    return d.clamp(low, high)
