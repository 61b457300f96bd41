"""Exercises of the chapters on texts: what every token adds to a scalar, and how many scalars are really different."""

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


def _dimension(covariance: torch.Tensor) -> torch.Tensor:
    return covariance.trace() ** 2 / covariance.square().sum()


@exercise(
    "The trace is the sum of the eigenvalues, and the sum of all squared entries that of their squares.",
    {
        "That is the rank: it counts a direction in which next to nothing varies like any other.": lambda covariance: (
            torch.linalg.matrix_rank(covariance)
        ),
        "Upside down: of K equal eigenvalues it should be K.": lambda covariance: 1 / _dimension(covariance),
        "Square the trace too: the unit of the scalars must cancel.": lambda covariance: (
            covariance.trace() / covariance.square().sum()
        ),
        "The squares of the eigenvalues add up to the squares of all entries, not of those on the diagonal.": (
            lambda covariance: covariance.trace() ** 2 / covariance.diagonal().square().sum()
        ),
    },
)
def effective_dimension(draw: torch.Generator) -> Iterator[Case]:
    """effective_dimension(covariance): how many independent numbers scalars of a covariance (K, K) amount to: the
    square of the sum of its eigenvalues over the sum of their squares."""
    for _ in range(4):
        count, few = integer(draw, 4, 7), integer(draw, 2, 3)
        factors = normal(draw, count, few)
        covariance = factors @ factors.T + 0.01 * torch.eye(count)
        yield Case(f"{count} scalars, {few} of them free", (covariance,), _dimension(covariance))
