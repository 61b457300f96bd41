"""Label counts from row sums: Towards General Deep Leakage in Federated Learning (Geng et al., arXiv 2110.09074)."""

from __future__ import annotations

import torch

from .. import models
from ..observation import Observation
from . import head as heads
from .base import Card, LabelEstimate, count_estimate, register, solve_class_shares
from .llg import require_every_class


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
    """Counts n_c = B p_c - B w_c / a: w_c is row c's sum, p and a mean prediction and input sum on dummy inputs.

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
    head = heads.read_head(seen)
    if dummies is None:
        dummies = "by_class" if _has_public_of_every_class(seen) else "flat"
    if dummies == "by_class":
        return _estimate_by_class(seen, head)
    p, a, notes = mean_responses(seen, head, head.start, heads.dummies(seen, dummies, samples, seed))
    fractional = head.size * (p - head.sums / a)  # survey, eq. (7)
    return count_estimate(fractional, head.size, head.notes + notes)


def _has_public_of_every_class(seen: Observation) -> bool:
    return seen.public is not None and len(seen.public.labels.unique()) == seen.classes == len(seen.public.classes)


def _estimate_by_class(seen: Observation, head: heads.Head) -> LabelEstimate:
    """The counts that explain the row sums best if images of a class respond as its public images do on average."""
    public = heads.need_public(seen, "dummies='by_class'")
    require_every_class(public.labels, seen.classes, "geng", "ilrg")
    inputs, logits = heads.responses(seen, head, head.start, public.images)
    sums = inputs.sum(1)
    own = torch.stack([sums[public.labels == c].mean() for c in range(seen.classes)])
    drawn = logits.softmax(1) * sums[:, None]
    rows = torch.stack([drawn[public.labels == c].mean(0) for c in range(seen.classes)])
    found = solve_class_shares(rows.T - torch.diag(own), head.sums)
    return count_estimate(head.size * found, head.size, head.notes + heads.negative_inputs_note(inputs))


def mean_responses(
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
    return logits.softmax(1).mean(0), a, heads.negative_inputs_note(inputs)
