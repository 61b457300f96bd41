"""The bias-corrected rule: LLG's two stages on the bias gradient, the default of the breaching library."""

from __future__ import annotations

from ..observation import Observation
from .base import Card, LabelEstimate, register
from .head import need_bias, read_head
from .llg import two_stage_estimate


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
    """Counts from the bias gradient, by LLG's two stages; one image's impact is 1/B of the sum of negative entries.

    Needs no assumption about the last layer's inputs, because the bias gradient does not contain them. Of a delta it
    reads the mean gradient.
    """
    head = read_head(seen)
    bias = need_bias(head, "bias_corrected", "llg")
    return two_stage_estimate(bias, float(bias.clamp(max=0).sum()) / head.size, head.size, head.notes)
