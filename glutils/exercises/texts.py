"""Exercise of the chapter on a sentence in 192 numbers: what every token adds to a scalar."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .base import Case, exercise, integer, normal


def _contributions(ahead: torch.Tensor, behind: torch.Tensor, targets: torch.Tensor, mu: float) -> torch.Tensor:
    here = torch.arange(len(targets))
    return -(ahead[here, targets] - behind[here, targets]) / (2 * mu * len(targets))


@exercise(
    "Take the log-probability of each target from its own row, ahead less behind; minus that, over 2 mu n.",
    {
        "The loss is minus the log-probability.": lambda ahead, behind, targets, mu: -_contributions(
            ahead, behind, targets, mu
        ),
        "The loss is a mean over the targets: divide by their number.": lambda ahead, behind, targets, mu: (
            len(targets) * _contributions(ahead, behind, targets, mu)
        ),
        "From theta + mu z to theta - mu z the way is 2 mu.": lambda ahead, behind, targets, mu: (
            2 * _contributions(ahead, behind, targets, mu)
        ),
        "One number for each target, please: their sum is the scalar.": lambda ahead, behind, targets, mu: (
            _contributions(ahead, behind, targets, mu).sum()
        ),
    },
)  # fmt: skip
def token_contributions(draw: torch.Generator) -> Iterator[Case]:
    """token_contributions(ahead, behind, targets, mu): what every target adds to a scalar, (n,), from the
    log-probabilities (n, V) of all tokens at each position, at theta + mu z and at theta - mu z, the n targets, (n,)
    int64, and mu."""
    for _ in range(4):
        count, vocabulary, mu = integer(draw, 3, 6), integer(draw, 3, 6), 10.0 ** -integer(draw, 1, 3)
        ahead = normal(draw, count, vocabulary).log_softmax(-1)
        behind = (ahead + mu * normal(draw, count, vocabulary)).log_softmax(-1)
        targets = torch.randint(vocabulary, (count,), generator=draw)
        right = _contributions(ahead, behind, targets, mu)
        yield Case(f"{count} targets, {vocabulary} tokens and mu {mu:g}", (ahead, behind, targets, mu), right)
