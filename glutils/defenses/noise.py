"""Noise on everything that is sent. Not differential privacy by itself: nothing bounds what one image contributes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import _validate
from ..protocols import Payload
from .base import DEFENSES, Defense, laplace_like, random_like


@dataclass(frozen=True)
class _Noise(Defense):
    """Independent noise on every number.

    Args:
        sigma: standard deviation, 0 or more; in units of the payload, or of its root mean square if ``relative``.
        relative: measure sigma in root mean squares of the payload (over all tensors), so that it means the same for
            every network. The attacker estimates that unit from what it sees.
    """

    sigma: float | int
    relative: bool = False

    def __post_init__(self) -> None:
        _validate.number("sigma", self.sigma, at_least=0)
        _validate.instance("relative", self.relative, bool)

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        scale = float(self.sigma) * (_rms(payload) if self.relative else 1.0)
        return payload.map(lambda tensor: tensor + scale * self._unit(tensor, generator))

    def _unit(self, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Noise like the tensor, of standard deviation 1."""
        raise NotImplementedError

    def noise(self, payload: Payload, images: int) -> float:
        if not self.relative:
            return float(self.sigma)
        return float(self.sigma) * _rms(payload) / (1 + self.sigma**2) ** 0.5  # what is seen holds the noise too


@DEFENSES.register("gaussian_noise")
@dataclass(frozen=True)
class GaussianNoise(_Noise):
    """Normal noise on every number.

    Args:
        sigma: standard deviation, 0 or more; in units of the payload, or of its root mean square if ``relative``.
        relative: measure sigma in root mean squares of the payload.
    """

    title = "Gaussian noise"

    def _unit(self, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return random_like(tensor, generator)


@DEFENSES.register("laplace_noise")
@dataclass(frozen=True)
class LaplaceNoise(_Noise):
    """Laplace noise on every number.

    Args:
        sigma: standard deviation, 0 or more; in units of the payload, or of its root mean square if ``relative``.
        relative: measure sigma in root mean squares of the payload.
    """

    title = "Laplace noise"

    def _unit(self, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return laplace_like(tensor, generator)


def _rms(payload: Payload) -> float:
    return float(payload.flat.detach().double().square().mean().sqrt())
