"""Metrics against hand values and other libraries, the one matching, and the controls."""

import copy
import dataclasses
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from skimage.metrics import structural_similarity

from glutils import metrics
from glutils.data.batch import Batch


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    """A machine without LPIPS weights, whatever machine this is."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def photos(count=4, channels=3, side=16, seed=0):
    """Smooth, distinct images with labels 0, 1, 2, ... of five classes."""
    coarse = torch.rand((count, channels, 4, 4), generator=torch.Generator().manual_seed(seed))
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear").clamp(0, 1)
    return Batch(images, torch.arange(count) % 5, tuple("abcde"))


def noise(like, scale, seed=1):
    return scale * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def torchmetrics_psnr(images, truth, **options):
    from torchmetrics.functional.image import peak_signal_noise_ratio  # after glutils has prepared torchvision

    return peak_signal_noise_ratio(images, truth.double(), data_range=1.0, **options)


def reconstruction(images, labels):
    return SimpleNamespace(images=images, labels=labels)


# --- single metrics ---


def test_psnr_has_the_value_computed_by_hand():
    truth = torch.zeros(3, 1, 2, 2)
    images = torch.stack([torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.5), torch.zeros(1, 2, 2)]).double()
    images[2, 0, 0, 0] = 0.2  # MSE 0.04 / 4
    wanted = torch.tensor([20.0, -20 * math.log10(0.5), 20.0], dtype=torch.float64)
    torch.testing.assert_close(metrics.psnr(images, truth), wanted, rtol=1e-6, atol=0)


def test_psnr_agrees_with_torchmetrics_image_by_image():
    truth = photos().images
    images = (truth + noise(truth, 0.1)).clamp(0, 1)
    theirs = [torchmetrics_psnr(a, b) for a, b in zip(images, truth, strict=True)]
    torch.testing.assert_close(metrics.psnr(images, truth), torch.stack(theirs))


def test_psnr_is_clamped_infinite_when_exact_and_right_at_two_hundred_decibels():
    truth = photos().images
    assert torch.isinf(metrics.psnr(truth, truth)).all()
    white = torch.ones_like(truth)
    assert torch.isinf(metrics.psnr(white * 3, white)).all(), "pixels above 1 are white"
    inside = 0.25 + truth / 2
    off = metrics.psnr(inside.double() + 1e-10, inside)
    torch.testing.assert_close(off, torch.full((4,), 200.0, dtype=torch.float64), atol=1e-3, rtol=0)


def test_one_psnr_per_pixel_position_flatters_by_the_known_gap():
    truth = torch.full((2, 3, 64, 64), 0.5)
    images = truth + noise(truth, 0.05)
    trap = float(torchmetrics_psnr(images, truth, dim=0, reduction="elementwise_mean"))
    gap = 10 / math.log(10) * -float(torch.digamma(torch.tensor(1.0)))  # 2.507 dB for a batch of two
    assert trap - float(metrics.psnr(images, truth).mean()) == pytest.approx(gap, abs=0.1)


@pytest.mark.parametrize("side", [11, 16, 32])
def test_ssim_agrees_with_scikit_image(side):
    truth = photos(2, side=side).images
    images = (truth + noise(truth, 0.1)).clamp(0, 1)
    theirs = [
        structural_similarity(
            a.numpy(), b.double().numpy(), channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(images, truth, strict=True)
    ]  # fmt: skip
    torch.testing.assert_close(metrics.ssim(images, truth), torch.tensor(theirs, dtype=torch.float64))


def test_ssim_of_small_images_shrinks_its_window():
    for side in (3, 6, 8, 10):
        truth = photos(2, channels=1, side=side).images
        equal, near, far = (metrics.ssim(truth + noise(truth, scale), truth) for scale in (0, 0.02, 0.5))
        torch.testing.assert_close(equal, torch.ones(2, dtype=torch.float64))
        assert (near < 1).all() and (far < near).all()
    assert metrics.ssim(torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2)).isnan().all()


def test_affine_psnr_forgives_scale_sign_and_offset_only():
    truth = photos().images
    assert (metrics.affine_psnr(-7 * truth + 3, truth) > 100).all()
    constant = metrics.affine_psnr(torch.zeros_like(truth), truth)
    grey = truth.double().mean((1, 2, 3), keepdim=True).expand_as(truth)
    torch.testing.assert_close(constant, metrics.psnr(grey, truth))


def test_mean_psnr_caps_averages_and_leaves_a_single_image_alone():
    assert metrics.mean_psnr(torch.tensor([math.inf, 50.0])) == 75
    assert metrics.mean_psnr(torch.tensor([103.0])) == 103
    assert math.isnan(metrics.mean_psnr(torch.tensor([math.nan, 50.0])))


def test_label_accuracy_counts_equal_entries():
    assert metrics.label_accuracy(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 0])) == 0.5
    with pytest.raises(TypeError, match="labels must be an int64 tensor"):
        metrics.label_accuracy([1, 2], torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="labels must have shape"):
        metrics.label_accuracy(torch.tensor([1]), torch.tensor([1, 2]))


@pytest.mark.parametrize("name", ["mse", "psnr", "ssim", "lpips", "affine_psnr", "match"])
def test_every_metric_refuses_what_it_cannot_compare(name):
    metric, good = getattr(metrics, name), torch.rand(2, 3, 8, 8)
    with pytest.raises(TypeError, match="images must be a Tensor"):
        metric(good.numpy(), good)
    with pytest.raises(TypeError, match="truth must be floating point"):
        metric(good, (good * 255).to(torch.uint8))
    with pytest.raises(ValueError, match="images must have the truth's shape"):
        metric(good[:1], good)
    with pytest.raises(ValueError, match="truth must have shape"):
        metric(good[0], good[0])
    with pytest.raises(ValueError, match=r"truth must lie in \[0, 1\]"):
        metric(good, good * 255)


# --- scores ---


def test_score_undoes_the_order_once_for_metrics_and_labels():
    batch, order = photos(), torch.tensor([2, 0, 3, 1])
    images = batch.images + noise(batch.images, 0.01)
    images[1] += 0.2
    labels = batch.labels.clone()
    labels[3] = 4
    score = metrics.score(reconstruction(images[order], labels[order]), batch)
    assert torch.equal(order[score.matching], torch.arange(4))
    torch.testing.assert_close(score.psnr, metrics.psnr(images, batch.images))
    torch.testing.assert_close(score.ssim, metrics.ssim(images, batch.images))
    torch.testing.assert_close(score.mse, metrics.mse(images, batch.images))
    assert score.label_hits.tolist() == [True, True, True, False] and score.label_accuracy == 0.75
    assert len(score) == 4 and score.psnr.argmin() == 1


def test_controls_are_what_their_names_say():
    batch = photos(3)
    public = Batch(photos(4, seed=9).images, torch.tensor([0, 0, 1, 4]), batch.classes)
    other = reconstruction(batch.images[[1, 2, 0]] * 0.9, batch.labels)
    extra = {"wrong_seed": other, "noise": torch.rand(3, 3, 16, 16)}
    score = metrics.score(batch, batch, public=public, controls=extra)
    assert list(score.controls) == ["mean_colour", "grey", "class_mean", "nearest_public", "wrong_seed", "noise"]
    variance = batch.images.double().flatten(2).var(2, unbiased=False).mean(1)
    torch.testing.assert_close(score.controls["mean_colour"].mse, variance)
    torch.testing.assert_close(score.controls["grey"].mse, (batch.images.double() - 0.5).square().flatten(1).mean(1))
    class_mean = score.controls["class_mean"]
    torch.testing.assert_close(class_mean.mse[0], metrics.mse(public.images[:2].mean(0)[None], batch.images[:1])[0])
    assert class_mean.isnan().tolist() == [False, False, True], "no public image of the third class"
    each = torch.stack([metrics.psnr(image.expand_as(batch.images), batch.images) for image in public.images])
    torch.testing.assert_close(score.controls["nearest_public"].psnr, each.max(0).values)
    torch.testing.assert_close(score.controls["wrong_seed"].psnr, metrics.psnr(batch.images * 0.9, batch.images))


def test_a_control_holds_four_metrics_and_answers_like_its_psnr():
    batch = photos(2)
    score = metrics.score(batch, batch)
    control = score.controls["mean_colour"]
    assert isinstance(control, metrics.Control) and len(control) == 2 and control.psnr.shape == (2,)
    assert torch.equal(control.psnr, -10 * control.mse.log10()) and control.ssim.shape == control.lpips.shape == (2,)
    assert torch.equal(control.psnr, control + 0) and type(control + 0) is torch.Tensor
    assert torch.equal(score.psnr - control, score.psnr - control.psnr)
    assert torch.equal(control - score.psnr, control.psnr - score.psnr)
    assert (score.psnr > control).tolist() == (control < score.psnr).tolist() == [True, True]
    assert (score.psnr <= control).tolist() == (control >= score.psnr).tolist() == [False, False]
    assert control.mean() == control.psnr.mean() and control.median() == control.min() == control.psnr.min()
    assert control.shape == (2,) and not control.isnan().any()
    assert control.tolist() == [float(one) for one in control] == control.psnr.tolist() and control.max() > 0
    assert float(metrics.score(batch[0], batch[0]).controls["mean_colour"]) == pytest.approx(float(control[0]))
    assert f"{float(control[0]):.4f}" in repr(control)
    assert not hasattr(control, "matching") and not isinstance(control, torch.Tensor)
    with pytest.raises(dataclasses.FrozenInstanceError):
        control.psnr = score.psnr
    for twin in (copy.deepcopy(control), pickle.loads(pickle.dumps(control)), dataclasses.replace(control)):
        assert type(twin) is metrics.Control
        assert torch.equal(twin.psnr, control.psnr) and torch.equal(twin.mse, control.mse)


def test_a_score_knows_which_controls_it_does_not_beat():
    batch = photos(3)
    poor = metrics.score(reconstruction(torch.zeros_like(batch.images), batch.labels), batch)
    assert poor.beaten_by == ("mean_colour", "grey") and "(not beaten)" in repr(poor)
    good = metrics.score(reconstruction(batch.images + noise(batch.images, 0.01), batch.labels), batch)
    assert good.beaten_by == () and "not beaten" not in repr(good)
    absent = Batch(batch.images, torch.full((3,), 4), batch.classes)
    assert "class_mean" not in metrics.score(batch, batch, public=absent).beaten_by


def test_means_cap_only_averages():
    batch = photos(3)
    exact, alone = metrics.score(batch, batch), metrics.score(batch[0], batch[0])
    assert torch.isinf(exact.psnr).all() and exact.mean_psnr == exact.mean()["psnr"] == 100
    assert alone.mean_psnr == math.inf
    assert exact.mean() | {"lpips": 0} == {"psnr": 100, "ssim": 1, "mse": 0, "lpips": 0, "label_accuracy": 1}
    assert "each capped at 100" in repr(exact) and "labels 3 of 3" in repr(exact)


def test_a_failed_image_is_nan_noted_and_spoils_no_other():
    batch = photos(3)
    images = batch.images.double().clone()[[1, 2, 0]]
    images[2, 0, 3, 3] = math.nan
    score = metrics.score(reconstruction(images, batch.labels[[1, 2, 0]]), batch)
    assert score.psnr.isnan().tolist() == score.ssim.isnan().tolist() == [True, False, False]
    assert torch.isinf(score.psnr[1:]).all() and score.label_accuracy == 1
    assert "1 of 3 reconstructions contain NaN" in score.notes[-1]
    assert score.beaten_by == ("mean_colour", "grey")


def test_score_is_deterministic_frozen_and_replaceable():
    batch = photos(3)
    result = reconstruction(batch.images.double() + noise(batch.images, 0.1), batch.labels)
    first, second = metrics.score(result, batch), metrics.score(result, batch)
    assert torch.equal(first.psnr, second.psnr) and torch.equal(first.ssim, second.ssim) and repr(first) == repr(second)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.psnr = second.psnr
    assert dataclasses.replace(first, notes=("read me",)).notes == ("read me",)


def test_score_names_the_argument_that_is_wrong():
    batch, good = photos(3), photos(3)
    with pytest.raises(TypeError, match="batch must be a Batch, got Tensor"):
        metrics.score(good, batch.images)
    with pytest.raises(TypeError, match="result must hold tensors .images and .labels, got Tensor"):
        metrics.score(batch.images, batch)
    with pytest.raises(ValueError, match=r"result.images must have shape \(3, 3, 16, 16\), got \(2"):
        metrics.score(photos(2), batch)
    with pytest.raises(TypeError, match="result.labels must be int64"):
        metrics.score(reconstruction(good.images, torch.zeros(3)), batch)
    with pytest.raises(ValueError, match="result.labels must have shape"):
        metrics.score(reconstruction(good.images, torch.zeros(2, dtype=torch.int64)), batch)
    with pytest.raises(TypeError, match="public must be a Batch"):
        metrics.score(good, batch, public=[batch])
    with pytest.raises(ValueError, match="public must have image shape"):
        metrics.score(good, batch, public=photos(3, side=8))
    with pytest.raises(TypeError, match="controls must map names"):
        metrics.score(good, batch, controls=[good])
    with pytest.raises(ValueError, match="controls must not be called 'grey'"):
        metrics.score(good, batch, controls={"grey": good})
    with pytest.raises(ValueError, match=r"controls\['other'\].images must have shape"):
        metrics.score(good, batch, controls={"other": photos(2)})
    with pytest.raises(ValueError, match="lpips_net must be one of"):
        metrics.score(good, batch, lpips_net="resnet")


def test_summary_gives_median_range_and_count():
    batch = photos(2)
    scores = [
        metrics.score(reconstruction(batch.images + noise(batch.images, scale), batch.labels), batch)
        for scale in (0.3, 0.01, 0.1)
    ]
    summary = metrics.summary(scores)
    assert summary.min == scores[0].mean_psnr and summary.median == scores[2].mean_psnr and summary.n == 3
    assert metrics.summary(scores, "mse").max == pytest.approx(float(scores[0].mse.mean()))
    assert metrics.summary(scores, "label_accuracy") == (1, 1, 1, 3)
    assert str(metrics.summary([1.0, torch.tensor(2.0), 3])) == "2 (1 to 3, n = 3)"
    assert math.isnan(metrics.summary([1.0, math.nan]).median)
    with pytest.raises(ValueError, match="at least one run"):
        metrics.summary([])
    with pytest.raises(ValueError, match="metric must be one of"):
        metrics.summary(scores, "fid")
    with pytest.raises(TypeError, match="scores must hold Scores or numbers, got str"):
        metrics.summary(["good"])
