"""How much two neighbouring batches can be told apart after many noisy sums: exact, or composed numerically.

All distances are in units of the clipping bound C, and the noise on the clipped sum has the standard deviation sigma C.
A mechanism is described by its worst pair of distributions P and Q; its privacy loss log P/Q adds up over steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, logsumexp, ndtr

LARGEST = 2**22
"""Points of a grid of losses at most."""
ORDERS = (1.05, 1.1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
"""Of the Renyi divergences that say how far the composed loss can reach."""


def gaussian(shift: float, sigma: float, steps: int, delta: float) -> float:
    """Epsilon of ``steps`` sums that differ by ``shift``, all records in every one (Balle and Wang 2018, theorem 8).

    Exact: the composition of Gaussian mechanisms is one of them, with mu = sqrt(steps) shift / sigma.
    """
    mu = math.sqrt(steps) * shift / sigma

    def excess(eps: float) -> float:
        return float(ndtr(mu / 2 - eps / mu) - math.exp(min(eps + log_ndtr(-mu / 2 - eps / mu), 0.0)) - delta)

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-12, rtol=1e-12))


def sampled(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon of the Poisson-sampled Gaussian mechanism: a record takes part with probability ``rate``, or is absent.

    By opacus's privacy loss variable (Gopi, Lee, Wutschitz 2021), as an upper bound. Where its grid would be too large,
    for epsilons in the hundreds, the Renyi bound, which is larger.
    """
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

    loss = PoissonSubsampledGaussianPRV(rate, sigma)
    with warnings.catch_warnings():  # opacus warns of orders that overflow
        warnings.simplefilter("ignore")
        spent = {order: float(loss.rdp(order)) for order in ORDERS}
    renyi = renyi_epsilon(sigma, rate, steps, delta)
    found = _composed(loss.cdf, spent, steps, delta, renyi)
    return renyi if found is None else min(found, renyi)


def renyi_epsilon(sigma: float, rate: float, steps: int, delta: float, *, classic: bool = False) -> float:
    """The same by Renyi differential privacy, with opacus's conversion (Balle et al. 2020), or the ``classic`` one."""
    with warnings.catch_warnings():  # opacus warns where the best order is the last one tried
        warnings.simplefilter("ignore")
        from opacus.accountants import RDPAccountant
        from opacus.accountants.analysis import rdp

        orders = RDPAccountant.DEFAULT_ALPHAS
        spent = rdp.compute_rdp(q=rate, noise_multiplier=sigma, steps=steps, orders=orders)
        if not classic:
            return float(rdp.get_privacy_spent(orders=orders, rdp=spent, delta=delta)[0])
    return float(min(r + math.log(1 / delta) / (order - 1) for order, r in zip(orders, spent, strict=True)))


@dataclass(frozen=True)
class Swapped:
    """The privacy loss of one Poisson-sampled sum in which a record is exchanged for its opposite.

    P = (1 - q) N(0, sigma^2) + q N(1, sigma^2) against Q, the same with -1 in place of 1. The loss grows with x, so its
    distribution function is that of x: with a = q exp(-1 / (2 sigma^2)) and u = exp(x / sigma^2), the loss is t where
    a u^2 + (1 - q)(1 - e^t) u - a e^t = 0.
    """

    sigma: float
    rate: float

    def cdf(self, t):
        """Probability under P that the loss is at most t."""
        t = np.clip(np.asarray(t, dtype=float), -600, 600)
        q, grown, scale = self.rate, np.exp(t), self.sigma**2
        a, b = q * math.exp(-1 / (2 * scale)), (1 - q) * (1 - grown)
        root = np.sqrt(b * b + 4 * a * a * grown)
        # of the two ways to write the positive root, the one without a difference of large numbers
        u = np.where(b > 0, 2 * a * grown / (b + root), (root - b) / (2 * a))
        x = scale * np.log(u)
        return (1 - q) * ndtr(x / self.sigma) + q * ndtr((x - 1) / self.sigma)

    def renyi(self, order: float) -> float:
        """Renyi divergence of P from Q."""
        x = np.linspace(-40 * self.sigma - 1 - order, 40 * self.sigma + 1 + order, 200_001)
        p, q = self._log_density(x, 1), self._log_density(x, -1)
        return float(logsumexp(order * p + (1 - order) * q) + math.log(x[1] - x[0])) / (order - 1)

    def _log_density(self, x, at: int):
        parts = -0.5 * (np.stack([x, x - at]) / self.sigma) ** 2
        weights = np.array([[max(1 - self.rate, 1e-300)], [self.rate]])
        return logsumexp(parts, axis=0, b=weights) - math.log(self.sigma * math.sqrt(2 * math.pi))

    def epsilon(self, steps: int, delta: float) -> float:
        """Upper bound on epsilon after ``steps`` of them."""
        spent = {order: self.renyi(order) for order in ORDERS}
        renyi = min(steps * r + math.log(1 / delta) / (order - 1) for order, r in spent.items())
        found = _composed(self.cdf, spent, steps, delta, renyi)
        return renyi if found is None else min(found, renyi)


def _composed(
    cdf: Callable[[np.ndarray], np.ndarray], spent: dict[float, float], steps: int, delta: float, about: float
) -> float | None:
    """Upper bound on epsilon of ``steps`` losses with this distribution function, by opacus's Fourier transform.

    ``spent`` is the Renyi divergence of one step by order: it bounds how far the sum can reach. The grid is as fine as
    an error of 1 % of ``about``, or 0.01, asks for. None where it would be larger than LARGEST.
    """
    from opacus.accountants.analysis.prv import Domain, compose_heterogeneous
    from opacus.accountants.analysis.prv.prvs import DiscretePRV

    error, width = delta / 1000, min(1e-2, 1e-2 * about)
    spent = {order: r for order, r in spent.items() if math.isfinite(r)}
    reach = 3 + max(
        min(steps * r + math.log(4 / error) / (order - 1) for order, r in spent.items()),
        min(r + math.log(8 * steps / error) / (order - 1) for order, r in spent.items()),
    )
    mesh = width / math.sqrt(steps * math.log(12 / error) / 2)
    if 2 * reach / mesh > LARGEST:
        return None
    domain = Domain.create_aligned(-reach, reach, mesh)
    with np.errstate(all="ignore"):
        edges = np.append(domain.ts - domain.dt / 2, domain.ts[-1] + domain.dt / 2)
        below, above = float(cdf(edges[:1])[0]), float(cdf(edges[-1:])[0])
        share = (cdf(edges) - below) / (above - below)  # of the loss within the grid
        masses = np.diff(share)
        mean = edges[-1] - float(np.trapezoid(share, edges))
        shift = mean - float(domain.ts @ masses)  # so that rounding does not add up over the steps
        whole = compose_heterogeneous([DiscretePRV(masses, domain.shift_right(shift))], [steps])
        try:
            found = float(whole.compute_epsilon(delta, error, width)[2])
        except (RuntimeError, ValueError):
            return None
    return found if math.isfinite(found) else None
