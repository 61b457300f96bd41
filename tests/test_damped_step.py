"""One step of Gauss-Newton: what its equations serve for, and what they leave to estimates."""

import sys

import pytest
import torch
from test_solvers import DOUBLE, Curved, solved

import glutils as gl
from glutils.attacks.zerogla.equations import GLANCE, ScalarEquations
from glutils.solvers import chords, damped_step, least_squares

newton = sys.modules["glutils.solvers.gauss_newton"]  # the package has a function of this name


def test_the_equations_of_a_step_serve_for_more_and_save_matrices(monkeypatch):
    """The same solution from fewer matrices; each that is saved costs a few looks at r."""
    grams = []
    for following in (0, chords.FOLLOWING):
        monkeypatch.setattr(chords, "FOLLOWING", following)
        problem = Curved(30, 20)
        u, trace, _ = solved(problem)
        torch.testing.assert_close(u, problem.truth, rtol=0, atol=1e-8)
        assert trace.losses == sorted(trace.losses, reverse=True)
        grams.append(problem.calls["gram"])
    assert grams[1] < grams[0]


def test_a_step_that_follows_has_the_old_jacobian_on_both_sides(monkeypatch):
    """Asked for at the point of the matrix, and never anywhere else, although u has moved on."""
    problem, start, asked = Curved(30, 20), torch.zeros(20, dtype=DOUBLE), []
    vjp = problem.vjp
    monkeypatch.setattr(problem, "vjp", lambda u, r: asked.append((u, r)) or vjp(u, r))
    u, _, _ = solved(problem, start=start, iterations=1)
    assert asked and all(torch.equal(at, start) for at, _ in asked)
    assert not any(torch.equal(r, problem.evaluate(start)[0]) for _, r in asked) and not torch.equal(u, start)


def test_of_linear_equations_as_many_steps_as_unknowns_that_differ_are_enough():
    """By a matrix that is wrong by up to a factor of four: without the memory of steps a hundred would not do."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 6, generator=draw, dtype=DOUBLE)
    square, truth = rows.T @ rows, torch.randn(6, generator=draw, dtype=DOUBLE)
    wrong = torch.linalg.inv(square + torch.diag(3 * square.diagonal() * torch.rand(6, generator=draw, dtype=DOUBLE)))
    past, plain = [(torch.zeros(6, dtype=DOUBLE), wrong @ square @ -truth)], torch.zeros(6, dtype=DOUBLE)
    for _ in range(7):
        u = chords._mixed(past)
        past.append((u, wrong @ square @ (u - truth)))
        plain = plain - wrong @ square @ (plain - truth)
    torch.testing.assert_close(u, truth, rtol=0, atol=1e-9)
    assert float((plain - truth).norm()) > 1e-3


def test_the_prior_gives_way_without_another_matrix_where_it_is_all_that_is_left(monkeypatch):
    factored, weights = chords.factored, []

    def noted(state, lam, room=None):
        weights.append((float(state.alpha), room is not None))
        return factored(state, lam, room)

    monkeypatch.setattr(chords, "factored", noted)
    problem = Curved(30, 20, bend=0.02)
    u, trace, _ = solved(problem, damping=1.0)
    torch.testing.assert_close(u, problem.truth, rtol=0, atol=1e-8)
    assert weights and all(room for _, room in weights) and weights == sorted(weights, reverse=True)
    monkeypatch.setattr(chords, "HELD", 2.0)  # never
    stiff = Curved(30, 20, bend=0.02)
    solved(stiff, damping=1.0)
    assert problem.calls["gram"] < stiff.calls["gram"]


def far(seed, monkeypatch, *, short=True, again=True):
    """The trace of a search from far away, through equations that fold; by plain steps alone, or with no way back."""
    draw = torch.Generator().manual_seed(seed)
    problem = Curved(30, 20, bend=1.5, noise=1e-9, seed=seed)
    start = 3 * torch.randn(20, generator=draw, dtype=DOUBLE)
    with monkeypatch.context() as patch:
        if not short:
            patch.setattr(chords, "FOLLOWING", 0)
            patch.setattr(damped_step, "DROP", (damped_step.DROP[0], damped_step.DROP[0]))
        if not again:
            patch.setattr(newton, "_unexplained", lambda state, rules: False)
        return solved(problem, start=start)[1]


@pytest.mark.parametrize("seed", [0, 37])
def test_a_search_that_shortcuts_led_astray_goes_back_and_takes_none(seed, monkeypatch):
    astray, plain = far(seed, monkeypatch, again=False), far(seed, monkeypatch, short=False)
    assert astray.loss > 1e-4 and plain.loss < 1e-16
    both = far(seed, monkeypatch)
    assert both.loss == pytest.approx(plain.loss, rel=0.01) and len(both.steps) < len(astray.steps) + len(plain.steps)
    assert both.losses[: len(astray.losses)] == astray.losses


def test_shortcuts_never_end_worse_than_plain_steps(monkeypatch):
    """Found or not; and what is reported never gets worse on the way."""
    ends = []
    for seed in range(1, 13):
        plain, both = far(seed, monkeypatch, short=False), far(seed, monkeypatch)
        ends.append(plain.loss < 1e-16)
        assert both.loss <= max(1.01 * plain.loss, 1e-16) and both.losses[-1] == min(both.losses)
    assert any(ends) and not all(ends)


def test_a_search_at_the_floor_of_its_arithmetic_ends():
    """r is rounded to 1e-9, far above the noise that the problem believes in: no step can lower it for ever."""

    class Rounded(Curved):
        def evaluate(self, u):
            r, _ = super().evaluate(u)
            r = (r * 1e9).round() / 1e9
            return r, self.jacobian(u).T @ r

    u, trace, _ = solved(Rounded(60, 20, noise=0.0), accuracy=1e-15)
    assert len(trace.steps) < 15


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_a_trace_by_random_signs_is_that_of_the_inverse(prior, monkeypatch):
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(400, 300, generator=draw, dtype=DOUBLE) * torch.logspace(0, -3, 300, dtype=DOUBLE)
    bent = torch.eye(300, dtype=DOUBLE) + prior * torch.diag(torch.rand(300, generator=draw, dtype=DOUBLE))
    shape = least_squares.unit(bent)
    factor = torch.linalg.cholesky(rows.T @ rows + 0.1 * shape.to_dense())
    exact = least_squares._trace(factor, shape)
    assert exact == pytest.approx(float((torch.cholesky_inverse(factor) @ shape.to_dense()).trace()))
    monkeypatch.setattr(least_squares, "MANY", 100)
    rough = least_squares._trace(factor, shape)
    assert rough == least_squares._trace(factor, shape) and rough != exact
    assert abs(0.1 * (rough - exact)) < 0.02 * 300  # of 300 unknowns, alpha trace of them are not determined


@pytest.fixture
def streamed(digit):
    """A float32 client's scalars, and the true image."""
    model = gl.models.build("mlp", digit, hidden=(16,), seed=0)
    client = gl.protocols.ZerothOrder(directions=3 * GLANCE, mu=1e-3, dtype="float32", seed=3)
    seen = gl.observe(model, client, client.transmit(model, digit.images, digit.labels), digit, knows={"labels"})
    found = ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), digit.images.numel())
    return found, digit.images.double().flatten()


def test_a_glance_tells_noise_and_bias_from_some_of_the_scalars(streamed, monkeypatch):
    found, u = streamed
    whole, asked, (block,) = found.calibrate(u), [], found.blocks
    differences = block.differences
    monkeypatch.setattr(block, "differences", lambda u, most: asked.append(most) or differences(u, most))
    noise, bias = found.glance(u)
    assert asked == [GLANCE] and len(differences(u, GLANCE)[0]) == GLANCE
    assert noise == pytest.approx(whole.noise, rel=0.15) and bias == pytest.approx(whole.bias, rel=0.3)


def test_rough_products_differ_in_the_seventh_digit(streamed):
    found, u = streamed
    exact, rough = found.gram(u), found.rough_gram(u)
    assert rough.dtype == DOUBLE and torch.equal(rough, rough.T) and not torch.equal(rough, exact)
    assert float((rough - exact).abs().max()) < 1e-6 * float(exact.diagonal().max())
