"""Learning to Invert: an exact case, what it learns and remembers, defences, its control, bad input."""

import dataclasses

import pytest
import torch

import glutils as gl
from glutils.attacks.closed_form import denoiser, inverse_map, inverter
from glutils.protocols import FedAvg, FedSGD

pytestmark = pytest.mark.usefixtures("no_lpips")
PUBLIC = gl.data.public("digits", count=200, device="cpu")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(inverter, "_KNOWN", type(inverter._KNOWN)())


def private(seed, count=1):
    return gl.data.sample("digits", count=count, seed=seed, distinct=True, device="cpu")


def observed(batch, protocol=None, knows=("labels", "public"), seed=0, rounds=None):
    model = gl.models.build("mlp", batch, hidden=(32,), seed=seed)
    protocol = FedSGD() if protocol is None else protocol
    payload = protocol.transmit(model, batch.images, batch.labels)
    public = PUBLIC if "public" in knows else None
    return gl.observe(model, protocol, payload, batch, knows=set(knows), public=public)


def psnr(images, batch):
    return gl.metrics.psnr(images, batch.images)


def test_a_message_that_is_linear_in_the_image_is_inverted_exactly(monkeypatch):
    """Against the known answer: features are a fixed invertible matrix times the pixels."""
    matrix = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0]
    monkeypatch.setattr(inverse_map, "caused", lambda seen, images, labels: images.flatten(1) @ matrix)
    monkeypatch.setattr(inverse_map, "_hashed", lambda found, *_: found)
    seen = observed(private(0))
    trained = inverse_map.train_inverter(seen)
    assert trained.penalty == min(inverse_map.RIDGES) and trained.examples == 400
    held = private(5).images
    torch.testing.assert_close(trained.images(held.flatten(1) @ matrix)[0], held, atol=2e-3, rtol=0)


def test_inner_products_give_the_same_fit_as_normal_equations():
    generator = torch.Generator().manual_seed(0)
    features, pixels = (torch.randn(30, n, generator=generator, dtype=torch.float64) for n in (12, 5))
    shares = inverse_map._ridge(features @ features.mT, pixels, 1e-2)
    apart = features - features.mean(0)
    penalty = 1e-2 * apart.square().sum(1).mean() * torch.eye(12, dtype=torch.float64)
    plain = torch.linalg.solve(apart.mT @ apart + penalty, apart.mT @ (pixels - pixels.mean(0)))
    torch.testing.assert_close(apart.mT @ shares, plain)


def test_the_hash_keeps_inner_products_on_average():
    found = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    found[1] += found[0]
    buckets = torch.randint(2000, (4000,), generator=torch.Generator().manual_seed(1))
    signs = 2 * torch.randint(2, (4000,), generator=torch.Generator().manual_seed(2)) - 1
    hashed, even = inverse_map._hashed(found, buckets, signs, 2000), found / found.norm(dim=1, keepdim=True)
    assert float((hashed @ hashed.mT - even @ even.mT).abs().max()) < 0.06


def test_random_pictures_are_smooth_images():
    made = inverse_map.pictures(50, (3, 16, 12), torch.Generator().manual_seed(0))
    assert made.shape == (50, 3, 16, 12) and float(made.min()) >= 0 and float(made.max()) <= 1
    assert float((made[:, :, 1:] - made[:, :, :-1]).square().mean()) < 1.2 * float(made.var(dim=(1, 2, 3)).mean())


@pytest.mark.parametrize("seed", range(3))
def test_digits_come_out_and_a_wrong_gradient_gives_nothing(seed):
    batch = private(seed)
    seen = observed(batch, knows=("public",))
    result = gl.attack("inverter", seen)
    assert float(psnr(result.images, batch)) > 25 and result.loss < 0.01 and result.evaluations == 1
    assert torch.equal(result.labels, batch.labels) and "labels inferred by idlg" in result.notes
    for control in ("wrong_gradient", "permuted"):
        misled = gl.attack("inverter", gl.tamper(seen, control))
        assert float(psnr(misled.images, batch)) < 15 and misled.loss > 10 * result.loss


def test_a_map_is_learned_once_for_a_network_and_its_labels(monkeypatch):
    seen, calls = observed(private(0)), []
    plain = inverter.train_inverter
    monkeypatch.setattr(inverter, "train_inverter", lambda *a, **k: calls.append(1) or plain(*a, **k))
    first, again = (gl.attack("inverter", seen, examples=100) for _ in range(2))
    assert calls == [1] and torch.equal(first.images, again.images)
    assert first.diagnostics["training"] > 0 == again.diagnostics["training"]
    given = gl.attack("inverter", seen, trained=gl.attacks.train_inverter(seen, examples=100))
    assert calls == [1] and torch.equal(given.images, first.images)
    gl.attack("inverter", observed(private(0), seed=1), examples=100)
    other = gl.attack("inverter", seen, examples=100, seed=1)
    assert calls == [1, 1, 1] and not torch.equal(other.images, first.images)


def test_a_batch_of_different_labels_in_the_order_that_was_told():
    batch = private(1, count=2)[[1, 0]]
    result = gl.attack("inverter", observed(batch), examples=600)
    assert torch.equal(result.labels, batch.labels) and float(psnr(result.images, batch).min()) > 14
    swapped = psnr(result.images.flip(0), batch)
    assert float((psnr(result.images, batch) - swapped).min()) > 3


def test_what_the_client_does_to_its_message_is_learned_with_the_rest():
    batch = private(0)
    sparse = gl.defenses.Defended(FedSGD(), gl.defenses.get("topk", keep=0.2))
    steps = FedAvg(epochs=3, batch_size=1, lr=0.05)
    for protocol in (sparse, steps):
        seen = observed(batch, protocol)
        assert float(psnr(gl.attack("inverter", seen, examples=400).images, batch)) > 18
        naive = gl.attacks.train_inverter(observed(batch), examples=400)
        with pytest.raises(ValueError, match="trained must be for this network and protocol"):
            gl.attack("inverter", seen, trained=naive)


def test_without_public_images_random_pictures_have_to_do():
    batch = private(0)
    result = gl.attack("inverter", observed(batch, knows=("labels",)), examples=400)
    assert "no public images: the map was learned from random pictures" in result.notes
    assert float(psnr(result.images, batch)) > 15


def test_the_inverter_refuses_what_it_cannot_do(monkeypatch):
    monkeypatch.setattr(inverse_map, "messages", lambda *a: pytest.fail("worked"))
    same = private(0)[[0, 0]]
    with pytest.raises(ValueError, match=r"by their labels, which must differ, got .*'ig' needs no such thing"):
        gl.attack("inverter", observed(same))
    seen = observed(private(0))
    several = dataclasses.replace(seen, rounds=seen.rounds * 2)
    with pytest.raises(ValueError, match=r"reads one gradient, got 2: .* several are read by .*'ig'"):
        gl.attack("inverter", several)
    photos = gl.data.public("photos", size=8, count=20, device="cpu")
    with pytest.raises(ValueError, match=r"public must hold images of shape \(1, 8, 8\), got \(3, 8, 8\)"):
        gl.attacks.train_inverter(seen, photos)
    for option, value in {"bins": 0, "examples": 3}.items():
        with pytest.raises(ValueError, match=option):
            gl.attack("inverter", seen, **{option: value})
    with pytest.raises(TypeError, match="trained"):
        gl.attack("inverter", seen, trained="best")
    with pytest.raises(ValueError, match="reads payloads of kind gradient or delta"):
        gl.attack("inverter", observed(private(0), gl.protocols.ZerothOrder(directions=4, dtype="float64", seed=0)))


def test_a_map_for_other_labels_is_refused():
    one, other = private(0, count=2)[[0]], private(0, count=2)[[1]]
    assert int(one.labels) != int(other.labels)
    trained = gl.attacks.train_inverter(observed(one), examples=40)
    with pytest.raises(ValueError, match="trained must be for labels"):
        gl.attack("inverter", observed(other), trained=trained)


def test_a_denoiser_learns_from_images_that_no_map_saw_and_belongs_to_one_network():
    seen = dataclasses.replace(observed(private(0)), public=PUBLIC[:120])
    how = {"bins": 64, "examples": 80, "seed": 3}
    found, truth = denoiser.pairs(seen, seen.public, **how)
    own = {tuple(image.flatten().tolist()) for image in seen.public.images}
    assert found.shape == truth.shape == (120, 1, 8, 8) and {tuple(t.flatten().tolist()) for t in truth} == own
    trained = inverse_map.train_inverter(seen, **how)  # it saw them, and fits them better
    with torch.no_grad():
        fitted = trained.images(inverse_map.caused(seen, truth[:, None], seen.labels))[:, 0]
    assert gl.metrics.psnr(fitted, truth).mean() > gl.metrics.psnr(found, truth).mean() + 1
    idle, taught = (gl.attacks.train_denoiser(seen, epochs=epochs, **how) for epochs in (0, 6))
    assert torch.equal(idle(found), found.clamp(0, 1)) and taught.found == idle.found == idle.cleaned
    assert taught.cleaned > taught.found
    plain, same = (gl.attack("inverter", seen, trained=trained, denoiser=one).images for one in (None, idle))
    assert torch.equal(plain, same)
    assert not torch.equal(plain, gl.attack("inverter", seen, trained=trained, denoiser=taught).images)
    taught.made_for = ("other", taught.made_for[1])
    with pytest.raises(ValueError, match="denoiser must be for this network and protocol"):
        gl.attack("inverter", seen, trained=trained, denoiser=taught)
    with pytest.raises(ValueError, match="public must hold at least 8 images for 4 folds, got 5"):
        gl.attacks.train_denoiser(seen, seen.public[:5])
    with pytest.raises(ValueError, match="it learns from images alone"):
        gl.attacks.train_denoiser(dataclasses.replace(seen, public=None, knows=frozenset({"labels"})))
