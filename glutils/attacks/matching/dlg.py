"""DLG: Deep Leakage from Gradients (Zhu, Liu, Han, NeurIPS 2019)."""

from __future__ import annotations

import torch

from ...observation import Observation
from ...solvers import Tally, lbfgs, search
from ..base import Card, Reconstruction, reconstruction, register
from .objective import matching, normal_start, size

CONVERGED = 1e-8
"""A restart has converged when the squared distance is below this times the payload's own sum of squares."""
HOPELESS = 1e-2
"""... and is given up if after 20 outer steps it is still above this."""


@register(
    "dlg",
    Card(
        title="DLG",
        kinds=("gradient",),
        simulates="FedSGD",
        variable="pixels, soft labels",
        distance="squared",
        prior="none",
        solver="L-BFGS",
        labels="optimised",
        source="zhu2019dlg",
    ),
)
def dlg(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 100,
    restarts: int = 3,
    lr: float | int = 1.0,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Pixels and soft labels whose gradient is the one observed: ``min |grad l(f(x), softmax(v)) - g|^2``.

    L-BFGS, 20 inner steps an iteration (section 3 and algorithm 1). The network has to be twice differentiable: with
    ReLU almost every second derivative is zero.

    Deviations, each of which saves restarts: a strong Wolfe line search, without which about half of all starts
    diverge; pixels start at N(0.5, 0.25) instead of N(0, 1); float64 arithmetic; a restart that has not come near the
    payload after 20 iterations is given up, and the next begins. The reported iterate is the one with the lowest loss.
    """
    classes, tally = seen.classes, Tally()

    def solve(trace, generator):
        images = 0.5 + 0.25 * normal_start(seen, generator, torch.float64)
        logits = torch.randn(seen.shape[0], classes, generator=generator).to(images)
        descend(seen, lambda v: (v[0], v[1].softmax(-1)), (images, logits), trace, iterations, lr, tally)

    found = restarted(seen, solve, "dlg", iterations, restarts, seed, seconds, progress)
    images, logits = found.variables
    return reconstruction(found, images, logits.argmax(-1), tally=tally)


def descend(seen, decode, start, trace, iterations, lr, tally) -> None:
    """One restart of DLG and iDLG: L-BFGS on the squared distance, given up if it is hopeless."""
    scale = size(seen)
    objective = matching(seen, decode, dtype=torch.float64, tally=tally)
    give_up = lambda step, loss: step == 20 and loss > HOPELESS * scale  # noqa: E731
    lbfgs(objective, start, trace, iterations=iterations, lr=lr, line_search=True, should_stop=give_up)


def restarted(seen, solve, label, iterations, restarts, seed, seconds, progress):
    """The restarts of DLG and iDLG, ended by the first that has converged."""
    scale = size(seen)
    return search(
        solve,
        iterations=iterations,
        restarts=restarts,
        seed=seed,
        seconds=seconds,
        success=lambda loss: loss < CONVERGED * scale,
        progress=progress,
        label=label,
    )
