"""See through gradients: the objective by hand, levels of information, groups, labels, controls, bad input."""

import pytest
import torch

import glutils as gl
from glutils import models, priors
from glutils.attacks import batchnorm, stg
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
        float(by_hand(seen, result.images, 1 / size, 0.1, seen.statistics, tv_weight=3e-5).detach()), rel=1e-4
    )


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
    result = gl.attack("stg", observed(digit, width=8), iterations=150)
    assert above_control(result, digit) > 2.4
    assert result.loss == result.history.loss[-1]  # the last iterate, for step and noise have decayed
    assert 0 <= float(result.images.min()) and float(result.images.max()) <= 1
    assert any("uses batch_stats, which this protocol never sends" == note for note in result.notes)


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
        stg, "adam", lambda objective, start, trace, **how: (asked.update(how), trace.note(0, 0.0, start))
    )
    gl.attack("stg", observed(digit), iterations=400)
    wanted = {"lr": 0.1, "schedule": "cosine", "warmup": 50, "noise": 0.2, "iterations": 400, "box": True}
    assert wanted.items() <= asked.items() and "period" not in asked
    gl.attack("stg", observed(digit), iterations=40)
    assert asked["warmup"] == 10


def test_the_copy_with_the_lowest_loss_of_its_own_is_reported(digits):
    pair = digits[:2]
    seen = observed(pair)
    result = gl.attack("stg", seen, group=3, iterations=6)
    alone = gl.attack("stg", seen, iterations=0)
    assert result.images.shape == pair.images.shape and result.labels.shape == (2,)
    assert all(frame.shape == pair.images.shape for frame in result.history.frames)
    torch.testing.assert_close(result.history.frames[-1], result.images)
    size = float(models.flatten(seen.payload).square().sum())
    own = float(by_hand(seen, result.images, 1 / size, 0.1, seen.statistics, tv_weight=3e-5).detach())
    assert result.diagnostics["copy_loss"] == pytest.approx(own, rel=1e-4)
    assert result.diagnostics["copy"] in (0, 1, 2) and alone.diagnostics == {}


def test_a_strong_pull_makes_the_copies_agree(digit):
    seen = observed(digit, width=2)
    apart, close = (
        gl.attack("stg", seen, group=3, group_weight=w, iterations=24).diagnostics["spread"] for w in (0.0, 100.0)
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


# --- running statistics, by how far public images' own scatter ---


@pytest.fixture(scope="module")
def public():
    return gl.data.public("digits", count=24, seed=3, device="cpu")


def informed(batch, public, knows=("labels", "public"), **options):
    model = models.build("resnet8", batch, seed=0, **({"width": 4} | options)).eval()
    protocol = FedSGD()
    payload = protocol.transmit(model, batch.images, batch.labels)
    return gl.observe(model, protocol, payload, batch, knows=knows, public=public)


def test_a_normal_law_is_whitened():
    """Draws of a known law: what comes out has covariance one; with few draws it is shrunk."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 3.0, 5.0]], dtype=torch.float64)
    rows = torch.randn(4000, 3, generator=generator, dtype=torch.float64) @ mix.T + 7
    mean, whiten = batchnorm.normal_law(rows)
    found = (rows - mean) @ whiten.T
    torch.testing.assert_close(found.T.cov(), torch.eye(3, dtype=torch.float64), atol=0.1, rtol=0)
    _, whiten = batchnorm.normal_law(rows[:3])
    assert whiten.isfinite().all() and float(whiten.abs().max()) < 1e3


def test_public_images_are_at_distance_one_and_other_images_further(digits, public):
    seen = informed(digits[:1], public)
    natural = batchnorm.Natural(seen.model, public.images, 1, {})
    with torch.no_grad():
        away = lambda image: natural.distance(priors.batchnorm_statistics(seen.model, image[None]))  # noqa: E731
        each, fresh = (torch.stack([away(image) for image in images]) for images in (public.images, digits.images))
        noise = away(torch.rand(digits.images.shape[1:], generator=torch.Generator().manual_seed(0)))
    assert 0.2 < float(each.mean()) < 1.3  # shrinking takes the covariance of few images for larger than it is
    assert float(fresh.max()) < 0.3 * float(noise)


def test_the_term_by_hand_and_how_it_fades(digits, public):
    seen, pair = informed(digits[:2], public), digits[:2].images
    natural = batchnorm.Natural(seen.model, public.images, 2, {})
    groups = [priors.batchnorm_statistics(seen.model, part) for part in public.images.split(2)]
    found, total, count = priors.batchnorm_statistics(seen.model, pair), 0.0, 0
    for name, (mean, var) in found.items():
        centre, whiten = batchnorm.normal_law(torch.stack([torch.cat(group[name]) for group in groups]).double())
        total += (whiten @ (torch.cat([mean, var]).double() - centre)).square().sum()
        count += len(centre)
    natural.begin(4, copies=1)
    values = torch.stack([natural(pair) for _ in range(6)])
    shares = 0.5 * (1 + torch.cos(torch.pi * torch.tensor([0, 0.25, 0.5, 0.75, 1, 1])))
    torch.testing.assert_close(values, (total / count).float() * shares, rtol=1e-3, atol=1e-5)
    natural.begin(4, copies=2)
    torch.testing.assert_close(torch.stack([natural(pair), natural(pair)]), values[:1].expand(2))


def test_running_statistics_are_taken_by_scatter_where_that_is_asked(digits, public):
    one = digits[:1]
    seen, how = informed(one, public), {"bn": "running", "iterations": 12}
    scattered, plain = gl.attack("stg", seen, scatter=True, **how), gl.attack("stg", seen, **how)
    without = gl.attack("stg", observed(one, knows=("labels",)), **how)
    assert torch.equal(plain.images, without.images) and not torch.equal(plain.images, scattered.images)
    none = gl.attack("stg", seen, bn="none", iterations=0)
    size = float(models.flatten(seen.payload).square().sum())
    start = gl.attack("stg", seen, bn="running", scatter=True, iterations=0)
    natural = batchnorm.Natural(seen.model, public.images, 1, {})
    wanted = none.loss + 0.01 * float(natural(start.images).detach())
    assert start.loss == pytest.approx(wanted, rel=1e-3) and size > 0
    assert not [hook for module in seen.model.modules() for hook in module._forward_pre_hooks]


def test_scatter_does_not_stand_in_for_a_gradient(digits, public):
    seen = gl.tamper(informed(digits[:1], public), "wrong_gradient")
    assert above_control(gl.attack("stg", seen, bn="running", scatter=True, iterations=25), digits[:1]) < 1


def test_scatter_is_refused_where_it_cannot_be(digits, public):
    one = digits[:1]
    for seen, options, text in [
        (informed(one, public), {"scatter": True}, "scatter belongs to bn='running', got bn=None"),
        (observed(one, knows=("labels",)), {"bn": "running", "scatter": True}, "scatter=True needs public images"),
        (
            informed(one, public[:1]),
            {"bn": "running", "scatter": True},
            "public must hold at least two groups of 1 image",
        ),
        (
            informed(one, gl.data.public("photos", count=4, size=8, device="cpu")),
            {"bn": "running", "scatter": True},
            r"public must hold images of shape \(1, 8, 8\), got",
        ),
    ]:
        with pytest.raises(ValueError, match=text):
            gl.attack("stg", seen, **options)


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
        ({"registration": True}, TypeError, "'stg' has no option 'registration'; its options: iterations"),
    ],
)
def test_bad_options_are_refused(digit, options, error, text):
    with pytest.raises(error, match=text):
        gl.attack("stg", observed(digit, knows=("labels",)), **options)
