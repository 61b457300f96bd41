"""Batch norm statistics as a term of an attack's objective (GradInversion, Yin et al. 2021; ZeroGLA)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from .. import _check, models, priors
from ..observation import Observation

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


class Natural:
    """How far a batch's statistics are from those that public images have, in units of how far those scatter.

    Running statistics are of many images; one image's are elsewhere, and no two channels stray equally far or
    independently. So public images are passed through the model in groups as large as the private batch, and every
    layer gets a normal law of its means and variances, with the covariance shrunk as Ledoit and Wolf (2004) do. The
    value is the squared Mahalanobis distance, summed over layers, over the count of statistics: about 1 for an
    image like the public ones.

    The term fades: over ``steps`` evaluations for each of ``copies`` it is multiplied by half a cosine from 1 to 0, so
    that it leads the search at the start, and at the end the payload alone decides.
    """

    def __init__(self, model: torch.nn.Module, public: torch.Tensor, size: int, noted: priors.Statistics):
        if len(public) < 2 * size:
            raise ValueError(f"public must hold at least two groups of {size} image(s), got {len(public)} images")
        self.model, self.noted, self.laws = model, noted, {}
        self.begin(1, 1)
        groups: dict[str, list[torch.Tensor]] = {}
        with torch.no_grad():
            for part in public[: len(public) // size * size].split(size):
                for name, found in priors.batchnorm_statistics(model, part).items():
                    groups.setdefault(name, []).append(torch.cat(found).double())
        self.count = sum(len(rows[0]) for rows in groups.values())
        for name, rows in groups.items():
            mean, whiten = normal_law(torch.stack(rows))
            self.laws[name] = (mean.to(public.dtype), whiten.to(public.dtype))

    def begin(self, steps: int, copies: int) -> None:
        """Start again from full weight."""
        self.steps, self.copies, self.calls = max(1, steps), copies, 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        found = dict(self.noted) or priors.batchnorm_statistics(self.model, images)
        self.noted.clear()
        way = min(1.0, self.calls // self.copies / self.steps)
        self.calls += 1
        return 0.5 * (1 + math.cos(math.pi * way)) * self.distance(found)

    def distance(self, found: priors.Statistics) -> torch.Tensor:
        """Squared Mahalanobis distance over the number of statistics."""
        apart = [whiten @ (torch.cat(found[name]) - mean) for name, (mean, whiten) in self.laws.items()]
        return torch.stack([part.square().sum() for part in apart]).sum() / self.count


def normal_law(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (n,) of N draws (N, n), and W (n, n) for which W (draw - mean) has about unit covariance."""
    from sklearn.covariance import ledoit_wolf

    mean, scale = rows.mean(0), rows.std(0).clamp_min(1e-9)
    shrunk, _ = ledoit_wolf(((rows - mean) / scale).cpu().numpy(), assume_centered=True)
    values, vectors = torch.linalg.eigh(torch.from_numpy(shrunk).to(rows))
    return mean, (vectors / values.clamp_min(1e-9).sqrt()).T / scale


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
    if _check.choice("bn", bn, STATISTICS) == "none":
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
    return found, _check.number("bn_weight", weights[bn] if weight is None else weight, at_least=0)
