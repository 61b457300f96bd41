"""IG: Inverting Gradients (Geiping, Bauermeister, Droege, Moeller, NeurIPS 2020)."""

from __future__ import annotations

from .. import _check
from ..observation import Observation
from ..priors import tv
from ..solvers import adam, search
from .base import Card, Reconstruction, need_labels, reconstruction, register
from .objective import cosine, matching, normal_start


@register(
    "ig",
    Card(
        title="IG",
        kinds=("gradient", "delta"),
        simulates="FedSGD or FedAvg",
        variable="pixels",
        distance="cosine",
        prior="TV, box",
        solver="signed Adam",
        labels="given",
        source="geiping2020ig",
    ),
)
def ig(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 400,
    restarts: int = 1,
    lr: float | int = 0.1,
    tv_weight: float | int = 1e-2,
    sign: bool = True,
    box: bool = True,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Pixels whose gradient points the observed way: min 1 - cos(grad l(f(x), y), g) + tv_weight TV(x) (eq. 4).

    Adam on the sign of the pixels' gradient, step 0.1 divided by ten at 3/8, 5/8, 7/8 of the iterations, projection to
    [0, 1] after every step. For FedAvg the local steps are simulated and the parameter difference is matched.
    The last iterate is reported, because the step size has decayed; restarts are ranked by the objective.

    Deviations: TV weight 1e-2 (mean form) instead of 1e-1, which costs several dB at 32x32; 400 iterations instead of
    4,800; the start is N(0.5, 0.25), which is the paper's N(0, 1) in normalised pixels.
    """
    labels = need_labels(seen, "ig")
    _check.number("lr", lr, above=0)
    _check.number("tv_weight", tv_weight, at_least=0)
    objective = matching(seen, lambda v: (v[0], labels), distance=cosine, priors=[(tv_weight, tv)] if tv_weight else ())

    def solve(trace, generator):
        start = (0.5 + 0.25 * normal_start(seen, generator),)
        if box:
            start = (start[0].clamp(0, 1),)
        adam(objective, start, trace, iterations=iterations, lr=lr, schedule="steps", sign=sign, box=box)

    found = search(
        solve,
        iterations=iterations,
        restarts=restarts,
        seed=seed,
        seconds=seconds,
        keep="last",
        progress=progress,
        label="ig",
    )
    return reconstruction(found, found.variables[0], labels)
