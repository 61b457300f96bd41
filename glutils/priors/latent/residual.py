"""A latent that admits what it cannot make."""

from __future__ import annotations

from typing import Any

import torch

from ... import _validate
from .affine import covariance_root
from .base import Latent, pixels


class WithRest(Latent):
    """x = latent's image + what it cannot make: a second, Gaussian part, as large as public images need it.

    Images outside the latent's range are possible, but the further from it, the less likely. z holds the latent's own
    numbers first, then one for every pixel value.

    Args:
        latent: of images like the public ones.
        public: where the covariance of what the latent cannot make comes from (shrunk, as in :class:`Gaussian`).
        whole: whether the rest belongs to the reported image. If not, it only keeps an attack from bending the latent's
            part to explain what that part cannot: generalised least squares, with the rest as noise.
    """

    def __init__(self, latent: Any, public: Any, whole: bool = True):
        _validate.instance("latent", latent, Latent)
        flat = pixels(public)
        latent._fits(public.images)
        made = latent.decode(latent.encode(public.images.double())).flatten(1)
        self.latent, self.shape, self.whole = latent, latent.shape, whole
        self._root = covariance_root(flat - made)
        self.size = latent.size + len(self._root)

    def decode(self, z: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        if weights is not None:
            self.weights()  # has none
        inside, rest = z.split([self.latent.size, len(self._root)], dim=-1)
        return self.latent.decode(inside) + (rest @ self._root.to(z).T).unflatten(-1, self.shape)

    def report(self, z: torch.Tensor) -> torch.Tensor:
        return self.decode(z) if self.whole else self.latent.decode(z[:, : self.latent.size])

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        inside = self.latent.encode(images)
        apart = (images - self.latent.decode(inside)).flatten(1)
        return torch.cat([inside, torch.linalg.solve(self._root.to(apart), apart.T).T], 1)
