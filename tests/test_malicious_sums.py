"""LOKI and fishing: malicious servers against secure sums, what stops them, controls, refusals."""

import pytest
import torch

import glutils as gl
from glutils.attacks.malicious import imprint, inconsistency
from glutils.protocols import FedSGD

pytestmark = pytest.mark.usefixtures("no_lpips")
CLIENTS = 10


@pytest.fixture(scope="module")
def photos():
    return gl.data.sample("photos", size=16, count=CLIENTS, seed=0, distinct=False, device="cpu")


@pytest.fixture(scope="module")
def public(photos):
    return gl.data.public(photos, count=128, seed=0)


def secure_mean(models, photos, received=None):
    """The mean that secure aggregation shows of one photo a client."""
    parts = [dict(FedSGD().transmit(m, one.images, one.labels)) for m, one in zip(models, photos, strict=True)]
    coding = gl.defenses.FixedPoint(step=2.0**-36, bits=64)
    flat = [gl.models.flatten(part) for part in parts]
    total = gl.defenses.secure_sum(flat, coding=coding, received=received, seed=0).total
    return gl.models.unflatten((total / len(parts)).float(), parts[0])


def test_loki_reads_every_client_of_a_secure_sum_and_whose_it_is(photos, public):
    models = gl.attacks.loki_models(gl.models.build("convnet", photos, seed=0), public, CLIENTS, bins=8)
    seen = gl.observe(models[0], FedSGD(), secure_mean(models, photos), photos)
    result = gl.attack("loki", seen)
    found = gl.metrics.psnr(result.images.float(), photos.images)  # in the order of clients, as they are
    assert float(found.min()) > 60 and result.diagnostics["hits"] == CLIENTS
    shared = imprint.imprint(gl.models.build("convnet", photos, seed=0), public, bins=8)
    blind = gl.attack("rtf", gl.observe(shared, FedSGD(), secure_mean([shared] * CLIENTS, photos), photos))
    assert int(gl.metrics.recovery_mask(blind.images, photos.images).sum()) < CLIENTS  # eight shared bins, ten photos


def test_each_client_fires_its_own_neurons_alone(photos, public):
    models = gl.attacks.loki_models(gl.models.build("convnet", photos, seed=0), public, 3, bins=8)
    active = [imprint.block_of(m).active_neurons(photos.images).any(0) for m in models]
    for k, mask in enumerate(active):
        assert bool(mask[8 * k : 8 * k + 8].any()) and int(mask.sum()) == int(mask[8 * k : 8 * k + 8].sum())
    plain = imprint.imprint(gl.models.build("convnet", photos, seed=0), public, bins=8)
    torch.testing.assert_close(models[1](photos.images), plain(photos.images))


def test_masks_bound_to_the_model_stop_loki_and_a_spoiled_gradient_gives_nothing(photos, public):
    models = gl.attacks.loki_models(gl.models.build("convnet", photos, seed=0), public, CLIENTS, bins=8)
    bound = secure_mean(models, photos, received=[inconsistency.digest(m) for m in models])
    for payload in (bound, gl.tamper(gl.observe(models[0], FedSGD(), secure_mean(models, photos), photos), "permuted")):
        seen = payload if isinstance(payload, gl.Observation) else gl.observe(models[0], FedSGD(), payload, photos)
        result = gl.attack("loki", seen)
        assert not bool(gl.metrics.recovery_mask(result.images, photos.images).any())


@pytest.mark.parametrize("seed", range(3))
def test_fishing_pulls_one_image_out_of_the_sum_of_ten_clients(seed):
    photos = gl.data.sample("photos", size=16, count=CLIENTS, seed=seed, distinct=False, device="cpu")
    alone = [i for i, label in enumerate(photos.labels.tolist()) if photos.labels.tolist().count(label) == 1]
    bait = gl.attacks.fish(gl.models.build("mlp", photos, activation="relu", seed=seed), int(photos.labels[alone[0]]))
    seen = gl.observe(bait, FedSGD(), secure_mean([bait] * CLIENTS, photos), photos)
    result = gl.attack("fishing", seen)
    assert float(gl.metrics.psnr(result.images[:1].float(), photos.images[alone[:1]])) > 60
    assert result.labels[0] == photos.labels[alone[0]]
    assert "not looked for" in result.notes[0] and not any("mixture" in note for note in result.notes)
    spoiled = gl.attack("fishing", gl.tamper(seen, "permuted"))
    assert float(gl.metrics.psnr(spoiled.images[:1].float(), photos.images[alone[:1]])) < 20


def test_images_that_share_the_class_are_a_mixture_and_it_says_so():
    photos = gl.data.sample("photos", size=16, count=3, seed=0, distinct=True, device="cpu")
    twins = gl.data.Batch(photos.images, torch.tensor([2, 2, 5]), photos.classes)
    bait = gl.attacks.fish(gl.models.build("mlp", twins, activation="relu", seed=0), 2)
    result = gl.attack("fishing", gl.observe(bait, FedSGD(), secure_mean([bait] * 3, twins), twins))
    assert "several images are of class 2" in result.notes[1] and result.diagnostics["alone"] < 0.999
    nobody = gl.attacks.fish(gl.models.build("mlp", twins, activation="relu", seed=0), 3)
    with pytest.raises(ValueError, match="caught nothing: no image of class 3"):
        gl.attack("fishing", gl.observe(nobody, FedSGD(), secure_mean([nobody] * 3, twins), twins))


def test_they_refuse_what_they_cannot_do(photos, public):
    model = gl.models.build("mlp", photos, seed=0)
    plain = gl.observe(model, FedSGD(), secure_mean([model] * CLIENTS, photos), photos)
    with pytest.raises(ValueError, match="a block for each client.*'rtf'.*'spear'"):
        gl.attack("loki", plain)
    with pytest.raises(ValueError, match="one class has weights.*got 9 classes; 'spear'"):
        gl.attack("fishing", plain)
    conv = gl.attacks.fish(gl.models.build("convnet", photos, seed=0), 0)
    with pytest.raises(ValueError, match="fully connected first layer.*'ig' takes"):
        gl.attack("fishing", gl.observe(conv, FedSGD(), secure_mean([conv] * CLIENTS, photos), photos))
    with pytest.raises(ValueError, match="one of the model's 9 classes, got 9"):
        gl.attacks.fish(model, 9)
    with pytest.raises(ValueError, match="strength"):
        gl.attacks.fish(model, 0, strength=0)
    with pytest.raises(ValueError, match="clients"):
        gl.attacks.loki_models(model, public, 0)
    with pytest.raises(ValueError, match="two_sided must be False"):
        gl.attacks.loki_models(model, public, 2, two_sided=True)
    sent = gl.attacks.loki_models(model, public, 1, bins=4)[0]
    seen = gl.observe(sent, FedSGD(), FedSGD().transmit(sent, photos.images[:1], photos.labels[:1]), photos[[0]])
    with pytest.raises(ValueError, match="threshold"):
        gl.attack("loki", seen, threshold=2)
