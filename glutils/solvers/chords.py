"""The steps that follow a step of Gauss-Newton by the same equations.

The matrix of the equations is what a step costs; beside it, another look at r is cheap. So before they are computed
anew, the equations serve again: with J = J(u), and r at the point that was reached,

    u <- u - (J.T J + alpha R + ...)^-1 (J.T r + alpha R (u - m)),

the chord method of several unknowns (Shamanskii 1967; Ortega and Rheinboldt 1970). It matters that the old J stands on
both sides. With the new J.T r what has changed in J is divided by the squares of the smallest singular values, instead
of by them, and the step leads astray at a change ten times as small or more.

Two things make it go further. The last few steps tell how a step changes with the point, and the next one takes that
into account (Anderson 1965): for linear equations it is then as good as conjugate residuals. And where the prior is
most of what is left of the sum, it is the prior that stands in the way: its weight falls, and the same J.T J is
factored anew with it, which costs a fifth of computing it at another point.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from .damped_step import Rules, State, Step, factored, total_at

FOLLOWING = 30
"""Most steps that follow by the same factor."""

WORTH = 0.8
"""A step is worth another one if it lowers the sum to this part; two in a row that do not are the last."""

KEPT = 10
"""Steps that tell the next one how steps change."""

HELD = 0.9
"""The share of the prior in the sum from which on its weight falls."""


def followed(state: State, taken: Step, rules: Rules) -> tuple[State, Step]:
    """As far as the equations at ``state.u``, by which a step was taken, lead on: ``gain`` stays that of the step.

    The state is the same but for alpha, and for r, which is that where alpha last changed.
    """
    if not (rules.short and state.fresh) or state.refine:
        return state, taken
    while True:
        first = taken.total
        taken = _chords(state, taken, rules)
        taken = replace(taken, fell=taken.fell * float(taken.total / first))
        now, before = float(taken.r.square().sum()), float(state.r.square().sum())
        due = math.isfinite(state.calibrated_at) and math.sqrt(now / len(taken.r)) < state.calibrated_at / 10
        if due or not now < 0.25 * before or now > (1 - HELD) * float(taken.total):
            return state, taken
        drop = rules.drop(before, now, state.problem)
        lighter = replace(state, alpha=state.alpha / drop, r=taken.r)
        room = taken.linear.factor  # as large as the matrix
        linear = factored(lighter, taken.lam / drop, room)
        if linear is None:
            return state, replace(taken, linear=factored(state, taken.lam, room))
        total = total_at(lighter, rules, taken.u, taken.r)
        state, taken = lighter, replace(taken, linear=linear, lam=taken.lam / drop, total=total)


def _chords(state: State, best: Step, rules: Rules) -> Step:
    """The best of the steps by one factor."""
    here, past, idle = best, [], 0
    for _ in range(FOLLOWING):
        onward = state.problem.vjp(state.u, here.r) + state.alpha * (state.normal.prior @ (here.u - rules.centre))
        past = [*past, (here.u, best.linear.solve(onward))][-KEPT - 1 :]
        u = _mixed(past)
        r, gradient = state.problem.evaluate(u)
        here = replace(here, u=u, r=r, gradient=gradient, total=total_at(state, rules, u, r), served=True)
        idle = 0 if here.total < WORTH * best.total else idle + 1
        best = here if here.total < best.total else best
        if idle == 2 or not here.total.isfinite():
            break
    return best


def _mixed(past: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Where the next step leads, from points and the steps down from them, newest last.

    With the changes U of the points and F of the steps from one to the next: the combination of the last few points
    where the step is shortest if it depends on the point as a line does, and the step down from there.
    """
    u, step = past[-1]
    if len(past) == 1:
        return u - step
    points, steps = (torch.stack(kind).diff(dim=0).T for kind in zip(*past, strict=True))
    share = torch.linalg.lstsq(steps, step[:, None], driver="gelsd").solution[:, 0]
    return u - points @ share - (step - steps @ share)
