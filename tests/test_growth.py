"""How a cost grows: a known power law comes back, and a limit is extrapolated with the slopes' ends."""

import math

import pytest
import torch

from glutils.runs import growth


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 2.9])
def test_a_known_law_comes_back(power):
    sizes = [3.0, 10.0, 30.0, 200.0]
    law = growth.fit(sizes, [0.02 * size**power for size in sizes])
    assert law.exponent.runs == 4 and law.largest == (200.0, pytest.approx(0.02 * 200**power))
    for slope in (law.exponent.value, law.exponent.low, law.exponent.high, law.last):
        assert slope == pytest.approx(power, abs=1e-6)
    found = law.reach(0.02 * 1e4**power)
    for end in (found.value, found.low, found.high):
        assert end == pytest.approx(1e4, rel=1e-3)


def test_the_interval_holds_the_law_about_as_often_as_it_says():
    draw, sizes = torch.Generator().manual_seed(0), [1.0, 2.0, 4.0, 8.0, 16.0]
    held = 0
    for _ in range(300):
        wrong = (0.1 * torch.randn(5, generator=draw)).exp().tolist()
        exponent = growth.fit(sizes, [size**1.5 * w for size, w in zip(sizes, wrong, strict=True)]).exponent
        assert exponent.low < exponent.value < exponent.high
        held += exponent.low < 1.5 < exponent.high
    assert 0.91 < held / 300 < 0.98


def test_a_law_that_bends_upwards_says_so_and_widens_what_is_extrapolated():
    sizes = [1.0, 10.0, 100.0, 1000.0]
    law = growth.fit(sizes, [1 + 1e-4 * size**2 for size in sizes])
    assert law.last == pytest.approx(math.log10(101 / 2)) and law.last > law.exponent.value
    found = law.reach(1e4)
    assert found.value == pytest.approx(1000 * (1e4 / 101) ** (1 / law.last))
    steepest = law.exponent.high
    assert found.low == pytest.approx(1000 * (1e4 / 101) ** (1 / steepest)) and steepest > law.last
    assert found.high == math.inf, "four points that bend leave even its sign open"


def test_what_does_not_grow_reaches_nothing():
    law = growth.fit([1, 2, 4], [5.0, 5.0, 5.0])
    assert law.exponent.value == pytest.approx(0, abs=1e-9) and law.reach(10).high == math.inf


@pytest.mark.parametrize(
    ("sizes", "costs", "message"),
    [
        ([1, 2], [1, 2], "three at least; got 2 and 2"),
        ([1, 2, 3], [1, 2], "got 3 and 2"),
        ([1, 2, 2], [1, 2, 3], r"must ascend, got \[1, 2, 2\]"),
        ([1, 2, 3], [1, 0, 3], "above 0, got"),
        ([1, 2, 3], [1, math.nan, 3], "finite and above 0"),
    ],
)
def test_bad_points_are_named(sizes, costs, message):
    with pytest.raises(ValueError, match=message):
        growth.fit(sizes, costs)


def test_a_limit_must_be_positive():
    with pytest.raises(ValueError, match="limit"):
        growth.fit([1, 2, 4], [1, 2, 4]).reach(0)
