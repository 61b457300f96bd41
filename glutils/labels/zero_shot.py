"""Zero-shot batch labels of GradInversion (Yin et al., CVPR 2021, section 3.2)."""

from __future__ import annotations

from ..observation import Observation
from .base import Card, LabelEstimate, rank_estimate, register
from .head import dummies, negative_inputs_note, read_head, responses


@register(
    "zero_shot",
    Card(
        title="zero-shot (GradInversion)",
        source="yin2021stg",
        needs="no more images than classes",
        assumes="different labels; inputs of the last layer that are not negative",
    ),
)
def zero_shot(seen: Observation) -> LabelEstimate:
    """The B classes whose rows of the weight gradient have the smallest minimum, one image each.

    One strongly negative entry is enough, where a sum may hide it. The rule takes for granted that all labels differ
    and that the last layer's inputs are not negative. A class that comes twice it cannot see: with half of the batch in
    one class it is wrong by construction. Of a delta it reads the mean gradient.

    Raises:
        ValueError: more images than classes, so that labels must repeat.
    """
    head = read_head(seen)
    if head.size > seen.classes:
        raise ValueError(
            f"label rule 'zero_shot' gives every class at most once, got a batch of {head.size} and {seen.classes} "
            "classes; label rule 'ilrg' counts classes that come more than once"
        )
    inputs, _ = responses(seen, head, head.start, dummies(seen, "uniform", 16, 0))
    distinct = ("takes all labels to be different",) if head.size > 1 else ()
    return rank_estimate(head.weight.min(1).values, head.size, head.notes + distinct + negative_inputs_note(inputs))
