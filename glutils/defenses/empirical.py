"""How much privacy a run has demonstrably lost: guesses about canaries, and the epsilon that they refute."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _validate

CLOSE = 1e-4
"""How far below the epsilon that is just refuted the one that is given may lie."""


@dataclass(frozen=True)
class EmpiricalEpsilon:
    """What guesses about canaries refute.

    Attributes:
        epsilon: with the stated confidence, the mechanism is not (epsilon, delta)-private for any smaller epsilon; 0 if
            the guesses refute nothing.
        delta, confidence: as asked.
        right, guesses, canaries: guesses that were right, all guesses, and all canaries.
        advantage: share of members that scored above the middle of all scores, less that of the others: what was seen,
            without a confidence.
    """

    epsilon: float
    delta: float
    confidence: float
    right: int
    guesses: int
    canaries: int
    advantage: float

    def __str__(self) -> str:
        return (
            f"epsilon at least {self.epsilon:.3g} at delta {self.delta:g}, with confidence {self.confidence:g}: "
            f"{self.right} of {self.guesses} guesses right about {self.canaries} canaries; advantage "
            f"{self.advantage:.2f}"
        )


def empirical_epsilon(
    scores: Tensor,
    members: Tensor,
    *,
    delta: float,
    guesses: int | None = None,
    confidence: float = 0.95,
) -> EmpiricalEpsilon:
    """A lower bound on the epsilon of one run, from how well its canaries are told (Steinke, Nasr, Jagielski 2023).

    Each canary was put into the run, or not, by the toss of a fair coin of its own. Scores say how much each looks like
    a member. The highest half of the guesses is "was there", the lowest "was not", and of those between nothing is
    said. If a mechanism is (epsilon, delta)-private for one record that is there or not, the number of right guesses
    is v or more with a probability of at most (their theorem on approximate privacy)

    ``P[Binomial(r, q) >= v] + 2 m delta max_i P[v > Binomial(r, q) >= v - i] / i``, ``q = 1 / (1 + exp(-epsilon))``.

    The least epsilon for which that is not below 1 - confidence is given. By chance it lies above the truth in one run
    of 20 at most, at the default confidence. An attack that guesses badly bounds little: 0 is no proof of privacy.

    Args:
        scores: (m,) a number for each canary, higher where it looks more like a member; finite.
        members: (m,) bool, the coins: who was there.
        delta: above 0, below 1: of the guarantee that is put to the test.
        guesses: r, from 2 to m, even; fixed before the coins are seen. Default: half of the canaries.
        confidence: above 0, below 1.

    Raises:
        ValueError, TypeError: a wrong argument.

    Deviations: the bound alone is the paper's; it lets the auditor choose how many of either kind to guess, here both
    kinds are guessed equally often.

    Example:
        A count of one, published with noise of deviation 0.5, a thousand times:

        >>> import torch, glutils as gl
        >>> generator = torch.Generator().manual_seed(0)
        >>> members = torch.rand(1000, generator=generator) < 0.5
        >>> noisy = members.double() + 0.5 * torch.randn(1000, generator=generator)
        >>> found = gl.defenses.empirical_epsilon(noisy, members, delta=1e-5, guesses=200)
        >>> found.right, round(found.epsilon, 1), round(gl.defenses.epsilon(0.5, 1.0, 1, 1e-5), 1)
        (198, 3.4, 10.0)
    """
    scores, members = _canaries(scores, members)
    count = len(scores)
    delta = _validate.number("delta", delta, above=0)
    confidence = _validate.number("confidence", confidence, above=0)
    for name, value in (("delta", delta), ("confidence", confidence)):
        if value >= 1:
            raise ValueError(f"{name} must be less than 1, got {value}")
    guesses = max(2, count // 4 * 2) if guesses is None else guesses
    guesses = _validate.integer("guesses", guesses, at_least=2, at_most=count)
    if guesses % 2:
        raise ValueError(f"guesses must be even, as many of members as of others, got {guesses}")
    order = scores.argsort(stable=True)
    low, high = order[: guesses // 2], order[count - guesses // 2 :]
    right = int((~members[low]).sum() + members[high].sum())
    above = scores > scores.median()
    seen = [float(above[who].double().mean()) if who.any() else 0.0 for who in (members, ~members)]
    return EmpiricalEpsilon(
        epsilon=_least(count, guesses, right, delta, 1 - confidence), delta=delta, confidence=confidence,
        right=right, guesses=guesses, canaries=count, advantage=seen[0] - seen[1],
    )  # fmt: skip


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Greatest probability of so many right guesses, or more, under (epsilon, delta)-privacy."""
    import numpy as np
    from scipy.stats import binom

    law = binom(guesses, 1 / (1 + math.exp(-epsilon)))
    below = np.cumsum(law.pmf(np.arange(right - 1, -1, -1))) / np.arange(1, right + 1)
    return min(1.0, float(law.sf(right - 1)) + 2 * canaries * delta * float(below.max(initial=0.0)))


@functools.lru_cache(maxsize=1024)
def _least(canaries: int, guesses: int, right: int, delta: float, level: float) -> float:
    """The largest epsilon that is still refuted at this level, to CLOSE; 0 if none is."""
    if p_value(canaries, guesses, right, 0.0, delta) >= level:
        return 0.0
    low, high = 0.0, 1.0
    while p_value(canaries, guesses, right, high, delta) < level:
        low, high = high, 2 * high
    while high - low > CLOSE:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(canaries, guesses, right, middle, delta) < level else (low, middle)
    return low


def membership_advantage(epsilon: float | int, delta: float | int = 0.0) -> float:
    """Greatest share of members told, less the share of others taken for members, under (epsilon, delta)-privacy.

    (exp(epsilon) - 1 + 2 delta) / (exp(epsilon) + 1), of the best test between two neighbours (Kairouz, Oh, Viswanath
    2015). At epsilon 0.1 it is 0.05, at 1 it is 0.46, at 5 it is 0.99: a large epsilon promises nothing here.

    Args:
        epsilon: 0 or more, of the relation in which a record is there or not.
        delta: 0 or more, below 1.

    Example:
        >>> import glutils as gl
        >>> round(gl.defenses.membership_advantage(1.0), 2)
        0.46
    """
    eps = _validate.number("epsilon", epsilon, at_least=0)
    delta = _validate.number("delta", delta, at_least=0)
    if delta >= 1:
        raise ValueError(f"delta must be less than 1, got {delta}")
    return math.tanh(eps / 2) + delta * (1 - math.tanh(eps / 2))


def _canaries(scores: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    _validate.instance("scores", scores, Tensor)
    _validate.instance("members", members, Tensor)
    if scores.ndim != 1 or len(scores) < 2:
        raise ValueError(f"scores must hold a number for each of at least 2 canaries, got shape {tuple(scores.shape)}")
    if members.dtype != torch.bool or members.shape != scores.shape:
        raise ValueError(
            f"members must be bool, of shape {tuple(scores.shape)}, got {members.dtype}, {tuple(members.shape)}"
        )
    _validate.finite("scores", scores)
    return scores.detach().double().cpu(), members.cpu()
