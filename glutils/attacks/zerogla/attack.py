"""ZeroGLA: images from the scalars of zeroth-order federated learning (Zheng et al. 2025), and Gauss-Newton on it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypedDict, Unpack

from ... import _validate
from ...observation import Observation
from ...priors.latent import Latent
from ..base import ANY, ANY_LOSS, Card, Reconstruction, register
from .first_order import adam_attack, lbfgs_attack
from .gauss_newton import gauss_newton_attack

SOLVERS = {"gauss-newton": gauss_newton_attack, "lbfgs": lbfgs_attack, "adam": adam_attack}
"""What ``solver`` may name, and the function whose options, with their defaults, go with it."""
NOTHING = "all {} scalars are zero: they say nothing, and what is found is the prior alone"
"""The note on scalars of which rounding, a defence or a control left nothing."""
COMMON = ("seed", "iterations", "restarts", "seconds", "progress")
"""Options of all solvers."""


class Options(TypedDict, total=False):
    """Options of :func:`zerogla`: those of the chosen solver's function, which has their defaults."""

    iterations: int | None
    restarts: int | None
    prior: str | Latent | None
    components: int | None
    spread: float | int | None
    soften: bool | None
    ensemble: int | None
    box: bool | None
    coarse: int | None
    check: bool | None
    scalar_weight: str | float | int | None
    bn: str | None
    bn_weight: float | int | None
    tv_weight: float | int | None
    tv_kind: str | None
    l2_weight: float | int | None
    lr: float | int | None
    noise: float | int | None
    quirks: bool | Iterable[str] | None
    seconds: float | int | None
    progress: bool | None


@register(
    "zerogla",
    Card(
        title="ZeroGLA",
        kinds=("scalars",),
        several=("scalars",),
        simulates="ZerothOrder",
        variable="pixels",
        distance="squared, on scalars",
        prior="TV, l2, BN statistics (optional)",
        solver="Gauss-Newton (ours), L-BFGS, Adam",
        labels="given, or solved jointly",
        source="zheng2025zerogla",
        records=ANY,
        losses=ANY_LOSS,
    ),
)
def zerogla(
    seen: Observation, *, seed: int = 0, solver: str = "gauss-newton", **options: Unpack[Options]
) -> Reconstruction:
    """Images whose slopes along the public directions are the scalars that the client sent.

    min over x of sum_i (<grad_theta l(f(x), y), z_i> - s_i)^2, the ZeroGLA objective, plus a prior.

    Args:
        solver: ``"gauss-newton"`` (this book's; float64, exact to the client's noise once there are as many scalars as
            pixels; :func:`~glutils.attacks.zerogla.gauss_newton.gauss_newton_attack`), ``"lbfgs"`` (float64, strong
            Wolfe line search; :func:`~glutils.attacks.zerogla.first_order.lbfgs_attack`), or ``"adam"`` (the published
            one; :func:`~glutils.attacks.zerogla.first_order.adam_attack`). Each has its own options, with the defaults
            that its function shows; None stands for the default.
        iterations: 40, 60 (outer steps of 20) or 2,000, by solver.
        restarts: random starts, ranked by the attacker's own loss.
        prior, components, spread, soften, ensemble, box, coarse, check: of Gauss-Newton.
        scalar_weight, bn, bn_weight, tv_weight, tv_kind, l2_weight: the terms of the objective, of L-BFGS and Adam.
        lr, noise, quirks: of Adam. ``gl.attack("zerogla", seen, **gl.attacks.PUBLISHED, quirks=True)`` is the reference
            code's setting.

    Returns:
        The reconstruction; ``notes`` says so if there are fewer scalars than unknowns. ``diagnostics``: ``scalars``,
        ``unknowns``, and for Gauss-Newton ``noise``.

    Raises:
        ValueError: an option that the chosen solver would ignore.
        TypeError: an option that no solver has.
    """
    run = SOLVERS[_validate.choice("solver", solver, SOLVERS)]
    given = {name: value for name, value in options.items() if value is not None}
    takes = [name for name in _options(run) if name not in COMMON]
    for name, value in given.items():
        if name not in Options.__annotations__:
            raise TypeError(f"zerogla() got an unexpected keyword argument {name!r}")
        if name not in (*COMMON, *takes):
            raise ValueError(
                f"{name} does nothing with solver={solver!r}, which takes {', '.join(takes)}; got {value!r}"
            )
    result = run(seen, seed=seed, **given)
    if any(bool(message.payload.scalars.any()) for message in seen.rounds):
        return result
    return replace(result, notes=(NOTHING.format(seen.scalars), *result.notes))


def _options(run: Any) -> Mapping[str, inspect.Parameter]:
    """Keyword-only parameters of a function."""
    return {n: p for n, p in inspect.signature(run).parameters.items() if p.kind is p.KEYWORD_ONLY}


class BySolver(dict):
    """A default that depends on the solver, as help shows it."""

    def __repr__(self) -> str:
        return " or ".join(f"{value!r} ({solver})" for solver, value in self.items())


def _signature() -> inspect.Signature:
    """What help, and the list of options in errors, show: every option of every solver, with its real default."""
    plain = inspect.signature(zerogla)
    shown = [parameter for parameter in plain.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    own = {solver: _options(run) for solver, run in SOLVERS.items()}
    for name in Options.__annotations__:
        first, *others = ps = [options[name] for options in own.values() if name in options]
        same = all(p.default == first.default for p in others)
        default = BySolver({s: o[name].default for s, o in own.items() if name in o}) if not same else first.default
        shown.append(ps[0].replace(default=default))
    return plain.replace(parameters=shown)


zerogla.__signature__ = _signature()
