"""Attacks with generative priors: CMA-ES, recovery inside a latent's range, budgets, controls, bad input."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import glutils as gl
from glutils import models
from glutils.attacks.generative.common import candidates, divergence
from glutils.attacks.matching.objective import cosine, matching, squared
from glutils.priors import latent
from glutils.priors.latent import PCA
from glutils.protocols import FedAvg, FedSGD
from glutils.solvers import Trace, cmaes
from glutils.solvers.engine import Ending

pytestmark = pytest.mark.usefixtures("no_lpips")


@pytest.fixture(scope="module")
def public():
    return gl.data.public("digits", device="cpu")


@pytest.fixture(scope="module")
def pca(public):
    return PCA.fit(public, 8)


@pytest.fixture(scope="module")
def untrained():
    return latent.untrained((1, 8, 8), 8, width=8)


def observed(batch, protocol=None, images=None, seed=0, knows=("labels",), public=None, net="mlp", **options):
    options = {"hidden": (32,)} | options if net == "mlp" else options
    model = models.build(net, batch, seed=seed, **options)
    protocol = FedSGD() if protocol is None else protocol
    payload = protocol.transmit(model, batch.images if images is None else images, batch.labels)
    return gl.observe(model, protocol, payload, batch, knows=knows, public=public)


def private(seed, count=1):
    return gl.data.sample("digits", count=count, seed=seed, device="cpu")


def psnr(images, batch):
    return float(gl.metrics.psnr(images, batch.images).mean())


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


# --- CMA-ES ---


def bowl(candidates):
    """A long valley with its lowest point at 0, 1, 2, ..."""
    scale = torch.logspace(0, 2, candidates.shape[1], dtype=candidates.dtype)
    return (scale * (candidates - torch.arange(candidates.shape[1])).square()).sum(1)


def test_cma_finds_the_bottom_of_a_valley_within_its_budget_and_repeats():
    runs = []
    for _ in range(2):
        counted, trace = [], Trace(100)
        used = cmaes(
            lambda c, n=counted: n.append(len(c)) or bowl(c), torch.zeros(6), trace, evaluations=1200, generator=draws()
        )
        assert used == sum(counted) <= 1200 and trace.loss < 1e-8
        runs.append(trace)
    assert runs[0].losses == runs[1].losses and torch.equal(runs[0].best[0], runs[1].best[0])
    assert runs[0].losses[-1] == pytest.approx(runs[0].loss, abs=1e-10)  # the mean is as good as any candidate


def test_cma_is_silent_and_leaves_numpys_random_state_alone(capsys):
    before = np.random.get_state()[1].copy()
    cmaes(bowl, torch.zeros(3), Trace(9), evaluations=60, generator=draws())
    assert (np.random.get_state()[1] == before).all() and capsys.readouterr() == ("", "")


def test_cma_keeps_the_engines_rules():
    kept = gl.solvers.search(
        lambda trace, generator: cmaes(bowl, torch.zeros(4), trace, evaluations=10**6, generator=generator),
        iterations=100, seconds=1e-9, progress=False,
    )  # fmt: skip
    assert "time is up" in kept.stopped and kept.loss == min(kept.history.loss)
    lost = Trace(9)
    assert cmaes(lambda c: c.sum(1) * math.nan, torch.zeros(4), lost, evaluations=50, generator=draws()) == 8
    assert lost.ending is Ending.DIVERGED and "the loss became nan" in lost.reason
    some = Trace(9)  # a candidate without a loss is the worst of its generation
    cmaes(lambda c: bowl(c).where(c[:, 0] > 0, math.nan), torch.ones(3), some, evaluations=300, generator=draws())
    assert some.loss < 1e-2


def test_cma_refuses_what_cannot_work():
    for start, options, message in [
        (torch.zeros(1), {"evaluations": 50}, "start must hold at least 2 numbers for CMA-ES, got 1"),
        (torch.zeros(4), {"evaluations": 8}, "evaluations must be at least 9, got 8"),
        (torch.zeros(4), {"evaluations": 50, "population": 1}, "population must be at least 2, got 1"),
        (torch.zeros(4), {"evaluations": 50, "spread": 0}, "spread must be greater than 0, got 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            cmaes(bowl, start, Trace(9), generator=draws(), **options)


# --- what the attacks share ---


@pytest.mark.parametrize("distance", ["squared", "cosine"])
@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(batch_size=1, epochs=2)], ids=["gradient", "delta"])
def test_candidates_are_measured_as_one_by_one(digits, distance, protocol):
    batch = digits[:2]
    seen = observed(batch, protocol, hidden=(4,))
    guesses = torch.rand(5, *batch.images.shape, generator=draws())
    values = candidates(seen, batch.labels, distance=distance)(guesses)
    goal = [t for t in seen.payload.values()]
    size = sum(float(t.square().sum()) for t in goal)
    for value, guess in zip(values, guesses, strict=True):
        found = list(protocol.transmit(seen.model, guess, batch.labels).values())
        wanted = squared(found, goal)[0] / size if distance == "squared" else cosine(found, goal)[0]
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-6)
    assert float(candidates(seen, batch.labels, distance=distance)(batch.images[None])) < 1e-10


def test_candidates_of_a_batch_norm_network_in_training_mode(photo):
    model = models.build("resnet8", photo, width=2).train()
    payload = FedSGD().transmit(model, photo.images, photo.labels)
    seen = gl.observe(model, FedSGD(), payload, photo, knows={"labels"})
    far = candidates(seen, photo.labels)(torch.stack([photo.images, 1 - photo.images]))
    assert float(far[0]) < 1e-8 < float(far[1])


def test_assumed_defences_undo_nothing_but_the_comparison(digit):
    plain = observed(digit)
    change = lambda how: {name: how(t) for name, t in plain.payload.items()}  # noqa: E731
    for name, payload in (
        ("clipping", change(lambda t: 0.1 * t)),
        ("sparsification", change(lambda t: t * (t.abs() > t.abs().median()))),
    ):
        seen = dataclasses.replace(plain, rounds=(dataclasses.replace(plain.rounds[0], payload=payload),))
        before = [t.clone() for t in payload.values()]
        assert float(candidates(seen, digit.labels, defense=name)(digit.images[None])) < 1e-8
        assert float(candidates(seen, digit.labels)(digit.images[None])) > 1e-3
        assert all(torch.equal(a, b) for a, b in zip(before, seen.payload.values(), strict=True))  # B19


def test_the_divergence_is_that_of_two_normal_distributions():
    z = torch.randn(3, 50, generator=draws()) * torch.tensor([[0.5], [1.0], [2.0]]) + 0.3
    fitted = torch.distributions.Normal(z.mean(1), z.std(1, unbiased=False))
    wanted = torch.distributions.kl_divergence(fitted, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(divergence(z), wanted)


def test_the_truth_is_a_fixed_point_in_z_and_in_weights(untrained):
    """With the target made by the generator itself there is nothing to improve, in either stage."""
    z = torch.randn(1, 8, generator=draws())
    seen = observed(private(0), images=untrained.decode(z))
    for decode, start in (
        (lambda v: (untrained.decode(v[0]), seen.labels), z),
        (lambda v: (untrained.decode(z, v[0]), seen.labels), untrained.weights()[None]),
    ):
        value, (slope,) = matching(seen, decode, distance=cosine)((start.clone().requires_grad_(),))
        assert abs(float(value)) < 1e-6 and float(slope.abs().max()) < 1e-5


# --- GGL ---


def test_ggl_finds_an_image_in_the_latents_range(pca):
    """Exactly: the private image is one that the latent can make, so the projection error is zero."""
    z = torch.randn(1, 8, generator=draws(1))
    truth = pca.decode(z)
    seen = observed(private(0), images=truth)
    result = gl.attack("ggl", seen, prior=pca, latent_weight=0)
    assert float((result.images - truth).square().mean()) < 1e-8  # 80 dB
    assert result.loss < 1e-8 and result.diagnostics["evaluations"] <= 2000
    one, again = (gl.attack("ggl", seen, prior=pca, latent_weight=0, iterations=100) for _ in range(2))
    assert torch.equal(again.images, one.images)


@pytest.mark.parametrize("distance", ["squared", "cosine"])
def test_ggl_comes_within_a_decibel_of_the_projection_and_beats_the_controls(pca, public, distance):
    """The bar, on digits; the label is inferred. The controls: right class and random z, nearest public image."""
    for seed in range(2):
        batch = private(seed)
        seen = observed(batch, seed=seed, knows=())
        result = gl.attack("ggl", seen, prior=pca, distance=distance, iterations=1200, seed=seed)
        assert torch.equal(result.labels, batch.labels) and "labels inferred by idlg" in result.notes
        assert psnr(result.images, batch) >= psnr(pca.project(batch.images)[1], batch) - 1
        blind = pca.decode(torch.randn(1, 8, generator=draws(seed)))
        assert psnr(result.images, batch) > psnr(blind, batch) + 2
        misled = gl.attack("ggl", gl.tamper(seen, "wrong_gradient", seed=seed), prior=pca, iterations=300, seed=seed)
        controls = gl.score(misled, batch, public=public).controls
        assert psnr(misled.images, batch) < float(controls["nearest_public"].psnr)
        assert misled.loss > 10 * result.loss


def test_ggl_under_tanh_leaves_the_penalty_out_and_says_so(pca):
    seen = observed(private(0))
    runs = [gl.attack("ggl", seen, prior=pca, tanh=True, latent_weight=w, iterations=200) for w in (0, 1.0)]
    assert torch.equal(runs[0].images, runs[1].images)
    assert any("left out under tanh" in note for note in runs[1].notes) and not runs[0].notes
    assert float(pca.encode(runs[0].images).abs().max()) <= 1.001


# --- GIAS, GIML, IGIMS ---


def test_all_attacks_spend_the_same_number_of_gradients(untrained, monkeypatch):
    """301 for each: what the comparison of the three rests on."""
    seen, spent = observed(private(0)), []
    plain = models.gradient
    monkeypatch.setattr(models, "gradient", lambda *a, **k: spent.append(1) or plain(*a, **k))
    for name, options in (("ig", {}), ("gias", {}), ("gias", {"restarts": 3}), ("igims", {"latent_solver": "adam"})):
        spent.clear()
        extra = {} if name == "ig" else {"prior": untrained}
        result = gl.attack(name, seen, iterations=60, **extra, **options)
        assert len(spent) == 61 == result.diagnostics.get("evaluations", 61) == result.evaluations
    spent.clear()
    result = gl.attack("igims", seen, prior=untrained, iterations=120, rounds=2)
    assert len(spent) + 2 * 11 == 121 == result.diagnostics["evaluations"]  # a generation of 10 and the mean, twice


@pytest.mark.parametrize("name, options", [("gias", {}), ("igims", {"latent_solver": "adam"}), ("igims", {})])
def test_weights_reach_what_the_latent_cannot_make(pca, name, options):
    """With all of the budget for z the projection is the ceiling; weights bring the off-manifold detail."""
    batch = private(0)
    seen = observed(batch)
    ceiling = psnr(pca.project(batch.images)[1], batch)
    both = gl.attack(name, seen, prior=pca, latent_share=0.4, iterations=150, **options)
    if options or name == "gias":  # what CMA-ES leaves of its share goes to the weights
        inside = gl.attack(name, seen, prior=pca, latent_share=1, iterations=80, **options)
        assert psnr(inside.images, batch) < ceiling + 0.1
    assert psnr(both.images, batch) > ceiling + 3
    misled = gl.attack(name, gl.tamper(seen, "permuted"), prior=pca, latent_share=0.4, iterations=150, **options)
    assert psnr(misled.images, batch) < ceiling - 3


def test_batches_have_a_generator_for_each_image_and_labels_can_be_inferred(untrained, digits):
    batch = digits[:2]
    told, blind = observed(batch), observed(batch, knows=())
    result = gl.attack("gias", told, prior=untrained, iterations=60)
    assert result.images.shape == batch.images.shape and result.diagnostics["weights"] == len(untrained.weights())
    inferred = gl.attack("igims", blind, prior=untrained, iterations=60, latent_solver="adam")
    assert torch.equal(inferred.labels, batch.labels.sort().values) and "labels inferred by alr" in inferred.notes
    with pytest.raises(ValueError, match="attack 'gias' needs the labels of a batch.*'igims' infers them"):
        gl.attack("gias", blind, prior=untrained)


def test_deltas_are_simulated_by_gias_and_averaged_by_igims(pca):
    batch = private(0)
    seen = observed(batch, FedAvg(epochs=2, batch_size=1, lr=0.05))
    exact = gl.attack("gias", seen, prior=pca, iterations=100)
    averaged = gl.attack("igims", seen, prior=pca, iterations=100, latent_solver="adam")
    assert any("AGA" in note for note in averaged.notes) and exact.notes == ()
    floor = psnr(pca.decode(torch.zeros(1, 8)), batch)
    assert min(psnr(exact.images, batch), psnr(averaged.images, batch)) > floor + 2


def test_without_public_images_the_generator_is_untrained_and_with_them_trained(monkeypatch, public):
    batch = private(0)
    result = gl.attack("gias", observed(batch), iterations=4, components=3)
    assert "no public images: the generator is untrained" in result.notes and result.diagnostics["latent"] == 3
    fitted = []
    monkeypatch.setattr(latent.GLO, "fit", lambda *a, **k: fitted.append(a[1]) or latent.untrained((1, 8, 8), a[1]))
    gl.attack("igims", observed(batch, knows=("labels", "public"), public=public), iterations=4, rounds=1,
              latent_solver="adam")  # fmt: skip
    assert fitted == [32]
    few = gl.attack("igims", observed(batch), iterations=40, components=3)
    assert any("z was searched by Adam: 5 gradients a round" in note for note in few.notes)


def test_giml_learns_from_gradients_what_images_look_like(untrained):
    """Digits that it never saw come out closer, in the first stage, from the learned weights than from random ones."""
    tasks = [observed(private(seed), seed=seed) for seed in range(10, 15)]
    learned = gl.attacks.generative.gias.giml(tasks, untrained, iterations=60, meta_lr=0.5, progress=False)
    still = gl.attacks.generative.gias.giml(tasks[:1], untrained, iterations=10, meta_lr=0, progress=False)
    assert torch.equal(still.weights(), untrained.weights()) and not torch.equal(learned.weights(), still.weights())
    gains = []
    for seed in range(3):
        batch, seen = private(seed), observed(private(seed), seed=seed)
        options = {"iterations": 40, "latent_share": 1, "seed": seed}
        runs = [gl.attack("gias", seen, prior=prior, **options) for prior in (learned, untrained)]
        gains.append(psnr(runs[0].images, batch) - psnr(runs[1].images, batch))
    assert sorted(gains)[1] > 1


# --- bad input ---


def test_what_cannot_work_is_refused_before_any_work(pca, public, digits, untrained, monkeypatch):
    monkeypatch.setattr("glutils.attacks.generative.ggl.cmaes", lambda *a, **k: pytest.fail("worked"))
    monkeypatch.setattr("glutils.attacks.generative.gias.adam", lambda *a, **k: pytest.fail("worked"))
    monkeypatch.setattr("glutils.attacks.generative.igims.adam", lambda *a, **k: pytest.fail("worked"))
    one, two = observed(private(0)), observed(digits[:2])
    rest = latent.ResidualLatent(pca, public)
    for name, seen, options, message in [
        ("ggl", two, {"prior": pca}, "searches one latent for one image, got a batch of 2; 'gias' and 'igims'"),
        ("ggl", one, {}, "prior='glo' learns from public images"),
        ("ggl", one, {"prior": "untrained"}, "'ggl' does not do; 'gias' and 'igims' do"),
        ("ggl", one, {"prior": "gan"}, "prior must be one of 'pca', 'generator', 'glo', 'untrained'; got 'gan'"),
        ("ggl", one, {"prior": pca, "components": 3}, "components belongs to a latent given by name, this has 8"),
        ("ggl", one, {"prior": pca, "distance": "l1"}, "distance must be one of 'squared', 'cosine'; got 'l1'"),
        ("ggl", one, {"prior": pca, "defense": "soteria"}, "defense must be one of 'none', 'clipping', 'sparsif"),
        ("ggl", one, {"prior": pca, "solver": "adam"}, "solver must be one of 'cma', 'turbo'; got 'adam'"),
        ("ggl", one, {"prior": pca, "iterations": 10}, "iterations must be at least 11, got 10"),
        ("ggl", one, {"prior": pca, "latent_weight": -1}, "latent_weight must be at least 0, got -1.0"),
        ("gias", one, {"prior": rest}, "class ResidualLatent has no weights that an attack could change"),
        ("gias", one, {"prior": pca, "latent_share": 1.5}, "latent_share must be between 0 and 1, got 1.5"),
        ("gias", one, {"prior": latent.untrained((3, 8, 8), 2)}, "prior must be a latent of images"),
        ("gias", one, {"prior": pca, "weight_lr": 0}, "weight_lr must be greater than 0, got 0.0"),
        (
            "igims",
            one,
            {"prior": pca, "iterations": 60, "latent_solver": "cma"},
            "must leave CMA-ES more than one generation of 10 in each",
        ),
        ("igims", one, {"prior": pca, "latent_solver": "sgd"}, "latent_solver must be one of 'cma', 'adam'; got"),
        ("igims", one, {"prior": pca, "shrink": 2}, "shrink must be above 0 and at most 1, got 2"),
        ("igims", one, {"prior": pca, "rounds": 0}, "rounds must be between 1 and 400, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            gl.attack(name, seen, **options)
    with pytest.raises(ValueError, match="tasks must hold at least one observation, got none"):
        gl.attacks.generative.gias.giml([], untrained)
    with pytest.raises(TypeError, match="prior"):
        gl.attacks.generative.gias.giml([one], pca)
