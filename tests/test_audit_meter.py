"""The budget meter: one state as predicted, many states as least squares finds, parts of the records, and bad input."""

from __future__ import annotations

import pytest
import torch

import glutils as gl
from glutils.attacks.zerogla.derivatives import gradients_jacobian


@pytest.fixture(scope="module")
def pair():
    return gl.data.sample("digits", count=2, seed=1)


@pytest.fixture(scope="module")
def model(pair):
    return gl.models.build("mlp", pair, hidden=(16,), activation="tanh", seed=0)


def client(count, seed=0, **options):
    return gl.protocols.ZerothOrder(**{"directions": count, "mu": 1e-3, "law": "gaussian", "seed": seed} | options)


def moved(pair, seed):
    """The same network somewhere else in its training."""
    return gl.models.build("mlp", pair, hidden=(16,), activation="tanh", seed=seed)


def test_at_one_state_it_says_what_was_predicted(pair, model):
    meter = gl.audit.Meter(pair)
    for number in range(4):
        now = meter.add(model, client(50, number))
    ahead = gl.audit.predict(model, client(50), pair, rounds=4)
    assert (meter.sent, meter.rounds, now.scalars, now.unknowns) == (200, 4, 200, 128)
    assert (now.psnr - ahead.psnr).abs().max() < 1.5  # float32 noise is measured anew in every round
    assert now.noise == pytest.approx(ahead.noise, rel=0.5)
    assert abs(now.bits / ahead.bits - 1) < 0.05


def test_it_agrees_with_least_squares_over_states_that_differ(pair):
    """Rows are drawn at three states, with one noise; errors of the posterior, in the mean over draws."""
    states, count, noise = [moved(pair, seed) for seed in (0, 1, 2)], 25, 1e-2
    shield = gl.defenses.Defended(client(count), gl.defenses.get("gaussian_noise", sigma=noise))
    meter = gl.audit.Meter(pair)
    for state in states:
        now = meter.add(state, shield)
    grads = [
        gradients_jacobian(state, [gl.models.parameters(state, torch.float64)], pair.images.double(), pair.labels,
                           client(1).criterion).detach() for state in states
    ]  # fmt: skip
    generator, errors = torch.Generator().manual_seed(0), []
    for _ in range(60):
        rows = [torch.randn(count, len(g[0]), generator=generator, dtype=torch.float64) @ g.T for g in grads]
        told = torch.cat(rows) / noise
        posterior = torch.linalg.inv(12 * torch.eye(128, dtype=torch.float64) + told.T @ told)
        kept = torch.where((pair.images <= 0) | (pair.images >= 1), 0.5, 1.0).double().flatten()
        errors.append((kept * posterior.diagonal()).view(2, -1).mean(1))
    drawn = -10 * torch.log10(torch.stack(errors).mean(0))
    assert (now.psnr - drawn).abs().max() < 1.0


def test_a_record_that_no_message_is_about_stays_unknown(pair, model):
    meter = gl.audit.Meter(pair)
    for number in range(6):
        now = meter.add(model, client(30, number), members=[1])
    assert now.psnr[1] > 40 and now.psnr[0] < 15
    assert meter.left(30)[1] == 0 and meter.left(30)[0] == -1 and now.rank == 64


def test_it_counts_down_to_a_level_and_to_a_name(pair, model):
    meter = gl.audit.Meter(pair)
    meter.add(model, client(10))
    before, name = meter.left(30), meter.left_to_name(10**6)
    meter.add(model, client(20, 1))
    after = meter.left(30)
    assert (before > after).all() and (after > 0).all() and name > meter.left_to_name(10**6) >= 0
    meter.add(model, client(200, 2))
    assert meter.left(30).tolist() == [0, 0] and meter.left_to_name(1000) == 0


def test_states_that_differ_hold_more_than_one_narrow_state(pair):
    how = {"channels": (1, 1), "hidden": None, "activation": "gelu"}
    narrow = [gl.models.build("convnet", pair, seed=number, **how) for number in range(8)]
    one, many = gl.audit.Meter(pair), gl.audit.Meter(pair)
    for number, state in enumerate(narrow):
        stays, moves = one.add(narrow[0], client(40, number)), many.add(state, client(40, number))
    assert stays.rank < moves.rank <= 128 and moves.psnr.min() > stays.psnr.min() + 10


def test_bad_input_is_refused_and_counts_nothing(pair, model):
    meter = gl.audit.Meter(pair)
    with pytest.raises(ValueError, match="meter has counted no message yet"):
        meter.left(30)
    for members in ([], [2], [0, 0], [-1]):
        with pytest.raises(ValueError, match="members must be different places from 0 to 1"):
            meter.add(model, client(5), members=members)
    with pytest.raises(ValueError, match="protocol must send plain scalars"):
        meter.add(model, gl.protocols.FedSGD())
    with pytest.raises(TypeError, match="batch"):
        gl.audit.Meter(pair.images)
    texts = gl.data.sample("messages", count=1, seed=0)
    with pytest.raises(ValueError, match="batch must hold records that can change by a little"):
        gl.audit.Meter(texts)
    assert meter.sent == meter.rounds == 0
