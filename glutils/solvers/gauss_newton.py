"""Gauss-Newton with Levenberg-Marquardt damping and a quadratic prior whose weight is learned on the way.

Scalars are smooth functions of pixels, so finding the pixels is a nonlinear least-squares problem. It is badly
conditioned: a first-order solver needs thousands of steps, Gauss-Newton a few to machine precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .. import _validate
from .engine import Recorder
from .least_squares import LeastSquares, Linear, Solution, evidence, unit

REUSE = 1e-3
"""The matrix of the normal equations is kept for one more step if the last step shrank the loss by this factor."""

STILL = 1e-4
"""It is kept, too, after a step that moved u by less than this part of its distance to the centre."""

REFINE = 1e-4
"""Below this r the matrix, whose rows are float32, is a preconditioner; the steps solve the float64 equations."""


def gauss_newton(
    problem: LeastSquares,
    start: torch.Tensor,
    trace: Recorder,
    *,
    iterations: int = 40,
    damping: float = 1e-2,
    prior: Callable[[torch.Tensor], torch.Tensor] | None = None,
    centre: torch.Tensor | None = None,
    accuracy: float = 1e-11,
    calibrate: bool = True,
    until: Callable[[torch.Tensor], bool] | None = None,
) -> Solution:
    """Minimise ``|r(u)|^2 + alpha (u - m).T R (u - m)``; accepted iterates go to ``trace`` with loss mean r^2.

    alpha starts large, so that the first steps find the coarse image, and falls tenfold with every good step, down to
    the value at which the prior is as uncertain as the noise in r says it must be: alpha = gamma sigma^2 / (u - m).T R
    (u - m), with gamma the number of unknowns that the equations determine (MacKay 1992). sigma comes from
    ``problem.calibrate``. With float64 scalars that end is practically zero and the data alone decide; with noisy
    scalars, or fewer scalars than unknowns, the prior fills in what they leave open. A step is damped by lambda, and
    tried again with a larger lambda if it does not lower the sum. The matrix of the normal equations is kept where the
    loss is falling fast, and where u hardly moves any more.

    Near the solution (r below ``REFINE``, and at least as many equations as unknowns) two things change. The steps
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
        The last accepted iterate, the noise sigma that the attacker believes to be in r, and the equations as they were
        last calibrated.
    """
    rules = _Rules(_validate.number("damping", damping, above=0), prior, start if centre is None else centre, accuracy)
    state = _begin(problem, start, rules)
    ending = trace.report(0, state.rms**2, (start,))
    for step in range(1, iterations + 1):
        if ending:
            break
        state = _linearised(state, rules)
        taken = _attempted(state, rules)
        if taken is None:
            if state.fresh:
                break  # machine precision: no step lowers the sum
            state = replace(state, normal=None)  # an old matrix misled; the same point with its own
            continue
        state, taken = _moved(state, taken)
        ending = trace.report(step, state.rms**2, (state.u,))
        if ending or (until is not None and until(state.u)):
            break
        if calibrate:
            state = _calibrated(state)
        state, over = _relaxed(state, taken, rules)
        del taken  # its factor is as large as the matrix
        if over:
            break
    return Solution(state.u, state.noise, state.problem, ending)


@dataclass(frozen=True)
class _Rules:
    """What stays the same from step to step: first damping, prior R(u), its centre m, and the accuracy to reach."""

    damping: float
    prior: Callable[[torch.Tensor], torch.Tensor] | None
    centre: torch.Tensor
    accuracy: float


@dataclass(frozen=True)
class _Normal:
    """The matrices of the normal equations at a point: J.T J, the prior's R, and the mean diagonal of the first."""

    gram: torch.Tensor
    prior: torch.Tensor
    scale: torch.Tensor


@dataclass(frozen=True)
class _State:
    """Where the search stands: what one step hands to the next."""

    problem: LeastSquares
    u: torch.Tensor
    r: torch.Tensor
    gradient: torch.Tensor
    """J(u).T r(u)"""
    rms: float
    """Of r when u was reached, before the equations were calibrated there."""
    lam: float
    noise: float
    """sigma"""
    alpha: torch.Tensor | None = None
    calibrated_at: float = math.inf
    """The rms below which the noise may have something new to say."""
    settled_steps: int = 0
    """In a row that hardly moved a sum that is all noise."""
    stalled_steps: int = 0
    """In a row that hardly lowered a sum far above the noise."""
    normal: _Normal | None = None
    """None: to be computed at u."""
    fresh: bool = False
    """Whether ``normal`` was computed at u itself."""
    refine: bool = False
    """Whether steps solve the equations in float64, with the float32 matrix as a preconditioner."""
    pull_to_centre: torch.Tensor | None = None
    """R (u - m) where the equations were last linearised, as are the two that follow."""
    slope: torch.Tensor | None = None
    total: torch.Tensor | None = None


@dataclass(frozen=True)
class _Step:
    """A step that was taken: where it leads, and what promised it."""

    u: torch.Tensor
    r: torch.Tensor
    gradient: torch.Tensor
    linear: Linear
    delta: torch.Tensor
    lam: float
    total: torch.Tensor
    natural: bool = False
    """It raised the sum, and shortened the next step."""
    gain: float = 0.8
    """How much of the fall that the linear equations promised came true."""
    fell: float = 1.0
    """The sum after the step, relative to the one before."""


def _begin(problem: LeastSquares, start: torch.Tensor, rules: _Rules) -> _State:
    r, gradient = problem.evaluate(start)
    rms = float(r.square().mean().sqrt())
    noise = getattr(problem, "noise", 0.0)  # that is known beforehand, if any
    return _State(problem, start, r, gradient, rms, rules.damping, noise)


def _linearised(state: _State, rules: _Rules) -> _State:
    """With the matrices of the equations and of the prior at u, unless older ones still serve; the slope of the sum."""
    u, normal, alpha, fresh = state.u, state.normal, state.alpha, state.fresh
    if normal is None:
        gram = state.problem.gram(u)
        scale = gram.diagonal().mean().clamp_min(1e-300)
        normal, fresh = _Normal(gram, unit(u if rules.prior is None else rules.prior(u)), scale), True
        alpha = rules.damping * scale if alpha is None else alpha
    pull = normal.prior @ (u - rules.centre)
    refine = 2 * state.noise < state.rms < REFINE and state.problem.count >= state.problem.unknowns
    state = replace(state, normal=normal, alpha=alpha, fresh=fresh, refine=refine, pull_to_centre=pull)
    return replace(state, slope=state.gradient + alpha * pull, total=_sum(state, rules, u, state.r))


def _sum(state: _State, rules: _Rules, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """|r|^2 + alpha (u - m).T R (u - m)."""
    away = u - rules.centre
    return r.square().sum() + state.alpha * (away @ (state.normal.prior @ away))


def _attempted(state: _State, rules: _Rules) -> _Step | None:
    """A step that is worth taking, damped ever more until one is found; None: there is none."""
    lam = state.lam
    while True:
        linear = _factored(state, lam)
        taken = None if linear is None else _tried(state, rules, linear, lam)
        if taken is not None or not state.fresh or state.rms < 2 * state.noise:
            return taken
        del linear  # its factor is as large as the matrix
        lam *= 10 if lam < 1e-6 else 4
        if lam > 1e8:
            return None


def _factored(state: _State, lam: float) -> Linear | None:
    """The damped equations; None where they are not positive definite to round-off."""
    normal = state.normal
    a, b = float(state.alpha + 0.5 * lam * normal.scale), float(0.5 * lam * normal.scale)
    system = torch.add(normal.gram, normal.prior, alpha=a)
    system.diagonal().add_(b)
    # columns first, as LAPACK has it: so the factor takes the place of the system, which may be a gigabyte
    system, failed = system.mT, torch.empty((), dtype=torch.int32, device=system.device)
    torch.linalg.cholesky_ex(system, out=(system, failed))
    return None if failed else Linear(state.problem, state.u, normal.prior, a, b, system, state.refine)


def _tried(state: _State, rules: _Rules, linear: Linear, lam: float) -> _Step | None:
    """The step, whole or in part, if it lowers the sum; near the solution, if it shortens the next one."""
    delta = linear.solve(state.slope)

    def after(part: float) -> _Step:
        u = state.u - part * delta
        r, gradient = state.problem.evaluate(u)
        return _Step(u, r, gradient, linear, delta, lam, _sum(state, rules, u, r))

    taken = after(1.0)
    if taken.total < state.total:
        return taken
    for part in (1.0, 0.5, 0.25) if state.refine else ():
        if part < 1:
            taken = after(part)
        pull = state.normal.prior @ (taken.u - rules.centre)
        onward = state.problem.vjp(state.u, taken.r) + state.alpha * pull
        if linear.solve(onward).norm() < (1 - part / 4) * delta.norm():
            return replace(taken, natural=True)
    return None


def _moved(state: _State, taken: _Step) -> tuple[_State, _Step]:
    """There, with the linear equations trusted more or less, as they deserved; the step with how it went."""
    delta, normal, lam, gain = taken.delta, state.normal, taken.lam, taken.gain
    curved = delta @ (normal.gram @ delta) + state.alpha * (delta @ (normal.prior @ delta))
    promised = 2 * (delta @ state.slope) - curved
    if not taken.natural:
        gain = float((state.total - taken.total) / promised) if promised > 0 else 1.0
    fell = float(taken.total / state.total)
    if gain > 0.5:
        lam /= 10 if gain < 0.9 else 30
    elif gain < 0.25:
        lam *= 2
    rms = float(taken.r.square().mean().sqrt())
    state = replace(state, u=taken.u, r=taken.r, gradient=taken.gradient, fresh=False, rms=rms, lam=lam)
    return state, replace(taken, gain=gain, fell=fell)


def _calibrated(state: _State) -> _State:
    """With the noise that the problem finds once r is small enough to show something of it."""
    if not state.rms < min(0.05, state.calibrated_at / 10):
        return state
    noise, bias, problem = state.problem.calibrate(state.u)
    r, gradient = problem.evaluate(state.u)
    now = min(state.rms, 100 * max(bias, noise))  # nothing new before r shrinks to these
    return replace(state, problem=problem, noise=noise, calibrated_at=now, r=r, gradient=gradient)


def _relaxed(state: _State, taken: _Step, rules: _Rules) -> tuple[_State, bool]:
    """A smaller alpha after a good step, but none below what the noise asks for; without the matrix, if it is worn out.

    And whether the search is over: r has reached the accuracy or its noise, has settled together with alpha, or no
    longer moves.
    """
    last, away, fell, noise = float(state.alpha), state.u - rules.centre, taken.fell, state.noise
    still = taken.gain >= 0.9 and float(taken.delta.norm()) < STILL * float(away.norm())
    goal = last / 30 if taken.gain >= 0.9 else last / 10 if taken.gain > 0.5 else last
    noisy = state.rms < 2 * noise
    if still and noisy:
        goal = 0.0  # alpha has nowhere left to lead: at once to what the noise asks for
    goal = max(goal, evidence(away, state.normal.prior, taken.linear.factor, last, goal, noise))
    alpha = torch.as_tensor(goal, dtype=state.u.dtype, device=state.u.device)
    fast = fell < REUSE and taken.gain > 0.99
    reused = fast or still or (state.refine and fell < 0.1 and not taken.linear.cg_failed)
    settled_steps = state.settled_steps + 1 if fell > 0.98 and noisy else 0
    stalled_steps = state.stalled_steps + 1 if fell > 0.9 and state.rms > 10 * noise and not taken.natural else 0
    settled = noise > 0 and abs(math.log(max(float(alpha), 1e-300) / max(last, 1e-300))) < 0.1
    alone = fell > 0.5 and noisy and last * float(state.pull_to_centre @ away) < 0.01 * float(taken.total)
    small = state.rms < max(rules.accuracy, 0.1 * noise)
    normal = state.normal if reused else None
    state = replace(state, alpha=alpha, normal=normal, settled_steps=settled_steps, stalled_steps=stalled_steps)
    settled = settled and (settled_steps >= 2 or (still and noisy))
    return state, small or settled or alone or stalled_steps >= 6
