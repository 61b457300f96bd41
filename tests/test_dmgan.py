"""DMGAN: an independent classifier recognises what it makes; controls; what it leaves alone; bad input."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import glutils as gl
from glutils import models
from glutils.attacks.malicious.image_statistics import ImageStatistics
from glutils.protocols import FedAvg

TRACKED = 3
QUICK = {"tracked": TRACKED, "rounds": 1, "epochs": 1, "model": "mlp", "protocol": FedAvg(1, 10, 0.1), "samples": 2}
BARE = {"memory": 0, "anchor": 0, "variation": 0, "diversity": 0}


def judge(kind):
    """A classifier that the federation never sees, trained on public digits."""
    public = gl.data.public("digits", device="cpu")
    model = models.build(kind, public, seed=100)
    optimiser, order = torch.optim.Adam(model.parameters(), 5e-3), torch.Generator().manual_seed(5)
    for _ in range(7):
        for batch in torch.randperm(len(public), generator=order).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(public.images[batch]), public.labels[batch]).backward()
            optimiser.step()
    private = gl.data.load("digits", device="cpu")
    assert float((model(private.images).argmax(1) == private.labels).float().mean()) > 0.92
    return model


@pytest.fixture(scope="module")
def judges():
    """One is built like the global model, one is not; an image that only the first takes for the class is a trick."""
    return [judge("convnet"), judge("mlp")]


def hits(judges, images):
    return [float((model(images).argmax(1) == TRACKED).float().mean()) for model in judges]


def test_image_statistics_measure_in_units_of_the_own_images(clients):
    own = clients[0]
    known, flat = ImageStatistics(own.images, own.labels), own.images.flatten(1).double()
    assert float(known.mahalanobis(own.images).mean()) == pytest.approx(1, abs=1e-4)
    spread = flat.T.cov()
    spread += 0.05 * spread.trace() / len(spread) * torch.eye(len(spread))
    y = flat - flat.mean(0)
    expected = (y @ torch.linalg.inv(spread) * y).sum(1)
    assert torch.allclose(known.mahalanobis(own.images).double(), expected / expected.mean(), rtol=1e-3)
    assert float(known.mahalanobis(torch.rand(20, 1, 8, 8)).min()) > 2
    one = own.images[:1].expand(8, -1, -1, -1)
    assert float(known.mode_collapse_penalty(one)) == 1
    assert float(known.mode_collapse_penalty(torch.stack([one[0] * 0, one[0] * 9]))) == 0
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(known.add_deviations(one, 0.0, generator), one)
    added = known.add_deviations(one, 1.0, generator) - one
    among = (added[:, None] - known.deviations[None]).abs().flatten(2).amax(2).amin(1)
    assert float(among.max()) < 1e-6


@pytest.fixture(scope="module")
def clients():
    dealt = gl.data.partition("digits", clients=5, per_client=100, seed=TRACKED, device="cpu")
    return [gl.attacks.without_class(dealt[0], TRACKED), *dealt[1:]]


@pytest.fixture(scope="module")
def few(clients):
    """The attacker and one other client, 30 images each."""
    return [client[:30] for client in clients[:2]]


@pytest.fixture(scope="module")
def stolen(clients):
    return gl.attacks.dmgan(clients, tracked=TRACKED, rounds=5, samples=50, seed=TRACKED)


def test_independent_classifiers_recognise_the_samples_and_not_the_untrained_ones(stolen, judges):
    assert min(hits(judges, stolen.images)) >= 0.8
    assert max(hits(judges, stolen.history.frames[0])) <= 0.2
    assert stolen.diagnostics["tracked, round 5"] >= 0.8 and stolen.diagnostics["tracked, round 0"] <= 0.2
    assert stolen.history.loss[-1] < 0.6 * stolen.history.loss[0]
    assert stolen.history.steps == tuple(range(6)) and torch.equal(stolen.history.frames[-1], stolen.images)
    assert stolen.images.shape == (50, 1, 8, 8) and 0 <= stolen.images.min() and stolen.images.max() <= 1
    assert set(stolen.labels.tolist()) == {TRACKED} and stolen.attack == "dmgan" and not stolen.notes


def test_the_federation_loses_little(stolen, clients):
    model = models.build("convnet", gl.attacks.with_extra_class(clients[0]), seed=TRACKED)
    honest = gl.federation.train(gl.attacks.dmgan_protocol(), model, clients, rounds=5).accuracy
    assert stolen.diagnostics["accuracy, round 5"] > float(honest[-1]) - 0.06


def test_a_class_that_nobody_has_cannot_be_stolen(clients, judges, stolen):
    without = [gl.attacks.without_class(client, TRACKED) for client in clients]
    found = gl.attacks.dmgan(without, tracked=TRACKED, rounds=5, samples=50, seed=TRACKED)
    assert max(hits(judges, found.images)) <= 0.2 and found.diagnostics["tracked, round 5"] <= 0.2
    public = gl.data.public("digits", device="cpu")
    mean = public.images[public.labels == TRACKED].mean(0, keepdim=True)
    close, control = (float(gl.metrics.correlations(run.images, mean).mean()) for run in (stolen, found))
    assert close > 0.8 and close > control + 0.1
    assert found.notes == ("no client holds the tracked class: a control",)


def test_one_round_is_the_average_of_what_the_clients_and_the_attacker_send(few):
    """With steps of almost no size the attacker is an honest client."""
    idle = gl.attacks.dmgan(few, **QUICK | {"lr": 1e-12, "discriminator_lr": 1e-12, "rounds": 3}, seed=1)
    model = models.build("mlp", gl.attacks.with_extra_class(few[0]), seed=1)
    run = gl.federation.train(QUICK["protocol"], model, few, rounds=3)
    found = [idle.diagnostics[f"accuracy, round {turn}"] for turn in (1, 2, 3)]
    assert found == pytest.approx(run.accuracy.tolist())


@pytest.mark.parametrize("options", [{}, {"fakes": 0}, {"optimiser": "sgd"}, {"attacker": 1}, BARE], ids=str)
def test_variants_run_repeat_and_leave_the_model_alone(few, options):
    few = [gl.attacks.without_class(client, TRACKED) for client in few]
    wide = few[0] if "fakes" in options else gl.attacks.with_extra_class(few[0])
    model = models.build("mlp", wide, seed=0)
    before = [p.clone() for p in model.parameters()]
    one, other = (gl.attacks.dmgan(few, **QUICK | {"model": model} | options) for _ in range(2))
    assert torch.equal(one.images, other.images) and one.diagnostics == other.diagnostics
    assert one.evaluations is None  # it plays inside the rounds: not counted
    assert all(map(torch.equal, before, model.parameters()))


def test_any_size_and_an_untrained_generator(few):
    larger = [dataclasses.replace(c, images=F.interpolate(c.images, 10).expand(-1, 3, -1, -1)) for c in few]
    found = gl.attacks.dmgan(larger, **QUICK | {"rounds": 0, "samples": 1}, test=larger[1])
    assert found.images.shape == (1, 3, 10, 10) and found.diagnostics["spread"] == 0


def test_an_observation_is_refused_with_the_way_to_call_it(digit):
    model = models.build("mlp", digit)
    protocol = FedAvg()
    seen = gl.observe(model, protocol, protocol.transmit(model, digit.images, digit.labels), digit)
    with pytest.raises(ValueError, match=r"'dmgan' takes clients, not an obs.* call gl.attacks.dmgan\(clients, "):
        gl.attack("dmgan", seen)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"attacker": 1}, ValueError, r"clients\[1\], the attacker, must hold no image of the tracked class 3, got \d"),
        ({"tracked": 10}, ValueError, "tracked must be between 0 and 9, got 10"),
        ({"attacker": 2}, ValueError, "attacker must be between 0 and 1, got 2"),
        ({"fakes": "real"}, ValueError, "fakes must be one of 'extra'; got 'real'"),
        ({"fakes": 3}, ValueError, "fakes must be a class of which the attacker has images, or 'extra'; got 3"),
        ({"rounds": -1}, ValueError, "rounds must be at least 0, got -1"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"lr": 0.0}, ValueError, "lr must be greater than 0, got 0.0"),
        ({"discriminator_lr": 0.0}, ValueError, "discriminator_lr must be greater than 0, got 0.0"),
        ({"memory": -1}, ValueError, "memory must be at least 0, got -1"),
        ({"anchor": -1.0}, ValueError, "anchor must be at least 0, got -1"),
        ({"variation": float("nan")}, ValueError, "variation must be"),
        ({"optimiser": "lion"}, ValueError, "optimiser must be one of 'adam', 'sgd'; got 'lion'"),
        ({"model": "resnet8"}, ValueError, "model must have no batch norm layers"),
        ({"model": "vgg"}, ValueError, "unknown model 'vgg'"),
    ],
)
def test_bad_arguments_are_refused(few, options, error, text):
    with pytest.raises(error, match=text):
        gl.attacks.dmgan(few, **QUICK | options)


def test_unfit_clients_and_models_are_refused(few, photo):
    with pytest.raises(ValueError, match="attacker must hold two different images of one class, .* got 1 images"):
        gl.attacks.dmgan([few[0][:1], few[1]], **QUICK)
    with pytest.raises(ValueError, match="at least one other Batch, got 1"):
        gl.attacks.dmgan(few[:1], **QUICK)
    with pytest.raises(ValueError, match="same classes and image shape, client 1 differs"):
        gl.attacks.dmgan([few[0], photo], **QUICK)
    with pytest.raises(ValueError, match="model must have 11 classes for fakes='extra', got 10"):
        gl.attacks.dmgan(few, **QUICK | {"model": models.build("mlp", few[0])})
    with pytest.raises(ValueError, match="batch must hold an image of another class than 3"):
        gl.attacks.without_class(few[1][few[1].labels.tolist().index(3)], 3)
