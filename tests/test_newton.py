"""Gauss-Newton ZeroGLA beyond one image with a known label and a smooth network."""

import dataclasses
import inspect
import math
import pydoc

import pytest
import torch

import glutils as gl
from glutils.attacks.zerogla import attack, gauss_newton
from glutils.attacks.zerogla import coarse_to_fine as pyramid
from glutils.models import relu
from glutils.models.switches import has_switches
from glutils.solvers import Trace


def taught(clients, model, rounds, directions, **options):
    """A transcript of zeroth-order training, float64."""
    protocol = gl.protocols.ZerothOrder(directions=directions, mu=1e-4, dtype="float64", seed=7)
    return gl.federation.train(protocol, model, clients, rounds=rounds, lr=0.01, **options)


def test_a_transcript_gives_away_images_and_labels_that_nobody_told():
    clients = gl.data.partition("digits", clients=2, per_client=2, seed=0)
    transcript = taught(clients, gl.models.build("mlp", clients[0], seed=0), rounds=30, directions=8)
    result = gl.attack("zerogla", gl.observe(transcript, client=0), seed=0)
    score = gl.score(result, clients[0])
    assert score.label_accuracy == 1 and float(score.psnr.min()) >= 100
    assert result.diagnostics["unknowns"] == 2 * 64 + 2 * 10
    wrong = gl.tamper(gl.observe(transcript, client=0), "wrong_seed")
    fooled = gl.score(gl.attack("zerogla", wrong, restarts=1, iterations=10), clients[0])
    assert float((fooled.psnr - fooled.controls["mean_colour"]).max()) <= 2


def test_local_steps_are_replayed():
    clients = gl.data.partition("digits", clients=2, per_client=1, seed=1)
    model = gl.models.build("mlp", clients[0], seed=0)
    transcript = taught(clients, model, rounds=5, directions=8, local_steps=2)
    result = gl.attack("zerogla", gl.observe(transcript, client=0, knows={"labels"}))
    assert float(gl.score(result, clients[0]).psnr[0]) >= 100


def test_kinks_resist_until_smooth_networks_lead_around_them():
    clients = gl.data.partition("digits", clients=2, per_client=1, seed=1)
    model = gl.models.build("convnet", clients[0], seed=1, channels=(8, 16), hidden=None)
    seen = gl.observe(taught(clients, model, rounds=12, directions=16), client=0, knows={"labels"})
    plain = gl.score(gl.attack("zerogla", seen, soften=False, restarts=1, iterations=12, check=False), clients[0])
    led = gl.score(gl.attack("zerogla", seen, restarts=1), clients[0])
    assert float(led.psnr[0]) >= 40 > float(plain.psnr[0])
    assert isinstance(seen.model[1], torch.nn.ReLU)


def test_a_smoothed_network_comes_to_be_the_network():
    batch = gl.data.sample("digits", seed=0)
    model = gl.models.build("convnet", batch)
    apart = []
    for sharpness in (1.0, 16.0, 256.0):
        soft = relu.smooth_relu(model, sharpness)
        assert has_switches(model, batch.images) and not has_switches(soft, batch.images)
        apart.append((soft(batch.images) - model(batch.images)).abs().max().item())
    assert apart == sorted(apart, reverse=True) and 0 < apart[-1] < 0.05 * apart[0]
    soft = relu.smooth_relu(model, math.inf)
    torch.testing.assert_close(soft(batch.images), model(batch.images), rtol=0, atol=0)
    assert dict(soft.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert all(a is b for a, b in zip(soft.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("option", [{"prior": "smooth"}, {"prior": "none"}])
def test_unknown_labels_with_every_pixel_prior(option):
    batch = gl.data.sample("digits", seed=4)
    model = gl.models.build("mlp", batch, seed=0)
    protocol = gl.protocols.ZerothOrder(directions=96, mu=1e-4, dtype="float64", seed=3)
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
    score = gl.score(gl.attack("zerogla", seen, **option), batch)
    assert score.label_accuracy == 1 and float(score.psnr[0]) >= 100


def test_mini_batches_of_unknown_membership_are_solved_with_it():
    clients = gl.data.partition("digits", clients=2, per_client=3, seed=2)
    model = gl.models.build("mlp", clients[0], seed=0, hidden=(32,))
    transcript = taught(clients, model, rounds=24, directions=16, local_batch=2)
    seen = gl.observe(transcript, client=0, knows={"labels"})
    result = gl.attack("zerogla", seen, seed=0)
    score = gl.score(result, clients[0])
    assert result.diagnostics["unknowns"] == 3 * 64 + 24 * 3 and result.diagnostics["sure"] == 1
    assert float(score.psnr.min()) >= 100
    blind = gl.attack("zerogla", dataclasses.replace(seen, local_batch=None), restarts=1, iterations=15)
    assert float(gl.score(blind, clients[0]).psnr.max()) < 40


def test_the_box_helps_where_round_off_leaves_two_images_of_a_class_alike():
    clients = gl.data.partition("digits", clients=2, per_client=4, seed=2)  # two of the first one's digits are zeros
    protocol = gl.protocols.ZerothOrder(directions=20, mu=1e-3, seed=9)
    model = gl.models.build("mlp", clients[0], seed=2)
    transcript = gl.federation.train(protocol, model, clients, rounds=40, lr=0.01, seed=2)
    seen = gl.observe(transcript, client=0, knows={"labels"})
    free, boxed = (gl.attack("zerogla", seen, seed=2, box=box, restarts=1, check=False) for box in (False, True))
    worst = [float(gl.score(result, clients[0]).psnr.min()) for result in (free, boxed)]
    assert worst[1] > worst[0] + 3 and float(boxed.images.min()) >= 0 and float(boxed.images.max()) <= 1
    with pytest.raises(ValueError, match="box needs at least as many scalars as unknowns"):
        gl.attack("zerogla", gl.observe(transcript, client=0, knows={"labels"}, rounds=range(9)), box=True)


def test_two_clients_mixed_up_are_not_attacked_as_one():
    clients = gl.data.partition("digits", clients=2, per_client=2, seed=0)
    transcript = taught(clients, gl.models.build("mlp", clients[0], seed=0), rounds=30, directions=8)
    messages = list(transcript.messages)
    for turn in (4, 17):
        (one,), (two,) = messages[turn]
        swap = dataclasses.replace
        messages[turn] = ((swap(one, payload=two.payload),), (swap(two, payload=one.payload),))
    mixed = dataclasses.replace(transcript, messages=tuple(messages))
    result = gl.attack("zerogla", gl.observe(mixed, client=0, knows={"labels"}), restarts=1)
    assert any("left out rounds [4, 17]" in note for note in result.notes)
    assert float(gl.score(result, clients[0]).psnr.min()) >= 100
    trusting = gl.attack("zerogla", gl.observe(mixed, client=0, knows={"labels"}), restarts=1, check=False)
    assert float(gl.score(trusting, clients[0]).psnr.min()) < 40


def photo(size=16, seed=0, **options):
    """A photo, and what its scalars show: 1.2 times as many as pixels, from a smooth network."""
    batch = gl.data.sample("photos", size=size, seed=seed)
    model = gl.models.build("lenet", batch, seed=seed)
    count = int(1.2 * batch.images.numel())
    protocol = gl.protocols.ZerothOrder(directions=count, mu=1e-4, dtype="float64", seed=seed, **options)
    payload = protocol.transmit(model, batch.images, batch.labels)
    return batch, gl.observe(model, protocol, payload, batch, knows={"labels"})


def test_a_small_copy_of_the_image_comes_first_and_saves_steps_at_full_size(monkeypatch):
    batch, seen = photo(size=12, memory=0)
    sizes = []
    gram = gl.attacks.zerogla.equations.ScalarEquations.gram

    def noted(self, u, **how):
        sizes.append((self.count, len(u)))
        return gram(self, u, **how)

    monkeypatch.setattr(gl.attacks.zerogla.equations.ScalarEquations, "gram", noted)
    plain = gl.attack("zerogla", seen, iterations=1)
    assert sizes == [(518, 432)]
    sizes.clear()
    led = gl.attack("zerogla", seen, iterations=1, coarse=1)
    small = [size for size in sizes if size == (216, 108)]
    assert small and sizes == small + [(518, 432)] * (len(sizes) - len(small)) and len(sizes) - len(small) <= 1
    before, after = (float(gl.score(result, batch).psnr[0]) for result in (plain, led))
    assert before < 60 < after
    first, last = led.history.frames[1], led.history.frames[-1]
    assert first.shape == last.shape == batch.images.shape


@pytest.mark.parametrize(("size", "times"), [(32, 0), (48, 1), (64, 2)])
def test_one_large_image_is_begun_small_by_default(size, times):
    batch = gl.data.sample("photos", size=size, seed=0)
    protocol = gl.protocols.ZerothOrder(directions=4)
    seen = gl.observe(gl.models.build("lenet", batch), protocol, torch.zeros(4), batch, knows={"labels"})
    assert pyramid.halvings(seen, None, pixels_alone=True) == times
    assert pyramid.halvings(seen, None, pixels_alone=False) == 0
    assert pyramid.halvings(seen, 3, pixels_alone=True) == 3


def test_coarse_is_refused_where_it_cannot_work():
    batch = gl.data.sample("digits", seed=0)
    model, protocol = gl.models.build("mlp", batch), gl.protocols.ZerothOrder(directions=80, seed=1)
    payload = protocol.transmit(model, batch.images, batch.labels)
    told = gl.observe(model, protocol, payload, batch, knows={"labels"})
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match="coarse must be"):
            gl.attack("zerogla", told, coarse=wrong)
    with pytest.raises(ValueError, match="coarse must be 0 where there is more to find than pixels"):
        gl.attack("zerogla", gl.observe(model, protocol, payload, batch), coarse=1)
    with pytest.raises(ValueError, match="coarse does nothing with solver='adam'"):
        gl.attack("zerogla", told, solver="adam", coarse=1)


def test_every_option_of_every_solver_is_shown_with_its_default():
    """Help, and the list in errors, come from the functions of the solvers; nothing is a stand-in for a default."""
    named, functions = inspect.signature(gl.attacks.zerogla.zerogla).parameters, attack.SOLVERS
    for solver, run in functions.items():
        own = {n: p for n, p in inspect.signature(run).parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert set(own) <= set(named)
        for name, parameter in own.items():
            shown = named[name].default
            assert (shown[solver] if isinstance(shown, attack.BySolver) else shown) == parameter.default
    assert set(attack.Options.__annotations__) == set(named) - {"seen", "seed", "solver"}
    assert repr(named["iterations"].default) == "40 (gauss-newton) or 60 (lbfgs) or 2000 (adam)"
    text = pydoc.render_doc(gl.attacks.zerogla.zerogla)
    assert "lr: 'float | int' = 0.1" in text and "prior: 'str | latent.Latent | None' = None" in text


def test_an_option_that_a_solver_would_ignore_is_refused_even_at_its_default():
    seen = photo(size=8)[1]
    for options, error, message in [
        ({"lr": 0.1}, ValueError, "lr does nothing with solver='gauss-newton', which takes prior, components, "),
        ({"solver": "lbfgs", "noise": 0.0}, ValueError, "noise does nothing with solver='lbfgs', which takes scalar_w"),
        ({"solver": "adam", "box": False}, ValueError, "box does nothing with solver='adam'.*; got False"),
        ({"solver": "sgd"}, ValueError, "solver must be one of 'gauss-newton', 'lbfgs', 'adam'; got 'sgd'"),
        ({"rate": 1}, TypeError, "'zerogla' has no option 'rate'; its options: solver, iterations, restarts, prior, "),
    ]:
        with pytest.raises(error, match=message):
            gl.attack("zerogla", seen, **options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"):
        gl.attacks.zerogla.zerogla(seen, rate=1)
    left = gl.attack("zerogla", seen, lr=None, iterations=None, restarts=None, progress=False)  # None: the default
    assert torch.equal(left.images, gl.attack("zerogla", seen, progress=False).images)


def test_a_restart_does_not_depend_on_the_one_before():
    """Neither labels nor what was learnt of the client's arithmetic is left over."""
    seen = dataclasses.replace(photo(size=8)[1], labels=None)
    alone = gauss_newton._Search(seen, "tv", 5, False, False, 0)
    used = gauss_newton._Search(seen, "tv", 5, False, False, 0)
    start = torch.full((192,), 0.4, dtype=torch.float64)
    used.solve(start + 0.1, Trace(9, "last"))
    one, other = Trace(9, "last"), Trace(9, "last")
    assert used.solve(start, one) == alone.solve(start, other) and one.losses == other.losses


def test_scalars_that_rounding_made_zero_are_noted():
    batch = gl.data.sample("digits", seed=0)
    model = gl.models.build("mlp", batch, hidden=(4,), activation="tanh", seed=0)
    protocol = gl.protocols.ZerothOrder(directions=70)
    sent = protocol.transmit(model, batch.images, batch.labels) * 0.0
    seen = gl.observe(model, protocol, sent, batch, knows={"labels"})
    notes = gl.attack("zerogla", seen, seed=0, restarts=1, iterations=3).notes
    assert any("all 70 scalars are zero: they say nothing" in note for note in notes)
