"""The published ZeroGLA: batch statistics, weights, quirks, and baselines fed with an estimate of the gradient."""

import dataclasses
import math

import pytest
import torch

import glutils as gl
from glutils import models, priors
from glutils.attacks.matching import batchnorm
from glutils.attacks.matching.objective import matching
from glutils.attacks.zerogla import first_order
from glutils.observation import as_gradient
from glutils.protocols import FedSGD, ZerothOrder

DOUBLE = torch.float64
PUBLISHED = gl.attacks.PUBLISHED
pytestmark = pytest.mark.usefixtures("no_lpips")


@pytest.fixture(scope="module")
def pair():
    """Two 8x8 digits."""
    return gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")


def observed(batch, knows=("labels", "batch_stats"), mode="train", name="resnet8", count=5, **how):
    model = models.build(name, batch, seed=0, **({"width": 2} if name == "resnet8" else {})).train(mode == "train")
    protocol = ZerothOrder(**({"directions": count, "scheme": "exact", "dtype": "float64", "seed": 3} | how))
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows)


def caught(monkeypatch, seen, **options):
    """The objective that the attack would minimise, and what it tells the solver."""
    found = {}
    monkeypatch.setattr(
        first_order, "adam", lambda objective, start, trace, **how: found.update(how, objective=objective)
    )

    def search(solve, **how):
        solve(None, torch.Generator().manual_seed(0))
        raise Caught

    monkeypatch.setattr(first_order, "search", search)
    with pytest.raises(Caught):
        gl.attack("zerogla", seen, **({"solver": "adam"} | options))
    return found


class Caught(Exception):
    """The attack has got as far as the search."""


# --- the objective ---


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_published_objective_and_its_gradient_by_hand(pair, mode, monkeypatch):
    """Value and gradient against one graph through everything, written out term by term."""
    seen = observed(pair, mode=mode)
    x = torch.rand(pair.images.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    handles = set(hooks(seen.model))
    term = batchnorm.Statistics(seen.model, seen.statistics, {})
    with priors.record_batchnorm_statistics(seen.model) as noted:
        term.noted = noted
        sums = [(0.1, term), (1e-4, lambda v: priors.tv(v, "l1sum")), (1e-6, torch.linalg.vector_norm)]
        value, (slope,) = matching(seen, lambda v: (v[0], seen.labels), priors=sums)((x,))
        assert not noted, "the statistics are used once"
    assert set(hooks(seen.model)) == handles

    gradient = models.flatten(models.gradient(seen.model, None, x, seen.labels, create_graph=True))
    V = seen.protocol.draw(seen.model).rows()
    by_hand = ((V @ gradient - seen.payload) ** 2).sum() + 1e-6 * x.square().sum().sqrt()
    found = priors.batchnorm_statistics(seen.model, x)
    for name, (mean, var) in seen.statistics.items():
        by_hand = by_hand + 0.1 * ((found[name][0] - mean) ** 2).sum() + 0.1 * ((found[name][1] - var) ** 2).sum()
    tv = (x[:, :, 1:] - x[:, :, :-1]).abs().sum() + (x[..., 1:] - x[..., :-1]).abs().sum()
    by_hand = by_hand + 1e-4 * tv / len(x)
    torch.testing.assert_close(value, by_hand.detach().to(value), rtol=1e-5, atol=0)
    torch.testing.assert_close(slope, torch.autograd.grad(by_hand, x)[0], rtol=1e-3, atol=1e-6)


def hooks(model):
    return [key for module in model.modules() for key in module._forward_pre_hooks]


def test_published_names_exactly_that_objective(pair):
    """The loss that the attack reports at its start is the objective written out there."""
    seen = observed(pair)
    result = gl.attack("zerogla", seen, **(PUBLISHED | {"iterations": 1}), quirks=("no_clamp",))
    x = result.history.frames[0]
    slopes = seen.protocol.simulate(seen.model, x, seen.labels)
    found = priors.batchnorm_statistics(seen.model, x)
    wanted = (slopes - seen.payload).square().sum() + 0.1 * priors.batchnorm_distance(found, seen.statistics)
    wanted = wanted + 1e-4 * priors.tv(x, "l1sum") + 1e-6 * x.norm()
    assert result.history.loss[0] == pytest.approx(float(wanted), rel=1e-5)
    assert any("batch_stats" in note for note in result.notes)


def test_statistics_share_the_forward_pass_of_the_scalars(pair):
    seen, calls = observed(pair), []
    seen.model.register_forward_hook(lambda *_: calls.append(1))
    gl.attack("zerogla", seen, **(PUBLISHED | {"iterations": 4}))
    assert len(calls) == 5
    gl.attack("zerogla", seen, **(PUBLISHED | {"iterations": 4, "scalar_weight": 0}))
    assert len(calls) == 10


def test_statistics_alone_are_recovered_and_the_model_is_left_alone(pair):
    """Exact statistics are equations about the image: the attack can satisfy them, and the loss says so."""
    seen = observed(pair)
    before = {name: tensor.clone() for name, tensor in seen.model.state_dict().items()}
    options = {"solver": "adam", "scalar_weight": 0, "tv_weight": 0, "iterations": 80}
    result = gl.attack("zerogla", seen, **options)
    assert result.history.loss[-1] < 0.1 * result.history.loss[0]
    far = priors.batchnorm_distance(priors.batchnorm_statistics(seen.model, result.images), seen.statistics)
    assert float(far) == pytest.approx(10 * result.loss, rel=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in seen.model.state_dict().items())


def test_lbfgs_takes_the_same_terms(pair):
    seen = observed(pair)
    options = {"solver": "lbfgs", "iterations": 3, "scalar_weight": 1.0, "bn": "exact", "tv_kind": "l1sum"}
    result = gl.attack("zerogla", seen, **options, l2_weight=1e-6)
    assert result.loss < 0.5 * result.history.loss[0]


def test_running_statistics_are_the_models_own(pair, monkeypatch):
    seen = observed(pair)
    told, public = (caught(monkeypatch, seen, scalar_weight=0, bn=bn)["objective"] for bn in ("exact", "running"))
    x = (pair.images.clone().requires_grad_(),)
    assert float(told(x)[0]) < float(public(x)[0])
    for name, module in seen.model.named_modules():
        if name in seen.statistics:
            module.running_mean.copy_(seen.statistics[name][0])
            module.running_var.copy_(seen.statistics[name][1])
    again = caught(monkeypatch, seen, scalar_weight=0, bn="running")["objective"]
    torch.testing.assert_close(again(x)[0], told(x)[0])


def test_statistics_are_used_when_told_and_not_otherwise(pair, monkeypatch):
    x = (torch.full(pair.images.shape, 0.5).requires_grad_(),)
    losses = {}
    for knows in (("labels",), ("labels", "batch_stats")):
        for bn in ("none", None):
            losses[len(knows), bn] = float(caught(monkeypatch, observed(pair, knows), bn=bn)["objective"](x)[0])
    assert losses[1, None] == losses[1, "none"] == losses[2, "none"] < losses[2, None]


def test_weights_of_the_scalars(pair, monkeypatch):
    """Relative: one at a payload of zeros. By d: about K times the squared length of the gradient."""
    x = (pair.images.clone().requires_grad_(),)

    def loss(weight, **how):
        seen = gl.tamper(observed(pair, count=40, **how), "zero")
        seen = dataclasses.replace(seen, rounds=(dataclasses.replace(seen.rounds[0], payload=torch.full((40,), 1e-9)),))
        return float(caught(monkeypatch, seen, scalar_weight=weight, bn="none", tv_weight=0)["objective"](x)[0])

    seen = observed(pair, count=40)
    relative = caught(monkeypatch, gl.tamper(seen, "permuted"), bn="none", tv_weight=0)["objective"](x)[0]
    apart = (gl.tamper(seen, "permuted").payload - seen.payload).square().sum() / seen.payload.square().sum()
    assert float(relative) == pytest.approx(float(apart), rel=1e-3)
    g = models.flatten(models.gradient(seen.model, None, pair.images, pair.labels))
    assert loss("d") == pytest.approx(len(g) * loss(1), rel=1e-5)
    assert loss("d") == pytest.approx(40 * float(g @ g), rel=0.6)
    assert loss("d", law="gaussian") == loss(1, law="gaussian")
    assert loss(2.5) == pytest.approx(2.5 * loss(1), rel=1e-5)


# --- quirks ---


def run(seen, *quirks, iterations=6, **options):
    return gl.attack("zerogla", seen, **(PUBLISHED | {"iterations": iterations} | options), quirks=quirks)


def test_every_quirk_is_off_by_default_and_changes_the_result(pair):
    seen = observed(pair)
    plain = run(seen)
    assert torch.equal(plain.images, gl.attack("zerogla", seen, **(PUBLISHED | {"iterations": 6})).images)
    assert torch.equal(plain.images, gl.attack("zerogla", seen, **(PUBLISHED | {"iterations": 6}), quirks=False).images)
    for quirk in gl.attacks.QUIRKS:
        assert run(seen, quirk).loss != plain.loss, quirk
    everything = gl.attack("zerogla", seen, **(PUBLISHED | {"iterations": 6}), quirks=True)
    assert torch.equal(everything.images, run(seen, *gl.attacks.QUIRKS).images)


def test_the_schedule_ignores_the_iterations(pair, monkeypatch):
    from glutils.solvers.adam import rate

    how = caught(monkeypatch, observed(pair), quirks=["schedule"], iterations=5000)
    step = rate(4999, 5000, how["lr"], how["schedule"], how["warmup"], how["period"])
    assert step == pytest.approx(0.0856, abs=1e-4)
    assert how["warmup"] == 50 and rate(0, 5000, how["lr"], how["schedule"], how["warmup"], how["period"]) == 0
    how = caught(monkeypatch, observed(pair), iterations=5000)
    assert rate(4999, 5000, how["lr"], how["schedule"], how["warmup"], how.get("period")) < 1e-4


def test_noise_is_that_of_the_reference_code(pair):
    seen = observed(pair)
    noisy = run(seen, "noise")
    assert noisy.loss != run(seen).loss
    assert torch.equal(run(seen, "noise", noise=0.2).images, noisy.images)
    assert torch.equal(run(seen, noise=0.2).images, noisy.images)
    with pytest.raises(ValueError, match="noise must be left alone with the quirk 'noise'"):
        run(seen, "noise", noise=0.1)


def test_the_late_image_is_not_the_one_that_was_evaluated(pair):
    seen = observed(pair)

    def loss_of(images):
        found = priors.batchnorm_statistics(seen.model, images)
        scalars = (seen.protocol.simulate(seen.model, images, seen.labels) - seen.payload).square().sum()
        far = scalars + 0.1 * priors.batchnorm_distance(found, seen.statistics)
        return float(far + 1e-4 * priors.tv(images, "l1sum") + 1e-6 * images.norm())

    plain, late = run(seen, "schedule"), run(seen, "schedule", "late")
    assert loss_of(plain.images) == pytest.approx(plain.loss, rel=1e-4)
    assert abs(loss_of(late.images) / late.loss - 1) > 1e-3
    assert late.loss == min(late.history.loss) and late.history.steps == tuple(range(6))


def test_start_and_clamp(pair):
    seen = observed(pair)
    first = lambda *quirks: run(seen, *quirks).history.frames[0]  # noqa: E731
    assert 0 <= float(first().min()) and float(first().max()) <= 1
    assert float(first("no_clamp").std()) == pytest.approx(0.25, rel=0.2)
    wide = first("no_clamp", "start")
    assert float(wide.std()) == pytest.approx(1, rel=0.2) and abs(float(wide.mean())) < 0.3
    assert torch.equal(first("start"), wide.clamp(0, 1))
    torch.testing.assert_close(first("no_clamp"), 0.5 + 0.25 * wide)
    assert float(run(seen, "no_clamp", "start").images.max()) > 1


# --- the ablation ---


def test_the_ablation_runs_every_variant_from_one_start(pair):
    seen = observed(pair)
    found = gl.attacks.ablation(seen, seed=4, iterations=2)
    assert list(found) == list(gl.attacks.VARIANTS)
    starts = {name: result.history.frames[0] for name, result in found.items()}
    assert all(torch.equal(start, starts["priors only"]) for start in starts.values())
    for name, spoil in (
        ("scalars and statistics", seen),
        ("permuted scalars and statistics", gl.tamper(seen, "permuted", seed=4)),
    ):
        again = gl.attack("zerogla", spoil, seed=4, **(PUBLISHED | {"iterations": 2}))
        assert torch.equal(found[name].images, again.images), name
    assert len({result.loss for result in found.values()}) == len(found)


def test_without_scalars_and_statistics_the_observation_does_not_matter(digits):
    """Priors only: the control that knows nothing gives the same image for two different clients."""
    both = [gl.attacks.ablation(observed(digits[i : i + 1]), variants=["priors only"], iterations=3) for i in (0, 1)]
    assert torch.equal(*(found["priors only"].images for found in both))


@pytest.mark.parametrize(
    ("knows", "options", "message"),
    [
        (("labels",), {}, "bn='exact' needs to be told the statistics"),
        (("labels", "batch_stats"), {"variants": ["scalars"]}, "variants must be one of 'scalars and statistics'"),
        (("labels", "batch_stats"), {"bn": "none"}, "bn is what the variants decide; got 'none'"),
        (("labels", "batch_stats"), {"scalar_weight": 3}, "scalar_weight is what the variants decide; got 3"),
    ],
)
def test_bad_ablations(pair, knows, options, message):
    with pytest.raises(ValueError, match=message):
        gl.attacks.ablation(observed(pair, knows), **({"iterations": 1} | options))


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bn": "exact"}, ValueError, "bn='exact' needs to be told the statistics"),
        ({"bn": "batch"}, ValueError, "bn must be one of 'none', 'running', 'exact'; got 'batch'"),
        ({"bn_weight": 0.1}, ValueError, "bn_weight does nothing with bn='none', got 0.1"),
        ({"bn": "running", "bn_weight": -1.0}, ValueError, "bn_weight must be at least 0, got -1.0"),
        ({"scalar_weight": "auto"}, ValueError, "scalar_weight must be one of 'relative', 'd'; got 'auto'"),
        ({"scalar_weight": -1}, ValueError, "scalar_weight must be at least 0, got -1.0"),
        ({"scalar_weight": math.nan}, ValueError, "scalar_weight must be finite"),
        ({"scalar_weight": 0, "tv_weight": 0}, ValueError, "scalar_weight must be above 0 where nothing else"),
        ({"tv_kind": "mean"}, ValueError, "tv_kind must be one of 'l1mean'"),
        ({"l2_weight": -1}, ValueError, "l2_weight must be at least 0, got -1.0"),
        ({"quirks": "late"}, TypeError, "quirks must be True, False or a collection of names, got 'late'"),
        ({"quirks": ["early"]}, ValueError, "quirks must be one of 'schedule'"),
        ({"quirks": True, "solver": "lbfgs"}, ValueError, "quirks does nothing with solver='lbfgs'"),
        ({"bn": "exact", "solver": "gauss-newton"}, ValueError, "bn does nothing with solver='gauss-newton'"),
    ],
)
def test_bad_options(pair, options, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(")):
        gl.attack("zerogla", observed(pair, ("labels",)), **({"solver": "adam"} | options))


@pytest.mark.parametrize("bn", ["running", "exact"])
def test_a_model_without_batch_norm_has_no_statistics(pair, bn):
    with pytest.raises(ValueError, match="bn must be 'none' for a model without batch norm layers"):
        gl.attack("zerogla", observed(pair, ("labels",), name="mlp"), solver="adam", bn=bn)


def test_hooks_are_gone_after_an_error(pair):
    seen = observed(pair)
    with pytest.raises(TypeError):
        gl.attack("zerogla", seen, solver="adam", restarts="two")
    assert not hooks(seen.model)


# --- baselines fed with the estimate ---


@pytest.mark.parametrize("law", ["unit", "gaussian"])
@pytest.mark.parametrize("unbiased", [True, False])
def test_the_estimate_points_hardly_along_the_gradient(digit, law, unbiased):
    """cos about sqrt(K / d); without the factor d also far too short, by sqrt(1 / (K d))."""
    count, cosines, lengths = 40, [], []
    for seed in range(12):
        seen = observed(digit, ("labels",), name="mlp", count=count, law=law, seed=seed)
        g = models.flatten(FedSGD().transmit(seen.model, digit.images, digit.labels))
        found = models.flatten(as_gradient(seen, unbiased=unbiased).payload)
        assert found.dtype == torch.float32
        cosines.append(float(found @ g / (found.norm() * g.norm())))
        lengths.append(float(found.norm() / g.norm()))
    d = len(g)
    assert sum(cosines) / 12 == pytest.approx(math.sqrt(count / (count + d)), rel=0.15)
    expected = math.sqrt(d / count) / (d if law == "unit" and not unbiased else 1)
    assert sum(lengths) / 12 == pytest.approx(expected, rel=0.15)


def test_attacks_on_gradients_run_on_the_estimate_and_fail(digit):
    seen = observed(digit, ("labels",), name="mlp", count=12)
    true = FedSGD()
    real = gl.observe(seen.model, true, true.transmit(seen.model, digit.images, digit.labels), digit, knows={"labels"})
    for name, options in (("dlg", {"iterations": 8, "restarts": 1}), ("ig", {"iterations": 60})):
        quality = [float(gl.score(gl.attack(name, s, **options), digit).psnr) for s in (real, as_gradient(seen))]
        assert quality[0] > quality[1] + 5, (name, quality)
    fed = as_gradient(seen, unbiased=False)
    assert fed.kind == "gradient" and gl.attack("idlg", fed, iterations=2, restarts=1).images.isfinite().all()


def test_with_as_many_orthogonal_looks_as_parameters_the_estimate_is_the_gradient(speck):
    """The oracle: for many directions the estimate tends to the gradient, in the payload's own names and shapes."""
    model = models.build("mlp", speck, hidden=())
    protocol = ZerothOrder(directions=6_000, scheme="exact", dtype="float64")
    seen = gl.observe(model, protocol, protocol.transmit(model, speck.images, speck.labels), speck)
    g = FedSGD().transmit(model, speck.images, speck.labels)
    found = as_gradient(seen).payload
    assert list(found) == list(g) and all(found[name].shape == g[name].shape for name in g)
    a, b = models.flatten(found), models.flatten(g)
    assert float((a - b).norm() / b.norm()) < 0.1


def test_the_estimate_of_what_has_no_scalars_or_several_messages(pair):
    seen = observed(pair, ("labels",), name="mlp")
    with pytest.raises(ValueError, match="seen must hold scalars or a parameter difference, got .* 'gradient'"):
        as_gradient(as_gradient(seen))
    with pytest.raises(ValueError, match="seen must hold one message, got 2"):
        as_gradient(dataclasses.replace(seen, rounds=seen.rounds * 2))
