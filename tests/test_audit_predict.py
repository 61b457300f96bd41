"""What scalars would give away, before any is sent: against drawn matrices, against attacks, and at its ends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.audit.predict import _System


@pytest.fixture(scope="module")
def digit():
    return gl.data.sample("digits", count=1, seed=1)


@pytest.fixture(scope="module")
def model(digit):
    return gl.models.build("mlp", digit, hidden=(32,), activation="tanh", seed=0)


def scalars(count, **options):
    return gl.protocols.ZerothOrder(**{"directions": count, "mu": 1e-3, "law": "gaussian", "seed": 3} | options)


def system(unknowns=12, noise=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(unknowns, unknowns, generator=generator, dtype=torch.float64)
    gram = root @ torch.diag(torch.logspace(0, -1.5, unknowns, dtype=torch.float64)) @ root.T
    prior = 0.5 * torch.eye(unknowns, dtype=torch.float64)
    return _System(gram, prior, noise, torch.zeros(1, unknowns, dtype=torch.bool)), gram, prior


@pytest.mark.parametrize("count", [4, 11, 16, 60])
def test_the_expected_error_is_that_of_drawn_directions(count):
    """Posterior covariances of 400 draws of J = Z A^(1/2), below and above as many scalars as unknowns."""
    found, gram, prior = system()
    values, vectors = torch.linalg.eigh(gram)
    root = vectors * values.sqrt()
    generator = torch.Generator().manual_seed(1)
    information, errors = [], []
    for _ in range(400):
        rows = torch.randn(count, len(gram), generator=generator, dtype=torch.float64) @ root.T
        precision = torch.linalg.inv(prior @ prior) + rows.T @ rows / found.noise**2
        errors.append(float(torch.linalg.inv(precision).diagonal().mean()))
        inner = torch.eye(count, dtype=torch.float64) + rows @ prior @ prior.T @ rows.T / found.noise**2
        information.append(0.5 * float(torch.linalg.slogdet(inner)[1]) / math.log(2))
    mean = sum(errors) / len(errors)
    assert float(found.errors(count)) == pytest.approx(mean, rel=0.1)
    assert found.bits(count) == pytest.approx(sum(information) / len(information), rel=0.05)
    assert float(found.floor(found.bits(count))) <= mean  # no estimate beats Shannon's bound


def test_without_a_prior_it_is_the_mean_of_an_inverse_wishart_matrix():
    found, gram, _ = system(noise=1e-6)
    count = 40
    exact = found.noise**2 * torch.linalg.inv(gram).diagonal().mean() / (count - len(gram))
    assert float(found.errors(count)) == pytest.approx(float(exact), rel=1e-3)


@pytest.mark.parametrize("law", ["gaussian", "unit"])
@pytest.mark.parametrize("ratio", [1.5, 3])
def test_an_attack_reaches_what_was_predicted(law, ratio, digit, model):
    protocol = scalars(int(64 * ratio), law=law)
    predicted = gl.audit.predict(model, protocol, digit)
    payload = protocol.transmit(model, digit.images, digit.labels)
    seen = gl.observe(model, protocol, payload, digit, knows={"labels"})
    reached = gl.score(gl.attack("zerogla", seen, seed=0, prior="none"), digit).psnr
    assert float((reached - predicted.psnr).abs()) < 3
    assert float(reached - predicted.bound) < 2


def test_noise_of_a_defence_counts(digit, model):
    plain = scalars(96, dtype="float64")
    noisy = [gl.defenses.Defended(plain, gl.defenses.get("gaussian_noise", sigma=s)) for s in (1e-6, 1e-5)]
    none, one, other = (gl.audit.predict(model, p, digit) for p in (plain, *noisy))
    assert (one.noise, other.noise) == pytest.approx((1e-6, 1e-5), rel=1e-3)
    assert none.noise < 1e-9
    assert float(one.psnr - other.psnr) == pytest.approx(20, abs=0.2)
    assert none.bits > one.bits > other.bits


def test_scalars_at_is_where_the_prediction_crosses(digit, model):
    protocol = scalars(64)
    found = gl.audit.predict(model, protocol, digit)
    least = int(found.scalars_at(30.0))
    below, above = (float(gl.audit.predict(model, scalars(k), digit).psnr) for k in (least - 2, least + 2))
    assert below < 30.5
    assert above > 29.5
    assert found.scalars_at(20.0) <= found.scalars_at(30.0) <= found.scalars_at(40.0)
    assert int(found.scalars_at(1000.0)) == -1
    assert found.scalars_to_name(1797) == 17


def test_rounds_count_and_public_records_help_below_one_scalar_a_pixel(digit, model):
    public = gl.data.public(digit, count=400, seed=0)
    one = gl.audit.predict(model, scalars(16), digit)
    two = gl.audit.predict(model, scalars(8), digit, rounds=2)
    assert two.scalars == one.scalars == 16
    told = gl.audit.predict(model, scalars(16), digit, public=public)
    assert float(told.psnr) > float(one.psnr) + 3
    assert any("prior decides" in note for note in one.notes)
    assert "expected PSNR" in str(told)


def test_a_layer_that_holds_too_little_is_seen(digit):
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Tanh(), nn.Linear(2, 10))
    for name, p in narrow.named_parameters():
        p.requires_grad_(name.startswith("3"))
    found = gl.audit.predict(narrow, scalars(640), digit)
    assert found.rank < 64
    assert any(f"holds {found.rank} independent numbers" in note for note in found.notes)
    assert float(found.psnr) < 20  # however many scalars


def test_tables_are_predicted_in_deviations():
    wine = gl.data.sample("wine", count=2, seed=0)
    model = gl.models.build("mlp", wine, hidden=(16,), activation="tanh", seed=0)
    found = gl.audit.predict(model, scalars(60), wine)
    assert found.psnr.shape == (2,)
    assert found.psnr.min() > 20


def test_what_cannot_be_predicted_is_refused(digit, model):
    clipped = gl.defenses.Defended(scalars(8), gl.defenses.get("dp_scalars", clip=1.0, sigma=1.0))
    cases = [
        (gl.protocols.FedSGD(), {}, ValueError, "must send plain scalars along public directions"),
        (gl.protocols.SeedPool(directions=8), {}, ValueError, "must send plain scalars"),
        (clipped, {}, ValueError, "must be defended by noise alone"),
        (scalars(8), {"rounds": 0}, ValueError, "rounds must be at least 1"),
        (scalars(8), {"public": digit}, ValueError, "public must hold at least two records"),
        ("scalars", {}, TypeError, "protocol must be a Protocol"),
    ]
    for protocol, how, error, message in cases:
        with pytest.raises(error, match=message):
            gl.audit.predict(model, protocol, digit, **how)
    with pytest.raises(TypeError, match="batch must be a Batch"):
        gl.audit.predict(model, scalars(8), digit.images)
    large = gl.data.sample("photos", size=32, count=8, seed=0)
    net = gl.models.build("lenet", large, seed=0)
    with pytest.raises(ValueError, match="24576 numbers times 15057 parameters are 2.8 GiB"):
        gl.audit.predict(net, scalars(8), large)
    with pytest.raises(ValueError, match="candidates must be at least 2"):
        gl.audit.predict(model, scalars(8), digit).scalars_to_name(1)
