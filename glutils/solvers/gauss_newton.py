"""Gauss-Newton with Levenberg-Marquardt damping and a quadratic prior whose weight is learned on the way.

Scalars are smooth functions of pixels, so finding the pixels is a nonlinear least-squares problem. It is badly
conditioned: a first-order solver crawls, Gauss-Newton solves it to machine precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .. import _validate
from .engine import Trace
from .least_squares import LeastSquares, Linear, unit

REUSE = 1e-3
"""The matrix of the normal equations is kept for one more step if the last step shrank the loss by this factor."""

FINE = 1e-4
"""Below this r the matrix, whose rows are float32, is a preconditioner; the steps solve the float64 equations."""


def gauss_newton(
    problem: LeastSquares,
    start: torch.Tensor,
    trace: Trace,
    *,
    iterations: int = 40,
    damping: float = 1e-2,
    prior: Callable[[torch.Tensor], torch.Tensor] | None = None,
    centre: torch.Tensor | None = None,
    accuracy: float = 1e-11,
    calibrate: bool = True,
    until: Callable[[torch.Tensor], bool] | None = None,
) -> float:
    """Minimise ``|r(u)|^2 + alpha (u - m).T R (u - m)``, noting every accepted iterate in ``trace`` with loss mean r^2.

    alpha starts large, so that the first steps find the coarse image, and falls tenfold with every good step, down to
    the value at which the prior is as uncertain as the noise in r says it must be: alpha = gamma sigma^2 / (u - m).T R
    (u - m), with gamma the number of unknowns that the equations determine (MacKay 1992). sigma comes from
    ``problem.calibrate``. With float64 scalars that end is practically zero and the data alone decide; with noisy
    scalars, or fewer scalars than unknowns, the prior fills in what they leave open. A step is damped by lambda, tried
    again with a larger lambda if it does not lower the sum, and the normal equations are used twice where the loss is
    falling fast.

    Near the solution (r below ``FINE``, and at least as many equations as unknowns) two things change. The steps
    solve the normal equations in full float64 precision, with the float32 matrix as a preconditioner. And a step that
    raises the sum is still taken, whole or in part, if it shortens the next one (the natural monotonicity test,
    Deuflhard 2004): with as many scalars as pixels some direction hardly shows in r, and the way along it leads over
    places where everything else shows a little more.

    Args:
        start: (D,) float64.
        damping: first lambda, relative to the mean diagonal of J.T J.
        prior: u to the matrix R(u) (D, D), sparse or dense; None: the identity.
        centre: m (D,); default: the start.
        accuracy: stop when the root mean square of r is below this or below a tenth of the noise; and, with noise, when
            alpha and r have settled, or r has and the prior no longer matters. Six steps that hardly lower a sum that
            is far above the noise end it too.
        calibrate: whether to ask the problem for its noise; else it is taken to be zero.
        until: stop as soon as this is true of u.

    Returns:
        The noise sigma that the attacker believes to be in r (root mean square).
    """
    descent = _Descent(problem, start, _validate.number("damping", damping, above=0), prior, centre)
    trace.note(0, descent.rms**2, (start,))
    for step in range(1, iterations + 1):
        descent.linearise()
        taken = descent.attempt()
        if taken is None:
            if descent.fresh:
                break  # machine precision: no step lowers the sum
            descent.matrix = None  # an old matrix misled; the same point with its own
            continue
        descent.move(taken)
        trace.note(step, descent.rms**2, (descent.u,))
        if until is not None and until(descent.u):
            break
        if calibrate:
            descent.calibrate()
        descent.relax(taken)
        if descent.over(taken, accuracy):
            break
        del taken  # its factor is as large as the matrix
    return descent.sigma


@dataclass
class _Step:
    """A step that was taken: where it leads, and what promised it."""

    u: torch.Tensor
    r: torch.Tensor
    pull: torch.Tensor
    linear: Linear
    delta: torch.Tensor
    total: torch.Tensor | None = None
    natural: bool = False
    """It raised the sum, and shortened the next step."""
    gain: float = 0.8
    """How much of the fall that the linear equations promised came true."""
    fell: float = 1.0
    """The sum after the step, relative to the one before."""


class _Descent:
    """Where the search stands: the point u, its equations and their matrix, the prior's weight alpha, the damping."""

    def __init__(self, problem: LeastSquares, start: torch.Tensor, damping: float, prior, centre):
        self.problem, self.prior, self.damping = problem, prior, damping
        self.u, self.m = start, start if centre is None else centre
        self.sigma = getattr(problem, "noise", 0.0)  # noise that is known beforehand, if any
        self.alpha, self.lam = None, damping
        self.matrix, self.fresh = None, False
        self.quiet, self.stuck, self.calibrated_at = 0, 0, math.inf
        self.r, self.pull = problem.evaluate(start)
        self.rms = float(self.r.square().mean().sqrt())

    def linearise(self) -> None:
        """The matrices of the equations and of the prior at u, unless older ones still serve; the slope of the sum."""
        self.fine = 2 * self.sigma < self.rms < FINE and self.problem.count >= self.problem.unknowns
        if self.matrix is None:
            self.matrix, self.fresh = self.problem.normal(self.u), True
            self.scale = self.matrix.diagonal().mean().clamp_min(1e-300)
            self.shape = unit(self.u if self.prior is None else self.prior(self.u))
            self.alpha = self.damping * self.scale if self.alpha is None else self.alpha
        self.away = self.shape @ (self.u - self.m)
        self.slope = self.pull + self.alpha * self.away
        self.total = self._sum(self.u, self.r)

    def _sum(self, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """|r|^2 + alpha (u - m).T R (u - m)."""
        return r.square().sum() + self.alpha * ((u - self.m) @ (self.shape @ (u - self.m)))

    def attempt(self) -> _Step | None:
        """A step that is worth taking, damped ever more until one is found; None: there is none."""
        while True:
            linear = self._factored()
            taken = None if linear is None else self._tried(linear)
            if taken is not None or not self.fresh or self.rms < 2 * self.sigma:
                return taken
            del linear  # its factor is as large as the matrix
            self.lam *= 10 if self.lam < 1e-6 else 4
            if self.lam > 1e8:
                return None

    def _factored(self) -> Linear | None:
        """The damped equations; None where they are not positive definite to round-off."""
        a, b = float(self.alpha + 0.5 * self.lam * self.scale), float(0.5 * self.lam * self.scale)
        system = torch.add(self.matrix, self.shape, alpha=a)
        system.diagonal().add_(b)
        # columns first, as LAPACK has it: so the factor takes the place of the system, which may be a gigabyte
        system, failed = system.mT, torch.empty((), dtype=torch.int32, device=system.device)
        torch.linalg.cholesky_ex(system, out=(system, failed))
        return None if failed else Linear(self.problem, self.u, self.shape, a, b, system, self.fine)

    def _tried(self, linear: Linear) -> _Step | None:
        """The step, whole or in part, if it lowers the sum; near the solution, if it shortens the next one."""
        delta = linear.solve(self.slope)
        taken = self._after(linear, delta, 1.0)
        if taken.total < self.total:
            return taken
        for part in (1.0, 0.5, 0.25) if self.fine else ():
            if part < 1:
                taken = self._after(linear, delta, part)
            onward = self.problem.pull(self.u, taken.r) + self.alpha * (self.shape @ (taken.u - self.m))
            if linear.solve(onward).norm() < (1 - part / 4) * delta.norm():
                taken.natural = True
                return taken
        return None

    def _after(self, linear: Linear, delta: torch.Tensor, part: float) -> _Step:
        u = self.u - part * delta
        r, pull = self.problem.evaluate(u)
        return _Step(u, r, pull, linear, delta, self._sum(u, r))

    def move(self, taken: _Step) -> None:
        """Go there; trust the linear equations more or less, as they deserved."""
        delta = taken.delta
        curved = delta @ (self.matrix @ delta) + self.alpha * (delta @ (self.shape @ delta))
        promised = 2 * (delta @ self.slope) - curved
        if not taken.natural:
            taken.gain = float((self.total - taken.total) / promised) if promised > 0 else 1.0
        taken.fell = float(taken.total / self.total)
        self.u, self.r, self.pull, self.fresh = taken.u, taken.r, taken.pull, False
        self.rms = float(self.r.square().mean().sqrt())
        if taken.gain > 0.5:
            self.lam /= 10 if taken.gain < 0.9 else 30
        elif taken.gain < 0.25:
            self.lam *= 2

    def calibrate(self) -> None:
        """Ask the problem for its noise once r is small enough to show something of it."""
        if self.rms < min(0.05, self.calibrated_at / 10):
            self.sigma, bias = self.problem.calibrate(self.u)
            self.calibrated_at = min(self.rms, 100 * max(bias, self.sigma))  # nothing new before r shrinks to these
            self.r, self.pull = self.problem.evaluate(self.u)

    def relax(self, taken: _Step) -> None:
        """A smaller alpha after a good step, but none below what the noise asks for; and whether the matrix is kept."""
        last = float(self.alpha)
        wanted = last / 30 if taken.gain >= 0.9 else last / 10 if taken.gain > 0.5 else last
        wanted = max(wanted, _evidence(self.u - self.m, self.shape, taken.linear.factor, last, wanted, self.sigma))
        self.last, self.alpha = last, torch.as_tensor(wanted, dtype=self.u.dtype, device=self.u.device)
        fast = taken.fell < REUSE and taken.gain > 0.99
        if not fast and not (self.fine and taken.fell < 0.1 and not taken.linear.tired):
            self.matrix = None

    def over(self, taken: _Step, accuracy: float) -> bool:
        """Whether r has reached the accuracy or its noise, has settled together with alpha, or no longer moves."""
        fell, noisy = taken.fell, self.rms < 2 * self.sigma
        settled = self.sigma > 0 and abs(math.log(max(float(self.alpha), 1e-300) / max(self.last, 1e-300))) < 0.1
        self.quiet = self.quiet + 1 if fell > 0.98 and noisy else 0
        alone = fell > 0.5 and noisy and self.last * float(self.away @ (self.u - self.m)) < 0.01 * float(taken.total)
        self.stuck = self.stuck + 1 if fell > 0.9 and self.rms > 10 * self.sigma and not taken.natural else 0
        small = self.rms < max(accuracy, 0.1 * self.sigma)
        return small or (settled and self.quiet >= 2) or alone or self.stuck >= 6


def _evidence(away, shape, factor, alpha, wanted, sigma) -> float:
    """MacKay's fixed point for alpha: determined unknowns x noise variance / the prior's present value."""
    bound = len(away) * sigma**2 / max(float(away @ (shape @ away)), 1e-300)
    if bound <= wanted:  # all unknowns determined, and still below: no need to count them, which costs an inverse
        return bound
    rows, columns = shape.indices()
    free = alpha * float(torch.cholesky_inverse(factor)[rows, columns] @ shape.values())
    return bound * max(len(away) - free, 1.0) / len(away)
