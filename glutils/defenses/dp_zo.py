"""Private zeroth-order learning, noise on one scalar a step: DPZero (Zhang et al. 2024), DP-ZO (Tang et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from .. import _validate
from ..protocols import Payload, Protocol
from .accounting import RELATIONS, SENSITIVITY
from .base import DEFENSES, Defense, check_expected, laplace_like, no_batchnorm, random_like

LAWS = ("gaussian", "laplace")
"""Of the noise, by name."""


@DEFENSES.register("dp_scalars")
@dataclass(frozen=True)
class DPScalars(Defense):
    """Private zeroth-order scalars: every image's slope clipped to ``clip``, summed, noise sigma x clip added.

    The step of two papers. DPZero (Zhang et al. 2024, ICML) cuts each record's finite difference along one direction a
    step at the same bound C throughout, and adds Gaussian noise to their mean. DP-ZO (Tang et al. 2024) cuts each
    record's difference of losses, draws Poisson batches, and adds Gaussian noise, or Laplace noise for an epsilon with
    a delta of zero (:func:`pure_epsilon`). Both rest on this: a direction is public and random, so all that a step says
    about records is one number, and noise on it has one dimension, however large the model.

    The noisy sum is divided by a public number N. One image moves each scalar by at most clip / N if it is there or
    not, or counts as zero, and by at most 2 clip / N if it is exchanged for another; a message of K scalars moves by
    sqrt(K) times that. :func:`~glutils.defenses.privacy_statement` counts so.

    Args:
        clip: greatest absolute slope of one image, above 0, in units of the scalars.
        sigma: noise multiplier, 0 or more: of Gaussian noise its standard deviation over ``clip``, of Laplace noise its
            scale over ``clip``, the standard deviation being sqrt(2) times that.
        expected: N, above 0: of batches drawn by Poisson sampling the expected size. None: the size of the batch, which
            then has to be public and fixed.
        law: of the noise, ``"gaussian"`` or ``"laplace"``.

    Deviations: clips the slope, as DPZero does; DP-ZO clips the difference of losses, the same up to the factor 2 mu.
    Directions are the protocol's (DPZero's theorems have ``"unit"`` ones, its programs and DP-ZO Gaussian ones), and
    more than one a step is allowed. Epsilon is today's accountant's, not the papers' composition.

    Example:
        >>> import glutils as gl
        >>> noise = gl.defenses.get("dp_scalars", clip=0.05, sigma=40.0, expected=100, law="laplace")
        >>> client = gl.defenses.Defended(gl.protocols.ZerothOrder(directions=1, mu=1e-4, seed=7), noise)
        >>> promise = gl.defenses.privacy_statement(client, records=100, rounds=80)  # which adds or removes a record
        >>> promise.epsilon, promise.delta
        (2.0, 0.0)
    """

    clip: float | int
    sigma: float | int
    expected: float | int | None = None
    law: str = "gaussian"
    kinds = ("scalars",)
    title = "DP scalars"
    needs_data = True

    def __post_init__(self) -> None:
        _validate.number("clip", self.clip, above=0)
        _validate.number("sigma", self.sigma, at_least=0)
        check_expected(self.expected)
        _validate.choice("law", self.law, LAWS)

    @property
    def image_bound(self) -> float:
        return float(self.clip)

    @property
    def public_count(self) -> float | None:
        return self.expected

    def check(self, protocol: Protocol, model: nn.Module) -> None:
        if not protocol.answers_slopes:
            raise ValueError(f"protocol must be ZerothOrder for DP scalars, got {protocol}")
        no_batchnorm(model, "DP scalars")

    def client(self, protocol, model, images, labels, generator, **how):
        if len(images):
            mean = self.shares(protocol, model, images, labels, **how).sum(0) / self._divisor(len(images))
        else:  # a Poisson batch may be empty: its sum is zero
            mean = torch.zeros(protocol.directions, device=images.device)
        draw = random_like if self.law == "gaussian" else laplace_like  # either of standard deviation 1
        return protocol.payload(mean + self.noise(None, len(images)) * draw(mean, generator), model)

    def shares(self, protocol, model, images, labels, directions=None) -> torch.Tensor:
        """(B, K) what each image adds to the sums of cut slopes, before they are divided; without noise."""
        slopes = protocol.of_each(model, images, labels, directions).detach()
        return slopes.T.clamp(-float(self.clip), float(self.clip))

    def attacker(self, protocol, model, images, labels, params, how):
        slopes = [
            protocol.simulate(model, x[None], y[None], params=params, **how).scalars
            for x, y in zip(images, labels, strict=True)
        ]
        total = torch.stack(slopes).clamp(-float(self.clip), float(self.clip)).sum(0)
        return protocol.payload(total / self._divisor(len(images)), model)

    def noise(self, payload: Payload | None, images: int) -> float:
        spread = 1.0 if self.law == "gaussian" else math.sqrt(2)
        return spread * float(self.sigma) * float(self.clip) / self._divisor(images)

    def _divisor(self, images: int) -> float:
        """What the sum is divided by."""
        return float(images if self.expected is None else self.expected)


def pure_epsilon(
    scale: float | int, sample_rate: float | int, steps: int, *, scalars: int = 1, relation: str = "add_remove"
) -> float:
    """Epsilon, with a delta of zero, after some sums of clipped slopes with Laplace noise (DP-ZO).

    If a record moves each of K scalars by at most s clipping bounds, a message gives K s / scale. A record that takes
    part with probability q gets log(1 + q (e^(K s / scale) - 1)) of it, since all scalars of a message are about the
    same draw. Messages add up: the worst outcomes of all of them may come together.

    Args:
        scale: of the Laplace noise on the sum, over the clipping bound, above 0.
        sample_rate: probability with which each record takes part in a message, by itself, above 0, at most 1.
        steps: messages, 1 or more.
        scalars: of a message, 1 or more.
        relation: which data sets are neighbours, as for :func:`~glutils.defenses.epsilon`.

    Raises:
        ValueError, TypeError: a wrong argument.

    Example:
        >>> import glutils as gl
        >>> gl.defenses.pure_epsilon(40.0, 1.0, 80), round(gl.defenses.pure_epsilon(40.0, 0.1, 80), 3)
        (2.0, 0.202)
    """
    scale = _validate.number("scale", scale, above=0)
    rate = _validate.number("sample_rate", sample_rate, above=0, at_most=1)
    steps = _validate.integer("steps", steps, at_least=1)
    scalars = _validate.integer("scalars", scalars, at_least=1)
    one = SENSITIVITY[_validate.choice("relation", relation, RELATIONS)] * scalars / scale
    if rate < 1:  # without overflow where one is large
        one = math.log1p(rate * math.expm1(one)) if one < 100 else one + math.log(rate + (1 - rate) * math.exp(-one))
    return steps * one
