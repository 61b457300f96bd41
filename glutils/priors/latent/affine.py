"""Images as a multivariate normal distribution: principal components, and all pixels with their covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .base import Latent, check_components, pixels


@dataclass(frozen=True, eq=False)
class Affine(Latent):
    """x = mean + basis z: images as a multivariate normal distribution, of full rank or not.

    Attributes:
        mean: (D,) float64, D = C H W.
        basis: (D, size) float64, orthogonal columns, each as long as the standard deviation that it stands for.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        return self.basis.shape[1]

    def decode(self, z: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        if weights is None:
            return (self.mean.to(z) + z @ self.basis.to(z).T).unflatten(-1, self.shape)
        mean, basis = weights.split([len(self.mean), self.basis.numel()], 1)
        return (mean + (basis.unflatten(1, self.basis.shape) @ z[:, :, None])[..., 0]).unflatten(-1, self.shape)

    def weights(self) -> torch.Tensor:
        return torch.cat([self.mean, self.basis.flatten()])

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        basis = self.basis.to(images)
        return (images.flatten(1) - self.mean.to(images)) @ (basis / basis.square().sum(0))


class PCA(Affine):
    """The directions in which public images differ most (Pearson 1901), and nothing else."""

    @classmethod
    def fit(cls, public: Any, components: Any) -> PCA:
        """Of the public images; ``components`` from 1 to the number of images less one, and of pixels."""
        flat = pixels(public)
        components = check_components("components", components, flat)
        mean = flat.mean(0)
        _, lengths, rows = torch.linalg.svd(flat - mean, full_matrices=False)
        deviations = lengths / (len(flat) - 1) ** 0.5
        rank = int((deviations > 1e-6).sum())
        if components > rank:
            raise ValueError(f"components must be at most {rank}: public images differ in no more; got {components}")
        return cls(mean, rows[:components].T * deviations[:components], public.shape)


class Gaussian(Affine):
    """All pixels are unknown, but which images are likely is known: mean and covariance of the public images.

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004), so that no image is impossible.
    """

    @classmethod
    def fit(cls, public: Any) -> Gaussian:
        """Of the public images, at least two."""
        flat = pixels(public)
        return cls(flat.mean(0), covariance_root(flat), public.shape)


def covariance_root(flat: torch.Tensor) -> torch.Tensor:
    """Principal axes (D, D) of the shrunk covariance, each as long as its standard deviation."""
    from sklearn.covariance import ledoit_wolf

    covariance = torch.from_numpy(ledoit_wolf(flat.cpu().numpy())[0]).to(flat.device)
    values, axes = torch.linalg.eigh(covariance)
    return (axes * values.clamp_min(1e-12).sqrt()).flip(1)
