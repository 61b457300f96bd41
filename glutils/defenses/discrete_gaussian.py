"""Noise of whole steps for secure sums (Kairouz, Liu, Steinke 2021); exact sampler of Canonne, Kamath, Steinke 2020.

Noise on real numbers that is rounded afterwards is no longer the noise that was accounted for. Here numbers are rounded
to the grid first, and the noise lives on the grid: P(k) proportional to exp(-k^2 / (2 sigma^2)) for whole k. It is
drawn with integers alone, so that no digit of a float says anything.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from .. import _validate

BIAS = math.exp(-0.5)
"""beta of the paper: chance that a rounding which makes the vector too long is drawn again."""


def discrete_gaussian(count: int, variance: int | float | Fraction, *, seed: int | None = None) -> Tensor:
    """``count`` whole numbers, int64, with P(k) proportional to exp(-k^2 / (2 variance)), drawn exactly.

    Algorithms 1 to 3 of Canonne, Kamath, Steinke 2020: coins of probability exp(-gamma) from coins of rational
    probability, a discrete Laplace law from those, and a discrete Gaussian by rejection. All arithmetic is of integers.

    Args:
        count: 0 or more.
        variance: sigma^2 of the law, above 0; a float is taken as the fraction that it is.
        seed: makes the numbers repeatable, for tests and books; default: the system's randomness.

    Example:
        >>> import glutils as gl
        >>> drawn = gl.defenses.discrete_gaussian(2000, 4.0, seed=0)
        >>> drawn.dtype, abs(float(drawn.double().var()) - 4.0) < 0.4
        (torch.int64, True)
    """
    count = _validate.integer("count", count, at_least=0)
    if not isinstance(variance, Fraction):
        variance = Fraction(_validate.number("variance", variance, above=0))
    if variance <= 0:
        raise ValueError(f"variance must be greater than 0, got {variance}")
    draw = random.SystemRandom() if seed is None else random.Random(_validate.integer("seed", seed, at_least=0))
    return torch.tensor([_gaussian(variance, draw) for _ in range(count)], dtype=torch.int64)


def _below(fraction: Fraction, draw: random.Random) -> bool:
    """A coin with this rational probability."""
    return draw.randrange(fraction.denominator) < fraction.numerator


def _coin(gamma: Fraction, draw: random.Random) -> bool:
    """A coin with probability exp(-gamma) (algorithm 1)."""
    while gamma > 1:
        if not _coin(Fraction(1), draw):
            return False
        gamma -= 1
    k = 1
    while _below(gamma / k, draw):
        k += 1
    return k % 2 == 1


def _laplace(scale: int, draw: random.Random) -> int:
    """A discrete Laplace number, P(x) proportional to exp(-|x| / scale) (algorithm 2, with s = 1)."""
    while True:
        rest = draw.randrange(scale)
        if not _coin(Fraction(rest, scale), draw):
            continue
        whole = 0
        while _coin(Fraction(1), draw):
            whole += 1
        size, negative = rest + scale * whole, draw.randrange(2)
        if not (negative and size == 0):
            return -size if negative else size


def _gaussian(variance: Fraction, draw: random.Random) -> int:
    """A discrete Gaussian number (algorithm 3)."""
    scale = math.isqrt(variance.numerator // variance.denominator) + 1
    while True:
        found = _laplace(scale, draw)
        if _coin((abs(found) - variance / scale) ** 2 / (2 * variance), draw):
            return found


def noisy_share(
    vector: Tensor, *, clip: float | int, sigma: float | int, step: float, seed: int | None = None
) -> Tensor:
    """What one client puts into a secure sum: clipped, rounded to the grid, with its share of discrete noise.

    In this order: a clip bounds what the client can add, a random rounding (each number up or down so that its mean is
    kept, drawn again where it makes the vector too long) brings it onto the grid, and noise of whole steps hides it
    there. Give the result to :func:`~glutils.defenses.secure_sum` with ``FixedPoint(step=step)``, which adds no
    rounding of its own any more, and ask :func:`distributed_epsilon` for the privacy of the sum.

    Args:
        vector: any shape, finite.
        clip: greatest length of it, above 0.
        sigma: standard deviation of this client's noise over ``clip``, above 0; of n honest clients the sum has sqrt(n)
            times that.
        step: of the grid, above 0.
        seed: see :func:`discrete_gaussian`.

    Deviations from Kairouz, Liu, Steinke 2021: no random rotation before the rounding, which only saves bits.
    """
    _validate.instance("vector", vector, Tensor)
    _validate.finite("vector", vector)
    clip, sigma = _validate.number("clip", clip, above=0), _validate.number("sigma", sigma, above=0)
    step = _validate.number("step", step, above=0)
    flat = vector.detach().double().cpu().flatten()
    flat = flat * min(1.0, clip / max(float(flat.norm()), 1e-300)) / step
    draw = torch.Generator()
    draw.seed() if seed is None else draw.manual_seed(_validate.integer("seed", seed, at_least=0) + 1)
    longest = _most_squared_steps(clip / step, flat.numel())
    for _ in range(1000):
        up = torch.rand(flat.shape, generator=draw, dtype=torch.float64) < flat - flat.floor()
        whole = flat.floor() + up
        if float(whole.square().sum()) <= longest:  # sums of whole numbers: exact
            break
    else:  # all of a thousand were too long; a rounding towards zero never is
        whole = flat.trunc()
    noise = discrete_gaussian(flat.numel(), Fraction(sigma * clip / step) ** 2, seed=seed)
    return ((whole + noise) * step).view(vector.shape)


def _most_squared_steps(clip: float, size: int) -> int:
    """Greatest squared length of a rounded vector, in steps (proposition on conditional rounding of the paper).

    A whole number, as the vector's entries are: what is accounted for is what a rounding can reach, not a bound of it.
    """
    extra = math.sqrt(2 * math.log(1 / BIAS)) * (clip + math.sqrt(size) / 2)
    bound = min((clip + math.sqrt(size)) ** 2, clip**2 + size / 4 + extra)
    return math.floor(bound * (1 + 1e-12))  # a bound that is whole but for round-off stays; both sides use the result


def distributed_epsilon(
    sigma: float | int,
    *,
    clip: float | int,
    step: float,
    size: int,
    clients: int,
    delta: float,
    colluding: int = 0,
    rounds: int = 1,
) -> float:
    """Epsilon of a sum of discrete noise, for a client that is there or not, towards whoever sees the sum.

    A sum of discrete Gaussians is none, but nearly: for n honest clients the sum is (alpha, alpha e^2 / 2) Renyi
    private with ``e = min(sqrt(D^2 / (n s^2) + tau size / 2), D / (sqrt(n) s) + tau sqrt(size))``, where D is the
    length of a rounded vector, s one client's noise, both in steps, and
    ``tau = 10 sum_(k < n) exp(-2 pi^2 s^2 k / (k + 1))``; rounds add up in e^2.

    Args:
        sigma, clip, step: as for :func:`noisy_share`.
        size: numbers in a vector, 1 or more.
        clients: in the sum, 2 or more.
        delta: above 0, below 1.
        colluding: of them, clients that subtract their own noise from the sum.
        rounds: sums in which the client takes part.

    Raises:
        ValueError, TypeError: a wrong argument. All clients but one may collude.

    Example:
        >>> import glutils as gl
        >>> how = {"clip": 1.0, "step": 2.0**-10, "size": 100, "clients": 100, "delta": 1e-5}
        >>> fine = gl.defenses.distributed_epsilon(0.5, **how)
        >>> coarse = gl.defenses.distributed_epsilon(0.5, **how | {"step": 0.25})
        >>> round(fine, 2), round(gl.defenses.epsilon(5.0, 1.0, 1, 1e-5), 2), round(coarse, 2)
        (0.79, 0.73, 1.48)
    """
    sigma, clip = _validate.number("sigma", sigma, above=0), _validate.number("clip", clip, above=0)
    step, delta = _validate.number("step", step, above=0), _validate.number("delta", delta, above=0)
    if delta >= 1:
        raise ValueError(f"delta must be less than 1, got {delta}")
    size, clients = _validate.integer("size", size, at_least=1), _validate.integer("clients", clients, at_least=2)
    honest = clients - _validate.integer("colluding", colluding, at_least=0, at_most=clients - 1)
    rounds = _validate.integer("rounds", rounds, at_least=1)
    one, length = sigma * clip / step, math.sqrt(_most_squared_steps(clip / step, size))
    tau = 10 * sum(math.exp(-2 * math.pi**2 * one**2 * k / (k + 1)) for k in range(1, honest))
    ratio = length / (math.sqrt(honest) * one)
    spent = min(math.sqrt(ratio**2 + tau * size / 2), ratio + tau * math.sqrt(size))
    return _from_concentrated(rounds * spent**2 / 2, delta, [1 + 10 ** (k / 100) for k in range(-300, 401)])


def _from_concentrated(rho: float, delta: float, orders: Sequence[float]) -> float:
    """Epsilon from Renyi divergences alpha rho (Canonne, Kamath, Steinke 2020, proposition 12)."""
    best = min(
        a * rho + math.log(1 / delta) / (a - 1) + math.log1p(-1 / a) - math.log(a) / (a - 1) for a in orders
    )
    return max(0.0, best)
