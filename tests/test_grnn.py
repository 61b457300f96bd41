"""GRNN: the generator, the distances, recovery, negative controls, bad input."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import wasserstein_distance

import glutils as gl
from glutils.attacks.generative import grnn

pytestmark = pytest.mark.usefixtures("no_lpips")
DOUBLE = torch.float64


def observed(batch, name="lenet", **options):
    model, protocol = gl.models.build(name, batch, seed=0, **options), gl.protocols.FedSGD()
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)


def gradients(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=DOUBLE) for shape in shapes]


def above_control(result, batch):
    score = gl.score(result, batch)
    return float((score.psnr - score.controls["mean_colour"]).max())


# --- the generator ---


@pytest.mark.parametrize("size", grnn.SIZES)
def test_the_generator_makes_images_and_labels(size):
    network = grnn.Generator(3, size, 7)
    with torch.no_grad():
        images, labels = network(torch.randn(2, grnn.NOISE))
    assert images.shape == (2, 3, size, size) and labels.shape == (2, 7)
    assert 0 < float(images.min()) and float(images.max()) < 1
    torch.testing.assert_close(labels.sum(1), torch.ones(2))
    assert sum(isinstance(m, torch.nn.Upsample) for m in network.modules()) == math.log2(size) - 2


def test_its_start_depends_on_the_attacks_seed_alone(digit):
    seen = observed(digit)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = gl.attack("grnn", seen, iterations=2, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    again, other = (gl.attack("grnn", seen, iterations=2, seed=s) for s in (1, 2))
    assert torch.equal(first.images, again.images) and first.history.loss == again.history.loss
    assert first.history.loss[0] != other.history.loss[0]


# --- the distances ---

SHAPES = [(5, 3), (4,), (1, 2, 3, 3)]


@pytest.mark.parametrize("wd", ["none", "l2", "sliced"])
def test_a_distance_is_zero_at_the_target_and_has_the_right_slope(wd):
    found, target = gradients(0, *SHAPES), gradients(1, *SHAPES)
    distance = grnn._distance(wd, target, torch.Generator().manual_seed(2))
    at_target = distance(target, target)
    assert float(at_target[0]) < 1e-14 and all(float(s.abs().max()) < 1e-6 for s in at_target[1])
    value, slopes = distance(found, target)
    step = gradients(3, *SHAPES)
    ends = [distance([f + sign * 1e-6 * s for f, s in zip(found, step, strict=True)], target)[0] for sign in (1, -1)]
    along = sum((a * b).sum() for a, b in zip(slopes, step, strict=True))
    assert float(along) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6)
    assert not value.requires_grad


def test_the_released_wasserstein_distance_is_a_norm():
    found, target = gradients(0, *SHAPES), gradients(1, *SHAPES)
    plain, released = (float(grnn._distance(wd, target, torch.Generator())(found, target)[0]) for wd in ("none", "l2"))
    assert released - plain == pytest.approx(math.sqrt(plain))


def test_the_sliced_distance_on_a_line_is_scipys():
    """One number a row: order 2 by sorting; for a shift, order 1 is the same."""
    a = gradients(0, (50,))
    b = [a[0].flip(0) + 0.7]
    along = grnn.directions(a, torch.Generator().manual_seed(0))
    wanted = math.sqrt(50) * wasserstein_distance(a[0], b[0])
    assert float(grnn.sliced_wasserstein(b, a, along)) == pytest.approx(wanted)


def test_the_sliced_distance_ignores_the_order_of_rows_and_never_beats_the_norm_by_much():
    target, found = gradients(0, (40, 6)), gradients(1, (40, 6))
    along = [torch.nn.functional.normalize(torch.randn(6, 4000, dtype=DOUBLE), dim=0)]
    far = grnn.sliced_wasserstein(found, target, along)
    torch.testing.assert_close(grnn.sliced_wasserstein([found[0].flip(0)], target, along), far)
    assert float(far) < 1.02 * float((found[0] - target[0]).norm())
    one, other = gradients(2, (1, 6)), gradients(3, (1, 6))
    apart = float((one[0] - other[0]).norm())
    assert float(grnn.sliced_wasserstein(one, other, along)) == pytest.approx(apart, rel=0.05)


# --- the attack ---


def test_recovers_image_and_label_of_a_digit(digit):
    result = gl.attack("grnn", observed(digit), iterations=250)
    assert torch.equal(result.labels, digit.labels)
    assert result.loss < 0.01 * result.history.loss[0] and result.loss == min(result.history.loss)
    assert above_control(result, digit) > 4
    assert 0 <= float(result.images.min()) and float(result.images.max()) <= 1


def test_a_gradient_that_the_generator_makes_is_a_fixed_point(digit):
    """The target is the gradient of the generator's own first image and label."""
    seen = observed(digit)
    first = gl.attack("grnn", seen, iterations=0, tv_weight=0)
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(1, grnn.NOISE, generator=noise)
    images, labels = grnn._fresh(seen, noise)(z)
    torch.testing.assert_close(images, first.images)
    payload = gl.protocols.FedSGD().transmit(seen.model, images.detach(), labels.detach())
    # its labels are probabilities: observe would refuse it as the message of a client, whose labels are classes
    own = replace(seen, rounds=(replace(seen.rounds[0], payload=payload),))
    assert gl.attack("grnn", own, iterations=0, tv_weight=0, wd="none").loss < 1e-10


@pytest.mark.parametrize("wd", ["none", "sliced"])
def test_the_other_distances_lead_downhill(digit, wd):
    result = gl.attack("grnn", observed(digit), iterations=40, wd=wd)
    assert result.loss < 0.8 * result.history.loss[0]


def test_takes_a_batch(digits):
    batch = digits[:2]
    result = gl.attack("grnn", observed(batch), iterations=40)
    assert result.images.shape == batch.images.shape and result.labels.shape == (2,)
    assert result.loss < 0.8 * result.history.loss[0]
    assert sorted(gl.score(result, batch).matching.tolist()) == [0, 1]


@pytest.mark.parametrize("how", ["wrong_gradient", "permuted"])
def test_a_misled_attacker_fails(digit, how):
    result = gl.attack("grnn", gl.tamper(observed(digit), how), iterations=100)
    assert above_control(result, digit) <= 2


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"wd": "emd"}, ValueError, "wd must be one of 'none', 'l2', 'sliced'; got 'emd'"),
        ({"lr": 0.0}, ValueError, "lr must be greater than 0, got 0.0"),
        ({"momentum": 1.0}, ValueError, "momentum must be between 0 and 0.9999, got 1.0"),
        ({"tv_weight": -1.0}, ValueError, "tv_weight must be at least 0, got -1.0"),
        ({"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
        ({"start": 1}, TypeError, "'grnn' has no option 'start'"),
    ],
)
def test_bad_options_are_refused(digit, options, error, text):
    with pytest.raises(error, match=text):
        gl.attack("grnn", observed(digit), **options)


def test_sizes_and_payloads_that_it_cannot_read_are_refused(digit):
    odd = gl.data.sample("photos", size=12, device="cpu")
    with pytest.raises(ValueError, match="square images of 8, 16, 32, 64 pixels, got 12x12; 'dlg' takes any size"):
        gl.attack("grnn", observed(odd))
    model, protocol = gl.models.build("lenet", digit), gl.protocols.FedAvg()
    seen = gl.observe(model, protocol, protocol.transmit(model, digit.images, digit.labels), digit)
    with pytest.raises(ValueError, match="'grnn' reads payloads of kind gradient, got 'delta'"):
        gl.attack("grnn", seen)
