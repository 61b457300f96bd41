"""iDLG: Improved Deep Leakage from Gradients (Zhao, Mopuri, Bilen, arXiv 2001.02610)."""

from __future__ import annotations

from ..observation import Observation
from .base import Card, LabelEstimate, picked, register
from .head import dummies, read, responses, signed


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
    head = read(seen)
    if head.size != 1:
        raise ValueError(
            f"label rule 'idlg' reads the label of one image, got a batch of {head.size}; "
            "label rule 'ilrg' counts those of a batch"
        )
    if head.bias is not None:
        return picked(head.bias, 1, head.notes)
    inputs, _ = responses(seen, head, head.start, dummies(seen, "uniform", 16, 0))
    return picked(head.sums, 1, head.notes + signed(inputs))
