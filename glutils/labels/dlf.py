"""Label counts of local training: Data Leakage in Federated Averaging (Dimitrov et al., TMLR 2022)."""

from __future__ import annotations

import torch

from .. import _validate
from ..observation import Observation
from . import head as heads
from .base import Card, LabelEstimate, count_estimate, register
from .geng import mean_responses

POINTS = ("average", "start", "end")


@register(
    "dlf",
    Card(
        title="DLF",
        source="dimitrov2022dlf",
        needs="dummy inputs; local lr and steps",
        assumes="as Geng; and that both change evenly over the local steps",
    ),
)
def dlf(
    seen: Observation,
    *,
    points: str = "average",
    class_agnostic: bool = False,
    dummies: str = "flat",
    samples: int = 64,
    seed: int = 0,
) -> LabelEstimate:
    """Counts by Geng's rule for U local steps: the mean over steps u of n_cu = N p_cu - N w_c / (U a_u).

    w_c is the sum of row c of (theta_0 - theta_U) / lr. p and a, on dummy inputs, are known before the first and after
    the last step and interpolated linearly between; step u starts from the point (u - 1) / U of the way. Of a gradient
    it is Geng's rule. (The survey's eq. 9 lacks the 1/U in the second term and averages over epochs instead of steps;
    this is the version of the official code.)

    Args:
        points: ``"average"`` over all steps, only the ``"start"``, or only the ``"end"``.
        class_agnostic: what the survey's code does: p is 1/C for every class, at every step. Its other faults (a single
            dummy, a grid with one entry per image but indexed by step, a remainder that ends in an error) are not
            imitated.
        dummies: a name in :data:`glutils.labels.DUMMIES`; of ``"public"`` images the labels are not read.
        samples: how many.
        seed: of the random ones.
    """
    _validate.choice("points", points, POINTS)
    _validate.instance("class_agnostic", class_agnostic, bool)
    head = heads.read_head(seen)
    images = heads.dummies(seen, dummies, samples, seed)
    (p, a, notes), (p_end, a_end, _) = (mean_responses(seen, head, state, images) for state in (head.start, head.end))
    way = {"average": torch.arange(head.steps) / head.steps, "start": torch.zeros(1), "end": torch.ones(1)}[points]
    way = way.to(p)[:, None]
    p, a = p + way * (p_end - p), a + way * (a_end - a)  # survey, eq. (8), from server to client
    if class_agnostic:
        p = torch.full_like(p, 1 / seen.classes)
    fractional = head.size * (p - head.sums / a).mean(0)  # survey, eq. (9), corrected: head.sums is w / U already
    return count_estimate(fractional, head.size, head.notes + notes)
