"""Texts that the attacker's own language model makes up: how a hypothesis may go on."""

from __future__ import annotations

import torch

from ... import models
from .beam import Frame
from .code import IGNORED
from .reader import Reader


def texts(
    reader: Reader, params: models.Parameters, frame: Frame, prefixes: torch.Tensor, left: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """Each row of ``prefixes`` (N, L) with tokens behind it that the model draws, until its sentences have ended.

    Args:
        params: the weights that draw.
        left: (N,) sentences that are not ended.

    Returns:
        (N, frame.targets + 1) int64, -1 behind the end.
    """
    stacked = {name: p[None] for name, p in params.items()}
    tokens = prefixes.clone()
    left = left.clone()
    while tokens.shape[1] < frame.targets + 1:
        logits = reader.whole(stacked, tokens[:, -frame.length :].clamp(min=0))[0, :, -1]
        chances = logits.softmax(-1).cpu()
        if frame.begin is not None:
            chances[:, frame.begin] = 0
        drawn = torch.multinomial(chances, 1, generator=generator)[:, 0].to(tokens.device)
        drawn = torch.where(left > 0, drawn, torch.full_like(drawn, -1))
        if frame.end is not None:
            left = left - (drawn == frame.end).long()
        tokens = torch.cat([tokens, drawn[:, None]], 1)
    return tokens


def fitting(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` texts whose length is closest to what it has to be."""
    short = (tokens < 0).sum(1)
    return tokens[short.argsort(stable=True)[:count]]


def labelled(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens without the mark behind the end, and labels."""
    labels = torch.where(tokens < 0, torch.full_like(tokens, IGNORED), tokens)
    labels[:, 0] = IGNORED
    return tokens.clamp(min=0), labels
