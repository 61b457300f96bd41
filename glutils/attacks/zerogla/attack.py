"""ZeroGLA: images from the scalars of zeroth-order federated learning (Zheng et al. 2025), and Gauss-Newton on it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from ... import _validate
from ...observation import Observation
from ...priors.latent import Latent
from ..base import Card, Reconstruction, register
from .first_order import first_order
from .gauss_newton import newton

SOLVERS = ("gauss-newton", "lbfgs", "adam")
IGNORED = {"gauss-newton": (), "lbfgs": ("lr", "noise", "quirks"), "adam": ()}
"""Options of the solver's function that this solver has no use for."""


@register(
    "zerogla",
    Card(
        title="ZeroGLA",
        kinds=("scalars",),
        simulates="ZerothOrder",
        variable="pixels",
        distance="squared, on scalars",
        prior="TV, l2, BN statistics (optional)",
        solver="Gauss-Newton, L-BFGS, Adam",
        labels="given, or solved jointly",
        source="zheng2025zerogla",
    ),
)
def zerogla(
    seen: Observation,
    *,
    seed: int = 0,
    solver: str = "gauss-newton",
    iterations: int | None = None,
    restarts: int | None = None,
    prior: str | Latent | None = None,
    components: int | None = None,
    spread: float | int | None = None,
    soften: bool | None = None,
    box: bool | None = None,
    coarse: int | None = None,
    check: bool | None = None,
    scalar_weight: str | float | int | None = None,
    bn: str | None = None,
    bn_weight: float | int | None = None,
    tv_weight: float | int | None = None,
    tv_kind: str | None = None,
    l2_weight: float | int | None = None,
    lr: float | int | None = None,
    noise: float | int | None = None,
    quirks: bool | Iterable[str] | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Images whose slopes along the public directions are the scalars that the client sent.

    min over x of sum_i (<grad_theta l(f(x), y), z_i> - s_i)^2, the ZeroGLA objective, plus a prior.

    Args:
        solver: ``"gauss-newton"`` (this book's; float64, exact to the client's noise once there are as many scalars as
            pixels; :func:`~glutils.attacks.zerogla.gauss_newton.newton`), ``"lbfgs"`` (float64, strong Wolfe line
            search), or ``"adam"`` (the published one); both :func:`~glutils.attacks.zerogla.first_order.first_order`.
        iterations: default 40, 60 (outer steps of 20) or 2,000, by solver.
        restarts: random starts, ranked by the attacker's own loss.
        prior, components, spread, soften, box, coarse, check: of Gauss-Newton.
        scalar_weight, bn, bn_weight, tv_weight, tv_kind, l2_weight: the terms of the objective, of L-BFGS and Adam.
        lr, noise, quirks: of Adam. ``gl.attack("zerogla", seen, **gl.attacks.PUBLISHED, quirks=True)`` is the reference
            code's setting.

    Returns:
        The reconstruction; ``notes`` says so if there are fewer scalars than unknowns. ``diagnostics``: ``scalars``,
        ``unknowns``, and for Gauss-Newton ``noise``.

    Raises:
        ValueError: an option that the chosen solver would ignore.
    """
    _validate.choice("solver", solver, SOLVERS)
    options = {"prior": prior, "components": components, "spread": spread}
    options |= {"soften": soften, "box": box, "coarse": coarse, "check": check}
    options |= {"lr": lr, "noise": noise, "quirks": quirks}
    options |= {"scalar_weight": scalar_weight, "bn": bn, "bn_weight": bn_weight}
    options |= {"tv_weight": tv_weight, "tv_kind": tv_kind, "l2_weight": l2_weight}
    options = {name: value for name, value in options.items() if value is not None}
    run = newton if solver == "gauss-newton" else first_order
    takes = [name for name, p in inspect.signature(run).parameters.items() if p.kind is p.KEYWORD_ONLY]
    takes = [name for name in takes if name not in (*COMMON, "solver", *IGNORED[solver])]
    for name, value in options.items():
        if name not in takes:
            raise ValueError(
                f"{name} does nothing with solver={solver!r}, which takes {', '.join(takes)}; got {value!r}"
            )
    if run is first_order:
        options["solver"] = solver
    return run(seen, seed=seed, iterations=iterations, restarts=restarts, seconds=seconds, progress=progress, **options)


COMMON = ("seed", "iterations", "restarts", "seconds", "progress")
