"""Classifiers of digits that took no part in a federation, and what they make of samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import glutils as gl

JUDGES = ("convnet", "mlp")


def judge(kind: str, public: gl.data.Batch, seed: int = 100, epochs: int = 30) -> torch.nn.Module:
    """A classifier of public digits that the federation never sees."""
    model = gl.models.build(kind, public, seed=seed)
    optimiser, order = torch.optim.Adam(model.parameters(), 2e-3), torch.Generator().manual_seed(5)
    for _ in range(epochs):
        for part in torch.randperm(len(public), generator=order).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(public.images[part]), public.labels[part]).backward()
            optimiser.step()
    return model


def share(model: torch.nn.Module, images: torch.Tensor, label: int) -> float:
    """Share of the images that the model takes for the class."""
    with torch.no_grad():
        return float((model(images).argmax(1) == label).float().mean())


def verdicts(judges: dict, images: torch.Tensor, label: int, public: gl.data.Batch) -> dict[str, float]:
    """Each judge's share, the lower of them, and the likeness to the public class mean."""
    row = {name: share(model, images, label) for name, model in judges.items()}
    mean = public.images[public.labels == label].mean(0, keepdim=True)
    return row | {"lower": min(row.values()), "correlation": float(gl.metrics.correlations(images, mean).mean())}
