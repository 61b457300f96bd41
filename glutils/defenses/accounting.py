"""How much privacy a noisy run leaves: epsilon for a stated neighbouring relation and way of drawing batches."""

from __future__ import annotations

import functools
import math

from .. import _validate

ACCOUNTANTS = ("prv", "rdp")
CONVERSIONS = ("tight", "classic")
RELATIONS = {
    "add_remove": "one record is there or not",
    "zero_out": "one record counts, or counts as zero",
    "replace_one": "one record is exchanged for another",
}
"""Which data sets are neighbours, by name."""
SENSITIVITY = {"add_remove": 1.0, "zero_out": 1.0, "replace_one": 2.0}
"""How far a clipped sum moves between neighbours, by relation, in clipping bounds."""
SAMPLINGS = {
    "poisson": "every record takes part by itself, with the sample rate as probability",
    "fixed": "batches of a fixed size, drawn without replacement",
}
"""How a step's records are drawn, by name."""
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
    relation: str = "add_remove",
    sampling: str = "poisson",
    accountant: str | None = None,
    conversion: str | None = None,
) -> float:
    """Epsilon of (epsilon, delta) differential privacy after some noisy sums of clipped contributions.

    What is protected, and how batches are drawn, belong to the number: with another relation the same noise buys
    another epsilon. The sum must be divided by a public number, not by the size of the batch that was drawn.

    Args:
        noise_multiplier: standard deviation of the noise on the sum over the clipping bound, above 0.
        sample_rate: share of the records that take part in a step, above 0, at most 1. 1: all of them, in every step;
            then the way of drawing does not matter, and the result is exact (Balle and Wang 2018).
        steps: noisy sums, 1 or more. Numbers that are about one draw of records are one step: K scalars of a message,
            each with its own noise, are one with ``noise_multiplier / sqrt(K)`` (:func:`per_message`). Where all
            records take part, counting them one by one gives the same.
        delta: above 0, below 1; below one over the number of records to mean anything.
        relation: which data sets are neighbours, a name of ``RELATIONS``. ``"add_remove"``: one record is there or not;
            ``"zero_out"``: it counts, or counts as zero; ``"replace_one"``: it is exchanged for another, which moves
            the sum twice as far.
        sampling: ``"poisson"``, or ``"fixed"`` batches drawn without replacement; the latter has a tight analysis for
            ``"replace_one"`` alone (Zhu, Dong, Wang 2022: that of Poisson batches with half the noise).
        accountant: ``"prv"``, numerical composition by opacus (Gopi, Lee, Wutschitz 2021), within 1 % above the truth,
            or ``"rdp"``, Renyi accounting, larger. Default: ``"prv"``; ``"rdp"`` where a ``conversion`` is named.
        conversion: from Renyi to (epsilon, delta), of ``"rdp"`` alone: ``"tight"`` is opacus's (Balle et al. 2020),
            ``"classic"`` the one behind most numbers in print (Mironov 2017; Abadi et al. 2016): larger, and as true.

    Returns:
        Epsilon, an upper bound; ``inf`` if no order of the Renyi divergence gives one.

    Raises:
        ValueError, TypeError: a wrong argument; ``sampling="fixed"`` with another relation than ``"replace_one"``;
            ``accountant="rdp"`` for a pair that it does not know.

    Example:
        >>> import glutils as gl
        >>> how = {"noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 60, "delta": 1e-3}
        >>> [round(gl.defenses.epsilon(**how, relation=relation), 1) for relation in ("add_remove", "replace_one")]
        [3.7, 5.7]
    """
    sigma = _validate.number("noise_multiplier", noise_multiplier, above=0)
    rate = _validate.number("sample_rate", sample_rate, above=0, at_most=1)
    steps = _validate.integer("steps", steps, at_least=1)
    delta = _validate.number("delta", delta, above=0)
    if delta >= 1:
        raise ValueError(f"delta must be less than 1, got {delta}")
    _validate.choice("relation", relation, RELATIONS)
    _validate.choice("sampling", sampling, SAMPLINGS)
    if conversion is not None:
        _validate.choice("conversion", conversion, CONVERSIONS)
    accountant = ("prv" if conversion is None else "rdp") if accountant is None else accountant
    if _validate.choice("accountant", accountant, ACCOUNTANTS) == "prv" and conversion is not None:
        raise ValueError(f"conversion belongs to accountant='rdp', got {conversion!r} with 'prv'")
    if sampling == "fixed" and rate < 1 and relation != "replace_one":
        raise ValueError(
            f"relation must be 'replace_one' with sampling='fixed', got {relation!r}: a record that is missing changes "
            "who else is drawn"
        )
    return _epsilon(sigma, rate, steps, delta, relation, sampling, accountant, conversion == "classic")


def per_message(noise_multiplier: float | int, numbers: int) -> float:
    """Noise multiplier of a message of several numbers, each with this one: its clipped part is sqrt(numbers) as long.

    The numbers of a message are about the same draw of records. To count them as steps with draws of their own would
    give too small an epsilon.
    """
    return float(noise_multiplier) / math.sqrt(numbers)


@functools.lru_cache(maxsize=512)
def _epsilon(sigma, rate, steps, delta, relation, sampling, accountant, classic) -> float:
    from . import privacy_loss  # here, because it loads SciPy

    shift = SENSITIVITY[relation]
    if accountant == "prv" and rate == 1:
        return privacy_loss.gaussian(shift, sigma, steps, delta)
    if relation == "replace_one" and sampling == "poisson" and rate < 1:
        if accountant == "rdp":
            raise ValueError("accountant must be 'prv' for relation='replace_one' with Poisson batches, got 'rdp'")
        return privacy_loss.Swapped(sigma, rate).epsilon(steps, delta)
    if accountant == "rdp":
        return privacy_loss.renyi_epsilon(sigma / shift, rate, steps, delta, classic=classic)
    return privacy_loss.sampled(sigma / shift, rate, steps, delta)


def reconstruction_bound(
    noise_multiplier: float | int, prior: float | int, *, steps: int = 1, relation: str = "add_remove"
) -> float:
    """Greatest probability with which any attacker reconstructs one record, all others known, from noisy full sums.

    "Reconstructs" may mean anything that somebody who saw no message achieves with probability ``prior`` at best:
    naming one of N equally likely records (1 / N), or coming closer than a stated error. Phi(Phi^-1(prior) + mu) with
    mu = sqrt(steps) / noise_multiplier: the power of the best test between two Gaussians (Hayes, Mahloujifar, Balle
    2023, theorem 2; reconstruction robustness is of Balle, Cherubin, Hayes 2022). A large epsilon promises nothing
    about a choice between two records, and may still promise something about one of many.

    Args:
        noise_multiplier: standard deviation of the noise on the sum over the clipping bound, above 0.
        prior: above 0, below 1.
        steps: noisy sums in which the record took part, 1 or more; scalars are one each.
        relation: as for :func:`epsilon`; the attacker compares with the record's absence, or with a known other one.

    Example:
        >>> import glutils as gl
        >>> round(gl.defenses.reconstruction_bound(1.0, prior=1e-3), 3)  # epsilon is 4.4 at delta 1e-5
        0.018
    """
    sigma = _validate.number("noise_multiplier", noise_multiplier, above=0)
    steps = _validate.integer("steps", steps, at_least=1)
    _validate.choice("relation", relation, RELATIONS)
    if _validate.number("prior", prior, above=0) >= 1:
        raise ValueError(f"prior must be less than 1, got {prior}")
    from scipy.special import ndtr, ndtri

    return float(ndtr(ndtri(float(prior)) + math.sqrt(steps) * SENSITIVITY[relation] / sigma))


def noise_multiplier(
    epsilon_wanted: float | int,
    sample_rate: float | int,
    steps: int,
    delta: float,
    *,
    relation: str = "add_remove",
    sampling: str = "poisson",
) -> float:
    """The smallest noise multiplier (from 0.01 up) whose :func:`epsilon` is at most the one wanted.

    The epsilon that is reached is less than half a thousandth below the one wanted.

    Raises:
        ValueError: no multiplier up to 10,000 is enough; or as :func:`epsilon`.

    Example:
        >>> import glutils as gl
        >>> round(gl.defenses.noise_multiplier(3.0, 0.1, 60, 1e-3), 1)
        1.1
    """
    wanted = _validate.number("epsilon_wanted", epsilon_wanted, above=0)

    def reached(logarithm: float) -> float:
        how = {"relation": relation, "sampling": sampling}
        return epsilon(math.exp(logarithm), sample_rate, steps, delta, **how)

    low, high = math.log(LEAST), math.log(MOST)
    if reached(high) > wanted:
        raise ValueError(f"epsilon_wanted must be reachable with a noise multiplier of at most {MOST}, got {wanted}")
    if reached(low) <= wanted:
        return LEAST
    from scipy.optimize import brentq

    middle = brentq(lambda x: math.log(max(reached(x), 1e-12) / wanted), low, high, xtol=TOLERANCE / 8, rtol=1e-9)
    while reached(middle) > wanted:
        middle += TOLERANCE / 8
    return math.exp(middle)
