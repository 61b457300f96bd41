"""SME: AGA as its special case, a surrogate that fits better than both ends, controls, refusals."""

from dataclasses import replace

import pytest
import torch

import glutils as gl
from glutils.attacks.matching.sme import at_surrogate, surrogate
from glutils.protocols import FedAvg, FedSGD
from glutils.solvers import Tally

QUICK = {"iterations": 60, "progress": False}


def observed(protocol, batch, knows=("labels",), **network):
    model = gl.models.build("convnet", batch, seed=0, **network)
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows)


@pytest.fixture(scope="module")
def photos():
    return gl.data.sample("photos", size=12, count=2, seed=0, distinct=True, device="cpu")


@pytest.fixture(scope="module")
def seen(photos):
    return observed(FedAvg(epochs=5, batch_size=2, lr=0.1), photos)


def test_without_mixing_it_is_ig_on_the_mean_gradient(seen):
    few = {"iterations": 5, "progress": False, "seed": 3}
    plain = gl.attack("ig", gl.observation.as_gradient(seen), **few)
    alone = gl.attack("sme", seen, mixing=0, **few)
    torch.testing.assert_close(alone.images, plain.images)
    assert alone.diagnostics["mixing"] == 0 and alone.evaluations == plain.evaluations == 6
    assert gl.attack("sme", seen, mixing_lr=0, **few).diagnostics["mixing"] == pytest.approx(0.5)


def test_of_one_local_step_the_first_network_is_the_place(photos):
    once = observed(FedAvg(epochs=1, batch_size=2, lr=0.1), photos)
    found = gl.attack("sme", once, iterations=3, progress=False)
    assert found.diagnostics["mixing"] == 0


def test_the_gradient_of_the_truth_points_the_clients_way_between_the_ends(photos):
    """What the paper claims: of the private images the misfit is least inside the segment; its slope by differences."""
    seen = observed(FedAvg(epochs=5, batch_size=2, lr=0.05), photos, activation="tanh", hidden=None)
    objective = at_surrogate(seen, seen.protocol, photos.labels, 0.5, 1.0, 0.0, Tally())
    images = photos.images.clone().requires_grad_()

    def at(moved):
        number = torch.tensor(moved, requires_grad=True)
        value, (_, slope) = objective((images, number))
        return float(surrogate(number.detach(), 0.5, 1.0)), float(value), float(slope)

    places, misfits, _ = zip(*map(at, (-20.0, 0.0, 20.0)), strict=True)
    assert places == pytest.approx((0.0, 0.5, 1.0), abs=1e-6)
    assert misfits[1] < 0.5 * min(misfits[0], misfits[2])
    assert at(1.5)[2] == pytest.approx((at(1.6)[1] - at(1.4)[1]) / 0.2, rel=0.02)


def test_it_beats_the_mean_gradient_and_a_spoiled_message_gives_nothing(seen, photos):
    found = gl.attack("sme", seen, **QUICK)
    misled = gl.attack("sme", gl.tamper(seen, "wrong_gradient"), **QUICK)
    score = gl.score(found, photos, controls={"misled": misled})
    mean = gl.score(gl.attack("ig", gl.observation.as_gradient(seen), **QUICK), photos)
    assert score.mean_psnr > mean.mean_psnr + 2 and not score.beaten_by
    assert 0 < found.diagnostics["mixing"] < 1
    assert found.diagnostics["cosine"] > 0.9 > misled.diagnostics["cosine"]


def test_the_same_seed_gives_the_same_images_and_labels_can_be_counted(seen, photos):
    few = {"iterations": 4, "progress": False}
    first, again, other = (gl.attack("sme", seen, seed=s, **few) for s in (1, 1, 2))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    blind = gl.attack("sme", observed(FedAvg(epochs=2, batch_size=2, lr=0.01), photos, knows=()), **few)
    assert sorted(blind.labels.tolist()) == sorted(photos.labels.tolist())


def test_momentum_tables_and_other_precision(photos):
    seen = observed(FedAvg(epochs=2, batch_size=1, lr=0.05, momentum=0.5, weight_decay=1e-3), photos)
    assert gl.attack("sme", seen, iterations=2, progress=False).images.shape == photos.images.shape
    wine = gl.data.sample("wine", count=3, seed=0, device="cpu")
    model = gl.models.build("mlp", wine, seed=0)
    client = FedAvg(epochs=2, batch_size=3, lr=0.1)
    table = gl.observe(model, client, client.transmit(model, wine.images, wine.labels), wine, knows={"labels"})
    assert gl.attack("sme", table, iterations=2, progress=False).records.shape == wine.images.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": 1}, "mixing must be at least 0 and below 1, got 1"),
        ({"mixing": -0.1}, "mixing"),
        ({"mixing_lr": -1}, "mixing_lr"),
        ({"lr": 0}, "lr"),
        ({"tv_weight": -1}, "tv_weight"),
        ({"iterations": -1}, "iterations"),
        ({"restarts": 0}, "restarts"),
    ],
)
def test_bad_options_are_named(seen, options, message):
    with pytest.raises(ValueError, match=message):
        gl.attack("sme", seen, **QUICK | options)


def test_what_it_cannot_read_is_refused_with_who_can(seen, photos):
    with pytest.raises(ValueError, match=r"reads payloads of kind delta, got 'gradient'; .*'ig'"):
        gl.attack("sme", observed(FedSGD(), photos))
    noise = gl.defenses.get("gaussian_noise", sigma=1e-3)
    protected = observed(gl.defenses.Defended(FedAvg(epochs=2, batch_size=2, lr=0.1), noise), photos)
    with pytest.raises(ValueError, match="cannot undo a defence; attacks 'ig' and 'dlf' simulate it"):
        gl.attack("sme", protected)
    with pytest.raises(ValueError, match="reads one delta, got 2: .* several are read by .*'ig'"):
        gl.attack("sme", replace(seen, rounds=seen.rounds * 2))
    with pytest.raises(ValueError, match="labels must be one of"):
        gl.attack("sme", replace(seen, labels=None, knows=frozenset()), labels="told")
