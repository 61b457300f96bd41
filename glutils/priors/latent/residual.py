"""A latent and its residual: images, and how far from the latent's own range they may be."""

from __future__ import annotations

from typing import Any

import torch

from ... import _validate
from .affine import covariance_root
from .base import Latent, pixels


class ResidualLatent(Latent):
    """x = latent's image + residual: a second, Gaussian part for what the latent cannot make, as large as public images
    need it.

    Images outside the latent's range are possible, but the further from it, the less likely. z holds the latent's own
    numbers first, then one for every pixel value.

    Args:
        latent: of images like the public ones.
        public: where the covariance of what the latent cannot make comes from (shrunk, as in :class:`Gaussian`).
        report_residual: whether the residual belongs to the reported image. If not, it only keeps an attack from
            bending the latent's part to explain what that part cannot: generalised least squares, with the residual as
            noise.
    """

    def __init__(self, latent: Any, public: Any, report_residual: bool = True):
        _validate.instance("latent", latent, Latent)
        flat = pixels(public)
        latent._fits(public.images)
        made = latent.decode(latent.encode(public.images.double())).flatten(1)
        self.latent, self.shape, self.report_residual = latent, latent.shape, report_residual
        self._root = covariance_root(flat - made)
        self.size = latent.size + len(self._root)

    def decode(self, z: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        if weights is not None:
            self.weights()  # has none
        inside, residual = z.split([self.latent.size, len(self._root)], dim=-1)
        return self.latent.decode(inside) + (residual @ self._root.to(z).T).unflatten(-1, self.shape)

    def report(self, z: torch.Tensor) -> torch.Tensor:
        return self.decode(z) if self.report_residual else self.latent.decode(z[:, : self.latent.size])

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        inside = self.latent.encode(images)
        apart = (images - self.latent.decode(inside)).flatten(1)
        return torch.cat([inside, torch.linalg.solve(self._root.to(apart), apart.T).T], 1)
