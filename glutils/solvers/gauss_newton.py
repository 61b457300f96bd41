"""Gauss-Newton with Levenberg-Marquardt damping and a quadratic prior whose weight is learned on the way.

Scalars are smooth functions of pixels, so finding the pixels is a nonlinear least-squares problem. It is badly
conditioned: a first-order solver crawls, Gauss-Newton solves it to machine precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from .. import _check
from .engine import Trace

REUSE = 1e-3
"""The matrix of the normal equations is kept for one more step if the last step shrank the loss by this factor."""

PRECISE = 1e-4
"""Below this r, a step that gains less than tenfold blames the float32 rows of J, and the next ones are float64."""


@runtime_checkable
class LeastSquares(Protocol):
    """What the solver asks of a problem: K equations r(u) = 0 in D unknowns."""

    count: int
    unknowns: int

    def evaluate(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """r(u), shape (K,), and J(u).T r(u), shape (D,)."""

    def normal(self, u: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """J(u).T J(u), shape (D, D), float64, from rows of J computed in ``dtype``."""

    def calibrate(self, u: torch.Tensor) -> tuple[float, float]:
        """Adjust the equations to the client's arithmetic at u.

        Root mean squares, in units of r: of the noise that is left, and of the bias that was removed."""


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
) -> float:
    """Minimise |r(u)|^2 + alpha (u - m).T R (u - m), noting every accepted iterate in ``trace`` with loss mean r^2.

    alpha starts large, so that the first steps find the coarse image, and falls tenfold with every good step, down to
    the value at which the prior is as uncertain as the noise in r says it must be: alpha = gamma sigma^2 / (u - m).T R
    (u - m), with gamma the number of unknowns that the equations determine (MacKay 1992). sigma comes from
    ``problem.calibrate``. With float64 scalars that end is practically zero and the data alone decide; with noisy
    scalars, or fewer scalars than unknowns, the prior fills in what they leave open. A step is damped by lambda, tried
    again with a larger lambda if it does not lower the sum, and the normal equations are used twice where the loss is
    falling fast. Rows of J are float32 until that is seen to limit the steps.

    Args:
        start: (D,) float64.
        damping: first lambda, relative to the mean diagonal of J.T J.
        prior: u to the matrix R(u) (D, D); None: the identity.
        centre: m (D,); default: the start.
        accuracy: stop when the root mean square of r is below this or below a tenth of the noise; and, with noise, when
            alpha and r have settled, or r has and the prior no longer matters. Six steps that hardly lower a sum that is far above the noise end it too.

    Returns:
        The noise sigma that the attacker believes to be in r (root mean square).
    """
    damping = _check.number("damping", damping, above=0)
    u, m = start, start if centre is None else centre
    sigma, alpha, lam = 0.0, None, damping
    r, pull = problem.evaluate(u)
    rms = float(r.square().mean().sqrt())
    trace.note(0, rms**2, (u,))
    matrix, at_u, quiet, stuck, calibrated_at, precise = None, False, 0, 0, math.inf, False
    for step in range(1, iterations + 1):
        if matrix is None:
            matrix, at_u = problem.normal(u, torch.float64 if precise else torch.float32), True
            scale = matrix.diagonal().mean().clamp_min(1e-300)
            shape = torch.eye(len(u), dtype=u.dtype, device=u.device) if prior is None else prior(u)
            shape = shape / shape.diagonal().mean()
            alpha = damping * scale if alpha is None else alpha
        away = shape @ (u - m)
        total = r.square().sum() + alpha * ((u - m) @ away)
        accepted = False
        while not accepted:
            system = torch.add(matrix, shape, alpha=float(alpha + 0.5 * lam * scale))
            system.diagonal().add_(0.5 * lam * scale)
            factor, failed = torch.linalg.cholesky_ex(system)
            if not failed:
                delta = torch.cholesky_solve((pull + alpha * away)[:, None], factor)[:, 0]
                new = u - delta
                new_r, new_pull = problem.evaluate(new)
                new_total = new_r.square().sum() + alpha * ((new - m) @ (shape @ (new - m)))
                accepted = bool(new_total < total)
            if accepted or not at_u or rms < 2 * sigma:
                break
            lam *= 10 if lam < 1e-6 else 4
            if lam > 1e8:
                break
        if not accepted:
            if not at_u:
                matrix = None  # an old matrix misled; the same point with its own
                continue
            if not precise and rms < PRECISE and rms > 2 * sigma:
                precise, matrix = True, None
                continue
            break  # machine precision: no step lowers the sum
        promised = 2 * (delta @ (pull + alpha * away)) - delta @ (matrix @ delta) - alpha * (delta @ (shape @ delta))
        gain = float((total - new_total) / promised) if promised > 0 else 1.0
        fell = float(new_total / total)
        u, r, pull, at_u = new, new_r, new_pull, False
        rms = float(r.square().mean().sqrt())
        trace.note(step, rms**2, (u,))
        if gain > 0.5:
            lam /= 10 if gain < 0.9 else 30
        elif gain < 0.25:
            lam *= 2
        if rms < min(0.05, calibrated_at / 10):
            sigma, bias = problem.calibrate(u)
            calibrated_at = min(rms, 100 * max(bias, sigma))  # nothing is learned before r shrinks to these
            r, pull = problem.evaluate(u)
        last = float(alpha)
        wanted = last / 30 if gain >= 0.9 else last / 10 if gain > 0.5 else last
        wanted = max(wanted, _evidence(u - m, shape, factor, last, wanted, sigma))
        settled = sigma > 0 and abs(math.log(max(wanted, 1e-300) / max(last, 1e-300))) < 0.1
        alpha = torch.as_tensor(wanted, dtype=u.dtype, device=u.device)
        if not (fell < REUSE and gain > 0.99 and matrix is not None):
            matrix = None
        quiet = quiet + 1 if fell > 0.98 and rms < 2 * sigma else 0
        alone = fell > 0.5 and rms < 2 * sigma and last * float(away @ (u - m)) < 0.01 * float(new_total)
        precise = precise or (fell > 0.1 and 2 * sigma < rms < PRECISE)
        stuck = stuck + 1 if fell > 0.9 and rms > 10 * sigma else 0
        if rms < max(accuracy, 0.1 * sigma) or (settled and quiet >= 2) or alone or stuck >= 6:
            break
    return sigma


def _evidence(away, shape, factor, alpha, wanted, sigma) -> float:
    """MacKay's fixed point for alpha: determined unknowns x noise variance / the prior's present value."""
    bound = len(away) * sigma**2 / max(float(away @ (shape @ away)), 1e-300)
    if bound <= wanted:  # all unknowns determined, and still below: no need to count them, which costs an inverse
        return bound
    free = alpha * float((torch.cholesky_inverse(factor) * shape).sum())
    return bound * max(len(away) - free, 1.0) / len(away)
