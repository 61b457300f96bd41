"""The ZeroGLA objective by first-order solvers: the published attack's Adam (Zheng et al. 2025), and L-BFGS."""

from __future__ import annotations

import torch

from .. import _check
from ..observation import Observation
from ..priors import tv
from ..solvers import adam, lbfgs, search
from .base import Reconstruction, counted, need_labels, reconstruction
from .objective import matching, normal_start, size

ITERATIONS = {"lbfgs": 60, "adam": 2000}


def first_order(
    seen: Observation,
    *,
    solver: str,
    seed: int = 0,
    iterations: int | None = None,
    restarts: int | None = None,
    tv_weight: float | int = 1e-4,
    lr: float | int = 0.1,
    noise: float | int = 0.0,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """The ZeroGLA objective by ``"adam"`` (step 0.1, 50 warm-up steps, cosine to 1e-5) or ``"lbfgs"``.

    Args:
        iterations: default 60 (outer steps of 20) for L-BFGS, 2,000 for Adam.
        restarts: default 1.
        tv_weight: weight of the total variation (mean form) beside the sum of squared scalar errors divided by the sum
            of squared scalars; 0 turns it off.
        lr: step size of Adam.
        noise: for Adam, standard deviation of the noise added after each step, in units of the step size (0.2 in the
            reference code, which is never switched off and floors its PSNR near 35 dB).

    Deviations from the reference code: the scalar loss is divided by the sum of squared scalars, so that weights mean
    the same at any K and d; the schedule is fitted to the iterations; the tensor that was evaluated is the one kept; no
    batch statistics.
    """
    weight = _check.number("tv_weight", tv_weight, at_least=0)
    noise = _check.number("noise", noise, at_least=0)
    lr = _check.number("lr", lr, above=0)
    labels = need_labels(seen, "zerogla")
    iterations = ITERATIONS[solver] if iterations is None else iterations
    notes, extra = counted(seen, labels.new_empty(seen.shape).numel())
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

    found = search(
        solve,
        iterations=iterations,
        restarts=1 if restarts is None else restarts,
        seed=seed,
        seconds=seconds,
        keep="last" if solver == "adam" and not noise else "lowest",
        progress=progress,
        label=f"zerogla {solver}",
    )
    return reconstruction(found, found.variables[0].view(seen.shape), labels, *notes, **extra)
