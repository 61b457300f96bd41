"""See through gradients: the objective by hand, levels of information, groups, labels, controls, bad input."""

import pytest
import torch

import glutils as gl
from glutils import models, priors
from glutils.attacks.matching import stg
from glutils.observation import as_gradient
from glutils.protocols import FedAvg, FedSGD

pytestmark = pytest.mark.usefixtures("no_lpips")


def observed(batch, knows=("labels", "batch_stats"), mode="eval", name="resnet8", protocol=FedSGD(), **options):  # noqa: B008
    options = {"width": 4} | options if name == "resnet8" else options
    model = models.build(name, batch, seed=0, **options).train(mode == "train")
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows)


def above_control(result, batch):
    """dB above painting every image in its mean colour, mean over the images."""
    score = gl.score(result, batch)
    return float((score.psnr - score.controls["mean_colour"]).mean())


def by_hand(seen, x, gradient_weight, bn_weight, target, tv_weight=1e-4, l2_weight=1e-6):
    gradient = models.flatten(models.gradient(seen.model, None, x, seen.labels, create_graph=True))
    total = gradient_weight * ((gradient - models.flatten(seen.payload)) ** 2).sum()
    found = priors.batchnorm_statistics(seen.model, x)
    for name, (mean, var) in target.items():
        total = total + bn_weight * (((found[name][0] - mean) ** 2).sum() + ((found[name][1] - var) ** 2).sum())
    tv = (x[:, :, 1:] - x[:, :, :-1]).abs().sum() + (x[..., 1:] - x[..., :-1]).abs().sum()
    return total + tv_weight * tv / len(x) + l2_weight * x.square().sum().sqrt()


# --- the objective ---


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("bn", ["exact", "running", "none"])
def test_the_published_objective_by_hand(digits, mode, bn):
    pair = digits[:2]
    seen = observed(pair, mode=mode)
    options = {k: v for k, v in stg.PUBLISHED.items() if bn != "none" or k != "bn_weight"}
    result = gl.attack("stg", seen, bn=bn, **(options | {"iterations": 0}))
    target = {"exact": seen.statistics, "running": priors.running_statistics(seen.model), "none": {}}[bn]
    wanted = by_hand(seen, result.images, 1e-3, 0.1, target)
    assert result.loss == pytest.approx(float(wanted.detach()), rel=1e-4)
    assert not [hook for module in seen.model.modules() for hook in module._forward_pre_hooks]


def test_by_default_the_gradients_misfit_is_relative(digit):
    seen = observed(digit)
    size = float(models.flatten(seen.payload).square().sum())
    result = gl.attack("stg", seen, iterations=0)
    assert result.loss == pytest.approx(
        float(by_hand(seen, result.images, 1 / size, 0.1, seen.statistics).detach()), rel=1e-4
    )


@pytest.mark.parametrize(("name", "weight"), [("resnet8", 1e-4), ("mlp", 3e-5)])
def test_smoothness_weighs_less_where_there_is_no_batch_norm(digit, name, weight):
    seen = observed(digit, knows=("labels",), name=name)
    default, told = (gl.attack("stg", seen, iterations=0, **how).loss for how in ({}, {"tv_weight": weight}))
    assert default == told != gl.attack("stg", seen, iterations=0, tv_weight=2 * weight).loss


def test_copies_are_pulled_to_their_mean():
    """Value and gradient of a group of three, against one graph through everything."""
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def own(variables):
        value = (variables[0] ** 3).sum()
        return value.detach(), torch.autograd.grad(value, variables)

    value, (slope,) = stg.together(own, 3, 0.7)((x,))
    parts = x.view(3, 2, 1, 2, 2)
    wanted = (x**3).sum() / 3 + 0.7 * (parts - parts.mean(0)).square().sum() / 3
    torch.testing.assert_close(value, wanted.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(wanted, x)[0])


@pytest.mark.parametrize("group", [1, 2])
def test_the_truth_is_a_fixed_point(digits, group, monkeypatch):
    monkeypatch.setattr(stg, "normal_start", lambda *_: 4 * (digits[:2].images - 0.5))
    how = {"tv_weight": 0.0, "l2_weight": 0.0, "noise": 0.0, "lr": 1e-6, "group": group}
    result = gl.attack("stg", observed(digits[:2]), iterations=4, **how)
    assert result.history.loss[0] < 1e-9 and float(gl.score(result, digits[:2]).psnr.min()) > 90


# --- what it is told, and what comes out ---


def test_a_gradient_in_eval_mode_gives_a_digit_away(digit):
    result = gl.attack("stg", observed(digit, width=8), iterations=100)
    assert above_control(result, digit) > 5
    assert result.loss == result.history.loss[-1]  # the last iterate, for step and noise have decayed
    assert 0 <= float(result.images.min()) and float(result.images.max()) <= 1
    assert any("uses batch_stats, which this protocol never sends" == note for note in result.notes)


def test_exact_statistics_help_and_lift_it_clear_of_the_mean_colour(digit):
    """Two digits, few steps: more than 5 dB above the control, and above what no statistics give."""
    gains = []
    for seed in (0, 1):
        private = gl.data.sample("digits", seed=seed, device="cpu")
        seen = observed(private, width=8)
        exact, none = (above_control(gl.attack("stg", seen, bn=bn, iterations=90), private) for bn in ("exact", "none"))
        assert exact > 5
        gains.append(exact - none)
    assert sum(gains) > 0


def test_a_search_that_sees_the_kinks_goes_on_where_the_other_one_stalls():
    """A photograph, and batch norm that has learned from others: half the loss after 150 steps, and 3 dB."""
    private = gl.data.sample("photos", size=12, seed=900, split="public", device="cpu")
    model = models.build("resnet8", private, seed=900, width=8).train()
    others = gl.data.sample("photos", count=24, size=12, seed=7, split="public", device="cpu")
    with torch.no_grad():
        for _ in range(30):
            model(others.images)
    protocol = FedSGD()
    payload = protocol.transmit(model.eval(), private.images, private.labels)
    seen = gl.observe(model, protocol, payload, private, knows={"labels"})
    sees, blind = (gl.attack("stg", seen, kinks=kinks, iterations=150) for kinks in (4.0, 0.0))
    assert sees.loss < 0.7 * blind.loss
    assert above_control(sees, private) > above_control(blind, private) + 3


@pytest.mark.parametrize("how", ["wrong_gradient", "permuted", "zero"])
def test_misled_it_stays_at_the_mean_colour(digit, how):
    result = gl.attack("stg", gl.tamper(observed(digit), how), bn="none", iterations=60)
    assert above_control(result, digit) < 1


def test_exact_statistics_are_matched_where_the_gradient_says_nothing(digit):
    seen = observed(digit, mode="train")
    away = lambda x: float(priors.batchnorm_distance(priors.batchnorm_statistics(seen.model, x), seen.statistics))  # noqa: E731
    result = gl.attack("stg", seen, gradient_weight=0.0, iterations=60)
    with torch.no_grad():
        assert away(result.images) < 0.3 * away(result.history.frames[0])


def test_the_step_warms_up_and_decays_and_the_noise_with_it(digit, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        stg, "adam", lambda objective, start, trace, **how: (asked.update(how), trace.report(0, 0.0, start))
    )
    gl.attack("stg", observed(digit), iterations=400, noise=0.3)
    wanted = {"lr": 0.1, "schedule": "cosine", "warmup": 50, "noise": 0.3, "iterations": 400, "box": True}
    assert wanted.items() <= asked.items() and "period" not in asked
    gl.attack("stg", observed(digit), iterations=40)
    assert asked["warmup"] == 10 and asked["noise"] == 0


def test_the_copy_with_the_lowest_loss_of_its_own_is_reported(digits):
    pair = digits[:2]
    seen = observed(pair)
    result = gl.attack("stg", seen, group=3, iterations=6)
    alone = gl.attack("stg", seen, iterations=0)
    assert result.images.shape == pair.images.shape and result.labels.shape == (2,)
    assert all(frame.shape == pair.images.shape for frame in result.history.frames)
    torch.testing.assert_close(result.history.frames[-1], result.images)
    size = float(models.flatten(seen.payload).square().sum())
    own = float(by_hand(seen, result.images, 1 / size, 0.1, seen.statistics).detach())
    assert result.diagnostics["copy_loss"] == pytest.approx(own, rel=1e-4)
    assert result.diagnostics["copy"] in (0, 1, 2) and alone.diagnostics == {}


def test_a_strong_pull_makes_the_copies_agree(digit):
    seen = observed(digit, width=2)
    apart, close = (
        gl.attack("stg", seen, group=3, group_weight=w, iterations=16).diagnostics["spread"] for w in (0.0, 100.0)
    )
    assert close < 0.5 * apart


def test_labels_that_were_not_told_are_inferred_once_each(digits):
    seen = observed(digits, knows=())
    result = gl.attack("stg", seen, iterations=1)
    assert torch.equal(result.labels, gl.labels.infer("zero_shot", seen).labels)
    assert result.labels.unique().numel() == 5
    many = gl.data.sample("digits", count=11, seed=0, device="cpu")
    with pytest.raises(ValueError, match="'zero_shot' gives every class at most once, got a batch of 11"):
        gl.attack("stg", observed(many, knows=()))


def test_a_network_without_batch_norm_has_no_such_term(digit):
    seen = observed(digit, knows=("labels",), name="mlp", hidden=(8,))
    assert gl.attack("stg", seen, iterations=2).images.isfinite().all()
    for bn in ("exact", "running"):
        with pytest.raises(ValueError, match="bn must be 'none' for a model without batch norm"):
            gl.attack("stg", seen, bn=bn)


def test_it_reads_a_difference_as_an_average_gradient(digit):
    seen = observed(digit, knows=("labels",), name="mlp", hidden=(8,), protocol=FedAvg())
    with pytest.raises(ValueError, match="'stg' reads payloads of kind gradient, got 'delta'"):
        gl.attack("stg", seen)
    assert gl.attack("stg", as_gradient(seen), iterations=2).loss > 0


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"bn": "exact"}, ValueError, "bn='exact' needs to be told the statistics"),
        ({"bn": "batch"}, ValueError, "bn must be one of 'none', 'running', 'exact'; got 'batch'"),
        ({"bn": "none", "bn_weight": 0.1}, ValueError, "bn_weight does nothing with bn='none'"),
        ({"gradient_weight": "absolute"}, ValueError, "gradient_weight must be one of 'relative'; got 'absolute'"),
        ({"gradient_weight": -1.0}, ValueError, "gradient_weight must be at least 0, got -1.0"),
        ({"noise": -0.1}, ValueError, "noise must be at least 0, got -0.1"),
        ({"group": 0}, ValueError, "group must be at least 1, got 0"),
        ({"group_weight": 0.1}, ValueError, "group_weight does nothing with group=1, got 0.1"),
        ({"group": 2, "group_weight": -1.0}, ValueError, "group_weight must be at least 0, got -1.0"),
        ({"lr": 0.0}, ValueError, "lr must be greater than 0"),
        ({"kinks": -1.0}, ValueError, "kinks must be at least 0, got -1.0"),
        ({"registration": True}, TypeError, "'stg' has no option 'registration'; its options: iterations"),
    ],
)
def test_bad_options_are_refused(digit, options, error, text):
    with pytest.raises(error, match=text):
        gl.attack("stg", observed(digit, knows=("labels",)), **options)
