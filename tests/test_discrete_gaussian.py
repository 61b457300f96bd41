"""Discrete Gaussian noise: its law, secure sums that carry it, sensitivity of rounded vectors, collusion."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from glutils import defenses
from glutils.defenses.discrete_gaussian import _rounded_length


@pytest.mark.parametrize("variance", [0.3, 2.0, Fraction(81, 4)])
def test_the_law_is_the_discrete_gaussian(variance):
    """Chi-square against exp(-k^2 / (2 variance)), normalised by a long sum; a rounded normal law fails it."""
    from scipy import stats

    count = 4000
    drawn = defenses.discrete_gaussian(count, variance, seed=3)
    reach = 40
    weights = torch.tensor([math.exp(-(k**2) / (2 * float(variance))) for k in range(-reach, reach + 1)]).double()
    shares = weights / weights.sum()
    edge = max(1, round(2 * float(variance) ** 0.5))
    inner = slice(reach - edge, reach + edge + 1)
    seen = [int((drawn == k).sum()) for k in range(-edge, edge + 1)]
    expected = [*(count * shares[inner]).tolist(), count * float(1 - shares[inner].sum())]
    assert stats.chisquare([*seen, count - sum(seen)], expected).pvalue > 0.01
    if variance == 0.3:  # variance of the law is below its parameter here, that of a rounded normal above it
        rounded = (0.3**0.5 * torch.randn(count, generator=torch.Generator().manual_seed(0))).round()
        other = [int((rounded == k).sum()) for k in range(-edge, edge + 1)]
        assert stats.chisquare([*other, count - sum(other)], expected).pvalue < 1e-6


def test_repeatable_and_of_the_system():
    one, two, own = (defenses.discrete_gaussian(50, 9.0, seed=s) for s in (1, 1, None))
    assert torch.equal(one, two)
    assert not torch.equal(one, own)
    assert defenses.discrete_gaussian(0, 1.0).shape == (0,)


def test_a_secure_sum_carries_the_noise_and_no_rounding_of_its_own():
    step, clients, size, sigma = 2.0**-8, 8, 300, 0.1
    vectors = [torch.randn(size, generator=torch.Generator().manual_seed(k)) * 0.02 for k in range(clients)]
    shares = [defenses.noisy_share(v, clip=1.0, sigma=sigma, step=step, seed=k) for k, v in enumerate(vectors)]
    for share in shares:
        assert torch.equal(share / step, (share / step).round())
    total = defenses.secure_sum(shares, coding=defenses.FixedPoint(step=step), seed=0).total
    assert torch.equal(total, sum(shares))
    error = total - sum(v.double() for v in vectors)
    wanted = math.sqrt(clients * sigma**2)  # and a little of random rounding
    assert float(error.std()) == pytest.approx(wanted, rel=0.12)
    assert abs(float(error.mean())) < 4 * wanted / size**0.5


def test_rounded_vectors_are_never_longer_than_accounted_for():
    longest = 0.0
    for seed in range(40):
        vector = torch.randn(30, generator=torch.Generator().manual_seed(seed)) * 10  # far above the clip
        share = defenses.noisy_share(vector, clip=1.0, sigma=1e-9, step=0.1, seed=seed)  # noise far below a step
        longest = max(longest, float((share / 0.1).norm()))
    assert 10.0 < longest <= _rounded_length(10.0, 30)


def test_epsilon_approaches_the_gaussian_and_counts_collusion():
    how = {"clip": 1.0, "size": 50, "clients": 100, "delta": 1e-5}
    fine = defenses.distributed_epsilon(0.4, step=2.0**-16, **how)
    exact = defenses.epsilon(4.0, 1.0, 1, 1e-5)
    assert exact < fine < 1.1 * exact
    grids = [defenses.distributed_epsilon(0.4, step=s, **how) for s in (2.0**-12, 2.0**-4, 2.0**-2)]
    assert fine <= grids[0] < grids[1] < grids[2]
    fewer = defenses.distributed_epsilon(0.4, step=2.0**-16, colluding=75, **how)
    assert fewer == pytest.approx(defenses.distributed_epsilon(0.2, step=2.0**-16, **how), rel=1e-6)
    assert defenses.distributed_epsilon(0.4, step=2.0**-16, rounds=4, **how) == pytest.approx(fewer, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: defenses.discrete_gaussian(3, 0.0), "variance must be greater than 0"),
        (lambda: defenses.discrete_gaussian(-1, 1.0), "count must be at least 0"),
        (lambda: defenses.noisy_share(torch.tensor([math.nan]), clip=1.0, sigma=1.0, step=0.1), "vector must"),
        (lambda: defenses.noisy_share(torch.ones(2), clip=1.0, sigma=0.0, step=0.1), "sigma must be greater than 0"),
        (
            lambda: defenses.distributed_epsilon(1.0, clip=1, step=0.1, size=2, clients=3, delta=1e-5, colluding=3),
            "colluding must be between 0 and 2",
        ),
        (
            lambda: defenses.distributed_epsilon(1.0, clip=1, step=0.1, size=2, clients=3, delta=1.0),
            "delta must be less than 1",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
