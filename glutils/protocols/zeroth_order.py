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
        dtype: ``"float32"``, ``"float64"``, ``"bfloat16"`` or ``"float16"``: the precision in which the client perturbs
            its parameters and evaluates its loss. In half precision the other programs draw their directions in it too,
            and the scalars, as float32, hold the numbers that it gives.
        seed: public seed of the directions.
        memory: bytes of directions that may be kept (not part of the protocol; a matter of the machine).
        in_place: whether the client perturbs the parameters themselves, as MeZO and DeComFL do: + mu z, - 2 mu z,
            + mu z (forward: + mu z, - mu z). They come back rounded, and the next direction starts there. Where they
            are of another precision than ``dtype``, it is a copy that is perturbed. The model given to
            :meth:`transmit` is left as it was; what the client has afterwards is :meth:`left_behind`, and in
            :func:`gl.federation.train <glutils.federation.train>` the next state is counted from there.
        loss_dtype: in half precision, ``"float32"`` if the outputs are cast to it before the cross entropy; None: the
            loss is in ``dtype`` too.
        loss: what the client minimises: a name, a loss object or a function (:func:`glutils.models.losses.find`); None:
            cross entropy, of next tokens where the model gives (B, L, V).

    Where rounding is known beforehand, in half precision and in place, Gauss-Newton replays it; what the forward pass
    rounds, it can only estimate. Adam and L-BFGS take the directions as drawn.

    The global parameters keep the precision that the model has, and everybody replays in it. A model in float32 with
    clients in half precision is what mixed precision calls master weights: a client casts them for every message.

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
    in_place: bool = False
    loss_dtype: str | None = None
    loss: Any = None
    kind = "scalars"

    def __post_init__(self) -> None:
        _validate.integer("directions", self.directions, at_least=1)
        _validate.number("mu", self.mu, above=0)
        _validate.choice("scheme", self.scheme, zo.SCHEMES)
        zo.find_law(self.law)
        _validate.choice("dtype", self.dtype, zo.DTYPES)
        _validate.integer("seed", self.seed, at_least=0)
        _validate.integer("memory", self.memory, at_least=0)
        _validate.instance("in_place", self.in_place, bool)
        models.losses.find(self.loss)
        half = self.dtype in zo.HALF
        if self.scheme == "exact" and (half or self.in_place):
            what = f"dtype={self.dtype!r} and in_place={self.in_place}"
            raise ValueError(f"scheme must be 'central' or 'forward' with {what}, got 'exact'")
        if self.loss_dtype is not None and (not half or self.loss_dtype != "float32"):
            allowed = "None or 'float32'" if half else "None"
            raise ValueError(f"loss_dtype must be {allowed} with dtype={self.dtype!r}, got {self.loss_dtype!r}")

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
        return self.arithmetic.plain  # else each client's rounding is a part of its message

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
        return self._scalars(model, images, labels, directions, each=True)

    def _client(self, model, images, labels, params=None, graph=None, directions=None) -> Any:
        return self._scalars(model, images, labels, directions, params=params)

    def _scalars(self, model, images, labels, directions, **how) -> torch.Tensor:
        directions = self.draw(model) if directions is None else directions
        found = self.arithmetic.slopes(model, images, labels, directions, **how)
        bad = 0 if self.arithmetic.plain else int((~torch.isfinite(found)).sum())
        if bad:
            raise ValueError(
                f"scalars must be finite, got {bad} of {found.numel()} that are not: dtype {self.dtype!r} overflows"
            )
        return found

    @property
    def criterion(self) -> models.losses.Loss:
        return models.losses.find(self.loss)

    @property
    def arithmetic(self) -> zo.Arithmetic:
        return zo.Arithmetic(self.mu, self.scheme, self.dtype, self.loss_dtype, self.in_place, self.criterion)

    def linearisation_state(
        self, params: models.Parameters, payload: Any, directions: zo.Directions
    ) -> models.Parameters:
        """The middle between the points that rounding led the client to."""
        return params if self.arithmetic.plain else self.arithmetic.as_computed(params, directions)[0]

    def directions_as_computed(self, params: models.Parameters, directions: zo.Directions) -> zo.Directions:
        return directions if self.arithmetic.plain else self.arithmetic.as_computed(params, directions)[1]

    def left_behind(self, params: models.Parameters, directions: zo.Directions) -> models.Parameters:
        return self.arithmetic.left(params, directions)

    def _simulate(self, model, images, labels, params, directions) -> Any:
        directions = self.draw(model) if directions is None else directions
        dtype = images.dtype if images.is_floating_point() else zo.DTYPES[self.dtype]
        how = {"dtype": dtype, "params": params, "criterion": self.criterion}
        return zo.exact_slopes(model, images, labels, directions, **how)
