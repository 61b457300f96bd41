"""Differential privacy: a bound on what one image, or one client, can contribute, and noise in proportion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.func import grad

from .. import _validate, models
from ..protocols import Payload, Protocol
from .base import DEFENSES, Defense, check_expected, no_batchnorm, random_like


@DEFENSES.register("dpsgd")
@dataclass(frozen=True)
class DPSGD(Defense):
    """DP-SGD (Abadi et al. 2016): every image's gradient clipped to ``clip``, summed, noise sigma x clip added.

    The noisy sum is divided by a public number. For :func:`~glutils.defenses.epsilon`, sigma is the noise multiplier:
    the sum moves by at most ``clip`` if an image is there or not, or counts as zero, and by at most 2 ``clip`` if it is
    exchanged (:func:`~glutils.defenses.privacy_statement` says which belongs to what). The attacker simulates the
    clipping and leaves the noise to chance.

    Args:
        clip: greatest length of one image's gradient, above 0.
        sigma: noise multiplier, 0 or more. With 0 nothing is private.
        expected: public number by which the sum is divided, above 0: of batches drawn by Poisson sampling the expected
            size. None: the size of the batch, which then has to be public and fixed.
    """

    clip: float | int
    sigma: float | int
    expected: float | int | None = None
    kinds = ("gradient",)
    title = "DP-SGD"
    needs_data = True

    def __post_init__(self) -> None:
        _validate.number("clip", self.clip, above=0)
        _validate.number("sigma", self.sigma, at_least=0)
        check_expected(self.expected)

    @property
    def gradient_bound(self) -> float:
        return float(self.clip)

    @property
    def public_count(self) -> float | None:
        return self.expected

    def check(self, protocol: Protocol, model: nn.Module) -> None:
        if not protocol.exact_gradient:
            raise ValueError(f"protocol must be FedSGD for DP-SGD, got {protocol}")
        no_batchnorm(model, "DP-SGD")

    def client(self, protocol, model, images, labels, generator, **how):
        params = models.parameters(model, images.dtype if images.is_floating_point() else None)
        mean = self._clipped(protocol, model, params, images, labels)
        scale = self.noise(None, len(images))
        noisy = {name: g.detach() + scale * random_like(g, generator) for name, g in mean.items()}
        return protocol.payload(noisy, model)

    def attacker(self, protocol, model, images, labels, params, how):
        params = params or models.parameters(model, images.dtype)
        return protocol.payload(self._clipped(protocol, model, params, images, labels), model)

    def noise(self, payload: Payload | None, images: int) -> float:
        return float(self.sigma) * float(self.clip) / _divisor(self, images)

    def shares(self, protocol, model, images, labels, directions=None) -> torch.Tensor:
        """(B, d) what each image adds to the sum of clipped gradients, before it is divided; without noise."""
        params = models.parameters(model, images.dtype if images.is_floating_point() else None)
        factor, each_one = self._each(protocol, model, params, images, labels)
        return factor[:, None] * torch.cat([g.flatten(1) for g in each_one.values()], 1)

    def _each(self, protocol, model, params, images, labels) -> tuple[torch.Tensor, models.Parameters]:
        """Factor (B,) by which every image's gradient is clipped, and the gradients."""
        one = grad(lambda p, x, y: models.loss(model, p, x[None], y[None], criterion=protocol.criterion))
        each_one = models.vectorised(model, one, in_dims=(None, 0, 0))(params, images, labels)
        squares = torch.stack([g.flatten(1).square().sum(1) for g in each_one.values()]).sum(0)
        return (float(self.clip) * squares.clamp_min(1e-30).rsqrt()).clamp_max(1.0), each_one

    def _clipped(self, protocol, model, params, images, labels) -> models.Parameters:
        if not len(images):  # a Poisson batch may be empty: its sum is zero
            return {name: torch.zeros_like(p) for name, p in params.items()}
        factor, each_one = self._each(protocol, model, params, images, labels)
        count = _divisor(self, len(images))
        return {name: torch.einsum("b,b...->...", factor, g) / count for name, g in each_one.items()}


@DEFENSES.register("dp_update")
@dataclass(frozen=True)
class DPUpdate(Defense):
    """User-level privacy (DP-FedAvg, McMahan et al. 2018): the whole update clipped to ``clip``, noise sigma x clip.

    Here every client adds its own noise (local privacy), so that the server sees nothing else. Where only a sum of n
    clients is seen, their noise adds up, and each may add 1 / sqrt(n) of it (central privacy);
    :func:`~glutils.defenses.privacy_statement` knows both, for a client as a whole.

    Args:
        clip: greatest length of the update, above 0.
        sigma: noise multiplier, 0 or more.
    """

    clip: float | int
    sigma: float | int
    kinds = ("gradient", "delta")
    title = "DP-FedAvg, local"

    def __post_init__(self) -> None:
        _validate.number("clip", self.clip, above=0)
        _validate.number("sigma", self.sigma, at_least=0)

    @property
    def message_bound(self) -> float:
        return float(self.clip)

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        scale = float(self.sigma) * float(self.clip)
        return self.simulate(payload).map(lambda tensor: tensor + scale * random_like(tensor, generator))

    def simulate(self, payload: Payload) -> Payload:
        factor = (float(self.clip) / torch.linalg.vector_norm(payload.flat).clamp_min(1e-30)).clamp_max(1.0)
        return payload * factor

    def noise(self, payload: Payload, images: int) -> float:
        return float(self.sigma) * float(self.clip)


def _divisor(defense: DPSGD, images: int) -> float:
    """What the sum is divided by."""
    return float(images if defense.expected is None else defense.expected)
