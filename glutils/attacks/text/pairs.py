"""The two weight vectors behind every scalar: everybody who knows seeds and states can rebuild them, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from ... import models
from ...observation import Observation
from ...observation.transcripts import Round

BUDGET = 2**30
"""Bytes of weight vectors that are kept; of a larger model, or of more scalars, they are rebuilt at every use."""
BLOCK = 2**24
"""Bytes of weight vectors that one vectorised pass through the model takes at a time."""
MOST = 16
"""Scalars of one pass at most, however few weights each has: what passes through the model should fit a cache too."""


class Pairs:
    """theta_k + mu z_k and theta_k - mu z_k for all K scalars of one client, as the client computed them.

    Args:
        seen: messages of scalars; their states and public seeds say everything.
        budget: bytes that may be kept.
        dtype: precision in which the attacker reads them.

    Attributes:
        count: K.
        scalars: (K,) float64, as received; zero where a defence left nothing of one.
        spans: (K,), what each difference of losses was divided by.
        dtype: of the weight vectors.
    """

    def __init__(self, seen: Observation, *, budget: int = BUDGET, dtype: torch.dtype = torch.float32):
        self.model, self.rounds, self.dtype = seen.model, seen.rounds, dtype
        self._like = models.parameters(seen.model)
        dim = sum(p.numel() for p in self._like.values())
        sizes = [len(entry.payload) for entry in seen.rounds]
        self.count = sum(sizes)
        told = [entry.protocol.scalar_weights(entry.payload) for entry in seen.rounds]
        kept = [torch.ones(k) if w is None else w.float().cpu() for w, k in zip(told, sizes, strict=True)]
        self.weights = torch.cat(kept)
        device = next(iter(self._like.values())).device
        self.weights = self.weights.to(device)
        self.scalars = torch.cat([entry.payload.scalars.double() for entry in seen.rounds]) * self.weights
        spans = [[_arithmetic(entry).span] * size for entry, size in zip(seen.rounds, sizes, strict=True)]
        self.spans = torch.tensor([span for part in spans for span in part], device=device)
        self.block = max(1, min(self.count, MOST, BLOCK // (2 * dim * dtype.itemsize)))
        self._kept = [] if 2 * self.count * dim * dtype.itemsize <= budget else None

    def blocks(self, every: int = 1) -> Iterator[tuple[slice, models.Parameters]]:
        """Which scalars, and their 2 n weight vectors as stacked parameters (2 n, ...): n ahead, then n behind.

        With ``every`` above 1 only each ``every``-th block: a part of the scalars is enough to compare candidates.
        """
        if self._kept is not None and not self._kept:
            self._kept = list(self._built())
        number = 0
        for number, (where, weights) in enumerate(self._kept if self._kept is not None else self._built()):
            if number % every == 0:
                yield where, {n: p.flatten(0, 1) for n, p in weights.items()}

    @property
    def blocks_count(self) -> int:
        """Number of blocks."""
        return math.ceil(self.count / self.block)

    def _built(self) -> Iterator[tuple[slice, models.Parameters]]:
        """Blocks of at most ``block`` scalars, across messages."""
        held: list[torch.Tensor] = []
        start = have = 0
        for entry in self.rounds:
            for points in self._points(entry):
                held.append(points)
                have += points.shape[1]
                while have >= self.block:
                    together = torch.cat(held, 1)
                    yield slice(start, start + self.block), self._named(together[:, : self.block])
                    rest = together[:, self.block :]
                    held, have, start = [rest], rest.shape[1], start + self.block
        if have:
            yield slice(start, start + have), self._named(torch.cat(held, 1))

    def _points(self, entry: Round) -> Iterator[torch.Tensor]:
        """(2, n, d) of one message, ahead and behind, n at a time."""
        protocol, arithmetic = entry.protocol, _arithmetic(entry)
        own = self._like if entry.parameters is None else self._like | dict(entry.parameters)
        directions = protocol.draw(self.model)
        theta = models.flatten(own).to(_dtype(arithmetic.dtype))
        for ahead, behind, _ in arithmetic.walk(theta, directions):
            yield torch.stack([ahead, behind.expand_as(ahead)]).to(self.dtype)

    def _named(self, points: torch.Tensor) -> models.Parameters:
        """(2, n, d) as named stacks (2, n, ...)."""
        sizes = [p.numel() for p in self._like.values()]
        parts = points.split(sizes, -1)
        return {
            name: part.reshape(*points.shape[:2], *p.shape)
            for (name, p), part in zip(self._like.items(), parts, strict=True)
        }


def _arithmetic(entry: Round):
    """The client's, with a central difference in place of an exact slope, which it approaches as mu^2."""
    found = entry.protocol.arithmetic
    return replace(found, scheme="central") if found.scheme == "exact" else found


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)
