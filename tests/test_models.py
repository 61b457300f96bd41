"""Networks, and the pure functions of parameters and images that everything stands on."""

import copy

import pytest
import torch
from torch import nn

from glutils import data, models
from glutils.data.batch import Batch

ACTIVATIONS = ["tanh", "sigmoid", "gelu", "softplus", "relu", "leaky_relu"]


def blank(count=2, channels=1, side=8, classes=10):
    """Random images; what is in them does not matter."""
    images = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count) % classes, tuple(map(str, range(classes))))


def size(model):
    return sum(p.numel() for p in model.parameters())


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, before):
    after = model.state_dict()
    return set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)


# --- the networks ---


def test_parameter_counts_are_those_of_the_book():
    colour = blank(channels=3, side=32)
    assert size(models.build("lenet", colour)) == size(models.build("lenet", colour, width=12)) == 15_826
    assert size(models.build("lenet", colour, width=20)) == 75 * 20 + 2 * 25 * 20**2 + 3 * 20 + 64 * 20 * 10 + 10
    assert size(models.build("resnet8", colour)) == 78_042
    assert size(models.build("mlp", blank(), hidden=(16,))) == 64 * 16 + 16 + 16 * 10 + 10
    assert size(models.build("mlp", blank(), hidden=())) == 650
    conv = 9 * 3 * 16 + 16 + 9 * 16 * 32 + 32
    assert size(models.build("convnet", colour)) == conv + 32 * 16 * 16 * 128 + 128 + 128 * 10 + 10
    assert size(models.build("convnet", colour, hidden=None)) == conv + 32 * 16 * 16 * 10 + 10
    assert size(models.build("resnet8", blank(), width=4)) < 6_000
    assert size(models.build("cnn", blank())) == 548_746


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 9, 32])
@pytest.mark.parametrize("name", ["lenet", "mlp", "convnet", "cnn", "resnet8"])
def test_small_networks_take_every_size_and_channel_count(name, side, channels):
    batch = blank(channels=channels, side=side, classes=7)
    model = models.build(name, batch, seed=1)
    out = model(batch.images)
    assert out.shape == (2, 7) and out.dtype == torch.float32 and torch.isfinite(out).all()
    assert (model.name, model.classes, model.shape) == (name, 7, batch.shape)
    assert not model.training


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 1), ("resnet50", 3), ("vgg16", 3)])
def test_torchvision_networks_are_fitted_to_the_batch(name, channels):
    batch = blank(1, channels, 32, classes=5)
    model = models.build(name, batch)
    with torch.no_grad():
        assert model(batch.images).shape == (1, 5)
    with pytest.raises(ValueError, match=f"at least 32x32 for {name}, got 16x16"):
        models.build(name, blank(1, channels, 16))


def test_all_names_are_tested_here():
    assert models.names() == [
        "lenet", "mlp", "convnet", "cnn", "resnet8", "resnet18", "resnet50", "vgg16", "gpt", "vit",
    ]  # fmt: skip


def test_lenet_is_initialised_uniformly_between_minus_and_plus_one_half():
    values = models.flatten(models.parameters(models.build("lenet", blank(channels=3, side=32))))
    assert values.min() >= -0.5 and values.max() <= 0.5
    assert abs(float(values.mean())) < 0.01 and abs(float(values.var()) - 1 / 12) < 0.002


def test_the_seed_decides_the_weights_and_the_global_random_state_is_left_alone():
    batch = blank()
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = models.build("lenet", batch, seed=4)
    assert torch.equal(torch.rand(3), expected)
    again, other = models.build("lenet", batch, seed=4), models.build("lenet", batch, seed=5)
    weights = [models.flatten(models.parameters(m)) for m in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_the_one_it_is_called(activation):
    found = [m for m in models.build("mlp", blank(), activation=activation) if not list(m.parameters())][1]
    x = torch.linspace(-2, 2, 9)
    named = {
        "tanh": torch.tanh(x),
        "sigmoid": 1 / (1 + torch.exp(-x)),
        "gelu": x * 0.5 * (1 + torch.erf(x / 2**0.5)),
        "softplus": torch.log1p(torch.exp(x)),
        "relu": x.clamp_min(0),
        "leaky_relu": torch.where(x > 0, x, 0.2 * x),
    }
    torch.testing.assert_close(found(x), named[activation])
    for name in ("lenet", "convnet", "resnet8"):
        model = models.build(name, blank(), activation=activation)
        assert any(type(m) is type(found) for m in model.modules())


def test_weights_come_from_a_torchvision_state_dict(tmp_path):
    import torchvision

    batch = blank(1, 3, 32, classes=4)
    reference = torchvision.models.resnet18(weights=None).eval()
    nn.init.constant_(reference.bn1.running_mean, 0.25)
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    model = models.build("resnet18", batch, weights=str(tmp_path / "weights.pth"))
    network = model[1]
    for name, value in reference.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(network.state_dict()[name], value), name
    assert network.fc.weight.shape == (4, 512)
    mean, std = torch.tensor(models.zoo.IMAGENET_MEAN), torch.tensor(models.zoo.IMAGENET_STD)
    reference.fc = network.fc
    normalised = (batch.images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(model(batch.images), reference(normalised))


def test_bad_arguments_give_one_clear_error():
    batch = blank()
    with pytest.raises(ValueError, match="unknown model 'lenets'; valid names: lenet, mlp"):
        models.build("lenets", batch)
    with pytest.raises(TypeError, match="batch"):
        models.build("lenet", batch.images)
    with pytest.raises(ValueError, match="activation must be one of .*'tanh'.*got 'swish'"):
        models.build("mlp", batch, activation="swish")
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        models.build("mlp", batch, hidden=(0,))
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        models.build("lenet", batch, width=0)
    with pytest.raises(TypeError, match="width"):
        models.build("lenet", batch, width=1.5)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        models.build("mlp", batch, seed=-1)
    with pytest.raises(TypeError, match="'mlp'.*'depth'.*hidden, activation"):
        models.build("mlp", batch, depth=3)
    with pytest.raises(TypeError, match="'resnet18'.*'hidden'.*weights"):
        models.build("resnet18", blank(1, 3, 32), hidden=(3,))


# --- pure functions ---


def test_flatten_and_unflatten_are_inverse_and_keep_the_order_of_the_parameters():
    model = models.build("lenet", blank())
    params = models.parameters(model)
    assert list(params) == [name for name, _ in model.named_parameters()]
    vector = models.flatten(params)
    assert vector.numel() == size(model)
    back = models.unflatten(vector, params)
    assert list(back) == list(params) and all(torch.equal(back[name], params[name]) for name in params)
    assert models.parameters(model, torch.float64)["0.weight"].dtype == torch.float64


@pytest.mark.parametrize("name", ["lenet", "mlp", "convnet", "resnet8"])
def test_loss_and_gradient_are_those_of_backward(name):
    batch = blank()
    model = models.build(name, batch).train()
    twin = copy.deepcopy(model)
    nn.functional.cross_entropy(twin(batch.images), batch.labels).backward()
    found = models.gradient(model, models.parameters(model), batch.images, batch.labels)
    assert list(found) == [n for n, _ in twin.named_parameters()]
    for parameter, grad in zip(twin.parameters(), found.values(), strict=True):
        torch.testing.assert_close(grad, parameter.grad)
    assert all(p.grad is None for p in model.parameters())


def test_logits_replace_the_parameters_and_follow_the_precision_of_the_images():
    batch = blank(side=8)
    model = models.build("resnet8", batch, width=2)
    other = models.parameters(models.build("resnet8", batch, width=2, seed=9))
    out = models.logits(model, other, batch.images)
    torch.testing.assert_close(out, models.build("resnet8", batch, width=2, seed=9)(batch.images))
    double = models.logits(model, {n: p.double() for n, p in other.items()}, batch.images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), out, rtol=1e-4, atol=1e-5)


def test_frozen_layers_take_part_in_either_precision():
    batch = blank()
    model = models.build("mlp", batch, hidden=(4,))
    model[1].requires_grad_(False)
    params = models.parameters(model, torch.float64)
    assert list(params) == ["3.weight", "3.bias"]
    out = models.logits(model, params, batch.images.double())
    torch.testing.assert_close(out, copy.deepcopy(model).double()(batch.images.double()))


def test_stateless_leaves_running_statistics_alone():
    batch = blank(4)
    model = models.build("resnet8", batch, width=2).train()
    before = state(model)
    with models.stateless(model):
        inside = model(batch.images)
    assert unchanged(model, before)
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(inside, copy.deepcopy(model)(batch.images))  # the value is that of training mode
    with pytest.raises(RuntimeError, match="on purpose"), models.stateless(model):
        raise RuntimeError("on purpose")
    model(batch.images)
    assert not unchanged(model, before)  # outside it, batch norm learns again


def test_batchnorm_mode():
    batch = blank()
    assert models.batchnorm_mode(models.build("lenet", batch)) is None
    model = models.build("resnet8", batch, width=2)
    assert models.batchnorm_mode(model) == "eval"
    assert models.batchnorm_mode(model.train()) == "train"
    model[1].eval()
    with pytest.raises(ValueError, match="different modes"):
        models.batchnorm_mode(model)


def test_a_model_that_depends_on_chance_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 10))
    with pytest.raises(ValueError, match=r"active dropout layer '1' \(p=0.3\); call model.eval\(\)"):
        models.check_deterministic(model)
    models.check_deterministic(model.eval())
    models.check_deterministic(nn.Sequential(nn.Dropout(0.0), nn.Linear(2, 2)))


def test_a_model_goes_where_its_batch_is():
    model = models.build("mlp", data.sample("digits", device="cpu"))
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_group_norm_keeps_no_statistics_and_treats_every_image_alone():
    batch = data.sample("digits", count=3, seed=0)
    model = models.build("resnet8", batch, width=16, norm="group").train()
    assert not list(model.buffers()) and size(model) == size(models.build("resnet8", batch, width=16))
    torch.testing.assert_close(model(batch.images)[:1], model(batch.images[:1]))
    with pytest.raises(ValueError, match="norm must be one of"):
        models.build("resnet8", batch, norm="layer")
