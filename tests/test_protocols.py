"""What leaves a client: gradients against backward, differences against a real optimiser, scalars against the exact."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glutils import models, zo
from glutils.defenses import Defended, get
from glutils.federation import together
from glutils.protocols import (
    CLIENTS_APART,
    FedAvg,
    FedSGD,
    HiddenDirections,
    Payload,
    Protocol,
    SeedPool,
    ZerothOrder,
    derive_seed,
)

DOUBLE = torch.float64
ALL = [
    FedSGD(),
    FedAvg(epochs=2, batch_size=2, lr=0.1),
    FedAvg(epochs=2, batch_size=2, lr=0.1, shuffle=1, momentum=0.5, weight_decay=0.01),
    ZerothOrder(directions=5, mu=1e-3, dtype="float64"),
    ZerothOrder(directions=5, mu=1e-2, scheme="forward", law="gaussian", dtype="float64"),
    ZerothOrder(directions=5, scheme="exact", dtype="float64"),
]
ids = lambda protocol: "-".join(str(v) for v in (type(protocol).__name__, getattr(protocol, "scheme", ""),  # noqa: E731
                                                 getattr(protocol, "momentum", "") or ""))  # fmt: skip


def vector(payload):
    return payload.flat


def smooth(speck, seed=0):
    """A smooth network of 19 parameters."""
    return models.build("mlp", speck, hidden=(2,), activation="tanh", seed=seed)


def real_client(model, images, labels, epochs, batch_size, lr, **options):
    """Parameter differences of torch's own SGD on a copy of the model."""
    local = copy.deepcopy(model).to(images.dtype)
    optimiser = torch.optim.SGD(local.parameters(), lr=lr, **options)
    for _ in range(epochs):
        for start in range(0, len(images), batch_size):
            optimiser.zero_grad()
            F.cross_entropy(local(images[start : start + batch_size]), labels[start : start + batch_size]).backward()
            optimiser.step()
    before = dict(model.named_parameters())
    return {name: before[name].detach() - p.detach() for name, p in local.named_parameters()}


# --- values ---


@pytest.mark.parametrize("name", ["lenet", "mlp", "convnet", "resnet8"])
def test_fedsgd_sends_the_gradient_of_backward(digits, name):
    model = models.build(name, digits)
    twin = copy.deepcopy(model)
    F.cross_entropy(twin(digits.images), digits.labels).backward()
    payload = FedSGD().transmit(model, digits.images, digits.labels)
    assert list(payload) == [n for n, _ in twin.named_parameters()]
    for name, p in twin.named_parameters():
        torch.testing.assert_close(payload[name], p.grad)
        assert not payload[name].requires_grad


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 5), (1, 2), (3, 2), (2, 100), (4, 1)])
def test_fedavg_is_a_real_client_to_machine_precision(digits, epochs, batch_size):
    """Five images in batches of two leave a ragged last batch."""
    model = models.build("convnet", digits, activation="tanh", channels=(3, 4), hidden=None)
    images = digits.images.double()
    found = FedAvg(epochs, batch_size, 0.3).transmit(model, images, digits.labels)
    wanted = real_client(model, images, digits.labels, epochs, batch_size, 0.3)
    assert list(found) == list(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{"momentum": 0.5}, {"weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 1e-2}])
def test_momentum_and_weight_decay_are_those_of_torch(digits, options):
    model = models.build("convnet", digits, activation="tanh", channels=(3, 4), hidden=None)
    images, plain = digits.images.double(), FedAvg(3, 2, 0.2)
    protocol = FedAvg(3, 2, 0.2, **options)
    sent = protocol.transmit(model, images, digits.labels)
    wanted = real_client(model, images, digits.labels, 3, 2, 0.2, **options)
    twin = protocol.simulate(model, images.clone().requires_grad_(), digits.labels)
    other = vector(plain.transmit(model, images, digits.labels))
    assert float((vector(sent) - other).norm() / other.norm()) > 1e-2
    for name in wanted:
        torch.testing.assert_close(sent[name], wanted[name], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(twin[name].detach(), sent[name], rtol=1e-10, atol=1e-12)


def test_the_step_size_decays_from_round_to_round(digits):
    protocol = FedAvg(1, 5, 0.1, decay=0.9, shuffle=3, momentum=0.5)
    later = protocol.for_round(3)
    assert later.lr == pytest.approx(0.1 * 0.9**3) and protocol.for_round(0).lr == 0.1
    model, images = models.build("mlp", digits, hidden=(4,)), digits.images.double()
    sent, first = (p.transmit(model, images, digits.labels) for p in (later, FedAvg(1, 5, 0.1)))
    assert later.shuffle != protocol.shuffle and later.public_view(sent).lr == later.lr
    torch.testing.assert_close(vector(sent), 0.9**3 * vector(first), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"momentum": 0.5, "weight_decay": 0.3}])
def test_the_average_gradient_of_one_step_is_the_gradient(digits, options):
    model, images = models.build("lenet", digits), digits.images.double()
    protocol, start = FedAvg(1, 5, 0.3, **options), models.parameters(model, DOUBLE)
    found = protocol.average_gradient(start, protocol.transmit(model, images, digits.labels), 1)
    for name, wanted in FedSGD().transmit(model, images, digits.labels).items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-6, atol=1e-12)


def test_momentum_weighs_early_gradients_more_and_the_average_gradient_knows(digits):
    """Against the gradients along the way, each with the weight that the recursion gives it."""
    model, images = models.build("mlp", digits, hidden=(4,)), digits.images.double()
    protocol, rate = FedAvg(2, 2, 0.1, momentum=0.6), 0.1
    params, speed, seen = models.parameters(model, DOUBLE), 0.0, []
    for _ in range(2):
        for x, y in zip(images.split(2), digits.labels.split(2), strict=True):
            seen.append(models.flatten(models.gradient(model, params, x, y)))
            speed = 0.6 * speed + seen[-1]
            params = models.unflatten(models.flatten(params) - rate * speed, params)
    weights = torch.tensor([(1 - 0.6 ** (6 - u)) / 0.4 for u in range(6)], dtype=DOUBLE)
    sent = protocol.transmit(model, images, digits.labels)
    found = models.flatten(protocol.average_gradient(models.parameters(model, DOUBLE), sent, 6))
    torch.testing.assert_close(found, weights @ torch.stack(seen) / weights.sum(), rtol=1e-9, atol=1e-12)


def test_weight_decay_is_taken_off_along_the_straight_line(digits):
    """Long training is not straight: an approximation, nearer to the mean gradient than not taking it off."""
    model, images = models.build("mlp", digits, hidden=(4,)), digits.images.double()
    protocol, params, total = FedAvg(2, 1, 0.05, weight_decay=0.5), models.parameters(model, DOUBLE), 0.0
    start = params
    for _ in range(2):
        for x, y in zip(images.split(1), digits.labels.split(1), strict=True):
            gradient = models.gradient(model, params, x, y)
            total = total + models.flatten(gradient) / 10
            params = {name: p - 0.05 * (gradient[name] + 0.5 * p) for name, p in params.items()}
    sent = protocol.transmit(model, images, digits.labels)
    found = models.flatten(protocol.average_gradient(start, sent, 10))
    assert float((found - total).norm()) < 0.05 * float((models.flatten(sent) / 0.5 - total).norm())


def test_one_local_step_over_the_learning_rate_is_the_gradient(digits):
    model, images = models.build("lenet", digits), digits.images.double()
    delta = FedAvg(1, 5, 0.05).transmit(model, images, digits.labels)
    gradient = FedSGD().transmit(model, images, digits.labels)
    for name in gradient:
        torch.testing.assert_close(delta[name] / 0.05, gradient[name], rtol=1e-9, atol=1e-12)


def test_two_local_steps_are_not_the_gradient(digits):
    model, images = models.build("lenet", digits), digits.images.double()
    delta = FedAvg(2, 5, 0.05).transmit(model, images, digits.labels)
    gradient = vector(FedSGD().transmit(model, images, digits.labels))
    assert float((vector(delta) / 0.1 - gradient).norm() / gradient.norm()) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeroth_order_sends_slopes_along_its_public_directions(digit, dtype):
    model = models.build("mlp", digit, hidden=(4,))
    protocol = ZerothOrder(directions=6, mu=1e-3, scheme="forward", law="gaussian", dtype=dtype, seed=3)
    payload = protocol.transmit(model, digit.images, digit.labels)
    directions = zo.Directions(3, 6, 64 * 4 + 4 + 50, "gaussian")
    how = {"mu": 1e-3, "scheme": "forward", "dtype": zo.DTYPES[dtype]}
    assert torch.equal(payload, zo.slopes(model, digit.images, digit.labels, directions, **how))
    assert payload.shape == (6,) and payload.dtype == zo.DTYPES[dtype]
    other = dataclasses.replace(protocol, seed=4).transmit(model, digit.images, digit.labels)
    assert not torch.allclose(payload, other)
    forgetful = dataclasses.replace(protocol, memory=0).transmit(model, digit.images, digit.labels)
    torch.testing.assert_close(forgetful.scalars, payload.scalars)


@pytest.mark.parametrize("protocol", ALL, ids=ids)
def test_one_hot_soft_labels_are_hard_labels(digits, protocol):
    model, images = models.build("mlp", digits, hidden=(4,)), digits.images.double()
    hard = vector(protocol.transmit(model, images, digits.labels))
    soft = vector(protocol.transmit(model, images, F.one_hot(digits.labels, 10).double()))
    torch.testing.assert_close(soft, hard, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("protocol", ALL, ids=ids)
def test_dummy_images_may_leave_the_pixel_range(digit, protocol):
    model = models.build("mlp", digit, hidden=(4,))
    payload = vector(protocol.transmit(model, digit.images * 5 - 2, digit.labels))
    assert torch.isfinite(payload).all()


# --- the client is left alone ---


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("protocol", ALL, ids=ids)
def test_transmit_leaves_the_model_bit_identical(digits, protocol, mode):
    model = models.build("resnet8", digits, width=2).train(mode == "train")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    payload = protocol.transmit(model, digits.images, digits.labels)
    assert payload.mode == mode
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None for p in model.parameters()) and model.training == (mode == "train")
    assert torch.equal(vector(payload), vector(protocol.transmit(model, digits.images, digits.labels)))


# --- the attacker's twin ---


@pytest.mark.parametrize("protocol", ALL[:3], ids=ids)
def test_simulate_is_transmit(digits, protocol):
    model, images = models.build("lenet", digits), digits.images.double()
    sent = protocol.transmit(model, images, digits.labels)
    with torch.no_grad():  # simulate opens its own graph
        twin = protocol.simulate(model, images.clone().requires_grad_(), digits.labels)
    assert list(twin) == list(sent)
    for name in sent:
        torch.testing.assert_close(twin[name].detach(), sent[name], rtol=1e-10, atol=1e-13)
    assert all(tensor.requires_grad for tensor in twin.values())


@pytest.mark.parametrize(("scheme", "order"), [("central", 2), ("forward", 1), ("exact", None)])
def test_zeroth_order_simulate_is_transmit_up_to_truncation(speck, scheme, order):
    model, images = smooth(speck), speck.images.double()
    gaps = []
    for mu in (1e-2, 1e-3):
        protocol = ZerothOrder(directions=8, mu=mu, scheme=scheme, dtype="float64", seed=2)
        sent = protocol.transmit(model, images, speck.labels)
        twin = protocol.simulate(model, images.clone().requires_grad_(), speck.labels)
        assert twin.requires_grad
        gaps.append(float((sent - twin.detach()).norm()))
    if order is None:
        assert max(gaps) < 1e-14
    else:
        assert gaps[0] / gaps[1] == pytest.approx(10**order, rel=0.1)


@pytest.mark.parametrize("protocol", ALL, ids=ids)
def test_simulate_takes_other_parameters_and_saved_directions(speck, protocol):
    model, later, images = smooth(speck), smooth(speck, seed=5), speck.images.double()
    extra = {"directions": protocol.draw(model)} if protocol.kind == "scalars" else {}
    state = models.parameters(later, DOUBLE)
    found = protocol.simulate(model, images, speck.labels, params=state, **extra)
    wanted = protocol.simulate(later, images, speck.labels)
    torch.testing.assert_close(vector(found), vector(wanted), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("protocol", ALL, ids=ids)
def test_transmit_is_differentiable_in_the_images(speck, protocol):
    """Against finite differences, over two local epochs of two steps for FedAvg."""
    model = smooth(speck)
    images = speck.images.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: vector(protocol.transmit(model, x, speck.labels)), images)


@pytest.mark.parametrize("protocol", ALL, ids=ids)
def test_simulate_is_differentiable_in_images_and_soft_labels(speck, protocol):
    model = smooth(speck)
    images = speck.images.double().requires_grad_()
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v: vector(protocol.simulate(model, x, v.softmax(-1))), (images, logits))


def test_the_derivative_of_a_regenerated_projection_is_exact(speck):
    model = smooth(speck)
    protocol = ZerothOrder(directions=5, dtype="float64", memory=0)
    images = speck.images.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: protocol.simulate(model, x, speck.labels).scalars, images)


# --- what can be asked of a protocol ---


WRAPPED = [
    Defended(FedSGD(), get("clip", bound=1)),
    Defended(FedAvg(3, 2, 0.2), get("gaussian_noise", sigma=0.1)),
    Defended(ALL[3], get("gaussian_noise", sigma=0.1)),
    Defended(ALL[3], get("sign")),
    Defended(SeedPool(directions=4), (get("clip_scalars", bound=1), get("gaussian_noise", sigma=0.1))),
]
OTHERS = [SeedPool(directions=4, passes=2), HiddenDirections(directions=4)]
CAPABILITIES = (
    "linear_in_gradient", "exact_gradient", "answers_slopes", "keeps_linearity", "keeps_memory", "stackable"
)  # fmt: skip
FACTS = ("public_seed", "image_bound", "mean_bound", "local_batch_size", "step_size", "defenses")


@pytest.mark.parametrize("protocol", ALL + OTHERS + WRAPPED, ids=str)
def test_the_whole_interface_is_answered(speck, protocol):
    """Whatever the base class declares, every protocol answers, and no attribute comes out of nowhere."""
    model = smooth(speck)
    payload = protocol.transmit(model, speck.images, speck.labels)
    assert (payload.kind, payload.mode) == (protocol.kind, None)
    for name in CAPABILITIES + FACTS:
        assert isinstance(getattr(Protocol, name), property)
        getattr(protocol, name)
        with pytest.raises(AttributeError):
            object.__setattr__(protocol, name, True)
    assert protocol.averages_with(protocol.for_round(1).for_client(1)) and not protocol.averages_with(Protocol())
    assert protocol.undefended.undefended is protocol.undefended and not protocol.undefended.defenses
    view = protocol.public_view(payload)
    assert view.kind == protocol.kind and view.noise(payload, 3) >= 0
    assert not hasattr(protocol, "of_some_other_class")
    params = models.parameters(model)
    if protocol.kind == "scalars":
        directions = view.draw(model)
        state = view.linearisation_state(params, payload, directions)
        moved = isinstance(protocol.undefended, SeedPool)
        assert (state is not params) is moved and directions.seed == view.public_seed
    else:
        weights = view.scalar_weights(payload)
        assert weights is None and view.public_seed is None
        with pytest.raises(TypeError, match="protocol must have public directions for that, got"):
            view.draw(model)


def test_what_each_protocol_is_capable_of():
    said = lambda protocol: {name for name in CAPABILITIES if getattr(protocol, name)}  # noqa: E731
    assert said(FedSGD()) == {"linear_in_gradient", "exact_gradient", "keeps_linearity"}
    assert said(FedAvg()) == {"keeps_linearity", "stackable"}
    assert said(ZerothOrder()) == {"linear_in_gradient", "answers_slopes", "keeps_linearity"}
    assert all(said(protocol) == {"keeps_linearity"} for protocol in OTHERS + WRAPPED[:3] + WRAPPED[4:])
    assert said(WRAPPED[3]) == set()  # signs are no slopes
    assert said(Defended(FedSGD(), get("topk", keep=0.1, feedback=True))) == {"keeps_linearity", "keeps_memory"}


def test_local_training_is_asked_for_by_name():
    assert [p.local_steps(5) for p in (FedSGD(), FedAvg(3, 2, 0.2), WRAPPED[1], OTHERS[0])] == [1, 9, 9, 8]
    assert [(p.local_batch_size, p.step_size) for p in (FedSGD(), FedAvg(3, 2, 0.2), WRAPPED[1])] == [
        (None, None), (2, 0.2), (2, 0.2)
    ]  # fmt: skip


def test_a_protocol_of_your_own_takes_the_right_way_by_what_it_declares(digits):
    """A subclass keeps its parent's abilities; one that takes them back is refused where they are needed."""

    class Renamed(FedSGD):
        pass

    class Blurred(ZerothOrder):
        answers_slopes = linear_in_gradient = property(lambda self: False)

    model, weak = models.build("mlp", digits, hidden=(4,)), get("dp_scalars", clip=1, sigma=1)
    assert together.possible(Renamed(), model, 5) and together.possible(ZerothOrder(), model, 5)
    assert not together.possible(Blurred(), model, 5) and not together.possible(WRAPPED[0], model, 5)
    private = Defended(Renamed(), get("dpsgd", clip=1, sigma=1))
    assert private.transmit(model, digits.images, digits.labels).kind == "gradient"
    with pytest.raises(ValueError, match="protocol must be ZerothOrder for DP scalars"):
        Defended(Blurred(), weak).transmit(model, digits.images, digits.labels)


def test_a_hidden_seed_is_hidden_and_a_shuffle_too():
    """Of what is private the adversary's copy of every protocol holds nothing, and the rest of it is as it was."""
    secret = 314_159_265
    for protocol, name in (
        (FedAvg(shuffle=secret), "shuffle"), (SeedPool(order=secret), "order"), (HiddenDirections(seed=secret), "seed"),
        (Defended(FedAvg(shuffle=secret), get("clip", bound=1), private=secret, memory={0: secret}), "private"),
    ):  # fmt: skip
        payload = Payload(protocol.kind, torch.zeros(64) if protocol.kind == "scalars" else {"w": torch.zeros(2)})
        view = protocol.for_round(1).for_client(2).public_view(payload)
        assert getattr(view, name) is None and str(secret) not in repr(protocol.public_view(payload))
        assert view.averages_with(protocol)


def test_seeds_of_clients_and_steps_are_all_different():
    clients = [derive_seed(5, k + 1, CLIENTS_APART) for k in range(50)]
    seeds = {derive_seed(seed, step) for seed in clients for step in range(50)}
    assert len(seeds) == 2500 and derive_seed(5, 3) == 5 + 3 * 7919 and derive_seed(2**62 - 1, 1, 1) == 0


# --- bad input ---


@pytest.mark.parametrize("protocol", ALL, ids=ids)
def test_bad_batches_are_refused_before_any_work(digits, protocol):
    model = models.build("mlp", digits, hidden=(4,))
    images, labels = digits.images, digits.labels
    for wrong_images, wrong_labels, error, text in [
        (images[0], labels, ValueError, r"images must have shape \(B, C, H, W\)"),
        (images[:, :, :7], labels, ValueError, r"images must have shape \(B, 1, 8, 8\), got \(5, 1, 7, 8\)"),
        (images.expand(-1, 3, -1, -1), labels, ValueError, r"shape \(B, 1, 8, 8\)"),
        (images[:0], labels[:0], ValueError, "no empty axis"),
        ((images * 255).to(torch.uint8), labels, TypeError, "images must be floating point, got torch.uint8"),
        (images.numpy(), labels, TypeError, "images"),
        (images, labels.tolist(), TypeError, "labels"),
        (images, labels + 6, ValueError, r"labels must lie in 0\.\.9"),
        (images, labels - 10, ValueError, r"labels must lie in 0\.\.9"),
        (images, labels.int(), TypeError, "int64 class indices or floating soft labels, got torch.int32"),
        (images, labels[:4], ValueError, r"one entry per image \(5\), got 4"),
        (images, labels[:, None], ValueError, r"labels must have shape \(B,\), got \(5, 1\)"),
        (images, torch.full((5, 9), 1 / 9), ValueError, r"soft labels must have shape \(B, 10\), got \(5, 9\)"),
        (images, torch.full((4, 10), 0.1), ValueError, r"one entry per image \(5\), got 4"),
    ]:
        with pytest.raises(error, match=text):
            protocol.transmit(model, wrong_images, wrong_labels)


@pytest.mark.parametrize("protocol", ALL, ids=ids)
def test_models_that_an_attacker_cannot_share_are_refused(digits, protocol):
    class Noisy(nn.Sequential):
        classes, shape = 10, (1, 8, 8)

    with pytest.raises(ValueError, match=r"active dropout layer '1' \(p=0.5\); call model.eval"):
        protocol.transmit(Noisy(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train(), digits.images, digits.labels)
    mixed = models.build("resnet8", digits, width=2).train()
    mixed[1].eval()
    with pytest.raises(ValueError, match="batch norm layers in different modes"):
        protocol.transmit(mixed, digits.images, digits.labels)


@pytest.mark.parametrize(
    ("kind", "options", "error", "text"),
    [
        (ZerothOrder, {"directions": 0}, ValueError, "directions must be at least 1, got 0"),
        (ZerothOrder, {"directions": 2.5}, TypeError, "directions"),
        (ZerothOrder, {"mu": 0.0}, ValueError, "mu must be greater than 0, got 0.0"),
        (ZerothOrder, {"mu": -1e-3}, ValueError, "mu must be greater than 0"),
        (ZerothOrder, {"mu": float("nan")}, ValueError, "mu must be finite, got nan"),
        (ZerothOrder, {"mu": "small"}, TypeError, "mu"),
        (ZerothOrder, {"scheme": "backward"}, ValueError, "scheme must be one of 'forward', 'central', 'exact'"),
        (ZerothOrder, {"law": "sphere"}, ValueError, "law must be one of 'unit', .*; got 'sphere'"),
        (ZerothOrder, {"dtype": "int8"}, ValueError, "dtype must be one of 'float32', .*; got 'int8'"),
        (ZerothOrder, {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        (ZerothOrder, {"memory": -1}, ValueError, "memory must be at least 0, got -1"),
        (FedAvg, {"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        (FedAvg, {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        (FedAvg, {"lr": 0.0}, ValueError, "lr must be greater than 0, got 0.0"),
        (FedAvg, {"lr": float("inf")}, ValueError, "lr must be finite, got inf"),
        (FedAvg, {"lr": -0.1}, ValueError, "lr must be greater than 0, got -0.1"),
        (FedAvg, {"momentum": 1.0}, ValueError, "momentum must be at least 0 and below 1, got 1.0"),
        (FedAvg, {"momentum": -0.1}, ValueError, "momentum must be at least 0"),
        (FedAvg, {"weight_decay": -1e-5}, ValueError, "weight_decay must be at least 0, got -1e-05"),
        (FedAvg, {"decay": 0.0}, ValueError, "decay must be greater than 0, got 0.0"),
        (FedAvg, {"decay": 1.1}, ValueError, "decay must be at most 1, got 1.1"),
    ],
)
def test_bad_protocols_are_refused_when_made_and_when_replaced(kind, options, error, text):
    with pytest.raises(error, match=text):
        kind(**options)
    with pytest.raises(error, match=text):
        dataclasses.replace(kind(), **options)


def test_protocols_are_frozen_values():
    protocol = ZerothOrder(directions=3, seed=1)
    changed = dataclasses.replace(protocol, directions=9)
    assert (changed.directions, changed.seed, protocol.directions) == (9, 1, 3)
    assert protocol == ZerothOrder(directions=3, seed=1) and protocol != changed
    assert (FedSGD().kind, FedAvg().kind, protocol.kind) == ("gradient", "delta", "scalars")
    with pytest.raises(dataclasses.FrozenInstanceError):
        protocol.mu = 1.0
    assert "directions=3" in repr(protocol) and FedAvg(lr=1).lr == 1
