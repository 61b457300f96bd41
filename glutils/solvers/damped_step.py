"""One step of Gauss-Newton: the damped linear equations at a point, and a step by them that is worth taking."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .least_squares import LeastSquares, Linear

DROP = 30.0, 1e4
"""Alpha and lambda fall as |r|^2 does in a good step, but at least and at most by these factors; by the first one where
equations are fewer than unknowns, since a tiny alpha would leave to rounding what the prior has to decide."""


@dataclass(frozen=True)
class Rules:
    """What stays the same from step to step: first damping, prior R(u), its centre m, and the accuracy to reach."""

    damping: float
    prior: Callable[[torch.Tensor], torch.Tensor] | None
    centre: torch.Tensor
    accuracy: float
    short: bool = True
    """Whether shortcuts are taken: further steps by old equations, rough matrices, and a prior that falls as r does."""

    def drop(self, before: float, now: float, problem: LeastSquares) -> float:
        """By what alpha and lambda fall after |r|^2 did from ``before`` to ``now``, see :data:`DROP`."""
        most = DROP[1] if self.short and problem.count >= problem.unknowns else DROP[0]
        return min(max(before / max(now, 1e-300), DROP[0]), most)


@dataclass(frozen=True)
class Normal:
    """The matrices of the normal equations at a point: J.T J, the prior's R, and the mean diagonal of the first."""

    gram: torch.Tensor
    prior: torch.Tensor
    scale: torch.Tensor


@dataclass(frozen=True)
class State:
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
    drop: float = 1.0
    """By how much alpha and lambda fall after a good step."""
    calibrated_at: float = math.inf
    """The rms below which the noise may have something new to say."""
    settled_steps: int = 0
    """In a row that hardly moved a sum that is all noise."""
    stalled_steps: int = 0
    """In a row that hardly lowered a sum far above the noise."""
    scale: torch.Tensor | float = 1.0
    """Of the last matrix: its mean diagonal."""
    normal: Normal | None = None
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
class Step:
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
    served: bool = False
    """Its equations served for another step."""


def total_at(state: State, rules: Rules, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """|r|^2 + alpha (u - m).T R (u - m)."""
    away = u - rules.centre
    return r.square().sum() + state.alpha * (away @ (state.normal.prior @ away))


def attempted(state: State, rules: Rules) -> Step | None:
    """A step that is worth taking, damped ever more until one is found; None: there is none."""
    lam = state.lam
    while True:
        linear = factored(state, lam)
        taken = None if linear is None else _tried(state, rules, linear, lam)
        if taken is not None or not state.fresh or state.rms < 2 * state.noise:
            return taken
        del linear  # its factor is as large as the matrix
        lam *= 10 if lam < 1e-6 else 4
        if lam > 1e8:
            return None


def factored(state: State, lam: float, room: torch.Tensor | None = None) -> Linear | None:
    """The damped equations; None where they are not positive definite to round-off.

    ``room``: a factor that is not needed any more, to be overwritten.
    """
    normal = state.normal
    a, b = float(state.alpha + 0.5 * lam * normal.scale), float(0.5 * lam * normal.scale)
    system = normal.gram.clone() if room is None else room.mT.copy_(normal.gram)
    system.add_(normal.prior, alpha=a)
    system.diagonal().add_(b)
    # columns first, as LAPACK has it: so the factor takes the place of the system, which may be a gigabyte
    system, failed = system.mT, torch.empty((), dtype=torch.int32, device=system.device)
    torch.linalg.cholesky_ex(system, out=(system, failed))
    return None if failed else Linear(state.problem, state.u, normal.prior, a, b, system, state.refine)


def _tried(state: State, rules: Rules, linear: Linear, lam: float) -> Step | None:
    """The step, whole or in part, if it lowers the sum; near the solution, if it shortens the next one."""
    delta = linear.solve(state.slope)

    def after(part: float) -> Step:
        u = state.u - part * delta
        r, gradient = state.problem.evaluate(u)
        return Step(u, r, gradient, linear, delta, lam, total_at(state, rules, u, r))

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
