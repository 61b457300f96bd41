"""Clipping: a bound on the length of what is sent, or on each scalar of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import _validate
from ..protocols import Payload
from .base import DEFENSES, Defense

SATURATED = 1e-6


@DEFENSES.register("clip")
@dataclass(frozen=True)
class ClipNorm(Defense):
    """The whole payload, shortened to length ``bound`` if it is longer: ``g min(1, bound / |g|)``.

    The adversary knows the bound. It cannot tell the length of a payload that has been shortened, and an attack that
    compares directions (IG) does not need it.

    Args:
        bound: greatest Euclidean length of the whole payload, above 0.
    """

    bound: float | int
    title = "Clipping"

    def __post_init__(self) -> None:
        _validate.number("bound", self.bound, above=0)

    @property
    def message_bound(self) -> float:
        return float(self.bound)

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        return self.simulate(payload)

    def simulate(self, payload: Payload) -> Payload:
        length = torch.linalg.vector_norm(payload.flat.double())
        factor = (float(self.bound) / length.clamp_min(1e-300)).clamp_max(1.0)
        return payload.map(lambda tensor: tensor * factor.to(tensor.dtype))


@DEFENSES.register("clip_scalars")
@dataclass(frozen=True)
class ClipScalars(Defense):
    """Every scalar within [-bound, bound].

    The adversary knows the bound, so it knows which scalars were cut, and leaves them out. If another defence follows,
    it does not, and cuts the scalars of its guess instead.

    Args:
        bound: greatest absolute value of a scalar, above 0, in units of the scalars.
    """

    bound: float | int
    kinds = ("scalars",)
    title = "Clipped scalars"

    def __post_init__(self) -> None:
        _validate.number("bound", self.bound, above=0)

    @property
    def mean_bound(self) -> float:
        return float(self.bound)

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        return self.simulate(payload)

    def simulate(self, payload: Payload) -> Payload:
        return payload.map(lambda scalars: scalars.clamp(-float(self.bound), float(self.bound)))

    def scalar_weights(self, payload: Payload) -> torch.Tensor:
        """0 for scalars that were cut, 1 for those that came through, (K,)."""
        return (payload.scalars.abs() < float(self.bound) * (1 - SATURATED)).to(payload.dtype)
