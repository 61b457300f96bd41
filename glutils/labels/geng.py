"""Label counts from row sums: Towards General Deep Leakage in Federated Learning (Geng et al., arXiv 2110.09074)."""

from __future__ import annotations

import torch

from .. import models
from ..observation import Observation
from . import head as heads
from .base import Card, LabelEstimate, counted, register, shares
from .llg import every_class


@register(
    "geng",
    Card(
        title="Geng",
        source="geng2021general",
        needs="dummy inputs, or public labelled images",
        assumes="as ALR; and that all images, or all of one class, have the dummies' sum of last-layer inputs",
        kinds=("gradient",),
        other="dlf",
    ),
)
def geng(seen: Observation, *, dummies: str | None = None, samples: int = 64, seed: int = 0) -> LabelEstimate:
    """n_c = B p_c - B w_c / a: w_c is row c's sum, p and a the mean prediction and input sum on dummy inputs.

    Exact if all images had the same a and the dummies' p. Needs no bias. Reads one gradient; of local steps ``"dlf"``
    makes the same estimate along the way.

    Args:
        dummies: a name in :data:`glutils.labels.DUMMIES`, as in the paper; of ``"public"`` images the labels are not
            read. Or ``"by_class"``, our addition: public images again, but every class has its own a and p, and the
            counts solve B w_c = sum_k n_k (p_c a)_k - n_c a_c. Images of one class are more alike than images at large,
            and it is a that a photograph's brightness and contrast move. Default: by class where public images of every
            class are known, else ``"flat"``.
        samples: how many.
        seed: of the random ones.

    Raises:
        ValueError: input sums that cancel; ``"by_class"`` without public images of every class.
    """
    head = heads.read(seen)
    if dummies is None:
        dummies = "by_class" if _every_class_is_public(seen) else "flat"
    if dummies == "by_class":
        return _by_class(seen, head)
    p, a, notes = means(seen, head, head.start, heads.dummies(seen, dummies, samples, seed))
    return counted(head.size * (p - head.sums / a), head.size, head.notes + notes)


def _every_class_is_public(seen: Observation) -> bool:
    return seen.public is not None and len(seen.public.labels.unique()) == seen.classes == len(seen.public.classes)


def _by_class(seen: Observation, head: heads.Head) -> LabelEstimate:
    """Counts that explain the row sums best if an image of class k has the mean response of public ones of class k."""
    public = heads.need_public(seen, "dummies='by_class'")
    every_class(public.labels, seen.classes, "geng", "ilrg")
    inputs, logits = heads.responses(seen, head, head.start, public.images)
    sums = inputs.sum(1)
    own = torch.stack([sums[public.labels == c].mean() for c in range(seen.classes)])
    drawn = logits.softmax(1) * sums[:, None]
    rows = torch.stack([drawn[public.labels == c].mean(0) for c in range(seen.classes)])
    found = shares(rows.T - torch.diag(own), head.sums)
    return counted(head.size * found, head.size, head.notes + heads.signed(inputs))


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
