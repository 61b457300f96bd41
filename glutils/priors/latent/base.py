"""What every latent can do, and what the ones learned from public images need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ... import _validate
from ...data.batch import Batch


class Latent:
    """Base of all latents.

    Attributes:
        shape: (C, H, W) of an image.
        size: latent numbers for one image.
    """

    shape: tuple[int, int, int]
    size: int

    def decode(self, z: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Images (B, C, H, W) of z (B, size), differentiable, in z's precision and on its device.

        ``weights`` (B, n) gives every image its own copy of :meth:`weights`, (1, n) all the same one; by default
        the latent's.
        """
        raise NotImplementedError

    def weights(self) -> torch.Tensor:
        """What the map from z to images is made of, as one vector (n,); ``ValueError`` where it cannot be changed."""
        raise ValueError(f"a latent of class {type(self).__name__} has no weights that an attack could change")

    def with_weights(self, weights: torch.Tensor) -> Latent:
        """The same latent with other weights (n,); ``ValueError`` for one that is no network."""
        raise ValueError(f"a latent of class {type(self).__name__} is no network, whose weights could be replaced")

    def layers(self) -> tuple[Callable[[torch.Tensor], torch.Tensor], ...]:
        """The map from z to images in steps, at least two, each of which takes what the one before it made.

        What lies between two of them are hidden features, (B, ...); ``ValueError`` where there is no such chain.
        """
        raise ValueError(
            f"a latent of class {type(self).__name__} has no hidden layers, one after the other, for an attack to "
            "search; 'glo' and 'untrained' have, and so has a Network made of an nn.Sequential; 'gias' needs none"
        )

    def report(self, z: torch.Tensor) -> torch.Tensor:
        """What an attack that found z says the images are."""
        return self.decode(z)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """A quick guess at the z (B, size) of images (B, C, H, W)."""
        raise NotImplementedError

    def project(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest images that this latent can make, and their z: (B, size) and (B, C, H, W), float64.

        What no choice of z can repair; an attack that finds z cannot come closer to the truth than this.
        """
        self._fits(images)
        z = self.encode(images.double())
        return z, self.decode(z)

    def _fits(self, images: torch.Tensor) -> None:
        _validate.instance("images", images, torch.Tensor)
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            wanted_shape = ", ".join(map(str, self.shape))
            raise ValueError(f"images must have shape (B, {wanted_shape}), got {tuple(images.shape)}")


def pixels(public: Any) -> torch.Tensor:
    """The public images (N, D), float64; ``TypeError`` or ``ValueError`` if there is nothing to learn from."""
    _validate.instance("public", public, Batch)
    if len(public) < 2:
        raise ValueError(f"public must hold at least two images, got {len(public)}")
    return public.images.flatten(1).double()


def check_components(name: str, value: Any, flat: torch.Tensor) -> int:
    """``value`` as an integer, at least 1 and at most what (N, D) public images allow."""
    count, most = flat.shape
    value = _validate.integer(name, value, at_least=1)
    for limit, what in ((most, "pixel values"), (count - 1, "public images, less one")):
        if value > limit:
            raise ValueError(f"{name} must be at most {limit}, the number of {what}; got {value}")
    return value
