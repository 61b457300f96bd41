"""iDLG: Improved Deep Leakage from Gradients (Zhao, Mopuri, Bilen, arXiv 2001.02610)."""

from __future__ import annotations

from ..observation import Observation
from .base import Card, LabelEstimate, rank_estimate, register
from .head import dummies, negative_inputs_note, read_head, responses


@register(
    "idlg",
    Card(
        title="iDLG",
        source="zhao2020idlg",
        needs="one image",
        assumes="nothing; without a bias, inputs of the last layer that are not negative",
        kinds=("gradient",),
    ),
)
def idlg(seen: Observation) -> LabelEstimate:
    """The class whose last-layer gradient has the opposite sign of all others (eq. 5); one image.

    With a bias: the class with the smallest bias gradient, which is p - 1 < 0 for the label and p > 0 elsewhere; this
    cannot fail. Without: the row of the weight gradient with the smallest sum, right if the layer's inputs are not
    negative. (The baseline of this name in LLG's code returns the true labels.)

    Raises:
        ValueError: a batch, of which the rule would name the most over-represented class only, or no gradient.
    """
    head = read_head(seen)
    if head.size != 1:
        raise ValueError(
            f"label rule 'idlg' reads the label of one image, got a batch of {head.size}; "
            "label rule 'ilrg' counts those of a batch"
        )
    if head.bias is not None:
        return rank_estimate(head.bias, 1, head.notes)  # survey, eq. (5)
    inputs, _ = responses(seen, head, head.start, dummies(seen, "uniform", 16, 0))
    return rank_estimate(head.sums, 1, head.notes + negative_inputs_note(inputs))
