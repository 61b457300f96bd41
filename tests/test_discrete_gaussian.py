"""Discrete Gaussian noise: its law, secure sums that carry it, sensitivity of rounded vectors, collusion."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch

from glutils import defenses
from glutils.defenses.discrete_gaussian import _most_squared_steps


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
    most = 0
    for seed in range(40):
        vector = torch.randn(30, generator=torch.Generator().manual_seed(seed)) * 10  # far above the clip
        share = defenses.noisy_share(vector, clip=1.0, sigma=1e-9, step=0.1, seed=seed)  # noise far below a step
        most = max(most, int((share / 0.1).round().square().sum()))
    assert 100 < most <= _most_squared_steps(10.0, 30)


def reachable(clip, size, most):
    """Whole vectors, largest entry first, that a rounding of a vector of length ``clip`` (in steps) may be."""
    for whole in itertools.combinations_with_replacement(range(math.isqrt(most), -1, -1), size):
        if sum(w * w for w in whole) <= most and sum(max(w - 1, 0) ** 2 for w in whole) < clip**2:
            yield whole


@pytest.mark.parametrize(("clip", "size"), [(2, 4), (3, 4), (2, 7), (5, 4), (1, 6), (2.5, 5)])
def test_the_sensitivity_of_rounded_sums_is_the_calibrated_one_exactly(clip, size):
    """Brute force in whole numbers over a client that is there or not: equal, and the client itself gets there."""
    most = _most_squared_steps(clip, size)
    step = 2.0**-6
    squares = {whole: sum(w * w for w in whole) for whole in reachable(clip, size, most)}
    assert max(squares.values()) == most

    def moves(vector, seed):
        """Squared steps by which a secure sum differs with this client and without it; the noise is no step."""
        how = {"clip": clip * step, "sigma": 1e-9, "step": step}
        others = [defenses.noisy_share(torch.ones(size), seed=k, **how) for k in (1, 2)]
        mine = defenses.noisy_share(vector, seed=seed, **how)
        coding = defenses.FixedPoint(step=step)
        sums = [defenses.secure_sum(s, coding=coding, seed=0).total for s in ([*others, mine], others)]
        return int(((sums[0] - sums[1]) / step).square().sum())

    longest = max(squares, key=lambda w: (squares[w], -sum(max(v - 1, 0) ** 2 for v in w)))
    low = torch.tensor([max(w - 1.0, 0.0) for w in longest]).double()
    up = torch.tensor([float(w > 0) for w in longest]).double()
    within = max(t / 1000 for t in range(1000) if float((low + t / 1000 * up).norm()) <= clip)
    found = [moves((low + within * up) * step, seed) for seed in range(60)]
    assert max(found) == most


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
