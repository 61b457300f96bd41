"""A parameter difference as an average gradient (IGIMS, Fang et al. 2024), on which attacks on gradients can be run."""

import dataclasses

import pytest
import torch

import glutils as gl
from glutils import models
from glutils.attacks.matching.objective import cosine, matching, squared
from glutils.observation import as_gradient, local_steps
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

DOUBLE = torch.float64
pytestmark = pytest.mark.usefixtures("no_lpips")


def observed(batch, protocol, name="mlp", knows=("labels",), dtype=torch.float32, **options):
    model = models.build(name, batch, seed=0, **({"hidden": (16,)} | options if name == "mlp" else options))
    payload = protocol.transmit(model, batch.images.to(dtype), batch.labels)
    return gl.observe(model, protocol, payload, batch, knows=knows)


@pytest.mark.parametrize("lr", [1e-4, 0.1, 3.0])
def test_after_one_local_step_it_is_the_gradient(digits, lr):
    seen = observed(digits, FedAvg(epochs=1, batch_size=5, lr=lr), dtype=DOUBLE)
    found = as_gradient(seen)
    wanted = FedSGD().transmit(seen.model, digits.images.double(), digits.labels)
    assert (found.kind, found.protocol) == ("gradient", FedSGD()) and list(found.payload) == list(wanted)
    a, b = models.flatten(found.payload), models.flatten(wanted)
    assert a.dtype == DOUBLE and float((a - b).norm() / b.norm()) < 1e-6
    kept = ("shape", "classes", "knows", "labels", "model")
    assert all(getattr(found, name) is getattr(seen, name) for name in kept)


def test_after_several_steps_it_is_the_mean_gradient_along_the_way(digits):
    """Five images in batches of two are three steps an epoch, the last one of a single image."""
    protocol = FedAvg(epochs=2, batch_size=2, lr=0.3)
    seen = observed(digits, protocol, dtype=DOUBLE)
    assert local_steps(seen) == 6
    params, total = models.parameters(seen.model, DOUBLE), 0.0
    for _ in range(2):
        for x, y in zip(digits.images.double().split(2), digits.labels.split(2), strict=True):
            step = models.gradient(seen.model, params, x, y)
            total = total + models.flatten(step)
            params = {name: p - 0.3 * step[name] for name, p in params.items()}
    torch.testing.assert_close(models.flatten(as_gradient(seen).payload), total / 6, rtol=1e-9, atol=1e-12)


def test_it_has_the_gradients_length_where_the_bare_difference_has_not(digits):
    """The error of a survey's code: it compares a difference with one gradient, off by lr U even before any drift."""
    seen = observed(digits, FedAvg(epochs=4, batch_size=1, lr=1e-3))
    gradient = FedSGD().transmit(seen.model, digits.images, digits.labels)
    length = models.flatten(gradient).norm()
    ratio = {name: float(models.flatten(view.payload).norm() / length) for name, view in
             {"mean": as_gradient(seen), "bare": as_gradient(seen, scaled=False)}.items()}  # fmt: skip
    assert ratio["mean"] == pytest.approx(1, abs=0.03)
    assert ratio["bare"] == pytest.approx(1e-3 * 4 * 5, rel=0.03)


def test_the_further_training_drifts_the_worse_it_points(digits):
    gradient = models.flatten(FedSGD().transmit(observed(digits, FedSGD()).model, digits.images, digits.labels))
    cosines = []
    for lr in (1e-3, 0.1, 1.0):
        found = models.flatten(as_gradient(observed(digits, FedAvg(epochs=5, batch_size=1, lr=lr))).payload)
        cosines.append(float(found @ gradient / found.norm() / gradient.norm()))
    assert 1 > cosines[0] > cosines[1] > cosines[2] and cosines[0] > 0.999


def test_mini_batches_of_a_transcript_count_the_images_behind_a_message(digits):
    seen = observed(digits, FedAvg(epochs=3, batch_size=2, lr=0.1))
    assert local_steps(seen) == 9 and local_steps(dataclasses.replace(seen, local_batch=2)) == 3
    model = models.build("mlp", digits, hidden=(16,))
    run = gl.federation.train(FedAvg(epochs=2, batch_size=3, lr=0.1), model, [digits], rounds=2, progress=False)
    later = gl.observe(run, client=0, rounds=[1], knows={"labels"})
    found = as_gradient(later)
    assert found.rounds[0].parameters is later.rounds[0].parameters and local_steps(later) == 4
    sent, mean = models.flatten(later.payload), models.flatten(found.payload)
    torch.testing.assert_close(mean, sent / (0.1 * 4))


def test_an_attack_that_reads_gradients_only_recovers_a_digit_from_it(digit):
    """Two short local steps on one image: nearly twice the same gradient."""
    seen = observed(digit, FedAvg(epochs=2, batch_size=1, lr=1e-4), "lenet", knows=())
    with pytest.raises(ValueError, match="'idlg' reads payloads of kind gradient, got 'delta'"):
        gl.attack("idlg", seen)
    result = gl.attack("idlg", as_gradient(seen), restarts=2, iterations=30)
    score = gl.score(result, digit)
    assert float(score.psnr - score.controls["mean_colour"]) > 5 and torch.equal(result.labels, digit.labels)


def test_what_cannot_be_averaged_is_refused(digits):
    seen = observed(digits, FedAvg())
    with pytest.raises(ValueError, match="seen must hold scalars or a parameter difference, got .* 'gradient'"):
        as_gradient(as_gradient(seen))
    with pytest.raises(ValueError, match="seen must hold one message, got 2"):
        as_gradient(dataclasses.replace(seen, rounds=seen.rounds * 2))
    with pytest.raises(ValueError, match="unbiased=False is for scalars, got a parameter difference"):
        as_gradient(seen, unbiased=False)
    with pytest.raises(TypeError, match="unbiased"):
        as_gradient(seen, unbiased=1)
    with pytest.raises(TypeError, match="scaled"):
        as_gradient(seen, scaled=0)
    with pytest.raises(ValueError, match="scaled=False is for a parameter difference, got scalars"):
        as_gradient(observed(digits, ZerothOrder(directions=4)), scaled=False)


@pytest.mark.parametrize("scaled", [True, False])
def test_the_survey_s_switch_changes_the_length_and_nothing_else(digits, scaled):
    seen = observed(digits, FedAvg(epochs=3, batch_size=2, lr=0.1))
    found = as_gradient(seen, scaled=scaled)
    length = 0.1 * local_steps(seen) if scaled else 1.0
    assert (found.kind, found.protocol) == ("gradient", FedSGD()) and list(found.payload) == list(seen.payload)
    for name, sent in seen.payload.items():
        torch.testing.assert_close(found.payload[name], sent / length)


@pytest.mark.parametrize("lr", [0.1, 4.0])
def test_the_truth_is_a_fixed_point_of_the_cosine_without_the_scale_and_of_the_squares_with_it_only(digits, lr):
    """After one step the mean gradient is exact; the bare difference is lr times as long."""
    seen = observed(digits, FedAvg(epochs=1, batch_size=5, lr=lr), dtype=DOUBLE)
    images = digits.images.double().requires_grad_()
    at_truth = {}
    for scaled in (True, False):
        view = as_gradient(seen, scaled=scaled)
        for distance in (cosine, squared):
            goal = matching(view, lambda v: (v[0], digits.labels), distance=distance, dtype=DOUBLE)
            at_truth[distance, scaled] = float(goal((images,))[0])
    assert max(at_truth[cosine, True], at_truth[cosine, False], at_truth[squared, True]) < 1e-12
    length = float(models.flatten(as_gradient(seen).payload).norm())
    assert at_truth[squared, False] == pytest.approx((1 - lr) ** 2 * length**2, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_simulated_client_is_the_real_one_in_its_true_order(digits, batch_size):
    """What the attacker unrolls with a graph is what the client computed, to 1e-6 in float64."""
    private = FedAvg(epochs=3, batch_size=batch_size, lr=0.2, shuffle=7)
    seen = observed(digits, private, dtype=DOUBLE)
    images = digits.images.double().requires_grad_()
    told = private.simulate(seen.model, images, digits.labels)
    cyclic = seen.protocol.simulate(seen.model, images, digits.labels)
    sent, true, own = (models.flatten(p).detach() for p in (seen.payload, told, cyclic))
    assert models.flatten(told).requires_grad and float((true - sent).norm() / sent.norm()) < 1e-6
    if batch_size == 5:  # one batch an epoch: there is no order
        assert float((own - sent).norm() / sent.norm()) < 1e-6
    else:
        assert float((own - sent).norm() / sent.norm()) > 1e-6
