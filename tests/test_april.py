"""APRIL: the image behind a vision transformer's positions, exact, through local steps, its controls, its refusals."""

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.protocols import FedAvg, FedSGD

pytestmark = pytest.mark.usefixtures("no_lpips")


def drawn(data, size, count=1, seed=0):
    return gl.data.sample(data, size=size, count=count, seed=seed, device="cpu")


def seen_of(batch, protocol=None, network="vit", seed=0, knows=(), **options):
    protocol = FedSGD() if protocol is None else protocol
    model = gl.models.build(network, batch, seed=seed, **options)
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("data, size", [("digits", 8), ("photos", 8), ("photos", 16)])
def test_one_image_is_exact(data, size, seed):
    batch = drawn(data, size, seed=seed)
    result = gl.attack("april", seen_of(batch, seed=seed))
    score = gl.score(result, batch)
    assert float(score.psnr) > 80 and score.label_accuracy == 1
    assert result.diagnostics["residual"] < 1e-4 and not result.notes


def test_the_positions_gradient_is_what_the_loss_says_to_each_token():
    """Oracle: the embedding's gradient is the sum of outer products with the true patches."""
    batch = drawn("photos", 8)
    seen = seen_of(batch)
    patches = torch.nn.functional.unfold(batch.images, 2, stride=2)[0]
    delta = seen.payload["position"][0, 1:]
    torch.testing.assert_close(delta.mT @ patches.mT, seen.payload["embed.weight"].flatten(1), atol=1e-7, rtol=1e-4)


def test_local_steps_with_one_image_are_read_too():
    batch = drawn("digits", 8)
    assert float(gl.score(gl.attack("april", seen_of(batch, FedAvg(epochs=3, lr=0.01))), batch).psnr) > 40


@pytest.mark.parametrize("how", ["wrong_gradient", "permuted"])
def test_a_tampered_gradient_says_so_and_gives_nothing(how):
    batch = drawn("digits", 8)
    result = gl.attack("april", gl.tamper(seen_of(batch), how))
    score = gl.score(result, batch)
    assert float(score.psnr) < float(score.controls["mean_colour"].psnr) and "comes from no image" in result.notes[0]


def test_april_refuses_what_it_cannot_do():
    two = drawn("digits", 8, count=2)
    with pytest.raises(ValueError, match="needs a single image.*got 2; 'ig'"):
        gl.attack("april", seen_of(two))
    with pytest.raises(ValueError, match=r"as wide as an image has patches \(16\), got 8; 'ig'"):
        gl.attack("april", seen_of(two[[0]], width=8))
    with pytest.raises(ValueError, match="whose first layer cuts the image into patches, got Conv2d.*'ig'"):
        gl.attack("april", seen_of(two[[0]], network="convnet"))
    with pytest.raises(ValueError, match="tells 16 patches apart"):
        gl.attack("april", gl.tamper(seen_of(two[[0]]), "zero"))
    plain = nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), nn.Flatten(), nn.Linear(64, 10))
    seen = gl.observe(plain, FedSGD(), FedSGD().transmit(plain, two[[0]].images, two[[0]].labels), two[[0]])
    with pytest.raises(ValueError, match="needs learned positions.*got none; 'ig' needs none"):
        gl.attack("april", seen)
