"""When may an attacker who never sees the truth say that a text is right? When nothing else could have been sent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ... import models, zo
from ...observation import Observation
from .layout import IGNORED

LOOSE, ROUNDINGS = 0.03, 30.0
"""A misfit counts as none below this many times the client's round-off, or known noise; but never above ``LOOSE``."""
MARGIN = 20.0
"""Nats by which the scalars must outweigh the text's surprise."""
ALIKE = 4.0
"""So much less than two pieces of any kind two digits may differ in what they add to the scalars."""


@dataclass(frozen=True)
class Certificate:
    """How well a text explains the scalars, in the client's own arithmetic.

    Attributes:
        misfit: ``|s - what this text would send| / |s|``.
        tolerance: below which a misfit is none.
        surplus: nats. About exp(surprise) texts are as likely as this one, and each of them comes so close to K scalars
            by chance with probability misfit^K: with a surplus of x, exp(-x) of them do.
        near: nats by which a text with one other piece explains the scalars less well, if that piece is much like the
            true one: ``K (1 / misfit^2 - 1) / n / 4``. Noise hides such a change long before it hides the text.
    """

    misfit: float
    tolerance: float
    surplus: float
    near: float = math.inf

    @property
    def certified(self) -> bool:
        """Whether the text fits, and no other one could by chance, be it another text or nearly the same."""
        return self.misfit <= self.tolerance and min(self.surplus, self.near) >= MARGIN


def certify(
    seen: Observation, tokens: torch.Tensor, labels: torch.Tensor, surprise: float, behind: torch.Tensor | None = None
) -> Certificate:
    """Replay what the client would have sent for these texts (B, L): its precision, its rounding, its order of sums.

    Args:
        surprise: of the texts, in nats: minus their log-probability under the attacker's language model.
        behind: (rounds, B) bool, which of the texts are behind each message; None: all.
    """
    sent, kept = [], []
    everything = tokens, labels
    for number, entry in enumerate(seen.rounds):
        tokens, labels = everything if behind is None else (part[behind[number]] for part in everything)
        own = None if entry.parameters is None else models.parameters(seen.model) | dict(entry.parameters)
        directions = entry.protocol.draw(seen.model)
        found = entry.protocol.arithmetic.slopes(seen.model, tokens, labels, directions, params=own)
        told = entry.protocol.scalar_weights(entry.payload)
        weights = torch.ones_like(found) if told is None else told.to(found)
        sent.append((found * weights).detach().double())
        kept.append(entry.payload.scalars.double() * weights.double())
    scalars, replayed = torch.cat(kept), torch.cat(sent)
    size = float(scalars.norm())
    misfit = float((scalars - replayed).norm()) / size if size else math.inf
    tolerance = _tolerance(seen, size / math.sqrt(len(scalars)) if size else math.inf, *everything)
    count = int((scalars != 0).sum())
    surplus = count * math.log(1 / max(misfit, 1e-12)) - surprise if misfit < 1 else -math.inf
    near = count * (1 / max(misfit, 1e-12) ** 2 - 1) / max(1, int((everything[1] != IGNORED).sum())) / ALIKE
    return Certificate(misfit, tolerance, surplus, near)


def _tolerance(seen: Observation, scale: float, tokens: torch.Tensor, labels: torch.Tensor) -> float:
    """The misfit that the right text may have: another machine's round-off, and noise that a defence adds."""
    protocol = seen.protocol
    arithmetic = protocol.arithmetic
    loss = float(models.loss(seen.model, models.parameters(seen.model), tokens, labels))
    rough = zo.roundoff(loss, arithmetic.mu, zo.DTYPES[arithmetic.dtype], arithmetic.scheme) / scale
    noise = protocol.noise(seen.payload, seen.shape[0]) / scale
    return max(min(LOOSE, ROUNDINGS * rough), 1.5 * noise)
