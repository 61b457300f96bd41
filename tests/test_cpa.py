"""CPA and CPA-FI: whitening, unmixing of known sources, photographs, negative controls, bad input; their metrics."""

import math

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.attacks.closed_form import cpa as module
from glutils.attacks.closed_form import unmixing
from glutils.protocols import FedAvg, FedSGD

pytestmark = pytest.mark.usefixtures("no_lpips")


def seen_of(batch, protocol=None, name="mlp", seed=0, knows=(), **options):
    protocol = FedSGD() if protocol is None else protocol
    options = {"hidden": (64,)} | options if name == "mlp" else options
    model = gl.models.build(name, batch, seed=seed, **options)
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows)


def photos(count, seed=0, size=16):
    return gl.data.sample("photos", size=size, count=count, seed=seed, device="cpu")


def sources(count=3, length=900, seed=0):
    """Independent uniform sources (sub-Gaussian, as images are) and a mixture of them in 12 rows, with offsets."""
    generator = torch.Generator().manual_seed(seed)
    pure = torch.rand(count, length, generator=generator, dtype=torch.float64) + 0.3
    return pure, torch.randn(12, count, generator=generator, dtype=torch.float64) @ pure


def likeness(found, pure):
    return float(gl.metrics.correlation(*(rows.reshape(len(rows), 1, 30, 30) for rows in (found, pure))).min())


# --- whitening and unmixing ---


def test_whitened_rows_have_mean_zero_and_unit_covariance():
    _, mixed = sources()
    white = unmixing.whiten(mixed, 3)
    torch.testing.assert_close(white.rows.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(white.rows.cov(), torch.eye(3, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(white.operator @ mixed, white.rows + white.offset[:, None], atol=1e-8, rtol=0)
    assert white.found == 3


def test_whitening_counts_the_sources_and_stays_finite_without_them():
    _, mixed = sources(2)
    white = unmixing.whiten(mixed, 4)
    assert white.found == 2 and bool(white.rows.isfinite().all())
    assert unmixing.whiten(torch.zeros(5, 30), 2).found == 0
    assert bool(unmixing.whiten(torch.zeros(5, 30), 2).rows.isfinite().all())


@pytest.mark.parametrize("solver", ["adam", "fastica"])
def test_a_mixture_of_independent_sources_is_taken_apart(solver):
    pure, mixed = sources()
    weights = unmixing.Weights(10.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    white = unmixing.whiten(mixed, 3)
    how = {"iterations": 600, "restarts": 1, "lr": 1e-2, "seed": 0, "seconds": None, "progress": False, "label": "x"}
    mixer, _ = unmixing.separate(mixed, white, weights, None, solver, lambda rows: rows, **how)
    assert likeness(mixer @ mixed, pure) > 0.98  # measured 0.999
    assert likeness(white.rows, pure) < 0.97  # whitening alone does not do it


def test_the_terms_of_the_objective_against_their_definitions():
    _, mixed = sources()
    white = unmixing.whiten(mixed, 3)
    rows = torch.nn.functional.normalize(torch.randn(3, 3, generator=torch.Generator().manual_seed(5)), dim=1).double()
    made = rows @ white.rows
    whole = made + (rows @ white.offset)[:, None]
    log_cosh = made.cosh().log().mean(1).square().mean()
    pairs = [math.exp(2 * abs(float(rows[i] @ rows[j]))) - 1 for i in range(3) for j in range(3) if i != j]
    image = made.view(3, 1, 30, 30)
    one_sign = torch.minimum(whole.clamp(max=0).norm(dim=1), whole.clamp(min=0).norm(dim=1)).mean()
    wanted = (
        -0.5 * log_cosh + 0.7 * sum(pairs) / 9 + 0.3 * gl.priors.tv(image) + 0.2 * one_sign + 0.1 * whole.abs().mean()
    )
    weights = unmixing.Weights(0.5, 0.7, 2.0, 0.3, 0.2, 0.1)
    variables = ((2.5 * rows).float().requires_grad_(),)  # the length of a row plays no part
    value, _ = unmixing.unmixing_objective(white, weights, image.shape)(variables)
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)


def test_the_bias_gives_scale_and_sign_of_an_exact_unmixing():
    """With the true mixing the images come out as they are, not up to a factor."""
    pure, _ = sources()
    mixing = torch.randn(12, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    mixer = torch.tensor([[-3.0], [0.1], [7.0]], dtype=torch.float64) * torch.linalg.pinv(mixing)
    weight, bias = mixing @ pure, mixing.sum(1)
    torch.testing.assert_close(unmixing.sources_of(mixer, weight, bias, "bias"), pure)
    for told in (bias, None):
        ranged = unmixing.sources_of(mixer, weight, told, "range")
        assert float(ranged.min()) == 0 and float(ranged.max()) == 1
        assert bool(
            (torch.stack([torch.corrcoef(torch.stack(p))[0, 1] for p in zip(ranged, pure, strict=True)]) > 0.999).all()
        )


# --- CPA ---


@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=2, batch_size=2, lr=0.1)], ids=lambda p: p.kind)
def test_cpa_separates_photographs(protocol):
    batch = photos(4)
    result = gl.attack("cpa", seen_of(batch, protocol), iterations=1200, progress=False)
    assert float(gl.metrics.correlation(result.images, batch.images).mean()) > 0.8
    found = gl.metrics.match_by_correlation(result.images, batch.images)
    signs = gl.metrics.correlations(result.images, batch.images)[found, torch.arange(4)]
    assert float((signs > 0).double().mean()) == 1
    assert result.images.shape == batch.images.shape and result.images.dtype == torch.float32


@pytest.mark.parametrize("how", ["wrong_gradient", "permuted"])
def test_cpa_fails_on_a_tampered_gradient(how):
    batch = photos(4)
    seen = gl.tamper(seen_of(batch), how)
    result = gl.attack("cpa", seen, iterations=200, progress=False)
    assert float(gl.metrics.correlation(result.images, batch.images).mean()) < 0.25


def test_clients_that_are_added_up_are_one_batch_to_cpa():
    """The mean of two clients' gradients is the gradient of their images together."""
    whole = photos(4)
    model = gl.models.build("mlp", whole, hidden=(64,))
    parts = [FedSGD().transmit(model, half.images, half.labels) for half in (whole[:2], whole[2:])]
    mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}
    seen = gl.observe(model, FedSGD(), mean, whole)
    sent = FedSGD().transmit(model, whole.images, whole.labels)
    torch.testing.assert_close(dict(seen.payload), dict(sent), atol=1e-7, rtol=1e-4)


def test_cpa_without_negentropy_is_the_released_code():
    batch = photos(3)
    seen = seen_of(batch)
    one, other = (gl.attack("cpa", seen, iterations=100, negentropy=on, progress=False) for on in (True, False))
    assert not torch.equal(one.images, other.images)
    assert torch.equal(one.images, gl.attack("cpa", seen, iterations=100, progress=False).images)


def test_cpa_notes_images_that_cannot_be_told_apart():
    batch = photos(3)
    twins = batch[[0, 0, 1]]
    result = gl.attack("cpa", seen_of(twins), iterations=20, progress=False)
    assert any("only 2 of 3 sources" in note for note in result.notes)


def test_cpa_reads_a_layer_without_bias():
    batch = photos(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32, bias=False), nn.Tanh(), nn.Linear(32, len(batch.classes)))
    payload = FedSGD().transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, FedSGD(), payload, batch)
    result = gl.attack("cpa", seen, iterations=20, progress=False)
    assert float(result.images.min()) == 0 and float(result.images.max()) == 1
    with pytest.raises(ValueError, match="scale='bias' needs a first layer with a bias"):
        gl.attack("cpa", seen, scale="bias")


def test_cpa_refuses_what_it_cannot_do():
    batch = photos(3)
    with pytest.raises(ValueError, match="at least two images.*fc_inversion"):
        gl.attack("cpa", seen_of(batch[0]))
    with pytest.raises(ValueError, match="needs a fully connected layer of the pixels.*cpa_fi.*ig"):
        gl.attack("cpa", seen_of(batch, name="convnet"))
    with pytest.raises(ValueError, match=r"as many neurons .* \(3\), got 2; 'ig'"):
        gl.attack("cpa", seen_of(batch, hidden=(2,)))
    scalars = gl.protocols.ZerothOrder(directions=4)
    with pytest.raises(ValueError, match="gradient or delta"):
        gl.attack("cpa", seen_of(batch, scalars))
    seen = seen_of(batch)
    for option, value in {"scale": "mean", "solver": "lbfgs", "lr": 0, "mi_weight": -1, "iterations": -1}.items():
        with pytest.raises(ValueError, match=option):
            gl.attack("cpa", seen, **{option: value})
    with pytest.raises(TypeError, match="negentropy"):
        gl.attack("cpa", seen, negentropy=1)


# --- CPA-FI ---


def test_the_features_are_the_layers_input(photo):
    model = gl.models.build("convnet", photo)
    name, layer = module._layer_behind_convolutions(seen_of(photo, name="convnet"))
    found = gl.models.layer_input(model, model[5], gl.models.parameters(model), photo.images).flatten(1)
    torch.testing.assert_close(found, model[:5](photo.images))
    assert name == "5" and layer.in_features == found.shape[1] and not model[5]._forward_pre_hooks


def test_cpa_fi_reconstructs_behind_convolutions_and_leaves_the_model_alone():
    batch = photos(4)
    seen = seen_of(batch, name="convnet")
    model, before = seen.model, {name: p.clone() for name, p in seen.model.named_parameters()}
    result = gl.attack("cpa_fi", seen, iterations=800, inversion=200, progress=False)
    assert float(gl.metrics.correlation(result.images, batch.images).mean()) > 0.85
    assert float(result.images.min()) >= 0 and float(result.images.max()) <= 1
    assert all(p.requires_grad and torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not model.training and all(not m._forward_pre_hooks for m in model.modules())
    misled = gl.attack("cpa_fi", gl.tamper(seen, "wrong_gradient"), iterations=50, inversion=50, progress=False)
    assert float(gl.metrics.correlation(misled.images, batch.images).mean()) < 0.5


def test_cpa_fi_of_one_image(photo):
    seen = seen_of(photo, name="convnet", activation="tanh")  # features of both signs: the bias gives the sign
    result = gl.attack("cpa_fi", seen, iterations=1, inversion=200, progress=False)
    assert float(gl.score(result, photo).psnr) > 18


def test_cpa_fi_refuses_what_it_cannot_do():
    batch = photos(3)
    with pytest.raises(ValueError, match="'cpa' is enough"):
        gl.attack("cpa_fi", seen_of(batch))
    with pytest.raises(ValueError, match=r"\(3\), got 2; 'ig'"):
        gl.attack("cpa_fi", seen_of(batch, name="convnet", hidden=2))
    with pytest.raises(ValueError, match=r"linear1' reads \(\d+, 32\); 'ig'"):
        gl.attack("cpa_fi", seen_of(photos(1), name="vit"))
    conv = nn.Sequential(nn.Conv2d(3, len(batch.classes), 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    seen = gl.observe(conv, FedSGD(), FedSGD().transmit(conv, batch.images, batch.labels), batch)
    with pytest.raises(ValueError, match="the model has none; 'ig'"):
        gl.attack("cpa_fi", seen)
    seen = seen_of(batch, name="convnet")
    for option, value in {"inversion": -1, "inversion_lr": 0, "tv_weight": -1, "lr": 0}.items():
        with pytest.raises(ValueError, match=option):
            gl.attack("cpa_fi", seen, **{option: value})


# --- metrics for images without sign, scale or order ---


def test_correlation_is_blind_to_scale_sign_and_order():
    truth = photos(3).images
    shuffled = torch.stack([0.2 - 3 * truth[2], truth[0], 0.1 * truth[1] + 0.4])
    torch.testing.assert_close(gl.metrics.correlation(shuffled, truth), torch.ones(3, dtype=torch.float64))
    assert gl.metrics.match_by_correlation(shuffled, truth).tolist() == [1, 2, 0]
    assert float(gl.metrics.correlations(shuffled, truth)[0, 2]) == pytest.approx(-1)


def test_correlation_equals_numpys_and_gives_zero_to_constant_images():
    import numpy as np

    truth = photos(2).images
    noise = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0))
    wanted = np.corrcoef(noise[0].numpy().ravel(), truth[1].numpy().ravel())[0, 1]
    assert float(gl.metrics.correlations(noise, truth)[0, 1]) == pytest.approx(wanted, abs=1e-6)
    flat = torch.stack([torch.full_like(truth[0], 0.3), torch.full_like(truth[0], math.nan)])
    assert gl.metrics.correlations(flat, truth).abs().max() == 0


@pytest.mark.parametrize("count", [1, 5])
def test_correlation_takes_any_number_of_images(count):
    truth = photos(3).images
    images = torch.cat([truth[[1]], torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))])[:count]
    found, value = gl.metrics.match_by_correlation(images, truth), gl.metrics.correlation(images, truth)
    assert int(found[1]) == 0 and float(value[1]) == pytest.approx(1)
    assert (found < 0).sum() == max(0, 3 - count) and bool((value[found < 0] == 0).all())
    assert gl.metrics.recovery_mask(images, truth).tolist() == [False, True, False]


def test_metrics_without_order_refuse_bad_input():
    truth = photos(2).images
    for bad, error in (
        (truth[0], ValueError),
        (truth[..., :3], ValueError),
        (truth.int(), TypeError),
        (None, TypeError),
    ):
        with pytest.raises(error, match="images"):
            gl.metrics.correlations(bad, truth)
    with pytest.raises(ValueError, match="above"):
        gl.metrics.recovery_mask(truth, truth, above=0)
