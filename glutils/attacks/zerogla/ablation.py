"""What do the scalars add to batch statistics? The same attack with one thing taken away, or spoiled, at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ... import _validate
from ...observation import Observation, tamper
from ..base import Reconstruction, attack
from .first_order import PUBLISHED

VARIANTS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "scalars and statistics": (None, {}),
    "permuted scalars and statistics": ("permuted", {}),
    "statistics only": (None, {"scalar_weight": 0}),
    "scalars times d and statistics": (None, {"scalar_weight": "d"}),
    "permuted scalars times d and statistics": ("permuted", {"scalar_weight": "d"}),
    "scalars and running statistics": (None, {"bn": "running"}),
    "scalars only": (None, {"bn": "none"}),
    "priors only": (None, {"bn": "none", "scalar_weight": 0}),
}
"""Variant to how the observation is spoiled (:func:`glutils.tamper`), if at all, and what differs from the published
options. "Scalars and statistics" is the published attack, "priors only" knows nothing of the client."""


def ablation(
    seen: Observation, *, seed: int = 0, variants: Iterable[str] = tuple(VARIANTS), **options: Any
) -> dict[str, Reconstruction]:
    """Run variants of the published ZeroGLA from one starting point.

    Args:
        seen: scalars, labels and exact batch statistics: ``knows={"labels", "batch_stats"}``.
        seed: of the starting point, the noise and the permutation; the same for every variant, so that differences are
            paired.
        variants: names from :data:`glutils.attacks.zerogla.ablation.VARIANTS`.
        options: of :func:`~glutils.attacks.zerogla.first_order.adam_attack`, in place of the published ones, for
            example ``iterations`` and ``quirks``.

    Returns:
        Variant to reconstruction, in the order asked for.

    Raises:
        ValueError: an unknown variant, an option that a variant decides, or an observation that lacks something.
    """
    variants = [_validate.choice("variants", name, VARIANTS) for name in variants]
    for option in ("bn", "scalar_weight"):
        if option in options:
            raise ValueError(f"{option} is what the variants decide; got {options[option]!r}")
    found = {}
    for name in variants:
        how, changed = VARIANTS[name]
        held = seen if how is None else tamper(seen, how, seed=seed)
        found[name] = attack("zerogla", held, seed=seed, **(PUBLISHED | options | changed))
    return found
