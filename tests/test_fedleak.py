"""FedLeak: IG and the penalised gradient as its special cases, the part that is compared, controls, refusals."""

from dataclasses import replace

import pytest
import torch

import glutils as gl
from glutils.attacks.matching.fedleak import flattened, partial
from glutils.attacks.matching.objective import cosine
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

FEW = {"iterations": 4, "progress": False}


def observed(protocol, batch, knows=("labels",), name="convnet"):
    model = gl.models.build(name, batch, seed=0)
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows)


@pytest.fixture(scope="module")
def photos():
    return gl.data.sample("photos", size=12, count=2, seed=0, distinct=True, device="cpu")


@pytest.fixture(scope="module")
def seen(photos):
    return observed(FedSGD(), photos)


def test_all_entries_and_no_flatness_are_ig(seen):
    ours = gl.attack("fedleak", seen, share=1, flatness=0, seed=3, **FEW)
    theirs = gl.attack("ig", seen, seed=3, **FEW)
    assert torch.equal(ours.images, theirs.images) and ours.evaluations == theirs.evaluations == 5
    assert gl.attack("fedleak", seen, seed=3, **FEW).evaluations == 10


def test_only_the_largest_entries_of_every_tensor_are_compared():
    target = [torch.tensor([[3.0, -4.0], [0.1, 0.2]]), torch.tensor([1.0])]
    found = [torch.tensor([[1.0, -2.0], [9.0, 9.0]]), torch.tensor([2.0])]
    value, slopes = partial(0.5)(found, target)
    kept = [torch.tensor([1.0, -2.0]), torch.tensor([2.0])], [torch.tensor([3.0, -4.0]), torch.tensor([1.0])]
    same, their = cosine(*kept)
    assert float(value) == pytest.approx(float(same))
    torch.testing.assert_close(slopes[0], torch.stack([their[0], torch.zeros(2)]))
    torch.testing.assert_close(slopes[1], their[1])
    assert partial(1) is cosine


def test_the_slope_is_that_of_the_penalised_objective():
    """Of a quadratic F the penalty's own slope is known: radius H g / |g|, with |g| as a root mean square."""
    curve = torch.tensor([1.0, 4.0])

    def quadratic(variables):
        (x,) = variables
        value = 0.5 * (curve * x.detach().square()).sum()
        return value, (curve * x.detach(),)

    x = torch.tensor([2.0, -1.0], requires_grad=True)
    value, (slope,) = flattened(quadratic, 0.25, 0.1)((x,))
    plain = curve * x.detach()
    torch.testing.assert_close(slope, plain + 0.25 * 0.1 * curve * plain / plain.square().mean().sqrt())
    assert float(value) == 4.0


def test_images_come_back_and_a_spoiled_message_gives_nothing(seen, photos):
    how = {"iterations": 60, "progress": False}
    misled = gl.attack("fedleak", gl.tamper(seen, "wrong_gradient"), **how)
    score = gl.score(gl.attack("fedleak", seen, **how), photos, controls={"misled": misled})
    assert score.mean_psnr > 20 and not score.beaten_by


def test_labels_differences_and_tables(photos, seen):
    first, again, other = (gl.attack("fedleak", seen, seed=s, **FEW) for s in (1, 1, 2))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    blind = gl.attack("fedleak", observed(FedSGD(), photos, knows=()), **FEW)
    steps = gl.attack("fedleak", observed(FedAvg(epochs=2, batch_size=1, lr=0.01), photos, knows=()), **FEW)
    for found in (blind, steps):
        assert sorted(found.labels.tolist()) == sorted(photos.labels.tolist())
    wine = gl.data.sample("wine", count=3, seed=0, device="cpu")
    assert gl.attack("fedleak", observed(FedSGD(), wine, name="mlp"), **FEW).records.shape == wine.images.shape


def test_it_refuses_what_it_cannot_do(photos, seen):
    bad = {"share": 0, "flatness": 1.5, "radius": 0, "lr": 0, "tv_weight": -1, "iterations": -1}
    for option, value in bad.items():
        with pytest.raises(ValueError, match=option):
            gl.attack("fedleak", seen, **FEW | {option: value})
    scalars = observed(ZerothOrder(directions=4, mu=1e-4, dtype="float64", seed=7), photos)
    with pytest.raises(ValueError, match=r"gradient or delta, got 'scalars'; it is read by .*'zerogla'"):
        gl.attack("fedleak", scalars)
    with pytest.raises(ValueError, match="labels must be one of"):
        gl.attack("fedleak", replace(seen, labels=None, knows=frozenset()), labels="told")
