"""Batch norm statistics as a term of an attack's objective (GradInversion, Yin et al. 2021; ZeroGLA)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ... import _validate, models, priors
from ...observation import Observation

STATISTICS = ("none", "running", "exact")
"""What ``bn`` may name: nothing, the model's running statistics, those of the private batch."""
WEIGHTS = {"running": 0.1, "exact": 0.1}
"""Weights of the statistics as published, for GradInversion and ZeroGLA alike."""


class Statistics:
    """Distance of the batch norm statistics that the last forward pass left in ``noted``; else of a pass of its own."""

    def __init__(self, model: torch.nn.Module, target: priors.Statistics, noted: priors.Statistics):
        self.model, self.target, self.noted = model, target, noted

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        found = dict(self.noted) or priors.batchnorm_statistics(self.model, images)
        self.noted.clear()  # they belong to these images only
        return priors.batchnorm_distance(found, self.target)


def to_match(
    seen: Observation, bn: Any, weight: Any, weights: Mapping[str, float] = WEIGHTS
) -> tuple[priors.Statistics, float]:
    """The statistics to match, and their weight: as told, else that of ``weights`` (0: none to match).

    Raises:
        ValueError: exact statistics that were not told, statistics of a model without batch norm, a weight for
            statistics that are not matched.
    """
    if bn is None:
        bn = "none" if seen.statistics is None else "exact"
    if _validate.choice("bn", bn, STATISTICS) == "none":
        if weight is not None:
            raise ValueError(f"bn_weight does nothing with bn='none', got {weight!r}")
        return {}, 0.0
    if models.batchnorm_mode(seen.model) is None:
        raise ValueError(f"bn must be 'none' for a model without batch norm layers, got {bn!r}")
    if bn == "exact" and seen.statistics is None:
        raise ValueError("bn='exact' needs to be told the statistics: observe(..., knows={'labels', 'batch_stats'})")
    found = seen.statistics if bn == "exact" else priors.running_statistics(seen.model)
    if not found:
        raise ValueError("bn='running' needs a model whose batch norm layers keep running statistics")
    return found, _validate.number("bn_weight", weights[bn] if weight is None else weight, at_least=0)
