"""LLG, LLG*, LLG+: User-Level Label Leakage from Gradients (Wainakh et al., PETS 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..observation import Observation
from .base import Card, LabelEstimate, labels_from_counts, register
from .head import Head, dummies, need_public, negative_inputs_note, read_head, responses


def two_stage_counts(gradient: Tensor, impact: float, total: int, offset: Tensor | None = None) -> Tensor:
    """Counts (C,) int64 from one number per class (C,), to which each image of the class adds ``impact`` < 0.

    Stage 1: a negative entry proves that its class is there; every such class counts once. Stage 2: ``offset``, what an
    absent class shows, is taken off; then the class with the smallest entry counts once more, until there are
    ``total`` images. Whenever a class is counted, its own entry loses one impact. (A port in another library takes it
    off the entry of the last class of stage 1 instead, and so repeats one class.)
    """
    left, counts = gradient.clone(), torch.zeros_like(gradient, dtype=torch.int64)
    there = (gradient < 0).nonzero().flatten()
    there = there[gradient[there].argsort(stable=True)][:total]  # noise can make more entries negative than images
    counts[there] += 1
    left[there] -= impact
    left = left if offset is None else left - offset
    for _ in range(total - len(there)):
        best = left.argmin()
        counts[best] += 1
        left[best] -= impact
    return counts


def two_stage_estimate(
    gradient: Tensor, impact: float, total: int, notes: tuple[str, ...], offset: Tensor | None = None
) -> LabelEstimate:
    """The estimate of :func:`two_stage_counts`; its fractional counts are the entries in units of one impact."""
    if not impact < 0:
        raise ValueError(
            f"payload shows no class: an image more must make its class's entry smaller, but would add {impact:.3g} "
            "(no negative entry, or a last layer with negative inputs); label rule 'ilrg' reads rows and bias together"
        )
    counts = two_stage_counts(gradient, impact, total, offset)
    fractional = (gradient if offset is None else gradient - offset) / impact
    confidence = 1 - 2 * (fractional - counts).abs().clamp(max=0.5)
    return LabelEstimate(counts, labels_from_counts(counts), confidence, fractional, notes=notes)


@register(
    "llg",
    Card(
        title="LLG",
        source="wainakh2022llg",
        needs="nothing",
        assumes="inputs of the last layer that are not negative; every image moves its row alike",
    ),
)
def llg(seen: Observation) -> LabelEstimate:
    """Counts from the row sums of the weight gradient, in two stages; the impact is estimated from the negative sums.

    One image's impact is (1 + 1/C) / B times the sum of the negative row sums.

    Needs nothing but the message. Takes for granted that the last layer's inputs are not negative. Of a delta it reads
    the mean gradient, as the paper does.
    """
    head = read_head(seen)
    inputs, _ = responses(seen, head, head.start, dummies(seen, "uniform", 16, 0))
    total = float(head.sums.clamp(max=0).sum())
    impact = total * (1 + 1 / seen.classes) / head.size
    return two_stage_estimate(head.sums, impact, head.size, head.notes + negative_inputs_note(inputs))


@register(
    "llg_star",
    Card(
        title="LLG*",
        source="wainakh2022llg",
        needs="dummy inputs",
        assumes="as LLG; dummies move the rows as the images do",
    ),
)
def llg_star(seen: Observation, *, dummies: str = "flat", samples: int = 64, seed: int = 0) -> LabelEstimate:
    """Counts as by LLG, with impact and offset measured on dummy inputs, which the owner of the model can feed it.

    Were all dummies of class c, row c would sum to -(1 - p_c) a / B for each of them and every other row to p a / B,
    with a the sum of the last layer's inputs. So the impact is the mean of the former times 1 + 1/C, and the offset of
    a class is the mean of p_c a over dummies. These are the gradients of dummy batches of one class each, written out.

    Args:
        dummies: a name in :data:`glutils.labels.DUMMIES`; of ``"public"`` images the labels are not read.
        samples: how many.
        seed: of the random ones.
    """
    head = read_head(seen)
    inputs, logits = responses(seen, head, head.start, _dummies(seen, dummies, samples, seed))
    sums, p = inputs.sum(1, keepdim=True), logits.softmax(1)
    return _calibrated_estimate(head, (-(1 - p) * sums).mean(0), (p * sums).mean(0), inputs, seen.classes)


@register(
    "llg_plus",
    Card(
        title="LLG+",
        source="wainakh2022llg",
        needs="public labelled images of every class",
        assumes="as LLG; public images move the rows as the private ones do",
    ),
)
def llg_plus(seen: Observation) -> LabelEstimate:
    """Counts as by LLG, with impact and offset measured on public labelled images of every class, which it needs.

    Row c of images of class c gives the impact, row c of all others the offset of c.
    """
    head = read_head(seen)
    public = need_public(seen, "label rule 'llg_plus'", "llg_star")
    require_every_class(public.labels, seen.classes, "llg_plus", "llg_star")
    inputs, logits = responses(seen, head, head.start, public.images)
    sums, p = inputs.sum(1, keepdim=True), logits.softmax(1)
    own = torch.nn.functional.one_hot(public.labels, seen.classes).double()
    impact = (-(1 - p) * sums * own).sum(0) / own.sum(0)
    offset = (p * sums * (1 - own)).sum(0) / (1 - own).sum(0)
    return _calibrated_estimate(head, impact, offset, inputs, seen.classes)


def require_every_class(labels: Tensor, classes: int, rule: str, other: str) -> None:
    """Raise ``ValueError`` if some class has no public label."""
    missing = [c for c, n in enumerate(torch.bincount(labels, minlength=classes).tolist()) if not n]
    if missing:
        raise ValueError(
            f"label rule {rule!r} needs public images of every class, got none of {missing}; try {other!r}"
        )


def _calibrated_estimate(head: Head, impact: Tensor, offset: Tensor, inputs: Tensor, classes: int) -> LabelEstimate:
    one = float(impact.mean()) * (1 + 1 / classes) / head.size
    return two_stage_estimate(head.sums, one, head.size, head.notes + negative_inputs_note(inputs), offset)


_dummies = dummies  # the options of rules have the same name
