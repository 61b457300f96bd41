"""Label counts from row sums: Towards General Deep Leakage in Federated Learning (Geng et al., arXiv 2110.09074)."""

from __future__ import annotations

import torch

from .. import models
from ..observation import Observation
from . import head as heads
from .base import Card, LabelEstimate, counted, register


@register(
    "geng",
    Card(
        title="Geng",
        source="geng2021general",
        needs="dummy inputs",
        assumes="as ALR; and that all images have the dummies' sum of last-layer inputs",
        kinds=("gradient",),
        other="dlf",
    ),
)
def geng(seen: Observation, *, dummies: str = "flat", samples: int = 64, seed: int = 0) -> LabelEstimate:
    """n_c = B p_c - B w_c / a: w_c is row c's sum, p and a the mean prediction and input sum on dummy inputs.

    Exact if all images had the same a and the dummies' p. Needs no bias. Reads one gradient; of local steps ``"dlf"``
    makes the same estimate along the way.

    Args:
        dummies: a name in :data:`glutils.labels.DUMMIES`; of ``"public"`` images the labels are not read.
        samples: how many.
        seed: of the random ones.
    """
    head = heads.read(seen)
    p, a, notes = means(seen, head, head.start, heads.dummies(seen, dummies, samples, seed))
    return counted(head.size * (p - head.sums / a), head.size, head.notes + notes)


def means(
    seen: Observation, head: heads.Head, params: models.Parameters, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Mean prediction (C,) and mean input sum () of a model state on ``images``, and notes.

    Raises:
        ValueError: input sums that cancel, by which the row sums would have to be divided.
    """
    inputs, logits = heads.responses(seen, head, params, images)
    a = inputs.sum(1).mean()
    if float(a.abs()) <= 1e-12 * float(inputs.abs().sum(1).mean()):
        raise ValueError("dummies make the last layer's inputs sum to 0; label rule 'alr' reads the bias instead")
    return logits.softmax(1).mean(0), a, heads.signed(inputs)
