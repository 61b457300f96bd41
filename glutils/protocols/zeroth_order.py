"""Zeroth-order federated learning: a client sends slopes of its loss along public random directions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .. import _validate, models, zo
from .base import SEEDS_APART, Protocol


@dataclass(frozen=True)
class ZerothOrder(Protocol):
    """K slopes of the batch loss along public random directions (DeComFL, Li et al. 2024).

    ``transmit`` takes finite differences; ``simulate`` the exact directional derivatives, which are cheaper and differ
    by the differences' truncation and round-off.

    Args:
        directions: number of scalars K, 1 or more.
        mu: smoothing step, above 0, in units of the parameters times the direction's length.
        scheme: ``"central"``, ``"forward"`` or ``"exact"``.
        law: of the directions: ``"unit"`` (length one) and ``"gaussian"`` (length about sqrt(d)) of this book;
            ``"decomfl"``, ``"decomfl_unit"``, ``"mezo"`` and ``"fedkseed"`` as those programs draw them; or a function
            (seed, count, shapes) to a (count, d) tensor. Their table: :func:`glutils.zo.find_law`.
        dtype: ``"float32"`` or ``"float64"``: the precision in which the client evaluates its loss.
        seed: public seed of the directions.
        memory: bytes of directions that may be kept (not part of the protocol; a matter of the machine).

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", seed=0)
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> protocol = gl.protocols.ZerothOrder(directions=5, mu=1e-4, dtype="float64", seed=7)
        >>> len(protocol.transmit(model, batch.images, batch.labels))
        5
    """

    directions: int = 64
    mu: float | int = 1e-3
    scheme: str = "central"
    law: Any = "unit"
    dtype: str = "float32"
    seed: int = 0
    memory: int = zo.MEMORY
    kind = "scalars"

    def __post_init__(self) -> None:
        _validate.integer("directions", self.directions, at_least=1)
        _validate.number("mu", self.mu, above=0)
        _validate.choice("scheme", self.scheme, zo.SCHEMES)
        zo.find_law(self.law)
        _validate.choice("dtype", self.dtype, zo.DTYPES)
        _validate.integer("seed", self.seed, at_least=0)
        _validate.integer("memory", self.memory, at_least=0)

    def for_round(self, step: int) -> ZerothOrder:
        return replace(self, seed=self.seed + SEEDS_APART * step)

    def with_seed(self, seed: int) -> ZerothOrder:
        if self.public_seed is None:
            raise TypeError(f"protocol must have a public seed for that, got {self}")
        return replace(self, seed=seed)

    def averages_with(self, other: Protocol) -> bool:
        """Whether the other asks as many questions of the same law too."""
        if not (super().averages_with(other) and isinstance(other, ZerothOrder)):
            return False
        return (self.directions, self.law) == (other.directions, other.law)

    @property
    def linear_in_gradient(self) -> bool:
        return True

    @property
    def answers_slopes(self) -> bool:
        return True

    @property
    def public_seed(self) -> int | None:
        return self.seed

    def draw(self, model: nn.Module) -> zo.Directions:
        """The public directions for this model, on its device."""
        params = models.parameters(model)
        dim, device = sum(p.numel() for p in params.values()), next(iter(params.values())).device
        how = {"shapes": [p.shape for p in params.values()], "dtype": zo.DTYPES[self.dtype]}
        return zo.Directions(self.seed, self.directions, dim, self.law, device=device, memory=self.memory, **how)

    def of_each(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, directions: Any) -> torch.Tensor:
        """The scalars of every image by itself, (K, B): what a client computes that bounds or draws its images."""
        how = {"mu": self.mu, "scheme": self.scheme, "dtype": zo.DTYPES[self.dtype], "each": True}
        return zo.slopes(model, images, labels, self.draw(model) if directions is None else directions, **how)

    def _client(self, model, images, labels, params=None, graph=None, directions=None) -> Any:
        how = {"mu": self.mu, "scheme": self.scheme, "dtype": zo.DTYPES[self.dtype], "params": params}
        return zo.slopes(model, images, labels, self.draw(model) if directions is None else directions, **how)

    def _simulate(self, model, images, labels, params, directions) -> Any:
        directions = self.draw(model) if directions is None else directions
        return zo.exact_slopes(model, images, labels, directions, dtype=images.dtype, params=params)
