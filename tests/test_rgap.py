"""R-GAP: exact where the count says so, predicted and measured failure elsewhere, and what it refuses."""

import dataclasses

import pytest
import torch
from torch import nn

import glutils as gl
from glutils import models
from glutils.attacks.closed_form import chains, rgap
from glutils.data.batch import Batch

pytestmark = pytest.mark.usefixtures("no_lpips")
PROTOCOL = gl.protocols.FedSGD()


def watched(batch, model):
    return gl.observe(model, PROTOCOL, PROTOCOL.transmit(model, batch.images, batch.labels), batch)


def observed(batch, name="convnet", seed=0, **options):
    return watched(batch, models.build(name, batch, seed=seed, **options))


def small(channels=(4, 8), activation="leaky_relu", hidden=None):
    return {"channels": channels, "activation": activation, "hidden": hidden}


def psnr(result, batch):
    return float(gl.score(result, batch).psnr.min())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid", "softplus"])
def test_recovers_a_digit_and_its_label(digit, activation, seed):
    result = gl.attack("rgap", observed(digit, seed=seed, **small(activation=activation)))
    assert psnr(result, digit) > 100 and torch.equal(result.labels, digit.labels)
    assert result.loss < 1e-10 and result.notes == () and result.diagnostics["missing"] == 0


def test_recovers_a_photograph_through_two_convolutions(photo):
    result = gl.attack("rgap", observed(photo, **small((4, 16))))
    assert psnr(result, photo) > 100 and torch.equal(result.labels, photo.labels)


@pytest.mark.parametrize("name", ["lenet", "mlp"])
def test_recovers_a_digit_through_dlgs_network_and_through_linear_layers(digit, name):
    result = gl.attack("rgap", observed(digit, name))
    assert psnr(result, digit) > 100 and torch.equal(result.labels, digit.labels)


def test_a_hidden_linear_layer_and_a_dilated_stride(digit):
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, stride=1, padding=2, dilation=2), nn.LeakyReLU(0.2)),
        nn.Flatten(), nn.Linear(384, 12, bias=False), nn.Tanh(), nn.Linear(12, 10),
    )  # fmt: skip
    assert psnr(gl.attack("rgap", watched(digit, model)), digit) > 80


# --- without biases the scale of the last layer has to be found ---


def biasless(classes, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 5, 3, padding=1, bias=False), nn.LeakyReLU(0.2), nn.Flatten(),
            nn.Linear(320, classes, bias=False),
        )  # fmt: skip


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_networks_without_biases(digit, classes):
    batch = Batch(digit.images, torch.tensor([classes - 1]), tuple(map(str, range(classes))))
    result = gl.attack("rgap", watched(batch, biasless(classes)))
    assert torch.equal(result.labels, batch.labels) and psnr(result, batch) > 60 and result.loss < 1e-8


@pytest.mark.parametrize("classes", [2, 4])
def test_the_scale_of_the_last_gradient_in_closed_form(classes):
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, 6, generator=generator, dtype=torch.float64)
    x = torch.randn(6, generator=generator, dtype=torch.float64)
    slope = (weight @ x).softmax(0) - torch.eye(classes, dtype=torch.float64)[1]
    c = float(slope.norm())
    found = rgap._slope_scales(slope / c, weight @ (x * c))
    assert min(abs(value - c) for value in found) < 1e-9
    assert rgap._slope_scales(-slope / c, weight @ (x * c)) == [] or classes == 2


# --- the rank analysis ---


def test_failure_is_predicted_from_the_network_and_comes_true(photo):
    """With two channels in the first layer: 512 outputs and 54 weights, 4 said twice, for 768 pixels."""
    seen = observed(photo, **small((2, 16)))
    first = chains.rank_analysis(seen.model, tuple(photo.images.shape[1:]))[0]
    assert (first["unknowns"], first["equations"], first["enough"]) == (768, 562, False)
    result = gl.attack("rgap", seen)
    assert any("at most 562 equations for 768 unknowns: predicted to fail" in note for note in result.notes)
    assert result.diagnostics["rank 0"] == 562 and result.diagnostics["missing"] == 206
    assert psnr(result, photo) < 20 and torch.equal(result.labels, photo.labels)
    assert result.loss < 1e-10  # another image, the same gradient: a small loss is no proof


@pytest.mark.parametrize("channels", [(4, 1), (4, 2), (1, 3), (2, 8), (4, 8)])
def test_the_count_is_the_rank(digit, channels):
    seen = observed(digit, **small(channels))
    result = gl.attack("rgap", seen)
    rows = chains.rank_analysis(seen.model, (1, 8, 8))
    for row in rows:
        assert result.diagnostics[f"rank {row['layer']}"] == min(row["unknowns"], row["equations"])
    assert (psnr(result, digit) > 80) == all(row["enough"] for row in rows)
    assert [row["kind"] for row in rows] == ["Conv2d", "Conv2d", "Linear"]


def test_the_smallest_image_is_returned_where_many_fit(photo):
    result = gl.attack("rgap", observed(photo, **small((2, 16))))
    assert float(result.images.norm()) < float(photo.images.norm())


# --- negative controls ---


@pytest.mark.parametrize("how", ["wrong_gradient", "permuted", "zero"])
def test_a_misled_attacker_fails_and_its_loss_says_so(digit, how):
    seen = gl.tamper(observed(digit, **small()), how)
    result = gl.attack("rgap", seen)
    score = gl.score(result, digit)
    assert not float(score.psnr[0]) > float(score.controls["mean_colour"][0]) + 2
    assert not result.loss < 1e-3


def test_a_gradient_of_zero_is_noted(digit):
    result = gl.attack("rgap", gl.tamper(observed(digit, **small()), "zero"))
    assert "the gradient is zero" in result.notes and torch.isfinite(result.images).all()


def test_values_beyond_the_range_of_an_activation_are_noted(digit):
    seen = gl.tamper(observed(digit, **small(activation="sigmoid")), "permuted")
    assert any("beyond the range" in note for note in gl.attack("rgap", seen).notes)


# --- what it refuses ---


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("convnet", {"activation": "relu"}, "layer '1' is ReLU: different inputs give the same output.*'ig'"),
        ("convnet", {"activation": "gelu"}, "layer '1' is GELU: different inputs give the same output.*'dlg'"),
        ("resnet8", {"width": 2, "activation": "leaky_relu"}, "layer '1' is BatchNorm2d: batch norm is not part"),
    ],
)
def test_networks_that_it_cannot_read_are_refused(digit, name, options, text):
    with pytest.raises(ValueError, match=f"'rgap' cannot read this model: {text}"):
        gl.attack("rgap", observed(digit, name, **options))


def block():
    return models.zoo._Residual(2, 2, 1, "leaky_relu")


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([nn.Conv2d(1, 2, 3, padding=1), nn.LeakyReLU(), block(), nn.Flatten(), nn.Linear(128, 10)], "residual"),
        ([nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(128, 10)], "without an activation between"),
        ([nn.Flatten(), nn.LeakyReLU(), nn.Linear(64, 10)], "does not follow a layer with weights"),
        ([nn.Flatten(), nn.Linear(64, 10), nn.Tanh()], "its last layer must be linear"),
        ([nn.Conv2d(1, 2, 3, padding="same"), nn.Tanh(), nn.Flatten(), nn.Linear(128, 10)], "padding by name"),
        ([nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)], "only convolutions, linear layers"),
        ([nn.Flatten(), nn.Linear(64, 9), nn.LeakyReLU(0.0), nn.Linear(9, 10)], "slope 0.0 cannot be inverted"),
    ],
)
def test_what_is_no_chain_is_refused_with_the_reason(digit, layers, text):
    with pytest.raises(ValueError, match=f"cannot read this model: .*{text}"):
        gl.attack("rgap", watched(digit, nn.Sequential(*layers).eval()))


def test_batches_other_payloads_and_bad_options_are_refused(digit, digits):
    with pytest.raises(ValueError, match="'rgap' solves for one image, got a batch of 5: .* 'dlg' takes batches"):
        gl.attack("rgap", observed(digits, **small()))
    with pytest.raises(ValueError, match="rcond must be greater than 0, got 0"):
        gl.attack("rgap", observed(digit, **small()), rcond=0.0)
    with pytest.raises(TypeError, match="'rgap' has no option 'iterations'"):
        gl.attack("rgap", observed(digit, **small()), iterations=3)
    seen = observed(digit, **small())
    average = gl.protocols.FedAvg()
    payload = average.transmit(seen.model, digit.images, digit.labels)
    with pytest.raises(ValueError, match="'rgap' reads payloads of kind gradient, got 'delta'"):
        gl.attack("rgap", gl.observe(seen.model, average, payload, digit))
    large = models.build("convnet", gl.data.sample("photos", size=64, device="cpu"), activation="tanh", hidden=8)
    view = dataclasses.replace(seen, model=large, shape=(1, 3, 64, 64))
    with pytest.raises(ValueError, match="has 12288 unknowns, and 'rgap' solves for at most 8192"):
        gl.attack("rgap", view)
