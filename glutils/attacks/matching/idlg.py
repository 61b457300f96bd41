"""iDLG: Improved Deep Leakage from Gradients (Zhao, Mopuri, Bilen, arXiv 2001.02610)."""

from __future__ import annotations

import torch

from ... import labels
from ...observation import Observation
from ...solvers import Tally
from ..base import Card, Reconstruction, reconstruction, register
from .dlg import descend, restarted
from .objective import normal_start


@register(
    "idlg",
    Card(
        title="iDLG",
        kinds=("gradient",),
        simulates="FedSGD",
        variable="pixels",
        distance="squared",
        prior="none",
        solver="L-BFGS",
        labels="inferred (one image)",
        source="zhao2020idlg",
    ),
)
def idlg(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 100,
    restarts: int = 3,
    lr: float | int = 1.0,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """DLG with the label read off the last layer's gradient first (eq. 5); one image only.

    Deviations: as for DLG.
    """
    if seen.shape[0] != 1:
        raise ValueError(f"attack 'idlg' reads the label of one image, got a batch of {seen.shape[0]}")
    known, tally = labels.infer("idlg", seen).labels, Tally()

    def solve(trace, generator):
        start = (0.5 + 0.25 * normal_start(seen, generator, torch.float64),)
        descend(seen, lambda v: (v[0], known), start, trace, iterations, lr, tally)

    found = restarted(seen, solve, "idlg", iterations, restarts, seed, seconds, progress)
    return reconstruction(found, found.variables[0], known, tally=tally)
