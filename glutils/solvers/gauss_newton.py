"""Gauss-Newton with Levenberg-Marquardt damping and a quadratic prior whose weight is learned on the way.

Scalars are smooth functions of pixels, so finding the pixels is a nonlinear least-squares problem. It is badly
conditioned: a first-order solver crawls, Gauss-Newton solves it to machine precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from .. import _check
from .engine import Trace

REUSE = 1e-3
"""The matrix of the normal equations is kept for one more step if the last step shrank the loss by this factor."""

FINE = 1e-4
"""Below this r the matrix, whose rows are float32, is a preconditioner; the steps solve the float64 equations."""

PRODUCTS = 12
"""Most products with J.T J that one such solution takes."""


@runtime_checkable
class LeastSquares(Protocol):
    """What the solver asks of a problem: K equations r(u) = 0 in D unknowns."""

    count: int
    unknowns: int

    def evaluate(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """r(u), shape (K,), and J(u).T r(u), shape (D,)."""

    def push(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """J(u) v, shape (K,)."""

    def pull(self, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """J(u).T r for any r of shape (K,); shape (D,)."""

    def normal(self, u: torch.Tensor) -> torch.Tensor:
        """J(u).T J(u), shape (D, D), float64, from rows of J in float32."""

    def calibrate(self, u: torch.Tensor) -> tuple[float, float]:
        """Adjust the equations to the client's arithmetic at u.

        Root mean squares, in units of r: of the noise that is left, and of the bias that was removed."""


@dataclass
class _Linear:
    """The damped normal equations at u, (J.T J + a R + b) d = c, factored from float32 rows."""

    problem: LeastSquares
    u: torch.Tensor
    shape: torch.Tensor
    """R, sparse."""
    a: float
    b: float
    factor: torch.Tensor
    exact: bool
    tired: bool = False

    def solve(self, c: torch.Tensor) -> torch.Tensor:
        """d; where ``exact``, by conjugate gradients on products with J itself, preconditioned by the factor.

        Rows in float32 lose every direction in which J is ten million times smaller than in its largest one. The
        factored matrix loses them, too: it squares J. The products do neither.
        """
        d = torch.cholesky_solve(c[:, None], self.factor)[:, 0]
        if not self.exact:
            return d
        d, q, rest, size = torch.zeros_like(d), d, c, c @ d
        first = size
        for _ in range(PRODUCTS):
            onward = self.problem.push(self.u, q)
            towards = self.a * (self.shape @ q) + self.b * q
            length = size / (onward @ onward + q @ towards)
            d = d + length * q
            rest = rest - length * (self.problem.pull(self.u, onward) + towards)
            z = torch.cholesky_solve(rest[:, None], self.factor)[:, 0]
            size, last = rest @ z, size
            if not size > 1e-6 * first:
                return d
            q = z + size / last * q
        self.tired = True
        return d


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
    damping = _check.number("damping", damping, above=0)
    u, m = start, start if centre is None else centre
    sigma, alpha, lam = getattr(problem, "noise", 0.0), None, damping  # noise that is known beforehand, if any
    r, pull = problem.evaluate(u)
    rms = float(r.square().mean().sqrt())
    trace.note(0, rms**2, (u,))
    matrix, at_u, quiet, stuck, calibrated_at = None, False, 0, 0, math.inf
    for step in range(1, iterations + 1):
        fine = 2 * sigma < rms < FINE and problem.count >= problem.unknowns
        if matrix is None:
            matrix, at_u = problem.normal(u), True
            scale = matrix.diagonal().mean().clamp_min(1e-300)
            shape = _unit(u if prior is None else prior(u))
            alpha = damping * scale if alpha is None else alpha
        away = shape @ (u - m)
        total = r.square().sum() + alpha * ((u - m) @ away)
        accepted = natural = False
        while not accepted:
            a, b = float(alpha + 0.5 * lam * scale), float(0.5 * lam * scale)
            system = torch.add(matrix, shape, alpha=a)
            system.diagonal().add_(b)
            factor, failed = torch.linalg.cholesky_ex(system)
            del system  # as large as the matrix
            if not failed:
                linear = _Linear(problem, u, shape, a, b, factor, fine)
                delta = linear.solve(pull + alpha * away)
                new = u - delta
                new_r, new_pull = problem.evaluate(new)
                new_total = new_r.square().sum() + alpha * ((new - m) @ (shape @ (new - m)))
                accepted = bool(new_total < total)
                for part in (1.0, 0.5, 0.25) if fine and not accepted else ():
                    if part < 1:
                        new = u - part * delta
                        new_r, new_pull = problem.evaluate(new)
                    next_step = linear.solve(problem.pull(u, new_r) + alpha * (shape @ (new - m)))
                    accepted = natural = bool(next_step.norm() < (1 - part / 4) * delta.norm())
                    if accepted:
                        new_total = new_r.square().sum() + alpha * ((new - m) @ (shape @ (new - m)))
                        break
            if accepted or not at_u or rms < 2 * sigma:
                break
            lam *= 10 if lam < 1e-6 else 4
            if lam > 1e8:
                break
        if not accepted:
            if not at_u:
                matrix = None  # an old matrix misled; the same point with its own
                continue
            break  # machine precision: no step lowers the sum
        promised = 2 * (delta @ (pull + alpha * away)) - delta @ (matrix @ delta) - alpha * (delta @ (shape @ delta))
        gain = 0.8 if natural else float((total - new_total) / promised) if promised > 0 else 1.0
        fell = float(new_total / total)
        u, r, pull, at_u = new, new_r, new_pull, False
        rms = float(r.square().mean().sqrt())
        trace.note(step, rms**2, (u,))
        if gain > 0.5:
            lam /= 10 if gain < 0.9 else 30
        elif gain < 0.25:
            lam *= 2
        if until is not None and until(u):
            break
        if calibrate and rms < min(0.05, calibrated_at / 10):
            sigma, bias = problem.calibrate(u)
            calibrated_at = min(rms, 100 * max(bias, sigma))  # nothing is learned before r shrinks to these
            r, pull = problem.evaluate(u)
        last = float(alpha)
        wanted = last / 30 if gain >= 0.9 else last / 10 if gain > 0.5 else last
        wanted = max(wanted, _evidence(u - m, shape, factor, last, wanted, sigma))
        settled = sigma > 0 and abs(math.log(max(wanted, 1e-300) / max(last, 1e-300))) < 0.1
        alpha = torch.as_tensor(wanted, dtype=u.dtype, device=u.device)
        if not (fell < REUSE and gain > 0.99 and matrix is not None) and not (fine and fell < 0.1 and not linear.tired):
            matrix = None
        quiet = quiet + 1 if fell > 0.98 and rms < 2 * sigma else 0
        alone = fell > 0.5 and rms < 2 * sigma and last * float(away @ (u - m)) < 0.01 * float(new_total)
        stuck = stuck + 1 if fell > 0.9 and rms > 10 * sigma and not natural else 0
        if rms < max(accuracy, 0.1 * sigma) or (settled and quiet >= 2) or alone or stuck >= 6:
            break
    return sigma


def _unit(matrix: torch.Tensor) -> torch.Tensor:
    """A prior's matrix as a sparse one with a mean diagonal of 1; a vector stands for the identity of its length."""
    if matrix.dim() == 1:
        places = torch.arange(len(matrix), device=matrix.device).expand(2, -1)
        return torch.sparse_coo_tensor(
            places, torch.ones_like(matrix), (len(matrix),) * 2, check_invariants=True
        ).coalesce()
    matrix = (matrix if matrix.is_sparse else matrix.to_sparse()).coalesce()
    rows, columns = matrix.indices()
    return matrix * (len(matrix) / float(matrix.values()[rows == columns].sum()))


def _evidence(away, shape, factor, alpha, wanted, sigma) -> float:
    """MacKay's fixed point for alpha: determined unknowns x noise variance / the prior's present value."""
    bound = len(away) * sigma**2 / max(float(away @ (shape @ away)), 1e-300)
    if bound <= wanted:  # all unknowns determined, and still below: no need to count them, which costs an inverse
        return bound
    rows, columns = shape.indices()
    free = alpha * float(torch.cholesky_inverse(factor)[rows, columns] @ shape.values())
    return bound * max(len(away) - free, 1.0) / len(away)
