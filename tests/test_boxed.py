"""Gauss-Newton between bounds, against known answers and scipy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

import glutils as gl
from glutils.attacks.zerogla.equations import ScalarEquations
from glutils.solvers import Trace
from glutils.solvers.boxed import bounded_quadratic, boxed


@pytest.mark.parametrize("seed", range(5))
def test_the_quadratic_program_is_solved(seed):
    rng = np.random.default_rng(seed)
    rows, target = rng.normal(size=(40, 25)), 3 * rng.normal(size=40)
    expected = lsq_linear(rows, target, (-0.3, 0.2), method="bvls", tol=1e-12).x
    a, b = torch.from_numpy(rows), torch.from_numpy(target)
    bound = torch.ones(25, dtype=torch.float64)
    found = bounded_quadratic(a.T @ a, -a.T @ b, -0.3 * bound, 0.2 * bound)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-8, rtol=0)
    assert int((found == 0.2).sum() + (found == -0.3).sum()) > 3


def test_bounds_help_where_noise_hides_the_difference_of_two_images_of_a_class():
    """Two digits of one class, a model that hardly moves, noisy scalars."""
    pool = gl.data.sample("digits", count=60, seed=0, device="cpu")
    pair = pool[(pool.labels == pool.labels[0]).nonzero()[:2, 0].tolist()]
    model = gl.models.build("mlp", pair, hidden=(16,), seed=0)
    protocol = gl.protocols.ZerothOrder(directions=10, mu=1e-4, dtype="float64")
    run = gl.federation.train(protocol, model, [pair], rounds=30, lr=0.05)
    seen = gl.observe(run, client=0, knows={"labels"})
    generator = torch.Generator().manual_seed(0)
    spread = float(torch.cat([m.payload for m in seen.rounds]).std())
    noise = lambda p: 0.01 * spread * torch.randn(p.shape, generator=generator, dtype=p.dtype)  # noqa: E731
    seen = replace(seen, rounds=tuple(replace(m, payload=m.payload + noise(m.payload)) for m in seen.rounds))
    free = gl.attack("zerogla", seen, seed=0, restarts=1, progress=False)
    equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), 128)
    trace = Trace(20, "last")
    u = boxed(equations, free.images.flatten(), trace).u
    assert float(u.min()) >= 0 and float(u.max()) <= 1
    assert trace.losses == sorted(trace.losses, reverse=True) and trace.losses[-1] < 0.01**2
    before, after = (
        gl.score(replace(free, images=images), pair).psnr.min() for images in (free.images, u.view(seen.shape))
    )
    assert after > before + 2


def test_bad_bounds_are_refused(digit):
    model = gl.models.build("mlp", digit)
    protocol = gl.protocols.ZerothOrder(directions=80)
    seen = gl.observe(model, protocol, protocol.transmit(model, digit.images, digit.labels), digit, knows={"labels"})
    equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), 64)
    start = torch.zeros(64, dtype=torch.float64)
    for change, message in (
        ({"low": 1, "high": 0}, r"high must be greater than low \(1.0\), got 0.0"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"damping": 0.0}, "damping must be greater than 0"),
    ):
        with pytest.raises(ValueError, match=message):
            boxed(equations, start, Trace(1), **change)
