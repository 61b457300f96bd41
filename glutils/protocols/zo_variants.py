"""Zeroth-order protocols beside DeComFL's: a fixed pool of seeds, and directions that clients keep to themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .. import _validate, models, zo
from ..zo import GivenDirections
from .base import CLIENTS_APART, Protocol, derive_seed
from .payload import Payload
from .zeroth_order import ZerothOrder


@dataclass(frozen=True)
class SeedPool(ZerothOrder):
    """FedKSeed (Qin et al. 2024): the same K public directions in every round; a client walks along them by itself.

    In each of ``passes`` passes the client visits every direction of the pool once, in a private order, takes the slope
    there, moves along it, and adds the slope to that direction's account. It sends the K accounts, each divided by
    ``passes``: mean slopes along its own path. The server replays them as scalars, and where it takes part alone, and
    with ``local_lr`` equal to the server's step, it arrives where the client did.

    The server does not see the states that the client went through, only where it began and, by the accounts, where it
    ended. The adversary takes the slopes for those at the middle of that way (:meth:`linearisation_state`), which is
    exact for one visit of each direction up to second order of the way.

    Args:
        directions: size of the pool K.
        passes: visits of each direction before the client answers, 1 or more.
        local_lr: step size of the client, above 0, in the units of the server's.
        order: seed of the orders, private to the client; an observation does not contain it.
        mu, scheme, law, dtype, seed, memory, loss: see :class:`~glutils.protocols.ZerothOrder`.

    Deviations: the original draws seeds with replacement and sends every pair of seed and scalar; here the accounts
    alone are sent, which tells the server less. Every step uses all images that the round gave to the client.
    """

    passes: int = 1
    local_lr: float | int = 0.1
    order: Any = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.integer("passes", self.passes, at_least=1)
        _validate.number("local_lr", self.local_lr, above=0)
        if self.order is not None:
            _validate.integer("order", self.order, at_least=0)

    def for_round(self, step: int) -> SeedPool:
        return self if self.order is None else replace(self, order=derive_seed(self.order, step))

    def for_client(self, client: int) -> SeedPool:
        if self.order is None:
            return self
        return replace(self, order=derive_seed(self.order, client + 1, CLIENTS_APART))

    def public_view(self, payload: Payload) -> SeedPool:
        return replace(self, order=None)

    @property
    def linear_in_gradient(self) -> bool:
        return False

    @property
    def answers_slopes(self) -> bool:
        return False

    def local_steps(self, images: int) -> int:
        """Every direction in every pass."""
        return self.directions * self.passes

    def _client(self, model, images, labels, params=None, graph=None, directions=None):
        if self.order is None:
            raise ValueError("order must be the client's seed to transmit; the adversary's copy does not have it")
        directions = self.draw(model) if directions is None else directions
        dtype = zo.DTYPES[self.dtype]
        generator = torch.Generator().manual_seed(self.order)
        state = models.parameters(model, dtype) if params is None else params
        wide = torch.float32 if dtype.itemsize < 4 else dtype
        accounts = torch.zeros(self.directions, dtype=wide, device=images.device)
        step = self.local_lr * self._factor(directions) / self.passes
        for number in torch.cat([torch.randperm(self.directions, generator=generator) for _ in range(self.passes)]):
            one = GivenDirections(directions.rows(int(number), int(number) + 1, torch.float64))
            slope = self._scalars(model, images, labels, one, params=state)
            accounts[number] += slope[0]
            move = models.unflatten(one.combine(slope) * step, state)
            state = {name: p - move[name].to(p.dtype) for name, p in self.arithmetic.left(state, one).items()}
        return accounts / self.passes

    def linearisation_state(
        self, params: models.Parameters, payload: Payload, directions: zo.Directions
    ) -> models.Parameters:
        """The middle of the client's way, as far as its accounts tell."""
        accounts = payload.scalars.to(directions.device).double()
        way = directions.combine(accounts) * (self.local_lr * self._factor(directions))
        way = models.unflatten(way / 2, params)
        return {name: p - way[name].to(p.dtype) for name, p in params.items()}

    def directions_as_computed(self, params: models.Parameters, directions: zo.Directions) -> zo.Directions:
        """As drawn: nobody else knows the states in which the client rounded them."""
        return directions

    def left_behind(self, params: models.Parameters, directions: zo.Directions) -> models.Parameters:
        """``params``: the client walks on a copy, and the server starts where it was."""
        return params

    def _factor(self, directions: zo.Directions) -> float:
        """Of a scalar in the unbiased estimate."""
        return directions.factor / self.directions


@dataclass(frozen=True)
class HiddenDirections(ZerothOrder):
    """A zeroth-order client that draws its directions in secret and sends the step itself: a vector of d numbers.

    Since nobody else can replay scalars along secret directions, the client sends its estimate of the gradient,
    (d / K) sum of s_i z_i for the unit law. The payload is a ``"gradient"`` to everybody; a server averages it as in
    FedSGD. It costs d numbers in place of K. What it still tells: :func:`glutils.observation.as_slopes`.

    Args:
        directions: K, drawn anew in every round.
        seed: of the directions, private to the client; an observation does not contain it.
        mu, scheme, law, dtype, memory, loss: see :class:`~glutils.protocols.ZerothOrder`.
    """

    seed: Any = 0
    kind = "gradient"

    def __post_init__(self) -> None:
        if self.seed is not None:
            super().__post_init__()

    def for_round(self, step: int) -> HiddenDirections:
        return self if self.seed is None else replace(self, seed=derive_seed(self.seed, step))

    def for_client(self, client: int) -> HiddenDirections:
        return self if self.seed is None else replace(self, seed=derive_seed(self.seed, client + 1, CLIENTS_APART))

    def public_view(self, payload: Payload) -> HiddenDirections:
        return replace(self, seed=None)

    @property
    def linear_in_gradient(self) -> bool:
        return False

    @property
    def answers_slopes(self) -> bool:
        return False

    @property
    def public_seed(self) -> None:
        return None

    def draw(self, model: nn.Module) -> zo.Directions:
        """The client's own directions, for itself; ``TypeError`` for the adversary's copy, which has no seed."""
        return super().draw(model) if self.seed is not None else Protocol.draw(self, model)

    def _client(self, model, images, labels, params=None, graph=None, directions=None):
        if self.seed is None:
            raise ValueError("seed must be the client's to transmit; the adversary's copy does not have it")
        directions = self.draw(model)
        scalars = super()._client(model, images, labels, params, graph, directions)
        found = models.unflatten(zo.estimate(scalars, directions), models.parameters(model))
        return {name: part.to(next(model.parameters()).dtype) for name, part in found.items()}

    def _simulate(self, model, images, labels, params, directions):
        """The gradient: the mean over all directions that the client might have drawn."""
        return models.gradient(model, params, images, labels, create_graph=True, criterion=self.criterion)


@dataclass(frozen=True, eq=False)
class Along(ZerothOrder):
    """Scalars along directions that the adversary holds as vectors, ``rows`` (K, d); for simulation only."""

    rows: Any = None

    @property
    def linear_in_gradient(self) -> bool:
        return False

    @property
    def answers_slopes(self) -> bool:
        return False

    @property
    def public_seed(self) -> None:
        return None

    def draw(self, model: nn.Module) -> zo.Directions:
        """The rows themselves."""
        return GivenDirections(self.rows)
