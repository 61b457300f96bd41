"""DLG-Adam and DLG-cosine: the distance with its magnitude term, recovery, negative controls, bad input."""

import dataclasses

import pytest
import torch

import glutils as gl
from glutils.attacks.matching import dlg
from glutils.attacks.matching.objective import cosine, matching

pytestmark = pytest.mark.usefixtures("no_lpips")
DOUBLE = torch.float64
BOTH = pytest.mark.parametrize("attack", ["dlg_adam", "dlg_cosine"])


def observed(batch, name="mlp", **options):
    options = {"hidden": (32,), "activation": "sigmoid"} | options if name == "mlp" else options
    model, protocol = gl.models.build(name, batch, seed=0, **options), gl.protocols.FedSGD()
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)


def scaled(seen, factor):
    payload = {name: factor * tensor for name, tensor in seen.payload.items()}
    return dataclasses.replace(seen, rounds=(dataclasses.replace(seen.rounds[0], payload=payload),))


def above_control(result, batch):
    score = gl.score(result, batch)
    return float((score.psnr - score.controls["mean_colour"]).max())


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=DOUBLE) for shape in ((3, 2), (4,))]


# --- the distance ---


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_distance_and_its_derivative(weight):
    found, target = tensors(0), tensors(1)
    leaves = [t.clone().requires_grad_() for t in found]
    a, b = (torch.cat([t.flatten() for t in ts]) for ts in (leaves, target))
    wanted = 1 - a @ b / (a.norm() * b.norm()) + weight * (a.norm().log() - b.norm().log()) ** 2
    value, slopes = dlg.cosine_with_length(weight)(found, target)
    torch.testing.assert_close(value, wanted.detach())
    for slope, grad in zip(slopes, torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(slope, grad)


def test_without_weight_it_is_the_cosine():
    assert dlg.cosine_with_length(0.0) is cosine


def test_the_magnitude_term_is_finite_for_a_zero_gradient():
    zero = [torch.zeros_like(t) for t in tensors(0)]
    for pair in ((zero, tensors(0)), (tensors(0), zero)):
        value, slopes = dlg.cosine_with_length(1.0)(*pair)
        assert torch.isfinite(value) and all(torch.isfinite(s).all() for s in slopes)


def test_the_truth_is_a_fixed_point_of_both_distances(digit):
    seen = observed(digit)
    exact = gl.protocols.FedSGD().transmit(seen.model, digit.images.double(), digit.labels)
    seen = dataclasses.replace(seen, rounds=(dataclasses.replace(seen.rounds[0], payload=exact),))
    for weight in (0.0, 1.0):
        how = {"distance": dlg.cosine_with_length(weight), "dtype": DOUBLE}
        value, (slope,) = matching(seen, lambda v: (v[0], digit.labels), **how)(
            (digit.images.double().requires_grad_(),)
        )
        assert abs(float(value)) < 1e-13 and float(slope.abs().max()) < 1e-8


# --- recovery ---


@BOTH
def test_recovers_image_and_label(digit, attack):
    seen = observed(digit)
    result = gl.attack(attack, seen, iterations=400, lr=0.1)
    assert torch.equal(result.labels, digit.labels) and above_control(result, digit) > 8
    assert result.loss == min(result.history.loss) < 1e-2 * result.history.loss[0]
    first, again = (gl.attack(attack, seen, iterations=5) for _ in range(2))
    assert torch.equal(first.images, again.images)


def test_the_start_is_uniform_in_the_range_of_pixels(photo):
    start = gl.attack("dlg_adam", observed(photo), iterations=0).images
    assert 0 <= float(start.min()) < 0.01 and 0.99 < float(start.max()) <= 1


def test_the_cosine_is_blind_to_the_length_of_the_gradient_and_the_magnitude_term_is_not(digit):
    seen = observed(digit)
    for magnitude, same in ((0.0, True), (1.0, False)):
        first, second = (
            gl.attack("dlg_cosine", s, iterations=10, magnitude=magnitude) for s in (seen, scaled(seen, 1024))
        )
        assert torch.allclose(first.images, second.images, rtol=0, atol=1e-3) == same


@BOTH
def test_takes_a_batch(digits, attack):
    batch = digits[:2]
    result = gl.attack(attack, observed(batch), iterations=30, lr=0.1)
    assert result.images.shape == batch.images.shape and result.labels.shape == (2,)
    assert result.loss < 0.8 * result.history.loss[0]


@BOTH
@pytest.mark.parametrize("how", ["wrong_gradient", "permuted"])
def test_a_misled_attacker_fails(digit, attack, how):
    result = gl.attack(attack, gl.tamper(observed(digit), how), iterations=100, lr=0.1)
    assert above_control(result, digit) <= 2


# --- bad input ---


@pytest.mark.parametrize(
    ("attack", "options", "error", "text"),
    [
        ("dlg_adam", {"lr": 0.0}, ValueError, "lr must be greater than 0, got 0.0"),
        ("dlg_cosine", {"lr": -1.0}, ValueError, "lr must be greater than 0, got -1.0"),
        ("dlg_cosine", {"magnitude": -1.0}, ValueError, "magnitude must be at least 0, got -1.0"),
        ("dlg_cosine", {"magnitude": float("nan")}, ValueError, "magnitude must be finite, got nan"),
        ("dlg_adam", {"magnitude": 1.0}, TypeError, "'dlg_adam' has no option 'magnitude'"),
        ("dlg_adam", {"restarts": 0}, ValueError, "restarts must be at least 1, got 0"),
        ("dlg_cosine", {"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
    ],
)
def test_bad_options_are_refused(digit, attack, options, error, text):
    with pytest.raises(error, match=text):
        gl.attack(attack, observed(digit), **options)


@BOTH
def test_other_payloads_are_refused(digit, attack):
    model, protocol = gl.models.build("mlp", digit), gl.protocols.FedAvg()
    seen = gl.observe(model, protocol, protocol.transmit(model, digit.images, digit.labels), digit)
    with pytest.raises(ValueError, match=f"'{attack}' reads payloads of kind gradient, got 'delta'"):
        gl.attack(attack, seen)
