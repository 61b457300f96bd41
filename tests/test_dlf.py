"""DLF: simulators against a hand-written client and closed forms, priors, recovery, controls, bad input."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import glutils as gl
from glutils import models
from glutils.attacks.matching import dlf
from glutils.defenses import Defended
from glutils.protocols import FedAvg, FedSGD

DOUBLE = torch.float64
pytestmark = pytest.mark.usefixtures("no_lpips")


def observed(batch, protocol, name="mlp", knows=("labels",), dtype=DOUBLE, seed=0, **options):
    options = {"hidden": (6,)} | options if name == "mlp" else options
    model = models.build(name, batch, seed=seed, **options)
    payload = protocol.transmit(model, batch.images.to(dtype), batch.labels)
    return gl.observe(model, protocol, payload, batch, knows=knows)


def client(model, batches, lr):
    """theta_0 - theta_U of a client that takes these batches in turn, by torch's own optimiser."""
    model = copy.deepcopy(model).double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    for images, labels in batches:
        optimiser.zero_grad()
        F.cross_entropy(model(images.double()), labels).backward()
        optimiser.step()
    return {name: before[name] - p.detach() for name, p in model.named_parameters()}


def apart(found, wanted):
    a, b = models.flatten(found), models.flatten(wanted)
    return float((a - b).detach().norm() / b.norm())


def sent(seen, simulator, images, labels):
    """What the simulated client sends, as a difference of parameters."""
    view, _ = dlf.simulator_view(seen, simulator)
    payload = view.protocol.simulate(view.model, images, labels)
    factor = seen.protocol.lr * gl.observation.local_steps(seen) if simulator == "none" else 1
    return {name: factor * part for name, part in payload.items()}


# --- the client and its simulations ---


def test_a_shuffling_client_is_plain_sgd_on_batches_of_a_private_order(digits):
    protocol = FedAvg(epochs=3, batch_size=2, lr=0.3, shuffle=5)
    model = models.build("mlp", digits, hidden=(6,))
    draw = torch.Generator().manual_seed(5)
    orders = [torch.randperm(5, generator=draw) for _ in range(3)]
    assert len({tuple(order.tolist()) for order in orders}) > 1
    batches = [(digits.images[part], digits.labels[part]) for order in orders for part in order.split(2)]
    found = protocol.transmit(model, digits.images.double(), digits.labels)
    assert apart(found, client(model, batches, 0.3)) < 1e-6
    again = protocol.transmit(model, digits.images.double(), digits.labels)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_the_private_order_stays_private(digits):
    for protocol in (
        FedAvg(2, 2, 0.1, shuffle=4),
        Defended(FedAvg(2, 2, 0.1, shuffle=4), gl.defenses.get("clip", bound=0.1)),
    ):
        assert "shuffle=4" not in repr(observed(digits, protocol).protocol)
        run = gl.federation.train(protocol, models.build("mlp", digits), [digits, digits], rounds=2)
        said = [entry[k][0] for entry in run.messages for k in (0, 1)]
        assert all(message.protocol.undefended.shuffle is None for message in said)
        for one, other in ((0, 1), (0, 2)):  # another client, another round: another order
            assert apart(said[one].payload, said[other].payload) > 1e-6


@pytest.mark.parametrize("simulator", dlf.SIMULATORS)
def test_simulations_equal_the_client_they_stand_for(digits, simulator):
    """Five images in batches of two, two epochs. In full_many the second epoch has images of its own."""
    seen = observed(digits, FedAvg(epochs=2, batch_size=2, lr=0.3))
    images, labels = digits.images.double(), digits.labels
    other = images.flip(3)
    epoch = [(images[i : i + 2], labels[i : i + 2]) for i in (0, 2, 4)]
    second = [(other[i : i + 2], labels[i : i + 2]) for i in (0, 2, 4)]
    many = simulator == "full_many"
    found = sent(seen, simulator, torch.cat([images, other]) if many else images, labels.repeat(2 if many else 1))
    if simulator == "none":
        gradient = FedSGD().transmit(seen.model, images, labels)
        wanted = {name: 6 * 0.3 * part for name, part in gradient.items()}
    elif simulator == "none_epoch":
        wanted = client(seen.model, [(images, labels)] * 2, 3 * 0.3)
    else:
        wanted = client(seen.model, epoch + (second if many else epoch), 0.3)
    assert apart(found, wanted) < 1e-6


@pytest.mark.parametrize("simulator", dlf.SIMULATORS)
def test_one_step_is_one_gradient_whatever_is_simulated(digits, simulator):
    seen = observed(digits, FedAvg(epochs=1, batch_size=5, lr=0.2))
    assert apart(sent(seen, simulator, digits.images.double(), digits.labels), seen.payload) < 1e-6


@pytest.mark.parametrize("simulator", ["full", "full_many"])
def test_the_truth_is_a_fixed_point(digits, simulator, monkeypatch):
    """Without priors, from the client's own images, the loss stays 0."""
    seen = observed(digits, FedAvg(epochs=2, batch_size=2, lr=0.3), dtype=torch.float32)
    monkeypatch.setattr(dlf, "normal_start", lambda *_: (digits.images - 0.5) / 0.25)
    none = {"tv_weight": 0.0, "clip_weight": 0.0, "order_weight": 0.0}
    result = gl.attack("dlf", seen, simulator=simulator, iterations=0, **none)
    assert result.loss < 1e-9
    torch.testing.assert_close(result.images, digits.images, rtol=0, atol=1e-6)


def test_a_defended_client_is_simulated_within_its_defence(digits):
    """Clipped to the same length whatever was simulated inside."""
    seen = observed(digits, Defended(FedAvg(2, 2, 0.3), gl.defenses.get("clip", bound=0.1)))
    for simulator in ("full", "full_many", "none_epoch"):
        view, _ = dlf.simulator_view(seen, simulator)
        many = 2 if simulator == "full_many" else 1
        images, labels = digits.images.double().repeat(many, 1, 1, 1), digits.labels.repeat(many)
        payload = view.protocol.simulate(view.model, images, labels)
        assert float(models.flatten(payload).detach().norm()) == pytest.approx(0.1)


# --- the terms of the objective ---


def test_layers_share_a_weight_that_falls_from_the_first(digits):
    payload = observed(digits, FedSGD()).payload
    assert dlf.layer_weights(payload) == pytest.approx([1, 1, math.exp(-1), math.exp(-1)])
    found = [torch.full_like(part, 2.0, requires_grad=True) for part in payload.values()]
    weights = dlf.layer_weights(payload)
    value, slopes = dlf.weighted_squares(weights)(found, list(payload.values()))
    wanted = sum(w * ((a - b) ** 2).sum() for w, a, b in zip(weights, found, payload.values(), strict=True))
    torch.testing.assert_close(value, wanted)
    for slope, grad in zip(slopes, torch.autograd.grad(wanted, found), strict=True):
        torch.testing.assert_close(slope, grad)


def test_pixels_outside_the_range_cost_their_squared_distance_to_it():
    images = torch.tensor([-0.5, 0.2, 1.0, 3.0]).view(2, 1, 1, 2)
    assert float(dlf.clip(images)) == pytest.approx((0.25 + 4.0) / 2)


@pytest.mark.parametrize("order", ["mean", "max"])
def test_the_order_prior_sees_which_images_and_not_their_order(digits, order):
    images, kernel = digits.images.double(), torch.randn(96, 1, 3, 3, dtype=DOUBLE)
    moved = images[torch.tensor([3, 1, 4, 0, 2])]
    assert float(dlf.disorder(torch.cat([images, moved, images]), 3, kernel, order)) < 1e-25
    assert float(dlf.disorder(torch.cat([images, images.flip(3)]), 2, kernel, order)) > 1e-3
    assert float(dlf.disorder(torch.cat([images, moved * 0.9]), 2, kernel, order)) > 1e-4


def test_the_surveys_order_prior_ties_different_images():
    images, kernel = torch.rand(4, 1, 6, 6), torch.randn(96, 1, 3, 3)
    tied = torch.cat([images[:2], images[:2]])
    assert float(dlf.disorder(tied, 2, kernel, "survey")) == 0 < float(dlf.disorder(images, 2, kernel, "survey"))


def test_epochs_are_aligned_before_they_are_averaged(digits):
    images, labels = digits.images, torch.tensor([0, 1, 0, 1, 0])
    second = images[torch.tensor([2, 3, 4, 1, 0])] + 0.01
    found = dlf.align_and_average(torch.cat([images, second]), 2, labels)
    torch.testing.assert_close(found, images + 0.005)
    same = dlf.align_and_average(torch.cat([images, images.flip(0)]), 2, torch.arange(5))  # no two may be exchanged
    torch.testing.assert_close(same, (images + images.flip(0)) / 2)


# --- recovery ---


@pytest.fixture(scope="module")
def photos():
    return gl.data.sample("photos", size=16, count=4, seed=0, device="cpu")


def test_simulating_the_epochs_beats_the_average_gradient(photos):
    how = {"name": "convnet", "hidden": None, "dtype": torch.float32}
    seen = observed(photos, FedAvg(epochs=2, batch_size=2, lr=0.05, shuffle=0), **how)
    found = {}
    for simulator, view in (("full_many", seen), ("none", seen), ("tampered", gl.tamper(seen, "wrong_gradient"))):
        options = {"simulator": simulator if simulator != "tampered" else "none", "iterations": 60}
        score = gl.score(gl.attack("dlf", view, **options), photos)
        found[simulator] = score.mean_psnr
    control = float(score.controls["mean_colour"].mean())
    assert found["full_many"] > 15 and found["full_many"] > found["none"] + 1 and found["full_many"] > control + 1
    assert found["tampered"] < control


def test_labels_are_counted_where_they_were_not_told(digits):
    seen = observed(digits, FedAvg(1, 5, 0.01), knows=(), hidden=(32,), activation="relu", dtype=torch.float32)
    result = gl.attack("dlf", seen, iterations=2)
    assert torch.equal(result.labels, gl.labels.infer("dlf", seen).labels)
    assert torch.equal(gl.attack("dlf", observed(digits, FedAvg(1, 5, 0.01)), iterations=1).labels, digits.labels)


def test_options_reach_the_search(digits):
    seen = observed(digits, FedAvg(2, 2, 0.05), dtype=torch.float32)
    result = gl.attack("dlf", seen, iterations=5, restarts=2)
    assert result.loss == min(result.history.restarts) and len(result.history.restarts) == 2
    assert result.images.shape == result.history.frames[0].shape == (5, 1, 8, 8)
    again = gl.attack("dlf", seen, iterations=5, restarts=2)
    assert torch.equal(result.images, again.images)
    assert gl.attack("dlf", seen, iterations=1, by_layer=False).loss != gl.attack("dlf", seen, iterations=1).loss
    assert gl.attack("dlf", seen, iterations=1, order="mean").loss != gl.attack("dlf", seen, iterations=1).loss
    four = observed(digits[:4], FedAvg(2, 2, 0.05), dtype=torch.float32)
    assert gl.attack("dlf", four, iterations=1, simulator="full", order="survey").loss > 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"simulator": "half"}, ValueError, "simulator must be one of 'full_many', 'full', .*; got 'half'"),
        ({"order": "sum"}, ValueError, "order must be one of 'mean', 'max', 'survey'; got 'sum'"),
        ({"order": "survey"}, ValueError, "order='survey' needs simulator='full' .* got simulator='full_many'"),
        ({"order": "survey", "simulator": "full"}, ValueError, "a multiple of 2 images, .* 5 images"),
        ({"lr": 0.0}, ValueError, "lr must be greater than 0, got 0.0"),
        ({"tv_weight": -1.0}, ValueError, "tv_weight must be at least 0, got -1.0"),
        ({"clip_weight": -1.0}, ValueError, "clip_weight must be at least 0, got -1.0"),
        ({"order_weight": -1.0}, ValueError, "order_weight must be at least 0, got -1.0"),
        ({"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
        ({"restarts": 0}, ValueError, "restarts must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(digits, options, error, text):
    seen = observed(digits, FedAvg(2, 2, 0.1))
    with pytest.raises(error, match=text):
        gl.attack("dlf", seen, **options)


def test_bad_observations_are_refused(digits):
    with pytest.raises(ValueError, match="'dlf' reads payloads of kind delta, got 'gradient'"):
        gl.attack("dlf", observed(digits, FedSGD()))
    with pytest.raises(ValueError, match="labels must be one of .*; got 'geiping'"):
        gl.attack("dlf", observed(digits, FedAvg(), knows=()), labels="geiping")
    with pytest.raises(ValueError, match="shuffle must be at least 0, got -1"):
        FedAvg(shuffle=-1)
