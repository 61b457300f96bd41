"""How much a gradient can hold: the bound against measured ranks, by hand, over rounds, and in the attacks' notes."""

import math

import pytest
import torch
from torch import nn

import glutils as gl
from glutils import models
from glutils.attacks.zerogla import rank
from glutils.data.batch import Batch
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

EPSILON = torch.finfo(torch.float64).eps
SLOPES = {"mu": 1e-4, "dtype": "float64", "seed": 7}


def batch_of(side, count=1, channels=1, classes=4):
    generator = torch.Generator().manual_seed(side + count)
    images = torch.rand(count, channels, side, side, generator=generator)
    return Batch(images, torch.arange(count) % classes, tuple("abcdefgh"[:classes]))


def seen_of(model, batch, protocol=None):
    protocol = FedSGD() if protocol is None else protocol
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"})


def measured(model, batch):
    """Numeric rank of the Jacobian of the whole gradient, and its number of rows."""
    values = gl.attacks.singular_values(seen_of(model, batch), batch.images)
    entries = sum(p.numel() for p in models.parameters(model).values())
    return int((values > max(entries, batch.images.numel()) * EPSILON * values[0]).sum())


def bound(model, batch):
    return gl.attacks.gradient_rank_bound(model, tuple(batch.images.shape[1:]), len(batch))


# --- the bound ---


def test_bounds_counted_on_paper():
    photo = batch_of(12, channels=3)
    narrow = (75 + 1) * 2 + 2 * 6 * 6  # the first convolution, and what enters the second; behind it there is more
    assert bound(models.build("lenet", photo, width=2), photo) == narrow < 152 + (50 + 1) * 2 + 2 * 3 * 3
    both = (27 + 1) * 1 + (9 + 1) * 2 + 2 * 6 * 6  # both convolutions, and what enters the linear layer
    assert bound(models.build("convnet", photo, channels=(1, 2), hidden=None), photo) == both < 28 + 12 * 12
    assert bound(models.build("mlp", photo, hidden=(3,)), photo) == 3 * 12 * 12  # x itself is in the gradient
    large = batch_of(64, channels=3, classes=8)
    assert bound(models.build("lenet", large), large) == 912 + 3612 + 12 * 16 * 16 < 3 * 64 * 64
    assert bound(models.build("lenet", large, width=20), large) == 3 * 64 * 64
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(2, 5), nn.Linear(5, 4))
    assert bound(pooled, batch_of(8)) == 2  # all that passes the pooling


SMALL = [
    ("mlp", {"hidden": (2,)}),
    ("mlp", {"hidden": (3, 2), "activation": "sigmoid"}),
    ("lenet", {"width": 1}),
    ("lenet", {"width": 2}),
    ("convnet", {"channels": (1, 2), "hidden": None, "activation": "gelu"}),
    ("convnet", {"channels": (2, 3), "hidden": 4, "activation": "gelu"}),
    ("convnet", {"channels": (2, 3), "hidden": 4, "activation": "relu"}),
    ("cnn", {"hidden": 3}),
    ("resnet8", {"width": 1, "activation": "gelu"}),
    ("resnet8", {"width": 2, "activation": "gelu", "norm": "group"}),
]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("name", "options"), SMALL)
def test_no_measured_rank_exceeds_the_bound(name, options, count):
    for side in (6, 9):
        batch = batch_of(side, count)
        model = models.build(name, batch, seed=side, **options)
        assert measured(model, batch) <= bound(model, batch) <= batch.images.numel()
        if name == "resnet8" and count == 2:
            model.train()
            assert measured(model, batch) <= bound(model, batch)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_for_a_narrow_smooth_network_the_bound_is_nearly_the_rank(width):
    batch = batch_of(12, channels=3)
    model = models.build("lenet", batch, seed=1, width=width)
    assert measured(model, batch) == bound(model, batch) - width * (width + 1)


def test_dead_units_lower_the_rank_and_not_the_bound():
    batch = batch_of(8)
    model = models.build("convnet", batch, channels=(2, 4), hidden=None, activation="relu")
    before = measured(model, batch)
    with torch.no_grad():
        model[0].bias[0] = -100
    assert measured(model, batch) < before <= bound(model, batch)


class Sandwich(nn.Module):
    """A module that is no chain, with a layer used twice and a linear layer that gives the logits."""

    def __init__(self):
        super().__init__()
        self.once, self.twice, self.last = nn.Linear(9, 3), nn.Linear(3, 3), nn.Linear(3, 4)

    def forward(self, x):
        return self.last(self.twice(self.twice(self.once(x.flatten(1)).tanh()).tanh()).tanh())


class Doubled(nn.Linear):
    """A subclass with a forward of its own: nothing is known of its gradient."""

    def forward(self, x):
        return super().forward(super().forward(x).tanh())


def odd_networks():
    shared, chain, act = nn.Linear(6, 6), nn.Sequential, nn.Tanh
    frozen = models.build("lenet", batch_of(8), width=2)
    frozen[0].weight.requires_grad_(False)
    words = chain(nn.Unflatten(3, (2, 4)), nn.Flatten(1, 3), nn.Unflatten(1, (16, -1)), nn.Linear(4, 3), act())
    return {
        "no chain": chain(nn.AdaptiveAvgPool2d(3), Sandwich()),
        "bare": Sandwich(),
        "tied": chain(nn.Flatten(), nn.Linear(64, 6), act(), shared, act(), shared, act(), nn.Linear(6, 4)),
        "grouped": chain(
            nn.Conv2d(1, 4, 3, stride=2, bias=False), act(), nn.Conv2d(4, 4, 2, groups=2), act(), nn.Flatten(),
            nn.Linear(16, 4),
        ),
        "words": chain(words, nn.Flatten(), nn.Linear(48, 2), act(), Doubled(2, 2), nn.Linear(2, 4)),
        "changed in place": chain(nn.Conv2d(1, 1, 3, stride=3), nn.Flatten(), nn.Linear(4, 4), nn.ReLU(inplace=True)),
        "frozen": frozen,
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["no chain", "bare", "tied", "grouped", "words", "changed in place", "frozen"])
def test_odd_networks_keep_to_it_too(name, count):
    batch = batch_of(3 if name == "bare" else 8, count)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = odd_networks()[name]
    assert measured(model, batch) <= bound(model, batch)


def test_the_model_is_left_as_it_was():
    batch = batch_of(8)
    model = models.build("resnet8", batch, width=2).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bound(model, batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()) and model.training
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("shape", "count", "error", "text"), [
    ((1, 0, 8), 1, ValueError, "shape must be at least 1, got 0"),
    (64, 1, TypeError, "shape"),
    ((1, 8, 8), 0, ValueError, "batch must be at least 1, got 0"),
])  # fmt: skip
def test_bad_sizes_are_refused(shape, count, error, text):
    with pytest.raises(error, match=text):
        gl.attacks.gradient_rank_bound(models.build("mlp", batch_of(8)), shape, count)


# --- several states ---


def narrow(side=8, classes=4):
    """A network whose gradient holds less than the image, and the image."""
    batch = batch_of(side, channels=3, classes=classes)
    return models.build("lenet", batch, seed=2, width=1), batch


def training(model, batch, rounds, protocol, lr=1.0, **options):
    return gl.federation.train(protocol, model, [batch], rounds=rounds, lr=lr, test=batch, **options)


def test_ranks_of_different_states_add_up_and_equal_states_add_nothing():
    model, batch = narrow()
    one, most, pixels = measured(model, batch), bound(model, batch), batch.images.numel()
    assert one <= most < pixels / 2
    ranks = {}
    for lr in (1.0, 1e-300):
        seen = gl.observe(training(model, batch, 2, FedSGD(), lr), client=0, knows={"labels"})
        values = gl.attacks.singular_values(seen, batch.images)
        ranks[lr] = int((values > 1e-12 * values[0]).sum())
    assert ranks[1e-300] == one and 1.9 * one < ranks[1.0] <= 2 * one


def test_what_a_transcript_holds_is_counted_by_its_states():
    model, batch = narrow()
    one, pixels = bound(model, batch), batch.images.numel()
    counts = []
    for rounds in (1, 2, math.ceil(pixels / one) + 1):
        moved = training(model, batch, rounds, ZerothOrder(directions=2, **SLOPES))
        counts.append(rank.held_by(gl.observe(moved, client=0, knows={"labels"})))
    assert counts == [one, 2 * one, pixels]
    still = training(model, batch, 3, ZerothOrder(directions=2, **SLOPES), lr=1e-300)
    assert rank.held_by(gl.observe(still, client=0, knows={"labels"})) == one


def test_nothing_is_claimed_of_other_clients():
    model, batch = narrow()
    noisy = gl.defenses.Defended(ZerothOrder(directions=4, **SLOPES), gl.defenses.get("gaussian_noise", sigma=0.1))
    for protocol in (FedAvg(epochs=1, batch_size=1, lr=0.1), noisy, FedSGD()):
        assert rank.held_by(seen_of(model, batch, protocol)) is None
    drawn = training(model, batch_of(8, 2, 3), 2, ZerothOrder(directions=4, **SLOPES), local_batch=1)
    assert rank.held_by(gl.observe(drawn, client=0, knows={"labels"})) is None


# --- what the attacks say ---


@pytest.mark.parametrize("options", [{}, {"solver": "adam"}], ids=["gauss-newton", "adam"])
def test_the_attack_says_where_no_number_of_scalars_is_enough(options, no_lpips):
    model, batch = narrow()
    pixels = batch.images.numel()
    seen = seen_of(model, batch, ZerothOrder(directions=2 * pixels, **SLOPES))
    result = gl.attack("zerogla", seen, iterations=3, progress=False, **options)
    held = bound(model, batch)
    assert [note for note in result.notes if "under-determined" in note] == [
        "under-determined whatever the number of scalars: the gradient of this network, at the states of 1 round, "
        f"holds at most {held} independent numbers for {pixels} pixel values; messages at other states would add some"
    ]


def test_it_is_right_and_more_states_are_enough():
    """Twice as many scalars as pixels through the narrow network: of one state, and, as many, of several."""
    model, batch = narrow()
    pixels = batch.images.numel()
    psnr = {}
    for rounds in (1, 4):
        log = training(model, batch, rounds, ZerothOrder(directions=2 * pixels // rounds, **SLOPES))
        seen = gl.observe(log, client=0, knows={"labels"})
        result = gl.attack("zerogla", seen, progress=False)
        psnr[rounds] = float(gl.metrics.psnr(result.images, batch.images)[0])
        assert any("whatever" in note for note in result.notes) == (rounds == 1)
        assert result.loss < 1e-12
    assert psnr[1] < 25 < 60 < psnr[4]


def test_no_such_note_where_the_network_is_wide_enough():
    batch = gl.data.sample("photos", size=32, device="cpu")
    seen = seen_of(models.build("lenet", batch), batch, ZerothOrder(directions=8, **SLOPES))
    result = gl.attack("zerogla", seen, solver="adam", iterations=1, progress=False)
    assert len(result.notes) == 1 and "8 scalars for 3072 unknowns" in result.notes[0]


def test_singular_values_of_gradients_are_those_of_finite_differences():
    batch = batch_of(4)
    model = models.build("mlp", batch, hidden=(3,))
    params, x = models.parameters(model, torch.float64), batch.images.double()

    def gradient(at):
        return models.flatten(models.gradient(model, params, at, batch.labels))

    columns = []
    for pixel in torch.eye(16, dtype=torch.float64).view(16, *x.shape):
        columns.append((gradient(x + 1e-5 * pixel) - gradient(x - 1e-5 * pixel)) / 2e-5)
    expected = torch.linalg.svdvals(torch.stack(columns))
    torch.testing.assert_close(gl.attacks.singular_values(seen_of(model, batch), batch.images), expected)
    with pytest.raises(ValueError, match="singular_values needs an observation of scalars or gradients"):
        gl.attacks.singular_values(seen_of(model, batch, FedAvg(epochs=1, batch_size=1, lr=0.1)), batch.images)
