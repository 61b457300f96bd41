"""The engine of every search, and three ways down: Adam, L-BFGS, Gauss-Newton."""

import io
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from glutils.solvers import Calibration, adam, chords, engine, gauss_newton, lbfgs, search
from glutils.solvers.adam import rate

DOUBLE = torch.float64


def told(*losses):
    """A solver that finds these losses one after the other, at the points 0, 1, 2, ..."""

    def solve(trace, generator):
        for step, loss in enumerate(losses):
            trace.report(step, float(loss), (torch.full((1, 1, 2, 2), float(step)),))

    return solve


def point(found):
    return float(found.variables[0].flatten()[0])


def in_turn(*solvers):
    """A different solver for every restart."""
    queue = list(solvers)
    return lambda trace, generator: queue.pop(0)(trace, generator)


def run(solver, objective, start, iterations, keep="lowest", **options):
    """One restart of a solver; its trace."""
    trace = engine.Trace(iterations, keep)
    solver(objective, tuple(start), trace, iterations=iterations, **options)
    return trace


def differentiated(function):
    """An objective from a function of one variable, by automatic differentiation."""

    def objective(variables):
        value = function(*variables)
        return value.detach(), torch.autograd.grad(value, variables)

    return objective


# --- engine: restarts ---


def test_restarts_are_ranked_by_the_attackers_own_loss():
    found = search(in_turn(told(5, 3), told(4, 1, 2), told(6, 2)), iterations=2, restarts=3)
    assert found.loss == 1 and point(found) == 1
    assert found.history.restarts == (3, 1, 2)
    assert found.history.steps == (0, 1, 2) and found.history.loss == (4, 1, 2)
    assert found.stopped is None


def test_the_rule_for_the_reported_iterate_is_lowest_or_last():
    lowest = search(told(4, 1, 2), iterations=2)
    last = search(told(4, 1, 2), iterations=2, keep="last")
    assert (lowest.loss, point(lowest)) == (1, 1)
    assert (last.loss, point(last)) == (2, 2)
    ranked = search(in_turn(told(9, 0.5, 3), told(9, 2)), iterations=2, restarts=2, keep="last")
    assert ranked.loss == 2 and ranked.history.restarts == (3, 2)


def test_a_restart_depends_on_the_seed_and_its_number_alone():
    def draws(seed, restarts):
        seen = []

        def solve(trace, generator):
            seen.append(torch.randn(3, generator=generator))
            torch.rand(5, generator=generator)
            trace.report(0, 1.0, (seen[-1],))

        search(solve, iterations=0, restarts=restarts, seed=seed)
        return seen

    three = draws(7, 3)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(draws(7, 2), three, strict=False))
    assert not torch.equal(three[0], three[1]) and not torch.equal(draws(8, 1)[0], three[0])


def test_a_good_restart_ends_the_search():
    tried = []

    def solve(trace, generator):
        tried.append(len(tried))
        trace.report(0, [3.0, 0.5, 0.1][tried[-1]], (torch.zeros(1),))

    found = search(solve, iterations=0, restarts=3, success=lambda loss: loss < 1)
    assert tried == [0, 1] and found.loss == 0.5 and found.history.restarts == (3.0, 0.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("keep", ["lowest", "last"])
def test_a_restart_that_diverges_gives_way_to_the_next(keep, bad):
    found = search(in_turn(told(5, bad, 0), told(4, 3)), iterations=2, restarts=2, keep=keep)
    assert found.loss == 3 and found.history.loss == (4, 3) and found.stopped is None
    assert found.history.restarts == ((5, 3) if keep == "lowest" else (math.inf, 3))


def test_what_a_diverging_restart_found_before_still_counts():
    found = search(in_turn(told(5, 1, math.nan), told(4, 3)), iterations=2, restarts=2)
    assert (found.loss, point(found)) == (1, 1)


def test_a_search_whose_restarts_all_diverge_says_so():
    found = search(in_turn(told(5, 4, math.nan), told(3, math.inf)), iterations=2, restarts=2, keep="last")
    assert found.loss == math.inf and found.stopped == "the loss became inf at step 1"
    assert torch.isfinite(found.variables[0]).all() and found.history.restarts == (math.inf, math.inf)


def test_a_search_that_finds_nothing_says_so():
    with pytest.raises(RuntimeError, match="probe: every one of 2 restarts diverged before its first step"):
        search(told(math.nan), iterations=3, restarts=2, label="probe")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
        ({"restarts": 0}, ValueError, "restarts must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seconds": 0.0}, ValueError, "seconds must be greater than 0, got 0.0"),
        ({"keep": "best"}, ValueError, "keep must be one of 'lowest', 'last'; got 'best'"),
    ],
)
def test_bad_arguments_are_refused_before_the_first_step(options, error, text):
    def solve(trace, generator):
        raise AssertionError("work began")

    with pytest.raises(error, match=text):
        search(solve, **({"iterations": 1} | options))


# --- engine: interrupts and budgets ---


def interrupted(*losses):
    def solve(trace, generator):
        told(*losses)(trace, generator)
        raise KeyboardInterrupt

    return solve


def test_an_interrupt_brings_back_what_was_found_so_far():
    found = search(interrupted(3, 1, 2), iterations=9, restarts=4)
    assert (found.loss, point(found)) == (1, 1) and found.stopped == "interrupted at step 2"
    assert found.history.restarts == (1,)  # no further restart was begun


def test_an_interrupt_in_a_later_restart_brings_back_the_earlier_one():
    for last in (interrupted(), interrupted(9)):
        found = search(in_turn(told(5, 2), last), iterations=2, restarts=3)
        assert found.loss == 2 and found.stopped.startswith("interrupted at step")


def test_an_interrupt_before_anything_was_found_propagates():
    with pytest.raises(KeyboardInterrupt):
        search(interrupted(), iterations=2)


def test_a_time_budget_brings_back_the_best_so_far(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(engine.time, "monotonic", lambda: now[0])

    def solve(trace, generator):
        for step, loss in enumerate([5.0, 3.0, 4.0, 1.0]):
            now[0] += 1
            trace.report(step, loss, (torch.tensor([float(step)]),))

    found = search(solve, iterations=3, restarts=2, seconds=2.5)
    assert (found.loss, point(found)) == (3, 1) and found.stopped == "time is up at step 2"
    assert len(found.history.restarts) == 1
    now[0] = 0.0
    assert search(solve, iterations=3, restarts=2, seconds=6.5).stopped == "time is up at step 2"  # of the second
    now[0] = 0.0
    assert search(solve, iterations=3, restarts=2).stopped is None


# --- engine: endings and stages ---


def test_an_ending_is_a_value_and_nothing_is_recorded_after_it(monkeypatch):
    trace = engine.Trace(9)
    assert trace.report(0, 2.0, (torch.zeros(1),)) is engine.Ending.NONE and not trace.ending
    assert trace.report(1, math.nan, (torch.ones(1),)) is engine.Ending.DIVERGED
    assert trace.report(2, 1.0, (torch.ones(1),)) is trace.abandon("later") is engine.Ending.DIVERGED
    assert (trace.steps, trace.losses, trace.loss, trace.reason) == ([0], [2.0], 2.0, "the loss became nan at step 1")
    late = engine.Trace(9, deadline=-math.inf)
    assert late.report(0, 2.0, (torch.zeros(1),)) is engine.Ending.OUT_OF_TIME and late.reason == "time is up at step 0"
    assert late.best is not None and late.abandon("later") is engine.Ending.OUT_OF_TIME


@pytest.mark.parametrize("keep, offered", [("lowest", 1.0), ("last", 3.0)])
def test_a_stage_counts_from_zero_and_its_restart_counts_on(keep, offered):
    trace = engine.Trace(20, keep)
    trace.report(0, 9.0, (torch.zeros(2),))
    trace.report(1, 0.5, (torch.zeros(2),))
    stage = trace.stage(lambda v: (torch.cat([v[0], torch.ones(1)]),))
    for step, loss in enumerate((2.0, 1.0, 3.0)):
        assert not stage.report(step, loss, (torch.full((1,), loss),))
    assert (stage.steps, stage.losses, stage.iterations) == ([0, 1, 2], [2.0, 1.0, 3.0], 20)
    assert stage.loss == offered and float(stage.best[0]) == offered and stage.best[0].shape == (1,)
    assert trace.steps == [0, 1, 2, 3, 4] and trace.losses == [9.0, 0.5, 2.0, 1.0, 3.0]
    assert trace.loss == (0.5 if keep == "lowest" else 3.0) and trace.best[0].shape == (2,)
    further = trace.stage()
    assert further.report(0, math.inf, (torch.zeros(2),)) is engine.Ending.DIVERGED is stage.ending is trace.ending
    assert (further.first, further.steps, further.best, further.loss) == (5, [], None, math.inf)
    assert trace.reason == "the loss became inf at step 5"


@pytest.mark.parametrize("late", [False, True])
def test_solvers_return_the_ending_and_stop_there(late):
    asked = []

    @differentiated
    def bending(x):
        asked.append(1)
        return (x**2).sum() * (math.nan if len(asked) == 4 else 1.0)

    trace = engine.Trace(50)
    ending = adam(bending, (torch.ones(2),), trace, iterations=50, late=late)
    assert ending is engine.Ending.DIVERGED and len(asked) == 4 and trace.steps == [0, 1, 2]
    tired = engine.Trace(50, deadline=-math.inf)
    assert lbfgs(rosenbrock, (torch.zeros(2),), tired, iterations=50) is engine.Ending.OUT_OF_TIME
    problem = Curved(30, 20)
    solution = gauss_newton(problem, torch.zeros(20, dtype=DOUBLE), engine.Trace(9, deadline=-math.inf))
    assert solution.ending is engine.Ending.OUT_OF_TIME and problem.calls == {"gram": 0, "calibrate": 0}
    broken = torch.full((20,), math.nan, dtype=DOUBLE)
    assert gauss_newton(problem, broken, engine.Trace(9)).ending is engine.Ending.DIVERGED


def test_gauss_newton_hands_on_the_equations_as_it_calibrated_them():
    """The bias that the problem finds is gone from the equations that come back, and still in those that were given."""

    class Biased(Curved):
        bias = 1e-3

        def evaluate(self, u):
            r = super().evaluate(u)[0] + self.bias
            return r, self.jacobian(u).T @ r

        def calibrate(self, u):
            exact = Biased(self.count, self.unknowns)
            exact.bias = 0.0
            return Calibration(0.0, self.bias, exact)

    problem = Biased(30, 20)
    solution = gauss_newton(problem, torch.zeros(20, dtype=DOUBLE), engine.Trace(40, "last"))
    assert problem.bias == 1e-3 and solution.problem.bias == 0
    torch.testing.assert_close(solution.u, problem.truth, rtol=0, atol=1e-8)
    plain = gauss_newton(problem, torch.zeros(20, dtype=DOUBLE), engine.Trace(40, "last"), calibrate=False)
    assert plain.problem is problem and float((plain.u - problem.truth).abs().max()) > 1e-6


# --- engine: history ---


@pytest.mark.parametrize("iterations", [0, 1, 22, 23, 24, 46, 47, 100, 999])
def test_a_history_has_every_loss_and_a_few_frames(iterations):
    found = search(told(*range(iterations + 1, 0, -1)), iterations=iterations)
    history = found.history
    assert history.steps == tuple(range(iterations + 1)) and len(history.loss) == iterations + 1
    assert len(history.frames) == len(history.frame_steps) <= engine.FRAMES
    assert history.frame_steps[0] == 0 and history.frame_steps[-1] == iterations
    assert list(history.frame_steps) == sorted(set(history.frame_steps))
    for step, frame in zip(history.frame_steps, history.frames, strict=True):
        assert frame.shape == (1, 1, 2, 2) and float(frame.mean()) == step and frame.dtype == torch.float32


def test_what_was_evaluated_is_what_is_kept():
    def solve(trace, generator):
        x = torch.zeros(1, 1, 2, 2, dtype=DOUBLE, requires_grad=True)
        for step in range(3):
            trace.report(step, torch.tensor(1.0 - 0.1 * step), (x,))
            with torch.no_grad():
                x += 1  # the optimiser's step, in place

    found = search(solve, iterations=2)
    assert point(found) == 2 and not found.variables[0].requires_grad and found.variables[0].dtype == DOUBLE
    assert [float(frame.mean()) for frame in found.history.frames] == [0, 1, 2]


def test_frames_show_what_view_makes_of_the_variables():
    found = search(told(2, 1), iterations=1, view=lambda variables: variables[0] * 10)
    assert [float(frame.mean()) for frame in found.history.frames] == [0, 10]


def test_a_search_that_ends_early_shows_its_best():
    found = search(told(*range(8, 0, -1)), iterations=100)
    assert found.history.frame_steps == (0, 5, 7) and float(found.history.frames[-1].mean()) == 7


# --- engine: progress ---


class Screen(io.StringIO):
    """A standard error that is, or is not, a terminal."""

    terminal = True

    def isatty(self):
        return self.terminal


def shown(monkeypatch, terminal, **options):
    """What a search writes to such a screen."""
    screen = Screen()
    screen.terminal = terminal
    monkeypatch.setattr(sys, "stderr", screen)
    search(told(2, 1), iterations=1, label="probe", **options)
    return screen.getvalue()


def test_a_bar_is_shown_where_somebody_watches(monkeypatch):
    shell = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    for name in ("CI", "TQDM_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    assert "probe" in shown(monkeypatch, terminal=True)
    assert shown(monkeypatch, terminal=False) == shown(monkeypatch, terminal=True, progress=False) == ""
    shell.kernel = object()  # a notebook
    assert "probe" in shown(monkeypatch, terminal=False)
    monkeypatch.setenv("CI", "true")
    assert shown(monkeypatch, terminal=True) == ""
    assert "probe" in shown(monkeypatch, terminal=False, progress=True)


# --- Adam ---


def test_the_step_schedules():
    assert [rate(k, 8, 0.2, "constant") for k in (0, 7)] == [0.2, 0.2]
    steps = [rate(k, 80, 0.1, "steps") for k in (0, 29, 30, 49, 50, 69, 70, 80)]
    assert steps == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])
    cosine = [rate(k, 110, 0.1, "cosine", warmup=10) for k in (0, 5, 10, 60, 110, 500)]
    assert cosine == pytest.approx([0, 0.05, 0.1, (0.1 + 1e-5) / 2, 1e-5, 1e-5])
    assert rate(5000, 5000, 0.1, "cosine", 50, 20_000) == pytest.approx(0.0857, abs=2e-4)  # ZeroGLA's code stops there


def quadratic(target, scale=1.0):
    return differentiated(lambda x: scale * ((x - target) ** 2).sum())


def test_adam_is_torchs_adam():
    target, start = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 3.0])
    x = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.1)
    for _ in range(25):
        optimiser.zero_grad()
        ((x - target) ** 2).sum().backward()
        optimiser.step()
    trace = run(adam, quadratic(target), [start], 25, keep="last", lr=0.1)
    torch.testing.assert_close(trace.best[0], x.detach())
    assert trace.steps == list(range(26)) and trace.best_step == 25


def test_adam_follows_its_schedule_to_the_minimum():
    target = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    for options in ({"schedule": "steps"}, {"schedule": "cosine", "warmup": 10}):
        trace = run(adam, quadratic(target), [torch.zeros(2, 3)], 400, keep="last", **options)
        assert trace.loss < 1e-6
    warm = run(adam, quadratic(target), [torch.zeros(2, 3)], 1, keep="last", schedule="cosine", warmup=5)
    assert torch.equal(warm.best[0], torch.zeros(2, 3))  # the warm-up begins with a step of zero


def test_the_sign_makes_the_images_descent_blind_to_the_scale_of_the_loss():
    target = torch.rand(4, generator=torch.Generator().manual_seed(0))
    paths = [
        run(adam, quadratic(target, scale), [torch.zeros(4)], 30, keep="last", sign=True).best[0]
        for scale in (1, 1e-12)
    ]
    assert torch.equal(*paths)
    signed = run(adam, quadratic(torch.tensor([5.0, -0.1])), [torch.zeros(2)], 1, keep="last", sign=True, lr=0.1)
    torch.testing.assert_close(signed.best[0], torch.tensor([0.1, -0.1]))


def test_the_sign_and_the_box_are_for_the_images_alone():
    """The first variable is the images; labels keep their gradient and may leave [0, 1]."""
    objective = differentiated(lambda x, y: ((x - 3) ** 2).sum() + 1e-9 * ((y - 3) ** 2).sum())
    start = [torch.full((2,), 0.95), torch.full((2,), 0.95)]
    both = run(adam, objective, start, 20, keep="last", sign=True, box=True)
    assert torch.equal(both.best[0], torch.ones(2))
    plain = run(adam, objective, start, 20, keep="last")
    torch.testing.assert_close(both.best[1], plain.best[1])
    assert float(both.best[1].min()) > 1 and float(plain.best[0].min()) > 1


def test_adams_noise_comes_from_its_generator_and_shrinks_with_the_step():
    flat = differentiated(lambda x: 0 * x.sum())  # no gradient: only the noise moves

    def walk(seed, iterations, **options):
        generator = torch.Generator().manual_seed(seed)
        options = {"noise": 0.2, "lr": 0.1, "generator": generator} | options
        return run(adam, flat, [torch.zeros(2000)], iterations, keep="last", **options).best[0]

    assert torch.equal(walk(0, 3), walk(0, 3)) and not torch.equal(walk(0, 3), walk(1, 3))
    assert float(walk(0, 1).std()) == pytest.approx(0.02, rel=0.1)
    assert float(walk(0, 1, noise=0.0).abs().max()) == 0


def test_adam_leaves_its_start_alone_and_refuses_bad_options():
    start = torch.zeros(3)
    run(adam, quadratic(torch.ones(3)), [start], 3)
    assert torch.equal(start, torch.zeros(3))
    with pytest.raises(ValueError, match="schedule must be one of 'constant', 'steps', 'cosine'; got 'linear'"):
        run(adam, quadratic(torch.ones(3)), [start], 3, schedule="linear")
    with pytest.raises(ValueError, match="lr must be greater than 0, got -1.0"):
        run(adam, quadratic(torch.ones(3)), [start], 3, lr=-1.0)


# --- L-BFGS ---


@differentiated
def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.parametrize("line_search", [True, False])
def test_lbfgs_solves_a_badly_conditioned_quadratic(line_search):
    scale = torch.logspace(0, 3, 10, dtype=DOUBLE)
    target = torch.linspace(-1, 1, 10, dtype=DOUBLE)
    objective = differentiated(lambda x: (scale * (x - target) ** 2).sum())
    trace = run(lbfgs, objective, [torch.zeros(10, dtype=DOUBLE)], 40, line_search=line_search)
    assert trace.loss < 1e-18
    torch.testing.assert_close(trace.best[0], target, rtol=0, atol=1e-9)


def test_lbfgs_with_a_line_search_gets_through_rosenbrocks_valley():
    trace = run(lbfgs, rosenbrock, [torch.tensor([-1.2, 1.0], dtype=DOUBLE)], 20, line_search=True)
    torch.testing.assert_close(trace.best[0], torch.ones(2, dtype=DOUBLE), rtol=0, atol=1e-6)
    assert trace.losses == sorted(trace.losses, reverse=True)
    assert len(trace.losses) < 21  # ends when the line search finds nothing better


def test_lbfgs_reports_the_point_that_was_evaluated():
    for line_search in (True, False):
        trace = run(lbfgs, rosenbrock, [torch.tensor([-1.2, 1.0], dtype=DOUBLE)], 2, line_search=line_search, inner=3)
        assert float(rosenbrock((trace.best[0].requires_grad_(),))[0]) == trace.loss


def test_lbfgs_stays_at_a_minimum():
    start = torch.ones(2, dtype=DOUBLE)
    trace = run(lbfgs, rosenbrock, [start], 5, line_search=True)
    assert trace.loss == 0 and torch.equal(trace.best[0], start)


def test_lbfgs_takes_several_variables():
    objective = differentiated(lambda x, y: ((x - 1) ** 2).sum() + ((y + x.sum()) ** 2).sum())
    start = [torch.zeros(2, 2, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)]
    x, y = run(lbfgs, objective, start, 10, line_search=True).best
    torch.testing.assert_close(x, torch.ones(2, 2, dtype=DOUBLE))
    torch.testing.assert_close(y, torch.full((3,), -4.0, dtype=DOUBLE))


def test_lbfgs_that_diverges_is_abandoned_with_what_it_had():
    runaway = differentiated(lambda x: (x**2).sum() ** 1.5 * torch.where(x.abs().sum() > 3, torch.nan, 1.0))
    start = torch.full((2,), 0.5, dtype=DOUBLE)
    found = search(
        lambda trace, generator: lbfgs(runaway, (start,), trace, iterations=20, lr=50.0), iterations=20, restarts=2
    )
    assert found.loss <= 0.5**1.5 and math.isfinite(found.loss) and len(found.history.restarts) == 2
    assert torch.isfinite(found.variables[0]).all() and found.stopped is None


def test_lbfgs_gives_up_where_it_is_told_to():
    asked = []

    def should_stop(step, loss):
        asked.append((step, loss))
        return step == 2

    trace = engine.Trace(9)
    start = torch.tensor([-1.2, 1.0], dtype=DOUBLE)
    ending = lbfgs(rosenbrock, (start,), trace, iterations=9, inner=2, should_stop=should_stop)
    assert ending is trace.ending is engine.Ending.DIVERGED
    assert re.fullmatch("the loss is still .* at step 2", trace.reason)
    assert [step for step, _ in asked] == [1, 2] == trace.steps[1:]
    assert [loss for _, loss in asked] == trace.losses[1:]
    with pytest.raises(ValueError, match="lr must be greater than 0"):
        run(lbfgs, rosenbrock, [start], 3, lr=0.0)


# --- Gauss-Newton ---


class Curved:
    """r(u) = f(A u) - f(A truth) - noise with f(t) = t + bend * sin t: equations that bend but do not fold."""

    def __init__(self, count, unknowns, bend=0.5, noise=0.0, decay=0.0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.count, self.unknowns, self.bend, self.noise = count, unknowns, bend, noise
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=DOUBLE)  # noqa: E731
        self.truth = 0.5 * draw(unknowns)
        self.matrix = draw(count, unknowns) / math.sqrt(unknowns)
        left, sizes, right = torch.linalg.svd(self.matrix, full_matrices=False)
        self.matrix = left * (sizes * torch.logspace(0, -decay, len(sizes), dtype=DOUBLE)) @ right
        self.target = self._f(self.matrix @ self.truth) + noise * draw(count)
        self.calls = {"gram": 0, "calibrate": 0}

    def _f(self, t):
        return t + self.bend * t.sin()

    def jacobian(self, u):
        return (1 + self.bend * (self.matrix @ u).cos())[:, None] * self.matrix

    def evaluate(self, u):
        r = self._f(self.matrix @ u) - self.target
        return r, self.jacobian(u).T @ r

    def jtj_vector(self, u, v):
        onward = self.jacobian(u) @ v
        return onward, self.vjp(u, onward)

    def vjp(self, u, r):
        return self.jacobian(u).T @ r

    def gram(self, u):
        self.calls["gram"] += 1
        rows = self.jacobian(u).float().double()
        return rows.T @ rows

    def calibrate(self, u):
        self.calls["calibrate"] += 1
        return Calibration(self.noise, 0.0, self)


def solved(problem, iterations=40, start=None, **options):
    trace = engine.Trace(iterations, "last")
    start = torch.zeros(problem.unknowns, dtype=DOUBLE) if start is None else start
    solution = gauss_newton(problem, start, trace, iterations=iterations, **options)
    assert torch.equal(solution.u, trace.best[0])
    return solution.u, trace, solution.noise


@pytest.mark.parametrize("count", [20, 30])
def test_gauss_newton_solves_as_many_equations_as_unknowns_exactly(count):
    problem = Curved(count, 20)
    u, trace, sigma = solved(problem)
    torch.testing.assert_close(u, problem.truth, rtol=0, atol=1e-8)
    assert trace.loss < 1e-20 and len(trace.steps) < 20 and sigma == 0
    assert problem.calls["calibrate"] > 0


def test_where_u_hardly_moves_the_matrix_is_kept_and_the_search_soon_over():
    """Once the scalars are explained to their noise, every further matrix would be the one that is there."""
    problem = Curved(60, 20, noise=1e-6)
    u, trace, sigma = solved(problem)
    best = torch.linalg.lstsq(problem.jacobian(problem.truth), problem.evaluate(problem.truth)[0]).solution
    torch.testing.assert_close(u, problem.truth - best, rtol=0, atol=1e-6)
    assert sigma == 1e-6 and problem.calls["gram"] <= 5 and len(trace.steps) <= 8


def test_gauss_newton_does_so_although_it_is_badly_conditioned():
    problem = Curved(30, 20, decay=3.0)
    assert float(torch.linalg.cond(problem.matrix)) > 1e3
    u, _, _ = solved(problem)
    torch.testing.assert_close(u, problem.truth, rtol=0, atol=1e-5)


def test_rows_in_float32_do_not_limit_what_is_solved():
    """The smallest singular value is lost in float32 rows, and squared even in float64."""
    problem = Curved(20, 20, bend=0.1, decay=8.0)
    assert float(torch.linalg.cond(problem.matrix)) > 1e8
    u, trace, _ = solved(problem, iterations=80, accuracy=1e-15)
    torch.testing.assert_close(u, problem.truth, rtol=0, atol=1e-4)


def test_a_step_that_raises_the_residual_is_taken_if_it_shortens_the_next():
    """The minimum lies at the end of a bent valley: y = x^2 steeply, and x slowly to 0."""

    class Valley:
        count = unknowns = 2

        def residual(self, u):
            return torch.stack([u[1] - u[0] ** 2, 1e-6 * u[0]])

        def rows(self, u):
            return torch.stack([torch.stack([-2 * u[0], u[0] ** 0]), torch.tensor([1e-6, 0.0], dtype=DOUBLE)])

        def evaluate(self, u):
            return self.residual(u), self.vjp(u, self.residual(u))

        def jtj_vector(self, u, v):
            return self.rows(u) @ v, self.vjp(u, self.rows(u) @ v)

        def vjp(self, u, r):
            return self.rows(u).T @ r

        def gram(self, u):
            return self.rows(u).T @ self.rows(u)

        def calibrate(self, u):
            return Calibration(0.0, 0.0, self)

    start = torch.tensor([0.5, 0.25], dtype=DOUBLE)
    u, trace, _ = solved(Valley(), start=start, accuracy=1e-14)
    assert float(u.norm()) < 1e-6 and trace.losses != sorted(trace.losses, reverse=True)


def test_gauss_newton_notes_accepted_iterates_with_their_mean_square_residual(monkeypatch):
    monkeypatch.setattr(chords, "FOLLOWING", 0)  # which leave nothing for a third step
    problem = Curved(30, 20)
    u, trace, _ = solved(problem, iterations=3)
    assert trace.steps == [0, 1, 2, 3]
    assert trace.losses[0] == pytest.approx(float(problem.target.square().mean()), rel=1e-14)
    assert trace.loss == pytest.approx(float(problem.evaluate(u)[0].square().mean()))
    assert trace.losses == sorted(trace.losses, reverse=True)


def test_too_few_equations_are_solved_nearest_to_the_centre():
    """Linear: the solution of least distance from the centre, where the search starts, is known in closed form."""
    problem = Curved(8, 20, bend=0.0)
    for centre in (torch.zeros(20, dtype=DOUBLE), torch.linspace(-1, 2, 20, dtype=DOUBLE)):
        u, trace, _ = solved(problem, start=centre)
        nearest = centre + torch.linalg.pinv(problem.matrix) @ (problem.target - problem.matrix @ centre)
        torch.testing.assert_close(u, nearest, rtol=0, atol=1e-5)
        assert trace.loss < 1e-15


def test_the_prior_decides_what_too_few_equations_leave_open():
    """Linear: the least u.T R u under A u = s follows from Lagrange multipliers. Damping leaves half a percent."""
    problem = Curved(8, 20, bend=0.0)
    steps = torch.eye(20, dtype=DOUBLE).diff(dim=0)
    smooth = steps.T @ steps + 0.01 * torch.eye(20, dtype=DOUBLE)
    asked = []
    u, trace, _ = solved(problem, prior=lambda u: asked.append(u) or smooth)
    inverse = torch.linalg.inv(smooth)
    middle = problem.matrix @ inverse @ problem.matrix.T
    best = inverse @ problem.matrix.T @ torch.linalg.solve(middle, problem.target)
    plain = torch.linalg.pinv(problem.matrix) @ problem.target
    value, least, unprioritised = (float(v @ smooth @ v) for v in (u, best, plain))
    assert least - 1e-6 <= value < 1.005 * least and unprioritised > 1.5 * least
    assert trace.loss < 1e-15 and len(asked) == problem.calls["gram"]


@pytest.mark.parametrize("seed", range(4))
def test_noise_sets_the_weight_of_the_prior(seed):
    """The best linear estimate knows noise and prior: alpha = noise^2 / E u^2. The learned weight comes within 15 %
    of its error, and the data alone are at least five times worse."""
    noise = 0.01
    problem = Curved(60, 40, bend=0.0, noise=noise, decay=4.0, seed=seed)
    u, _, sigma = solved(problem, iterations=60)
    assert sigma == noise
    eye, normal = torch.eye(40, dtype=DOUBLE), problem.matrix.T @ problem.matrix
    best, alone = (
        torch.linalg.solve(normal + alpha * eye, problem.matrix.T @ problem.target) for alpha in (noise**2 / 0.25, 0.0)
    )
    error, best_error, alone_error = (float((v - problem.truth).norm()) for v in (u, best, alone))
    assert error < 1.15 * best_error and alone_error > 5 * error


def test_gauss_newton_refuses_a_damping_of_zero():
    with pytest.raises(ValueError, match="damping must be greater than 0"):
        solved(Curved(5, 5), damping=0.0)
