"""ALR, the label restoration of IGIMS (Fang, Wang, Li, Cybersecurity 7:35, 2024)."""

from __future__ import annotations

from ..observation import Observation
from . import head as heads
from .base import Card, LabelEstimate, count_estimate, register


@register(
    "alr",
    Card(
        title="ALR",
        source="fang2024igims",
        needs="bias, dummy inputs",
        assumes="the model predicts for the images, on average, what it predicts for dummies",
    ),
)
def alr(seen: Observation, *, dummies: str = "flat", samples: int = 64, seed: int = 0) -> LabelEstimate:
    """Counts n_c = B (p_c - g_c), with g the bias gradient and p the mean prediction on dummy inputs.

    Exact but for one thing: p should be the mean prediction on the private images. An untrained network says the same
    about every image; a trained one does not, and then dummies say little (``dummies="public"`` says more). It is
    Geng's rule on the bias instead of the row sums, so the last layer's inputs do not enter. Of a delta it reads the
    mean gradient, as the paper does (AGA).

    Args:
        dummies: a name in :data:`glutils.labels.DUMMIES`; of ``"public"`` images the labels are not read.
        samples: how many.
        seed: of the random ones.
    """
    head = heads.read_head(seen)
    bias = heads.need_bias(head, "alr", "geng")
    _, logits = heads.responses(seen, head, head.start, heads.dummies(seen, dummies, samples, seed))
    fractional = head.size * (logits.softmax(1).mean(0) - bias)  # survey, eq. (11), with dummies' p for the images' own
    return count_estimate(fractional, head.size, head.notes)
