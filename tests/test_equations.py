"""Equations are never changed: what they keep is theirs, whatever is made of them, and what they compute is counted."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.attacks.zerogla import equations
from glutils.attacks.zerogla.equations import ScalarEquations
from glutils.attacks.zerogla.rounds import StackedRounds

DOUBLE = torch.float64


def half(images):
    """Another meaning of the same numbers."""
    return 0.5 * images


@pytest.fixture
def seen(digit):
    """Few scalars of a moving curvature, so that the Jacobian is kept whole and differs everywhere."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.SiLU(), nn.Linear(8, 10))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in (model[1], model[3]):
            layer.reset_parameters()
    protocol = gl.protocols.ZerothOrder(directions=12, mu=1e-2, scheme="forward", seed=3)
    return gl.observe(model, protocol, protocol.transmit(model, digit.images, digit.labels), digit, knows={"labels"})


def system(seen, scale=lambda images: images, labels=None, **how):
    labels = seen.labels if labels is None else labels
    return ScalarEquations(seen, lambda u: (scale(u.view(seen.shape)), labels), 64, **how)


def point(seed=0):
    return torch.rand(64, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def differentiated(found, u):
    """The Jacobian by automatic differentiation of the residual: knows nothing of what is kept."""
    return torch.autograd.functional.jacobian(lambda v: found.residual(v), u)


def sharper(model):
    """The same parameters behind another activation."""
    model = copy.deepcopy(model)
    model[2] = nn.ReLU()
    return model


CHANGES = {
    "decode": lambda e, seen: e.with_decode(lambda u: (half(u.view(seen.shape)), seen.labels), 64),
    "labels": lambda e, seen: e.with_decode(lambda u: (u.view(seen.shape), (seen.labels + 1) % 10), 64),
    "network": lambda e, seen: e.with_model(sharper(seen.model)),
    "offset": lambda e, seen: e.with_offset(torch.ones(12, dtype=DOUBLE)),
    "calibration": lambda e, seen: e.calibrate(point(7)).problem,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_kept_jacobian_is_never_that_of_other_equations(seen, change):
    """Asked at the same point before and after, in either order: each gets its own."""
    first, u = system(seen), point()
    kept = first.jacobian(u)
    other = CHANGES[change](first, seen)
    v = point(1)
    for found in (other, first, other):
        rows = differentiated(found, u)
        torch.testing.assert_close(found.jacobian(u), rows)
        torch.testing.assert_close(found.gram(u), rows.T @ rows)
        torch.testing.assert_close(found.jtj_vector(u, v)[0], rows @ v)
        torch.testing.assert_close(found.evaluate(u)[1], rows.T @ found.residual(u))
    torch.testing.assert_close(first.jacobian(u), kept, rtol=0, atol=0)
    same = change in ("offset", "calibration")
    assert torch.allclose(other.jacobian(u), kept) is same and not torch.equal(other.residual(u), first.residual(u))


def test_a_kept_jacobian_is_that_of_the_point_asked_about(seen):
    found = system(seen)
    for seed in (0, 1, 0):
        torch.testing.assert_close(found.jacobian(point(seed)), differentiated(found, point(seed)))
    moving = point(5)
    found.jacobian(moving)
    moving += 0.1  # in place: the same tensor, another point
    torch.testing.assert_close(found.jacobian(moving), differentiated(found, moving))


@pytest.mark.parametrize("stack", ["one large round", "many small ones"])
def test_a_pullback_of_the_last_residual_asks_the_directions_nothing(seen, stack, monkeypatch):
    found = system(seen)
    if stack == "many small ones":
        monkeypatch.setattr(equations, "StreamedRound", lambda m, d, entry, chunk: StackedRounds(m, d, (entry,)))
        found = system(seen)
    block, rows, asked = found.blocks[0], differentiated(found, point(1)), []
    monkeypatch.setattr(block, "combine", lambda r, own=block.combine: asked.append(r) or own(r))
    r, _ = found.evaluate(point(0))
    evaluated = len(asked)
    torch.testing.assert_close(found.vjp(point(1), r), rows.T @ r)
    assert len(asked) == evaluated
    r *= 2  # in place: the same tensor, another residual
    torch.testing.assert_close(found.vjp(point(1), r), rows.T @ r)
    assert len(asked) == evaluated + 1
    torch.testing.assert_close(found.with_offset(found.offset + 1).vjp(point(1), r), rows.T @ r)


def test_equations_cannot_be_changed_from_outside(seen):
    found = system(seen)
    for name in ("decode", "unknowns", "model", "offset", "noise", "anything"):
        with pytest.raises(AttributeError, match=f"never changed; {name} is given by with_decode"):
            setattr(found, name, None)
    before = found.residual(point())
    learnt = found.calibrate(point())
    found.with_model(sharper(seen.model))
    assert torch.equal(found.residual(point()), before) and not bool(found.offset.any())
    assert bool(learnt.problem.offset.any()) and learnt.bias > 0


def test_what_is_made_of_equations_shares_directions_and_is_what_would_be_made_anew(seen):
    first, u = system(seen), point()
    other = first.with_decode(lambda v: (half(v.view(seen.shape)), seen.labels), 64)
    assert other.blocks[0].directions is first.blocks[0].directions
    torch.testing.assert_close(other.evaluate(u), system(seen, half).evaluate(u), rtol=0, atol=0)
    shifted = first.with_offset(torch.full((12,), 0.1, dtype=DOUBLE))
    torch.testing.assert_close(shifted.residual(u), first.residual(u) + 0.1 / first.scale)
    learnt = first.calibrate(u).problem
    assert torch.equal(learnt.with_decode(first.decode, 64).offset, learnt.offset)  # of the same client
    assert not bool(learnt.with_model(sharper(seen.model)).offset.any())  # measured with another network


@pytest.mark.parametrize("whole", [True, False])
def test_evaluations_are_the_forward_passes_that_were_made(seen, whole, monkeypatch):
    """A hook on the network counts them; the Jacobian's rows are pulled back through one."""
    monkeypatch.setattr(equations, "WHOLE", 2**15 if whole else 0)
    calls = []
    seen.model.register_forward_hook(lambda *_: calls.append(1))
    found, u = system(seen), point()
    for compute, forwards, pullbacks in [
        (lambda: found.evaluate(u), 1, 1),
        (lambda: found.vjp(u, torch.ones(12, dtype=DOUBLE)), 1, 1),
        (lambda: found.gram(u), 1, 12),
        (lambda: found.jtj_vector(u, u), 0 if whole else 2, 0 if whole else 1),
        (lambda: found.with_offset(found.offset).evaluate(u), 1, 1),
    ]:
        calls.clear()
        before = dataclasses.replace(found.tally)
        compute()
        made = found.tally.evaluations - before.evaluations, found.tally.pullbacks - before.pullbacks
        assert made == (len(calls), pullbacks) == (forwards, pullbacks)
