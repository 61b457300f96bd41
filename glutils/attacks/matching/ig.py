"""IG: Inverting Gradients (Geiping, Bauermeister, Droege, Moeller, NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from ... import _validate
from ... import labels as label_rules
from ...observation import Observation, as_gradient
from ...priors import tv
from ...solvers import Tally, adam, search
from ...solvers.adam import Objective
from ..base import ANY, ANY_LOSS, Card, Reconstruction, reconstruction, register
from .objective import cosine, matching, start

LOCAL = ("exact", "epochs")
"""What ``local`` may name: every local step of the client, or one full-batch step an epoch, as the survey simulates."""


@register(
    "ig",
    Card(
        title="IG",
        kinds=("gradient", "delta"),
        several=("gradient", "delta"),
        simulates="FedSGD or FedAvg",
        variable="pixels",
        distance="cosine",
        prior="TV, box",
        solver="signed Adam",
        labels="given, inferred or optimised",
        source="geiping2020ig",
        records=ANY,
        losses=ANY_LOSS,
    ),
)
def ig(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 400,
    restarts: int = 1,
    lr: float | int = 0.1,
    tv_weight: float | int | None = None,
    sign: bool = True,
    box: bool | None = None,
    labels: str | None = None,
    median: int = 0,
    local: str = "exact",
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Pixels whose gradient points the observed way: min 1 - cos(grad l(f(x), y), g) + tv_weight TV(x) (eq. 4).

    Adam on the sign of the pixels' gradient, step 0.1 divided by ten at 3/8, 5/8, 7/8 of the iterations, projection to
    [0, 1] after every step. For FedAvg the local steps are simulated and the parameter difference is matched; to match
    its mean gradient instead, which is cheaper, pass :func:`glutils.observation.as_gradient` of the observation.
    The last iterate is reported, because the step size has decayed; restarts are ranked by the objective, for FedAvg
    with the client's batch size (the original code forgets it there).

    Args:
        tv_weight: weight of the total variation, mean form. Default: 1e-2 for images, 0 for tables, which allow no
            other.
        sign, box: False leaves the sign, or the projection, out; records without bounds are never projected. Without
            both and with ``tv_weight=0.1`` this is what the code of FGLA and ZeroGLA calls "ig".
        labels: where they come from. None: as told; else, for one image, the iDLG rule. ``"joint"``: soft labels are
            optimised along with the pixels, for batches, and the likeliest classes are reported; or a rule's name, one
            of ``glutils.labels.names()``.
        median: apply a 3x3 median filter to the images every so many steps, but not after the last (0: never; the
            original code: 500, if asked).
        local: for FedAvg, ``"exact"``: the client's local steps; ``"epochs"``: one step of all images an epoch, which
            is what the code of a survey (Zhu, Huang, Xie 2024) simulates, whatever the client's batches.

    Deviations: TV weight 1e-2 (mean form) instead of 1e-1, which costs several dB at 32x32; 400 iterations instead of
    4,800; the start is N(0.5, 0.25), which is the paper's N(0, 1) in normalised pixels.

    Raises:
        ValueError: labels of a batch that were not told and are not asked for; ``local`` for a gradient.
    """
    _validate.number("lr", lr, above=0)
    tv_weight, box = seen.record.weight("tv_weight", tv_weight, 1e-2), seen.record.box(box)
    if _validate.integer("median", median, at_least=0) and not seen.record.neighbours:
        raise ValueError(f"median must be 0 for {seen.record.name}: it filters neighbouring pixels; got {median}")
    seen = _simulated(seen, local)
    known, notes = _labels(seen, labels)
    decode = (lambda v: (v[0], v[1].softmax(-1))) if known is None else (lambda v: (v[0], known))
    tally, smooth = Tally(), [(tv_weight, tv)] if tv_weight else ()
    objective = matching(seen, decode, distance=cosine, priors=smooth, tally=tally)

    def solve(trace, generator):
        first = start(seen, generator)
        variables = (first.clamp(0, 1) if box else first,)
        if known is None:
            variables += (torch.randn(len(first), seen.classes, generator=generator).to(first),)
        goal = _filtered(objective, median, iterations) if median else objective
        adam(goal, variables, trace, iterations=iterations, lr=lr, schedule="steps", sign=sign, box=box)

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
    told = found.variables[1].argmax(-1) if known is None else known
    return reconstruction(found, found.variables[0], told, *notes, tally=tally)


def _labels(seen: Observation, asked: Any) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """Labels (B,) as told or inferred, with the rule's notes; None if they are to be optimised."""
    if asked == "joint":
        for entry in seen.rounds:
            if not (criterion := entry.protocol.criterion).solvable:
                raise ValueError(f"labels must be told for clients with the loss {criterion}, got 'joint'")
        return None, ()
    if asked is None and seen.labels is not None:
        return seen.labels, ()
    if asked is None and seen.shape[0] == 1:
        asked, seen = "idlg", seen if seen.kind == "gradient" else as_gradient(seen)
    if asked is not None:
        found = label_rules.infer(_validate.choice("labels", asked, ("joint", *label_rules.names())), seen)
        return found.labels, found.notes
    raise ValueError(
        "attack 'ig' needs the labels: observe(..., knows={'labels'}); of a batch they can also be optimised "
        f"(labels='joint') or inferred (labels= one of {', '.join(label_rules.names())})"
    )


def _simulated(seen: Observation, local: Any) -> Observation:
    """The observation with the local steps that the attacker simulates."""
    if _validate.choice("local", local, LOCAL) == "exact":
        return seen
    if seen.kind != "delta":
        raise ValueError(f"local='epochs' is for parameter differences, got a payload of kind {seen.kind!r}")
    coarse = [replace(entry, protocol=replace(entry.protocol, batch_size=seen.shape[0])) for entry in seen.rounds]
    return replace(seen, rounds=tuple(coarse))


def _filtered(objective: Objective, every: int, iterations: int) -> Objective:
    """The objective of one restart, which filters the images in place before it is evaluated at every n-th step."""
    step = -1

    def evaluate(variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        nonlocal step
        step += 1
        if 0 < step < iterations and step % every == 0:
            with torch.no_grad():
                variables[0].copy_(median_filter(variables[0]))
        return objective(variables)

    return evaluate


def median_filter(images: torch.Tensor) -> torch.Tensor:
    """Median of the 3x3 neighbourhood of every pixel, per channel, (B, C, H, W); mirrored at the borders."""
    around = F.pad(images, (1, 1, 1, 1), mode="reflect").unfold(2, 3, 1).unfold(3, 3, 1)
    return around.flatten(4).median(-1).values
