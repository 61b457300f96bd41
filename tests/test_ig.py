"""Inverting gradients: recovery, what each ingredient does, labels, local steps, controls, bad input."""

import dataclasses

import pytest
import torch
from scipy import ndimage

import glutils as gl
from glutils import models
from glutils.attacks.matching import ig, objective
from glutils.observation import as_gradient
from glutils.protocols import FedAvg, FedSGD
from glutils.solvers import Trace, adam

pytestmark = pytest.mark.usefixtures("no_lpips")


def observed(batch, protocol=FedSGD(), knows=("labels",), name="convnet", **options):  # noqa: B008
    options = {"channels": (8, 8), "hidden": None} | options if name == "convnet" else options
    model = models.build(name, batch, seed=0, **options)
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows)


def psnr(result, batch):
    return float(gl.score(result, batch).psnr.mean())


def above_control(result, batch):
    """dB above painting every image in its mean colour, mean over the images."""
    score = gl.score(result, batch)
    return float((score.psnr - score.controls["mean_colour"]).mean())


# --- recovery, and controls ---


def test_a_relu_network_gives_a_photograph_away(photo):
    result = gl.attack("ig", observed(photo, channels=(16, 32), hidden=128), iterations=100)
    assert above_control(result, photo) > 18 and not result.notes


@pytest.mark.parametrize("how", ["wrong_gradient", "permuted", "zero"])
def test_misled_it_stays_at_the_mean_colour(photo, how):
    result = gl.attack("ig", gl.tamper(observed(photo), how), iterations=60)
    assert above_control(result, photo) < 1


@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=2, batch_size=2, lr=0.1)], ids=lambda p: p.kind)
def test_the_truth_is_a_fixed_point(digits, protocol, monkeypatch):
    """Started at the truth, without a prior, in float32, the attack stays there."""
    seen = observed(digits[:3], protocol)
    monkeypatch.setattr(objective, "normal_start", lambda *_: 4 * (digits[:3].images - 0.5))
    result = gl.attack("ig", seen, iterations=4, lr=1e-6, tv_weight=0)
    assert abs(result.history.loss[0]) < 1e-6 and psnr(result, digits[:3]) > 90


# --- the ingredients ---


def test_only_the_images_are_signed():
    """Two steps with gradients of 1 and of 100: signed steps are alike, unsigned ones are not."""
    slopes = iter([1.0, 100.0, 0.0])

    def slope(variables):
        value = next(slopes)
        return torch.tensor(value), tuple(torch.full_like(v, value) for v in variables)

    trace = Trace(2, "last")
    adam(slope, (torch.zeros(1, 1, 1, 1), torch.zeros(1, 2)), trace, iterations=2, sign=True)
    image, logits = (float(v.flatten()[0]) for v in trace.best)
    assert image == pytest.approx(-0.2, rel=1e-4) and -0.19 < logits < -0.16


def test_a_stronger_prior_is_smoother(digit):
    seen = observed(digit)
    rough, smooth = (gl.attack("ig", seen, iterations=20, tv_weight=w).images for w in (0.0, 10.0))
    assert float(gl.priors.tv(smooth)) < 0.5 * float(gl.priors.tv(rough))


def test_the_median_filter_is_the_one_of_scipy():
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    wanted = ndimage.median_filter(images.numpy(), size=(1, 1, 3, 3), mode="mirror")
    torch.testing.assert_close(ig.median_filter(images), torch.from_numpy(wanted), rtol=0, atol=0)


def test_the_median_filter_comes_every_so_many_steps_but_not_last(digit):
    seen = observed(digit)
    plain, never, twice = (gl.attack("ig", seen, iterations=12, median=m) for m in (0, 12, 5))
    assert torch.equal(plain.images, never.images) and not torch.equal(plain.images, twice.images)
    assert plain.history.loss[:5] == twice.history.loss[:5] and plain.history.loss[5] != twice.history.loss[5]
    torch.testing.assert_close(twice.history.frames[5], ig.median_filter(plain.history.frames[5]))


# --- labels ---


@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=3, batch_size=1, lr=0.05)], ids=lambda p: p.kind)
def test_the_label_of_one_image_is_inferred(digit, protocol):
    seen, told = observed(digit, protocol, knows=()), observed(digit, protocol)
    result = gl.attack("ig", seen, iterations=5)
    assert torch.equal(result.labels, digit.labels)
    assert torch.equal(result.images, gl.attack("ig", told, iterations=5).images)


def test_labels_of_a_batch_are_optimised_or_inferred_if_asked(digits):
    pair = digits[:2]
    seen = observed(pair, knows=(), channels=(16, 32), hidden=128)
    with pytest.raises(ValueError, match="'ig' needs the labels: observe.*labels='joint'.*ilrg"):
        gl.attack("ig", seen)
    joint = gl.attack("ig", seen, labels="joint", iterations=80)
    assert joint.labels.shape == (2,) and joint.labels.dtype == torch.int64
    assert gl.score(joint, pair).label_accuracy == 1 and above_control(joint, pair) > 11
    ruled = gl.attack("ig", seen, labels="zero_shot", iterations=2)
    assert torch.equal(ruled.labels, pair.labels.sort().values)


# --- local steps ---


def test_restarts_are_ranked_by_the_objective_of_the_search(digits):
    """With the client's own batch size: the original code ranks FedAvg's restarts by another simulator."""
    seen = observed(digits[:3], FedAvg(epochs=2, batch_size=2, lr=0.3))
    result = gl.attack("ig", seen, iterations=6, restarts=2)
    prior = [(1e-2, gl.priors.tv)]
    goal = objective.matching(seen, lambda v: (v[0], seen.labels), distance=objective.cosine, priors=prior)
    assert result.loss == min(result.history.restarts)
    assert float(goal((result.images.clone().requires_grad_(),))[0]) == pytest.approx(result.loss, rel=1e-5)


def test_one_step_an_epoch_is_what_it_says_and_misses_the_truth(digits, monkeypatch):
    monkeypatch.setattr(objective, "normal_start", lambda *_: 4 * (digits[:4].images - 0.5))
    loss = {}
    for size in (4, 1):
        seen = observed(digits[:4], FedAvg(epochs=2, batch_size=size, lr=0.5))
        for local in ig.LOCAL:
            loss[size, local] = gl.attack("ig", seen, iterations=0, tv_weight=0, local=local).loss
    assert loss[4, "epochs"] == loss[4, "exact"] and abs(loss[1, "exact"]) < 1e-6
    assert loss[1, "epochs"] > 1e-3


def test_the_average_gradient_serves_while_local_training_is_short(photo):
    seen = observed(photo, FedAvg(epochs=3, batch_size=1, lr=1e-3), channels=(16, 32), hidden=128)
    assert above_control(gl.attack("ig", as_gradient(seen), iterations=100), photo) > 18


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"labels": "best"}, ValueError, "labels must be one of 'joint', 'idlg', .*; got 'best'"),
        ({"labels": "idlg"}, ValueError, "'idlg' reads the label of one image, got a batch of 5"),
        ({"median": -1}, ValueError, "median must be at least 0, got -1"),
        ({"median": 1.5}, TypeError, "median"),
        ({"local": "epoch"}, ValueError, "local must be one of 'exact', 'epochs'; got 'epoch'"),
        ({"local": "epochs"}, ValueError, "local='epochs' is for parameter differences, got .* 'gradient'"),
        ({"tv_weight": -1.0}, ValueError, "tv_weight must be at least 0, got -1.0"),
    ],
)
def test_bad_options_are_refused(digits, options, error, text):
    with pytest.raises(error, match=text):
        gl.attack("ig", observed(digits), **options)


def test_a_median_filter_needs_neighbours_only(digit):
    seen = dataclasses.replace(observed(digit), knows=frozenset())
    assert gl.attack("ig", seen, iterations=3, median=1).images.isfinite().all()
