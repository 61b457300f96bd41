"""ZeroGLA: images from the scalars of zeroth-order federated learning (Zheng et al. 2025), and Gauss-Newton on it."""

from __future__ import annotations

import torch

from .. import _check
from ..observation import Observation
from ..priors import smoothness, tv
from ..solvers import adam, gauss_newton, lbfgs, search
from .base import Card, Reconstruction, need_labels, reconstruction, register
from .equations import ScalarEquations
from .objective import matching, normal_start, size

SOLVERS = ("gauss-newton", "lbfgs", "adam")
PRIORS = ("tv", "smooth", "none")
ITERATIONS = {"gauss-newton": 40, "lbfgs": 60, "adam": 2000}


@register(
    "zerogla",
    Card(
        title="ZeroGLA",
        kinds=("scalars",),
        simulates="ZerothOrder",
        variable="pixels",
        distance="squared, on scalars",
        prior="TV (optional)",
        solver="Gauss-Newton, L-BFGS, Adam",
        labels="given",
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
    prior: str | None = None,
    spread: float | int | None = None,
    tv_weight: float | int | None = None,
    lr: float | int | None = None,
    noise: float | int | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Images whose slopes along the public directions are the scalars that the client sent.

    min over x of sum_i (<grad_theta l(f(x), y), z_i> - s_i)^2, the ZeroGLA objective, plus a prior.

    Args:
        solver: ``"gauss-newton"`` (this book's; float64, exact to the client's noise once there are as many scalars as
            pixels), ``"lbfgs"`` (float64, strong Wolfe line search), or ``"adam"`` (the published one: step 0.1, 50
            warm-up steps, cosine to 1e-5).
        iterations: default 40, 60 (outer steps of 20) or 2,000, by solver.
        restarts: random starts, ranked by the attacker's own loss; Gauss-Newton ends with the first whose scalars fit to
            ten times their noise. Default: 1, and 4 for Gauss-Newton on several images, which may fall into a false
            minimum where two images of a class are mixed.
        spread: standard deviation of Gauss-Newton's start around grey. Default: 0.01, and 0.1 for several images, which
            have to become different.
        prior: for Gauss-Newton, what decides where the scalars do not: ``"tv"`` (total variation), ``"smooth"``
            (squared differences) or ``"none"`` (distance from grey); default ``"tv"``. Its weight follows from the noise that the
            attacker finds in its own simulation of the client; no truth enters.
        tv_weight: for the first-order solvers, weight of the total variation (mean form) beside the sum of squared
            scalar errors divided by the sum of squared scalars. Default: 1e-4 for L-BFGS and Adam; 0 turns it off.
        lr: step size of Adam; default 0.1.
        noise: for Adam (default 0), standard deviation of the noise added after each step, in units of the step size (0.2 in the
            reference code, which is never switched off and floors its PSNR near 35 dB).

    Returns:
        The reconstruction; ``notes`` says so if there are fewer scalars than unknowns. ``diagnostics``: ``scalars``,
        ``unknowns``, and for Gauss-Newton ``noise`` (root mean square of the noise that the attacker finds in the
        scalars, relative to their standard deviation).

    Deviations from the reference code: the scalar loss is divided by the sum of squared scalars, so that weights mean
    the same at any K and d; the schedule is fitted to the iterations; the tensor that was evaluated is the one kept; no
    batch statistics.
    """
    _check.choice("solver", solver, SOLVERS)
    given = {"prior": prior, "spread": spread, "tv_weight": tv_weight, "lr": lr, "noise": noise}
    prior = _check.choice("prior", "tv" if prior is None else prior, PRIORS)
    weight = _check.number("tv_weight", 1e-4 if tv_weight is None else tv_weight, at_least=0)
    noise = _check.number("noise", 0.0 if noise is None else noise, at_least=0)
    lr = _check.number("lr", 0.1 if lr is None else lr, above=0)
    spread = (0.01 if seen.shape[0] == 1 else 0.1) if spread is None else _check.number("spread", spread, at_least=0)
    _refuse_others(solver, **given)
    labels = need_labels(seen, "zerogla")
    iterations = ITERATIONS[solver] if iterations is None else iterations
    unknowns, scalars = labels.new_empty(seen.shape).numel(), sum(len(entry.payload) for entry in seen.rounds)
    if restarts is None:
        restarts = 4 if solver == "gauss-newton" and seen.shape[0] > 1 else 1
    notes = []
    if scalars < unknowns:
        notes.append(f"under-determined: {scalars} scalars for {unknowns} unknowns; the prior decides the rest")
    extra = {"scalars": float(scalars), "unknowns": float(unknowns)}

    if solver == "gauss-newton":
        equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), labels), unknowns)
        matrix = _prior(prior, seen.shape, equations.targets.device)
        grey = equations.targets.new_full((unknowns,), 0.5)

        def solve(trace, generator):
            start = grey + spread * normal_start(seen, generator, torch.float64).flatten()
            extra["noise"] = gauss_newton(
                equations, start, trace, iterations=iterations, prior=matrix, centre=grey
            )

        def good(loss):
            return loss < (10 * extra.get("noise", 0.0)) ** 2

        keep = "last"  # the weight of the prior changes on the way, so losses of different steps do not compare
    else:
        good = None
        dtype = torch.float64 if solver == "lbfgs" else torch.float32
        objective = matching(
            seen,
            lambda v: (v[0], labels),
            weight=1 / max(size(seen), 1e-30),
            priors=[(weight, tv)] if weight else (),
            dtype=dtype,
        )

        def solve(trace, generator):
            start = (0.5 + 0.25 * normal_start(seen, generator, dtype),)
            if solver == "lbfgs":
                lbfgs(objective, start, trace, iterations=iterations, line_search=True)
            else:
                how = {"lr": lr, "schedule": "cosine", "warmup": min(50, iterations // 4)}
                adam(objective, start, trace, iterations=iterations, noise=noise, generator=generator, **how)

        keep = "last" if solver == "adam" and not noise else "lowest"

    found = search(
        solve,
        iterations=iterations,
        restarts=restarts,
        seed=seed,
        seconds=seconds,
        keep=keep,
        good=good,
        progress=progress,
        label=f"zerogla {solver}",
        view=lambda variables: variables[0].view(seen.shape),
    )
    return reconstruction(found, found.variables[0].view(seen.shape), labels, *notes, **extra)


def _refuse_others(solver: str, **options) -> None:
    """``ValueError`` for an option that the chosen solver would ignore."""
    takes = {"gauss-newton": ("prior", "spread"), "lbfgs": ("tv_weight",), "adam": ("tv_weight", "lr", "noise")}[solver]
    for name, value in options.items():
        if value is not None and name not in takes:
            raise ValueError(f"{name} does nothing with solver={solver!r}, which takes {', '.join(takes)}; got {value!r}")


def _prior(name: str, shape: tuple[int, ...], device: torch.device):
    """u to the matrix of the quadratic prior."""
    if name == "none":
        return None
    if name == "tv":
        return lambda u: smoothness(shape, u.view(shape)).to(device)
    fixed = smoothness(shape).to(device)
    return lambda u: fixed
