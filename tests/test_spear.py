"""SPEAR: exact batches behind a ReLU, through sums and local steps, its certificate, its controls, its refusals."""

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.attacks.closed_form import sparse_directions as search
from glutils.attacks.closed_form.sparse_descent import descend
from glutils.protocols import FedAvg, FedSGD

pytestmark = pytest.mark.usefixtures("no_lpips")
EXACT = 100  # dB


def photos(count, seed=0):
    return gl.data.sample("photos", size=16, count=count, seed=seed, device="cpu")


def seen_of(batch, protocol=None, hidden=(64,), activation="relu", **options):
    protocol = FedSGD() if protocol is None else protocol
    model = gl.models.build("mlp", batch, hidden=hidden, activation=activation, seed=0, **options)
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)


def mixture(count=6, neurons=120, pixels=40, seed=0):
    """A gradient with known parts, as a layer would send it: (D, X, weights, biases), float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    images, weight, bias = draw(count, pixels), draw(neurons, pixels), draw(neurons)
    told = draw(neurons, count) * (images @ weight.mT + bias > 0).mT
    return told, images, weight, bias


# --- the search, against known parts ---


def test_the_true_directions_agree_with_every_neuron_and_give_the_images():
    told, images, weight, bias = mixture()
    mix = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    given = search.problem(told @ images, told.sum(1), weight, bias, 6, mix)
    fired = told.abs().sum(1) > 0
    true = torch.linalg.lstsq(given.rows, told[fired] / given.lengths[:, None]).solution
    torch.testing.assert_close(given.images(true), images)
    torch.testing.assert_close(given.scale(true), torch.ones(6, dtype=torch.float64))
    wrong = true @ mix
    assert given.agreement(torch.stack([true, wrong])).tolist() == [1, pytest.approx(0.5, abs=0.2)]
    assert torch.equal(search.zeros(given, true), (told[fired] == 0).sum(0))


def test_the_search_finds_the_directions_of_a_known_mixture():
    told, images, weight, bias = mixture(8, 200)
    generator = torch.Generator().manual_seed(0)
    mix = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    found = search.separate(search.problem(told @ images, told.sum(1), weight, bias, 8, mix), 50_000, generator)
    assert found.agreement == 1 and found.found == 8
    given = search.problem(told @ images, told.sum(1), weight, bias, 8, mix)
    nearest = torch.cdist(given.images(found.directions), images).min(0).values
    assert float(nearest.max()) < 1e-6


def test_multiples_of_another_direction_are_taken_off():
    told, images, weight, bias = mixture(4, 80)
    mix = torch.eye(4, dtype=torch.float64)
    given = search.problem(told @ images, told.sum(1), weight, bias, 4, mix)
    fired = told.abs().sum(1) > 0
    true = torch.nn.functional.normalize(
        torch.linalg.lstsq(given.rows, told[fired] / given.lengths[:, None]).solution, dim=0
    )
    spoiled = true.clone()
    spoiled[:, 0] += 0.7 * true[:, 2]
    assert search.zeros(given, spoiled)[0] < search.zeros(given, true)[0]
    repaired = search.unmix_pairs(given, spoiled)
    assert torch.equal(search.zeros(given, repaired), search.zeros(given, true))


def test_a_neuron_that_is_nearly_silent_turns_no_direction_away():
    """An entry of 40 times the rounding passed for zero: it cost one batch of four of the record."""
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = torch.nn.functional.normalize(torch.ones(4, dtype=torch.float64), dim=0)
    rows[:8] -= (rows[:8] @ true)[:, None] * true
    rows = torch.nn.functional.normalize(rows, dim=1)
    rows[8] = rows[0] + 4e-5 * true
    one = torch.ones(30, dtype=torch.float64)
    given = search.Problem(
        rows, torch.eye(4, dtype=torch.float64), one, rows.mT, one, 1e-6 * one[:, None], one.bool(), one
    )
    rough = torch.nn.functional.normalize(true + 1e-7 * rows[20], dim=0)
    found = search.sharpen(given, rough)
    assert found is not None and int(search.zeros(given, found[:, None])) == 8
    assert 1 - abs(float(found @ true)) < 1e-12


def test_a_descent_finds_directions_that_no_draw_would():
    """Sixteen images: a set of 15 rows is silent for one of them once in half a million draws."""
    told, images, weight, bias = mixture(16, 400, 60)
    given = search.problem(told @ images, told.sum(1), weight, bias, 16, torch.eye(16, dtype=torch.float64))
    fired = told.abs().sum(1) > 0
    true = torch.nn.functional.normalize(
        torch.linalg.lstsq(given.rows, told[fired] / given.lengths[:, None]).solution, dim=0
    )
    generator = torch.Generator().manual_seed(0)
    found = descend(given.rows, given.rows.new_zeros(16, 0), generator)
    near = 1 - (found @ true).abs()
    hit = near.min(0).values < 1e-6
    assert int(hit.sum()) >= 8 and found.shape == (200, 16)
    others = descend(given.rows, true[:, :14], generator)
    assert int((1 - (others @ true[:, 14:]).abs() < 1e-6).any(1).sum()) > int((near[:, 14:] < 1e-6).any(1).sum())
    again = descend(given.rows, given.rows.new_zeros(16, 0), torch.Generator().manual_seed(0))
    assert torch.equal(again, found)


def test_neurons_that_fire_for_many_images_are_known_by_their_zeros():
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:30, 4] = 0
    one = torch.ones(60, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(5, 60, generator=generator, dtype=torch.float64)
    given = search.Problem(
        rows, torch.eye(5, dtype=torch.float64), one, weights, one, 1e-6 * one[:, None], one.bool(), one
    )
    nobody = torch.zeros(60, dtype=torch.bool)
    found = search.crowd(given, torch.eye(5, dtype=torch.float64), nobody)
    assert found.tolist() == [True] * 30 + [False] * 30
    assert search.crowd(given, torch.eye(5, dtype=torch.float64)[:, :4], nobody) is nobody


# --- the attack ---


@pytest.mark.parametrize("seed", [*range(3), 4])
def test_every_image_of_four_is_exact_and_its_label_goes_with_it(seed):
    batch = gl.data.sample("photos", size=16, count=4, seed=seed, distinct=True, device="cpu")
    model, protocol = gl.models.build("mlp", batch, hidden=(64,), activation="relu", seed=seed), FedSGD()
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
    result = gl.attack("spear", seen, seed=seed, samples=6000)
    score = gl.score(result, batch)
    assert float(score.psnr.min()) > EXACT and result.diagnostics["agreement"] == 1 and not result.notes
    assert score.label_accuracy == 1 and (result.evaluations, result.pullbacks) == (4 * 9, 0)


def test_eight_images_of_four_clients_behind_secure_aggregation_are_one_batch():
    batch = photos(8)
    model = gl.models.build("mlp", batch, hidden=(256,), activation="relu", seed=0)
    parts = [FedSGD().transmit(model, batch.images[k : k + 2], batch.labels[k : k + 2]) for k in range(0, 8, 2)]
    coding = gl.defenses.FixedPoint(step=2.0**-36, bits=64)
    total = gl.defenses.secure_sum([gl.models.flatten(part) for part in parts], coding=coding, seed=0).total
    seen = gl.observe(model, FedSGD(), gl.models.unflatten((total / 4).float(), dict(parts[0])), batch)
    assert float(gl.score(gl.attack("spear", seen), batch).psnr.min()) > EXACT


def test_sixteen_images_are_exact_which_draws_alone_never_told_apart():
    batch = gl.data.sample("photos", size=16, count=16, seed=1, distinct=False, device="cpu")
    model, protocol = gl.models.build("mlp", batch, hidden=(512,), activation="relu", seed=1), FedSGD()
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
    result = gl.attack("spear", seen, seed=1, samples=20_000)
    assert float(gl.score(result, batch).psnr.min()) > EXACT


def test_local_steps_with_the_same_images_are_read_as_one():
    batch = photos(4)
    result = gl.attack("spear", seen_of(batch, FedAvg(epochs=3, batch_size=4, lr=0.01)), samples=4000)
    assert float(gl.score(result, batch).psnr.min()) > 60


def test_rows_of_a_table_are_read_too():
    table = gl.data.sample("wine", count=4, seed=0, device="cpu")
    result = gl.attack("spear", seen_of(table))
    assert result.diagnostics["agreement"] == 1
    assert float(torch.cdist(result.records.double(), table.images.double()).min(0).values.max()) < 1e-4


@pytest.mark.parametrize("how", ["wrong_gradient", "permuted", "zero"])
def test_a_tampered_gradient_is_refused(how):
    with pytest.raises(ValueError, match="that 4 images and nothing else made"):
        gl.attack("spear", gl.tamper(seen_of(photos(4)), how))


def test_what_was_not_found_is_said():
    """Ten images and 40 neurons: one draw is not enough, and the certificate says so."""
    batch = photos(10)
    result = gl.attack("spear", seen_of(batch, hidden=(40,)), samples=1)
    assert result.diagnostics["agreement"] < 1 and "do not agree with the images" in result.notes[0]
    assert float(gl.score(result, batch).psnr.min()) < EXACT


def test_the_same_seed_gives_the_same_images():
    seen = seen_of(photos(4))
    one, other = (gl.attack("spear", seen, seed=3).images for _ in range(2))
    torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_spear_refuses_what_it_cannot_do():
    batch = photos(4)
    with pytest.raises(ValueError, match="at least two images.*fc_inversion"):
        gl.attack("spear", seen_of(batch[0]))
    with pytest.raises(ValueError, match="needs a ReLU right behind.*Tanh.*'cpa' needs none"):
        gl.attack("spear", seen_of(batch, activation="tanh"))
    with pytest.raises(ValueError, match=r"more neurons .* \(4\).* got 4 .*'ig'"):
        gl.attack("spear", seen_of(batch, hidden=(4,)))
    with pytest.raises(ValueError, match="nothing else made"):
        gl.attack("spear", seen_of(batch[[0, 0, 1]]))
    convnet = gl.models.build("convnet", batch)
    seen = gl.observe(convnet, FedSGD(), FedSGD().transmit(convnet, batch.images, batch.labels), batch)
    with pytest.raises(ValueError, match="fully connected layer of the pixels.*cpa_fi.*ig"):
        gl.attack("spear", seen)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(768, 32, bias=False), nn.ReLU(), nn.Linear(32, 10))
    seen = gl.observe(bare, FedSGD(), FedSGD().transmit(bare, batch.images, batch.labels), batch)
    with pytest.raises(ValueError, match="with a bias.*'cpa' does not"):
        gl.attack("spear", seen)
    for option, value in {"samples": 0, "seconds": 0}.items():
        with pytest.raises(ValueError, match=option):
            gl.attack("spear", seen_of(batch), **{option: value})
