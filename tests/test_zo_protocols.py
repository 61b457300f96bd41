"""Zeroth-order protocols beside DeComFL's, and the attacker who knows them."""

import dataclasses

import pytest
import torch

import glutils as gl
from glutils import defenses, models, zo
from glutils.attacks.zerogla.equations import ScalarEquations
from glutils.observation import Round, as_slopes
from glutils.protocols import FedSGD, HiddenDirections, SeedPool, ZerothOrder

HOW = {"mu": 1e-4, "dtype": "float64", "seed": 7}


@pytest.fixture(scope="module")
def deal():
    return gl.data.partition("digits", clients=3, per_client=2, seed=0, device="cpu")


@pytest.fixture(scope="module")
def model(deal):
    return models.build("mlp", deal[0], hidden=(16,), seed=0)


def equations_of(seen):
    return ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), torch.Size(seen.shape).numel())


def worst(seen, batch, **how):
    result = gl.attack("zerogla", seen, seed=0, restarts=1, check=False, progress=False, **how)
    return float(gl.score(result, batch).psnr.min())


def test_a_pool_with_tiny_steps_sends_the_slopes(model, deal):
    batch = deal[0]
    plain = ZerothOrder(directions=12, **HOW).transmit(model, batch.images, batch.labels)
    pool = SeedPool(directions=12, passes=3, local_lr=1e-9, **HOW).transmit(model, batch.images, batch.labels)
    torch.testing.assert_close(pool.scalars, plain.scalars, rtol=1e-6, atol=1e-9)


def test_the_server_arrives_where_the_only_client_of_a_pool_did(model, deal):
    """One client, equal steps: replaying the accounts is the client's own way, and half of it the middle."""
    pool = SeedPool(directions=12, passes=2, local_lr=0.1, **HOW)
    run = gl.federation.train(pool, model, deal[:1], rounds=2, lr=0.1, progress=False)
    message = run.messages[1][0][0]
    assert message.protocol.order is None and message.protocol.seed == 7
    middle = message.protocol.linearisation_state(run.states[1], message.payload, message.protocol.draw(model))
    for name, p in middle.items():
        torch.testing.assert_close(p, (run.states[1][name] + run.states[2][name]) / 2, rtol=1e-4, atol=1e-5)
    one = gl.federation.train(pool, model, deal[:1], rounds=2, lr=0.1, seed=1, progress=False)
    assert torch.equal(one.messages[1][0][0].payload, message.payload)  # the order is the protocol's, not the run's


def test_the_middle_of_the_way_reads_a_pool_better_than_its_start(model, deal):
    pool = SeedPool(directions=20, passes=2, local_lr=0.3, **HOW)
    run = gl.federation.train(pool, model, deal[:1], rounds=2, lr=0.3, progress=False)
    seen = gl.observe(run, client=0, knows={"labels"})
    truth = deal[0].images.double().flatten()
    misfit = {}
    for who in ("middle", "start"):
        if who == "start":
            rounds = tuple(
                Round(ZerothOrder(directions=20, **HOW), r.payload, r.parameters, r.number, r.client)
                for r in seen.rounds
            )
            seen = dataclasses.replace(seen, rounds=rounds)
        equations = equations_of(seen)
        misfit[who] = float(equations.residual(truth).square().mean())
    assert misfit["middle"] * 4 < misfit["start"]


def test_hidden_directions_send_a_gradient_whose_own_direction_is_a_slope(model, deal):
    batch = deal[0]
    gradient = models.flatten(FedSGD().transmit(model, batch.images, batch.labels)).double()
    for count, tolerance in ((1, 1e-3), (8, 0.2)):
        hidden = HiddenDirections(directions=count, **HOW)
        payload = hidden.transmit(model, batch.images, batch.labels)
        view = gl.observe(model, hidden, payload, batch, knows={"labels"})
        assert view.kind == "gradient" and view.protocol.seed is None
        with pytest.raises(ValueError, match="seed must be the client's"):
            view.protocol.transmit(model, batch.images, batch.labels)
        slopes = as_slopes(view)
        row = slopes.protocol.draw(model).rows(dtype=torch.float64)[0]
        torch.testing.assert_close(slopes.payload[0], row @ gradient, rtol=tolerance, atol=0)
        scalars = ZerothOrder(directions=count, **HOW).transmit(model, batch.images, batch.labels).scalars
        estimate = zo.estimate(scalars, hidden.draw(model))
        torch.testing.assert_close(models.flatten(payload), estimate.float(), rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="HiddenDirections"):
        as_slopes(gl.observe(model, FedSGD(), FedSGD().transmit(model, batch.images, batch.labels), batch))


def test_one_hidden_direction_a_round_hides_nothing(deal):
    """The client sends the direction together with the scalar; the control does not know the step's length."""
    batch = deal[0][[0]]
    start = models.build("mlp", batch, hidden=(8,), seed=0)
    hidden = HiddenDirections(directions=1, **HOW)
    run = gl.federation.train(hidden, start, [batch], rounds=80, lr=0.01, progress=False)
    seen = as_slopes(gl.observe(run, client=0, knows={"labels"}))
    assert worst(seen, batch, iterations=8) > 40
    assert worst(gl.tamper(seen, "wrong_gradient"), batch, iterations=4) < 15


def test_who_knows_that_each_slope_is_cut_reads_on(deal):
    """Cut slopes mislead an attacker who takes their mean for a slope, not the one who cuts its own."""
    batch = deal[0]
    start = models.build("mlp", batch, hidden=(8,), seed=0)
    defended = defenses.Defended(ZerothOrder(directions=10, **HOW), defenses.get("dp_scalars", clip=0.05, sigma=0.0))
    run = gl.federation.train(defended, start, deal, rounds=20, lr=0.1, progress=False)
    seen = gl.observe(run, client=0, knows={"labels"})
    truth = batch.images.double().flatten()
    for view, exact in ((seen, True), (gl.observation.naive(seen), False)):
        equations = equations_of(view)
        r, back = equations.evaluate(truth)
        assert bool(r.abs().max() < 1e-5) is exact
    u = truth + 0.01 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    equations = equations_of(seen)
    rows = torch.cat(list(equations.jacobian_rows(u, torch.float64)))
    r, back = equations.evaluate(u)
    torch.testing.assert_close(rows.T @ r, back)
    torch.testing.assert_close(rows @ u, equations.jtj_vector(u, u)[0])
    torch.testing.assert_close(rows.T @ r, equations.vjp(u, r))


def test_resampled_scalars_are_means_over_drawn_images(model, deal):
    batch = deal[0]
    plain = ZerothOrder(directions=30, **HOW)
    each = plain.of_each(model, batch.images, batch.labels, None)
    slopes = plain.transmit(model, batch.images, batch.labels).scalars
    torch.testing.assert_close(each.mean(1), slopes, rtol=1e-6, atol=1e-9)
    how = {"images": 1}
    found = {
        per: defenses.Defended(plain, defenses.get("resample", per=per, **how)).transmit(
            model, batch.images, batch.labels
        ).scalars
        for per in ("direction", "message")
    }
    which = {per: (each - s[:, None]).abs().argmin(1) for per, s in found.items()}
    for per, s in found.items():
        torch.testing.assert_close(each.gather(1, which[per][:, None])[:, 0], s)
    assert len(which["message"].unique()) == 1 and len(which["direction"].unique()) == 2
    all_of_them = defenses.Defended(plain, defenses.get("resample", images=2))
    torch.testing.assert_close(all_of_them.transmit(model, batch.images, batch.labels).scalars, each.mean(1))
    with pytest.raises(ValueError, match="images must be at most the 2"):
        defenses.Defended(plain, defenses.get("resample", images=3)).transmit(model, batch.images, batch.labels)


def test_protocols_that_do_not_fit_are_refused(model, deal):
    batch = deal[0]
    for name, options in (("dp_scalars", {"clip": 1, "sigma": 1}), ("resample", {"images": 1})):
        with pytest.raises(ValueError, match="protocol must be ZerothOrder"):
            pool = SeedPool(directions=2, **HOW)
            defenses.Defended(pool, defenses.get(name, **options)).transmit(model, batch.images, batch.labels)
    for bad in ({"passes": 0}, {"local_lr": 0}, {"order": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SeedPool(directions=2, **bad)
