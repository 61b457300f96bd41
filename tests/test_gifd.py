"""GIFD: the l1 ball, a generator in steps, recovery inside and outside its range, budget, controls, bad input."""

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.attacks.generative.gifd import budget, onto_l1_ball
from glutils.priors import latent
from glutils.protocols import FedAvg, FedSGD

pytestmark = pytest.mark.usefixtures("no_lpips")


@pytest.fixture(scope="module")
def public():
    return gl.data.public("digits", device="cpu")


@pytest.fixture(scope="module")
def glo(public):
    return latent.GLO.fit(public, 8, steps=150, width=4, progress=False)


def observed(batch, protocol=None, images=None, knows=("labels",), public=None):
    model = gl.models.build("mlp", batch, hidden=(32,), seed=0)
    protocol = FedSGD() if protocol is None else protocol
    payload = protocol.transmit(model, batch.images if images is None else images, batch.labels)
    return gl.observe(model, protocol, payload, batch, knows=knows, public=public)


def private(seed, count=1):
    return gl.data.sample("digits", count=count, seed=seed, device="cpu")


def psnr(images, truth):
    return float(gl.metrics.psnr(images, truth).mean())


# --- the pieces ---


def test_the_projection_is_the_nearest_point_of_the_ball():
    """Against a slow search for the one amount that all entries are moved by."""
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius = torch.tensor([0.0, 0.5, 3.0, 20.0, 1e3, 7.5], dtype=torch.float64)
    moved = onto_l1_ball(x, radius)
    for row, limit, found in zip(x, radius, moved, strict=True):
        low, high = 0.0, float(row.abs().max())
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if float((row.abs() - middle).clamp_min(0).sum()) > limit else (low, middle)
        torch.testing.assert_close(found, row.sign() * (row.abs() - high).clamp_min(0), atol=1e-9, rtol=0)
    assert torch.equal(moved[4], x[4]), "what lies inside stays"


def test_a_generator_in_steps_is_the_generator(glo):
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    value, sizes = z, []
    for step in glo.layers():
        value = step(value)
        sizes.append(tuple(value.shape[1:]))
    torch.testing.assert_close(value, glo.decode(z))
    assert len(sizes) == 3 and sizes[-1] == (1, 8, 8)


def test_steps_are_shared_so_that_the_budget_is_kept():
    for asked in ((400, 0.25, 1, 4), (301, 0.5, 3, 4), (7, 0.25, 1, 4), (50, 1, 2, 3), (50, 0, 1, 3)):
        iterations, _, restarts, layers = asked
        first, *others = budget(*asked)
        assert restarts * (first + 1) + sum(n + 1 for n in others) + layers <= iterations + 1
        assert min(first, *others) >= 0 and max(others) - min(others) <= 1
    with pytest.raises(ValueError, match="iterations must be at least 7 for 4 layers .* got 6; 'gias'"):
        budget(6, 0.25, 1, 4)


# --- the attack ---


def test_an_image_of_the_generator_is_found(glo):
    """The private image is one that the generator can make: z alone could explain the gradient."""
    truth = glo.decode(torch.randn(1, 8, generator=torch.Generator().manual_seed(3)))
    seen = observed(private(0), images=truth)
    result = gl.attack("gifd", seen, prior=glo, iterations=300, latent_share=0.5, latent_weight=0, tv_weight=0)
    assert psnr(result.images, truth) > 30
    assert result.evaluations == 301 == result.pullbacks + 3  # the comparison at the end pulls nothing back
    assert result.diagnostics == {"latent": 8, "evaluations": 301, "layer": result.diagnostics["layer"], "layers": 3}


def test_hidden_layers_reach_what_the_latent_cannot_make_and_the_control_does_not(glo):
    batch = private(0)
    seen = observed(batch, knows=())
    ceiling = psnr(glo.project(batch.images)[1], batch.images)
    result = gl.attack("gifd", seen, prior=glo, iterations=200, radius=None, tv_weight=0)
    assert result.diagnostics["layer"] > 0 and psnr(result.images, batch.images) > ceiling + 3
    assert torch.equal(result.labels, batch.labels) and "labels inferred by idlg" in result.notes
    for control in ("permuted", "wrong_gradient"):
        misled = gl.attack("gifd", gl.tamper(seen, control), prior=glo, iterations=60, radius=None)
        assert psnr(misled.images, batch.images) < ceiling and misled.loss > 10 * result.loss


def test_a_small_ball_keeps_hidden_features_where_the_latent_put_them(glo):
    batch = private(1)
    seen = observed(batch)
    free, tight = (gl.attack("gifd", seen, prior=glo, iterations=90, radius=r, tv_weight=0) for r in (None, 1e-4))
    inside = gl.attack("gifd", seen, prior=glo, iterations=90, latent_share=0.25, radius=1e-9, tv_weight=0)
    torch.testing.assert_close(tight.images, inside.images, atol=5e-3, rtol=0)
    assert free.loss < tight.loss


def test_batches_and_local_steps_and_the_same_seed(glo):
    batch = private(2, count=2)
    for protocol in (None, FedAvg(epochs=2, batch_size=1, lr=0.05)):
        seen = observed(batch, protocol)
        one, again, other = (gl.attack("gifd", seen, prior=glo, iterations=20, restarts=2, seed=s) for s in (0, 0, 1))
        assert one.images.shape == batch.images.shape and torch.equal(one.images, again.images)
        assert not torch.equal(one.images, other.images)


def test_without_public_images_the_generator_is_untrained():
    result = gl.attack("gifd", observed(private(0)), iterations=12, components=3)
    assert "no public images: the generator is untrained" in result.notes and result.diagnostics["latent"] == 3


# --- bad input ---


def test_what_cannot_work_is_refused_before_any_work(glo, public, monkeypatch):
    monkeypatch.setattr("glutils.attacks.generative.gifd.adam", lambda *a, **k: pytest.fail("worked"))
    one, two = observed(private(0)), observed(private(0, count=2), knows=())
    plain = latent.Network(nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8))), 4, (1, 8, 8))
    for seen, options, message in [
        (one, {"prior": "pca"}, "prior='pca' has no chain of hidden layers.*'ggl', 'gias' and 'igims' take it"),
        (one, {"prior": latent.PCA.fit(public, 3)}, "class PCA has no hidden layers.*'gias' needs none"),
        (one, {"prior": plain}, "class Network has no hidden layers"),
        (one, {"prior": glo, "components": 4}, "components belongs to a latent given by name"),
        (one, {"prior": "glo"}, "learns from public images"),
        (one, {"prior": glo, "radius": 0}, "radius must be greater than 0"),
        (one, {"prior": glo, "iterations": 4}, "iterations must be at least 5"),
        (one, {"prior": glo, "feature_lr": -1}, "feature_lr must be greater than 0"),
        (one, {"prior": glo, "latent_share": 2}, "latent_share must be between 0 and 1"),
        (two, {"prior": glo}, "needs the labels of a batch"),
    ]:
        with pytest.raises(ValueError, match=message):
            gl.attack("gifd", seen, **options)
    scalars = gl.protocols.ZerothOrder(directions=8, dtype="float64", seed=0)
    with pytest.raises(ValueError, match="reads payloads of kind gradient or delta"):
        gl.attack("gifd", observed(private(0), scalars), prior=glo)
