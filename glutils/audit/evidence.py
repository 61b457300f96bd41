"""How well do records explain a message? What an auditor can say of a reconstruction without the truth.

The records that an attack found are sent through the protocol again, and what comes out is compared with what was sent.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch

from .. import models, zo
from ..attacks.text.certificate import certify
from ..observation import Observation
from .planted import place

ROUNDOFF = {"gradient": 1e-3, "delta": 1e-2, "scalars": 1e-4}
"""Relative misfits that count as round-off at least, for messages in float32."""
ROUNDINGS = 8.0
"""Of scalars, and of differences: round-off is up to so many times what is expected of the client's arithmetic."""

LOOSE = 0.1
"""A misfit above this share of the message never counts as round-off."""


@dataclass(frozen=True)
class Fit:
    """How records explain a message.

    Attributes:
        misfit: ``|m - m'| / |m|``, of the message m and what these records would send m'.
        scale: the factor by which m' would have to be multiplied to come closest to m.
        cosine: between the two.
    """

    misfit: float
    scale: float
    cosine: float


def fit(seen: Observation, images: torch.Tensor, labels: torch.Tensor) -> Fit:
    """What is left of the messages when what ``images`` (B, ...) and ``labels`` would send is taken off.

    Messages of clients that add noise are compared with what is expected of them. NaN gives an infinite misfit.
    """
    sent, own = [], []
    network = copy.deepcopy(seen.model)
    for message in seen.rounds:
        place(network, message.parameters)
        own.append(message.payload.flat.double())
        sent.append(_simulated(message, network, images, labels))
    one, other = torch.cat(own), torch.cat(sent)
    if not bool(other.isfinite().all()):
        return Fit(math.inf, math.nan, 0.0)
    size, length, product = float(one.norm()), float(other.norm()), float(one @ other)
    return Fit(
        float((one - other).norm()) / max(size, 1e-300), product / max(length**2, 1e-300),
        product / max(size * length, 1e-300),
    )  # fmt: skip


def _simulated(message, network, images, labels) -> torch.Tensor:
    protocol = message.protocol
    if protocol.kind == "scalars" and protocol.undefended.answers_slopes and not protocol.defenses:
        directions = protocol.draw(network)
        how = {"params": None if images.is_floating_point() else message.parameters}
        given = images.float() if images.is_floating_point() and protocol.dtype != "float64" else images
        return protocol.arithmetic.slopes(network, given, labels, directions, **how).detach().double()
    like = next(network.parameters()).dtype
    given = images.to(like) if images.is_floating_point() else images
    with torch.no_grad():
        start = models.parameters(network)
    return protocol.simulate(network, given, labels, params=start).detach().flat.double()


def tolerance(seen: Observation, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The relative misfit that the right records may have: round-off of the client's arithmetic, and stated noise."""
    message, count = seen.rounds[0], seen.shape[0]
    size = float(torch.cat([m.payload.flat.double() for m in seen.rounds]).square().mean().sqrt())
    if size <= 0:
        return 0.0
    floor, protocol = ROUNDOFF[seen.kind], message.protocol
    if seen.kind == "scalars" and protocol.undefended.answers_slopes:
        arithmetic = protocol.arithmetic
        if arithmetic.scheme != "exact":
            params = message.parameters or models.parameters(seen.model)
            given = images.float() if images.is_floating_point() else images
            loss = float(models.loss(seen.model, params, given, labels, criterion=protocol.criterion))
            dtype = zo.DTYPES[arithmetic.dtype]
            floor = max(floor, ROUNDINGS * zo.roundoff(loss, arithmetic.mu, dtype, arithmetic.scheme) / size)
    elif seen.kind == "delta":
        params = torch.cat([p.double().flatten() for p in models.parameters(seen.model).values()])
        eps = torch.finfo(message.payload.dtype).eps
        floor = max(floor, ROUNDINGS * eps * float(params.square().mean().sqrt()) / size)
    if message.payload.dtype.itemsize < 4:
        floor = max(floor, ROUNDINGS * torch.finfo(message.payload.dtype).eps)
    return min(floor, LOOSE) + 1.2 * protocol.noise(message.payload, count) / size


def surplus(seen: Observation) -> float:
    """Numbers in the messages for each number of the records."""
    return sum(m.payload.numel() for m in seen.rounds) / max(math.prod(seen.shape), 1)


def text_fit(seen: Observation, tokens: torch.Tensor, labels: torch.Tensor) -> float:
    """The misfit of texts, in the client's own arithmetic."""
    if seen.kind == "scalars":
        return certify(seen, tokens, labels, 0.0).misfit
    return fit(seen, tokens, labels).misfit
