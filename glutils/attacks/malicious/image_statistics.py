"""Statistics of the attacker's own images, which stand in for a class that it has never seen."""

from __future__ import annotations

import torch

SHARE = 0.05
"""Variance given to every direction, as a share of the mean variance of a pixel: what few images leave open."""
MOST = 256
"""Most images whose distances to each other are measured."""


class ImageStatistics:
    """Mean and covariance of the attacker's images, and their deviations from the mean of their own class.

    Args:
        images: (N, C, H, W). labels: (N,), of any classes.

    Raises:
        ValueError: no two different images of one class.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        groups = [group for k in labels.unique() if len(group := images[labels == k]) > 1]
        apart = [group - group.mean(0) for group in groups]
        self.deviations = torch.cat(apart) if apart else images[:0]
        if not self.deviations.any():
            raise ValueError(
                "attacker must hold two different images of one class, unless anchor, variation and diversity are 0, "
                f"got {len(images)} images of {len(labels.unique())} classes"
            )
        self.typical = float(torch.pdist(self.deviations[:MOST].flatten(1), 1).mean()) / images[0].numel()
        self.mean = images.mean(0)
        centred = (images - self.mean).flatten(1)
        _, sizes, self.axes = torch.linalg.svd(centred, full_matrices=False)
        sizes = sizes.square() / (len(images) - 1)
        self.floor = float(SHARE * sizes.sum() / centred.shape[1])
        self.weights = 1 / (sizes + self.floor) - 1 / self.floor
        self.own_mean = 1.0
        self.own_mean = float(self.mahalanobis(images).mean())

    def mahalanobis(self, images: torch.Tensor) -> torch.Tensor:
        """Squared Mahalanobis distances (B,) of images from the mean image; 1 on average over the own images."""
        y = (images - self.mean).flatten(1)
        along = (y @ self.axes.T).square()
        return (along @ self.weights + y.square().sum(1) / self.floor) / self.own_mean

    def add_deviations(self, images: torch.Tensor, amount: float, generator: torch.Generator) -> torch.Tensor:
        """The images, each plus ``amount`` times the deviation of a random own image from its class mean."""
        which = torch.randint(len(self.deviations), (len(images),), generator=generator)
        return images + amount * self.deviations[which.to(images.device)]

    def mode_collapse_penalty(self, images: torch.Tensor) -> torch.Tensor:
        """How much closer pairs of images are than two images of one class usually are: 0 to 1 (all alike)."""
        half = len(images) // 2
        distance = (images[:half] - images[half : 2 * half]).abs().flatten(1).mean(1)
        return torch.relu(1 - distance / self.typical).mean()
