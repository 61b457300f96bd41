"""Gauss-Newton with Levenberg-Marquardt damping and a quadratic prior whose weight is learned on the way.

Scalars are smooth functions of pixels, so finding the pixels is a nonlinear least-squares problem. It is badly
conditioned: a first-order solver needs thousands of steps, Gauss-Newton a few to machine precision.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .. import _validate
from .chords import followed
from .damped_step import DROP, Normal, Rules, State, Step, attempted, total_at
from .engine import Ending, Recorder
from .least_squares import LeastSquares, Solution, evidence, unit

REUSE = 1e-3
"""The matrix of the normal equations is kept for one more step if the last step shrank the loss by this factor."""

STILL = 1e-4
"""It is kept, too, after a step that moved u by less than this part of its distance to the centre."""

ROUGH = 1e-4
"""Damping with prior, relative to the mean diagonal of J.T J, above which that matrix may have products in float32."""

LEVEL = 1e-9
"""A step that moved u by less than this part of its distance to the centre, and hardly lowered the sum, is the last."""

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

    alpha starts large, so that the first steps find the coarse image, and falls with every good step, down to
    the value at which the prior is as uncertain as the noise in r says it must be: alpha = gamma sigma^2 / (u - m).T R
    (u - m), with gamma the number of unknowns that the equations determine (MacKay 1992). sigma comes from
    ``problem.calibrate``. With float64 scalars that end is practically zero and the data alone decide; with noisy
    scalars, or fewer scalars than unknowns, the prior fills in what they leave open. A step is damped by lambda, and
    tried again with a larger lambda if it does not lower the sum. After it the same equations serve for further steps,
    which cost little, for as long as these lower the sum well, see ``glutils.solvers.chords``. Where the prior is
    nearly all that is left of it, alpha falls at once, and the same matrix is factored again. The
    matrix of the normal equations is kept where the loss is falling fast, and where u hardly moves any more; far from
    the solution, where the damping hides it, it may be a rough one.

    Far from the solution these shortcuts lead another way than plain steps do, and now and then to another minimum. So
    a search that ends far above the noise, with as many equations as unknowns, goes back to its start and takes what
    iterations are left without any of them; what fits best is what it ends with.

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
    rules = Rules(_validate.number("damping", damping, above=0), prior, start if centre is None else centre, accuracy)
    walk = functools.partial(_walk, problem, start, iterations=iterations, calibrate=calibrate, until=until)
    state, steps, ending, short = walk(trace, rules)
    if short and not ending and calibrate and steps < iterations and _unexplained(state, rules):
        plain = _Best(trace, state)
        other, _, ending, _ = walk(plain, replace(rules, short=False), first=steps)
        if other.rms < state.rms:
            state = other
    return Solution(state.u, state.noise, state.problem, ending)


@dataclass
class _Best:
    """The record of a second search: what is reported is the best of it and of where the first one ended."""

    trace: Recorder
    best: State

    def report(self, step: int, loss: float | int | torch.Tensor, variables: tuple[torch.Tensor, ...]) -> Ending:
        known = self.best.rms**2
        return self.trace.report(step, *((loss, variables) if loss < known else (known, (self.best.u,))))

    def abandon(self, reason: str) -> Ending:
        return self.trace.abandon(reason)


def _unexplained(state: State, rules: Rules) -> bool:
    """Whether a search ended far above the noise, although there is but one solution."""
    return state.rms > max(10 * state.noise, rules.accuracy) and state.problem.count >= state.problem.unknowns


def _walk(
    problem: LeastSquares, start: torch.Tensor, trace: Recorder, rules: Rules, *, iterations: int, calibrate: bool,
    until: Callable[[torch.Tensor], bool] | None, first: int = 0,
) -> tuple[State, int, Ending, bool]:  # fmt: skip
    """From the start to where no step is worth taking; steps so far, how it ended, and whether a shortcut was taken.

    Of a walk that reached what ``until`` asks for, or that the trace has ended, no shortcut is reported.
    """
    state, short, step = _begin(problem, start, rules), False, first
    ending = trace.report(first, state.rms**2, (start,)) if not first else Ending.NONE
    while not ending and step < iterations:
        step += 1
        state = _linearised(state, rules)
        taken = attempted(state, rules)
        if taken is None:
            if state.fresh:
                break  # machine precision: no step lowers the sum
            state = replace(state, normal=None)  # an old matrix misled; the same point with its own
            continue
        state, taken = followed(state, _judged(state, taken), rules)
        state = _moved(state, taken, rules)
        short = short or taken.served or state.drop > DROP[0]
        ending = trace.report(step, state.rms**2, (state.u,))
        if ending or (until is not None and until(state.u)):
            return state, step, ending, False
        if calibrate:
            state = _calibrated(state)
        state, over = _relaxed(state, taken, rules)
        del taken  # its factor is as large as the matrix
        if over:
            break
    return replace(state, normal=None), step, ending, short  # the matrix may be a gigabyte


def _begin(problem: LeastSquares, start: torch.Tensor, rules: Rules) -> State:
    r, gradient = problem.evaluate(start)
    rms = float(r.square().mean().sqrt())
    noise = getattr(problem, "noise", 0.0)  # that is known beforehand, if any
    return State(problem, start, r, gradient, rms, rules.damping, noise)


def _linearised(state: State, rules: Rules) -> State:
    """With the matrices of the equations and of the prior at u, unless older ones still serve; the slope of the sum."""
    u, normal, alpha, fresh = state.u, state.normal, state.alpha, state.fresh
    if normal is None:
        damping = state.lam if alpha is None else state.lam + float(alpha / state.scale)
        rough = getattr(state.problem, "rough_gram", None) if rules.short and damping > ROUGH else None
        gram = (rough or state.problem.gram)(u)
        scale = gram.diagonal().mean().clamp_min(1e-300)
        normal, fresh = Normal(gram, unit(u if rules.prior is None else rules.prior(u)), scale), True
        alpha = rules.damping * scale if alpha is None else alpha
    pull = normal.prior @ (u - rules.centre)
    refine = 2 * state.noise < state.rms < REFINE and state.problem.count >= state.problem.unknowns
    state = replace(state, normal=normal, scale=normal.scale, alpha=alpha, fresh=fresh, refine=refine)
    slope, total = state.gradient + alpha * pull, total_at(state, rules, u, state.r)
    return replace(state, pull_to_centre=pull, slope=slope, total=total)


def _judged(state: State, taken: Step) -> Step:
    """The step with how it went, measured by what its linear equations promised."""
    delta, normal = taken.delta, state.normal
    curved = delta @ (normal.gram @ delta) + state.alpha * (delta @ (normal.prior @ delta))
    promised = 2 * (delta @ state.slope) - curved
    gain = taken.gain
    if not taken.natural:
        gain = float((state.total - taken.total) / promised) if promised > 0 else 1.0
    return replace(taken, gain=gain, fell=float(taken.total / state.total))


def _moved(state: State, taken: Step, rules: Rules) -> State:
    """There, with the linear equations trusted more or less, as they deserved."""
    lam, gain = taken.lam, taken.gain
    drop = rules.drop(float(state.r.square().sum()), float(taken.r.square().sum()), state.problem)
    if gain > 0.5:
        lam /= 10 if gain < 0.9 else drop
    elif gain < 0.25:
        lam *= 2
    rms = float(taken.r.square().mean().sqrt())
    return replace(state, u=taken.u, r=taken.r, gradient=taken.gradient, fresh=False, rms=rms, lam=lam, drop=drop)


def _calibrated(state: State) -> State:
    """With the noise that the problem finds once r is small enough to show something of it.

    A glance at some of the equations, where the problem offers it, tells when it is time to ask all of them.
    """
    if not state.rms < min(0.05, state.calibrated_at / 10):
        return state
    glance = getattr(state.problem, "glance", None) if math.isinf(state.calibrated_at) else None
    if glance is not None:
        noise, bias = glance(state.u)
        soon = 100 * max(bias, noise)
        if state.rms >= soon / 10:
            return replace(state, noise=noise, calibrated_at=soon)
    noise, bias, problem = state.problem.calibrate(state.u)
    r, gradient = problem.evaluate(state.u)
    now = min(state.rms, 100 * max(bias, noise))  # nothing new before r shrinks to these
    return replace(state, problem=problem, noise=noise, calibrated_at=now, r=r, gradient=gradient)


def _relaxed(state: State, taken: Step, rules: Rules) -> tuple[State, bool]:
    """A smaller alpha after a good step, but none below what the noise asks for; without the matrix, if it is worn out.

    And whether the search is over: r has reached the accuracy or its noise, has settled together with alpha, or no
    longer moves.
    """
    last, away, fell, noise = float(state.alpha), state.u - rules.centre, taken.fell, state.noise
    moved = float(taken.delta.norm()) / max(float(away.norm()), 1e-300)
    still = taken.gain >= 0.9 and moved < STILL
    goal = last
    if taken.gain > 0.5:
        goal /= 10 if taken.gain < 0.9 else state.drop
    noisy = state.rms < 2 * noise
    if still and noisy:
        goal = 0.0  # alpha has nowhere left to lead: at once to what the noise asks for
    goal = max(goal, evidence(away, state.normal.prior, taken.linear.factor, last, goal, noise))
    alpha = torch.as_tensor(goal, dtype=state.u.dtype, device=state.u.device)
    fast = fell < REUSE and taken.gain > 0.99 and not taken.served
    reused = fast or still or (state.refine and fell < 0.1 and not taken.linear.cg_failed)
    settled_steps = state.settled_steps + 1 if fell > 0.98 and noisy else 0
    stalled_steps = state.stalled_steps + 1 if fell > 0.9 and state.rms > 10 * noise and not taken.natural else 0
    settled = noise > 0 and abs(math.log(max(float(alpha), 1e-300) / max(last, 1e-300))) < 0.1
    alone = noisy and last * float(state.pull_to_centre @ away) < 0.01 * float(taken.total)
    if alone and fell <= 0.5:  # and the next step promises no more than a twentieth
        slope = state.gradient + last * state.pull_to_centre
        alone = float(slope @ taken.linear.preconditioned(slope)) < 0.05 * float(taken.total)
    level = fell > 0.9 and moved < LEVEL
    small = state.rms < max(rules.accuracy, 0.1 * noise)
    normal = state.normal if reused else None
    state = replace(state, alpha=alpha, normal=normal, settled_steps=settled_steps, stalled_steps=stalled_steps)
    settled = settled and (settled_steps >= 2 or (still and noisy))
    return state, small or settled or alone or level or stalled_steps >= 6
