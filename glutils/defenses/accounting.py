"""How much privacy a noisy run leaves: Renyi accounting of the subsampled Gaussian mechanism, by opacus."""

from __future__ import annotations

import math
import warnings

from .. import _validate

CONVERSIONS = ("tight", "classic")
LEAST, MOST = 1e-2, 1e4
"""Noise multipliers among which :func:`noise_multiplier` looks."""
TOLERANCE = 5e-4
"""How far below the epsilon wanted it may end, as a fraction of it."""


def epsilon(
    noise_multiplier: float | int,
    sample_rate: float | int,
    steps: int,
    delta: float,
    *,
    conversion: str = "tight",
) -> float:
    """Epsilon of (epsilon, delta) differential privacy after some noisy steps, for adding or removing one example.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping bound, above 0.
        sample_rate: probability with which an example takes part in a step, above 0, at most 1 (Poisson sampling).
        steps: 1 or more.
        delta: above 0, below 1; below one over the number of examples to mean anything.
        conversion: from Renyi to (epsilon, delta): ``"tight"`` is opacus's (Balle et al. 2020), ``"classic"`` the one
            behind most numbers in print (Mironov 2017; Abadi et al. 2016): larger, and as true.

    Returns:
        Epsilon; ``inf`` if no order of the Renyi divergence gives a bound.
    """
    noise_multiplier = _validate.number("noise_multiplier", noise_multiplier, above=0)
    sample_rate = _validate.number("sample_rate", sample_rate, above=0, at_most=1)
    steps = _validate.integer("steps", steps, at_least=1)
    delta = _validate.number("delta", delta, above=0)
    if delta >= 1:
        raise ValueError(f"delta must be less than 1, got {delta}")
    _validate.choice("conversion", conversion, CONVERSIONS)
    with warnings.catch_warnings():  # opacus warns where the best order is the last one tried
        warnings.simplefilter("ignore")
        from opacus.accountants import RDPAccountant
        from opacus.accountants.analysis import rdp

        orders = RDPAccountant.DEFAULT_ALPHAS
        spent = rdp.compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=steps, orders=orders)
        if conversion == "tight":
            return float(rdp.get_privacy_spent(orders=orders, rdp=spent, delta=delta)[0])
    spent = [spent] if isinstance(spent, int | float) else spent  # opacus gives one number for one order
    return float(min(r + math.log(1 / delta) / (order - 1) for order, r in zip(orders, spent, strict=True)))


def noise_multiplier(epsilon_wanted: float | int, sample_rate: float | int, steps: int, delta: float) -> float:
    """The smallest noise multiplier (to three digits, from 0.01 up) whose :func:`epsilon` is at most the one wanted.

    opacus's search: the epsilon that is reached is less than half a thousandth below the one wanted.

    Raises:
        ValueError: no multiplier up to 10,000 is enough.
    """
    wanted = _validate.number("epsilon_wanted", epsilon_wanted, above=0)
    if epsilon(MOST, sample_rate, steps, delta) > wanted:
        raise ValueError(f"epsilon_wanted must be reachable with a noise multiplier of at most {MOST}, got {wanted}")
    if epsilon(LEAST, sample_rate, steps, delta) <= wanted:
        return LEAST
    with warnings.catch_warnings():  # as above
        warnings.simplefilter("ignore")
        from opacus.accountants.utils import get_noise_multiplier

        return float(
            get_noise_multiplier(
                target_epsilon=wanted, target_delta=float(delta), sample_rate=float(sample_rate), steps=int(steps),
                accountant="rdp", epsilon_tolerance=TOLERANCE * wanted,
            )
        )  # fmt: skip
