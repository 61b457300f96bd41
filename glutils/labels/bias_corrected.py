"""The bias-corrected rule: LLG's two stages on the bias gradient, the default of the breaching library."""

from __future__ import annotations

from ..observation import Observation
from .base import Card, LabelEstimate, register
from .head import need_bias, read
from .llg import staged


@register(
    "bias_corrected",
    Card(
        title="bias-corrected",
        source="wainakh2022llg",
        needs="bias",
        assumes="an untrained model: every image moves the bias alike",
    ),
)
def bias_corrected(seen: Observation) -> LabelEstimate:
    """A class with a negative bias gradient is there; impact 1/B of their sum; then the smallest again and again.

    Needs no assumption about the last layer's inputs, because the bias gradient does not contain them. Of a delta it
    reads the mean gradient.
    """
    head = read(seen)
    bias = need_bias(head, "bias_corrected", "llg")
    return staged(bias, float(bias.clamp(max=0).sum()) / head.size, head.size, head.notes)
