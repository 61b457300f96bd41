"""What an attacker knows of a message of scalars before it knows of the images: directions, states, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from ... import models, zo
from ...observation.transcripts import Round


def as_seen(model: nn.Module, entry: Round) -> tuple[zo.Directions, models.Parameters]:
    """The directions of a message as the client computed them, times 0 where a defence left nothing of the scalar; and
    the state at which its slopes were taken. Both from one drawing: a large message takes seconds to draw."""
    drawn = entry.protocol.draw(model)
    directions = entry.protocol.directions_as_computed(own_state(model, entry), drawn)
    weights = scalar_weights(entry)
    directions = directions if weights is None else directions.weighted(weights)
    return directions, linearisation_state(model, entry, drawn)


def as_computed(
    model: nn.Module,
    entries: Sequence[Round],
    images: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of clients whose points are known to the last bit, if these were their images: the differences of losses in
    float64 between those points, and what the client's forward pass adds to them; all messages one after the other.

    ``weights`` (messages, B) of images in each message's loss.
    """
    arithmetic, like = entries[0].protocol.arithmetic, models.parameters(model)
    pairs = [arithmetic.points(own_state(model, entry), entry.protocol.draw(model)) for entry in entries]
    ahead, behind = (torch.cat(points) for points in zip(*pairs, strict=True))
    shares = None if weights is None else weights.repeat_interleave(len(pairs[0][0]), 0)
    told = [scalar_weights(entry) for entry in entries]
    kept = [torch.ones(len(a)) if w is None else w for (a, _), w in zip(pairs, told, strict=True)]
    found = []
    for own in (replace(arithmetic, dtype="float64", loss_dtype=None), arithmetic):
        loss = zo.losses(model, like, images, labels, own)
        found.append((loss(ahead, shares) - loss(behind, shares)).double() / arithmetic.span)
    fine, coarse = (part.detach() * torch.cat(kept).to(part) for part in found)
    return fine, coarse - fine


def received(entry: Round) -> torch.Tensor:
    """The scalars of a message, (K,), float64; zero where a defence cut them off."""
    weights = scalar_weights(entry)
    scalars = entry.payload.scalars.double()
    return scalars if weights is None else scalars * weights.to(scalars)


def linearisation_state(
    model: nn.Module, entry: Round, directions: zo.Directions | None = None
) -> models.Parameters:
    """The state at which a message's slopes were taken, in float64; for a client that moves meanwhile, its estimate.

    ``directions``: of the message, if they have been drawn already.
    """
    state = own_state(model, entry)
    if entry.payload.kind != "scalars":
        return state
    directions = entry.protocol.draw(model) if directions is None else directions
    return entry.protocol.linearisation_state(state, entry.payload, directions)


def own_state(model: nn.Module, entry: Round) -> models.Parameters:
    """Where the client stood when it began its message, in float64."""
    own = {} if entry.parameters is None else entry.parameters
    return models.parameters(model, torch.float64) | {name: p.detach().double() for name, p in own.items()}


def scalar_weights(entry: Round) -> torch.Tensor | None:
    """1 for scalars that came through the client's defence, 0 for those that were cut off, (K,); None: all did."""
    return entry.protocol.scalar_weights(entry.payload)
