"""How many scalars a text is worth: against enumerated texts, against formulas, and where nothing can be said."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.audit.texts import _secret

TEXT = "The code of my phone is 4821."


class Twice(nn.Module):
    """Logits of the next of three pieces by the present one."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens):
        return self.table[tokens]


def scalars(count=1, **options):
    return gl.protocols.ZerothOrder(**{"directions": count, "mu": 1e-3, "law": "mezo", "seed": 3} | options)


def noisy(sigma, count=1):
    return gl.defenses.Defended(scalars(count), gl.defenses.get("gaussian_noise", sigma=sigma))


def everything():
    """All texts of four pieces out of three, as one batch."""
    rows = torch.tensor(list(itertools.product(range(3), repeat=4)))
    rows[:, 0] = 0
    labels = rows.unique(dim=0).clone()
    tokens, labels[:, 0] = labels.clone(), -100
    return gl.data.Batch(tokens, labels, ("a", "b", "c"))


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_no_scalar_tells_more_than_the_bound(sigma):
    """Mutual information of one scalar with one of 27 texts, by integration, averaged over directions."""
    model, texts = Twice(), everything()
    with torch.no_grad():
        logs = model(texts.images).log_softmax(-1)
        chances = logs[:, :-1].gather(-1, texts.labels[:, 1:, None])[..., 0].sum(1).double().exp()
        assert float(chances.sum()) == pytest.approx(1, abs=1e-5)
        slopes = scalars(40).of_each(model, texts.images, texts.labels, None).double()
    told = []
    for means in slopes:
        grid = torch.linspace(float(means.min()) - 6 * sigma, float(means.max()) + 6 * sigma, 4001).double()
        density = torch.exp(-0.5 * ((grid - means[:, None]) / sigma) ** 2) / sigma / math.sqrt(2 * math.pi)
        mixed = chances @ density
        entropy = -torch.trapezoid(mixed * mixed.clamp_min(1e-300).log2(), grid)
        told.append(float(entropy) - 0.5 * math.log2(2 * math.pi * math.e * sigma**2))
    square = float((chances @ slopes.T.square()).mean())  # of all texts and directions
    bound = 0.5 * math.log2(1 + square / sigma**2)
    information, surprise = sum(told) / len(told), float(-(chances * chances.log2()).sum())
    assert information <= bound and information <= surprise + 1e-6
    likeliest = texts[[int(chances.argmax())]]
    found = gl.audit.count_texts(model, noisy(sigma), likeliest)
    assert found.bits_per_scalar == pytest.approx(0.5 * math.log2(1 + (found.spread / sigma) ** 2), rel=1e-3)
    assert float(found.surprise) == pytest.approx(-math.log2(float(chances.max())), rel=1e-5)


def test_surprise_is_the_loss_and_the_secret_lies_in_its_digits():
    batch = gl.data.from_texts([TEXT, "My card was lost."])
    model = gl.models.build("gpt", batch, weights="trained")
    found = gl.audit.count_texts(model, scalars(), batch, rounds=10)
    loss = float(gl.models.loss(model, gl.models.parameters(model), batch.images, batch.labels))
    assert float(found.surprise.sum()) * math.log(2) == pytest.approx(loss * found.targets, rel=1e-5)
    assert 8 < float(found.secrets[0]) < float(found.surprise[0]) and float(found.secrets[1]) == 0
    pieces = [batch.vocabulary.decode([int(token)]) for token in batch.images[0, 1:][_secret(batch)[0] > 0]]
    assert "".join(pieces).strip() == "4821"
    assert found.scalars == 10 and found.least < found.decoded and "10 scalars" in str(found)


def test_precision_and_noise_take_bits_away():
    batch = gl.data.from_texts(["My code is 4821."])
    model = gl.models.build("gpt", batch, depth=1, width=16, heads=2, seed=0)
    plans = {"double": scalars(dtype="float64"), "single": scalars(), "noise": noisy(1.0), "much": noisy(30.0)}
    plans["half"] = scalars(dtype="bfloat16", loss_dtype="float32")
    bits = {name: gl.audit.count_texts(model, plan, batch).bits_per_scalar for name, plan in plans.items()}
    assert bits["double"] > bits["single"] > 10 > bits["half"] > bits["much"]
    assert bits["single"] > bits["noise"] > bits["much"]
    cut = gl.defenses.Defended(scalars(), gl.defenses.get("dp_scalars", clip=3.0, sigma=1.0))
    assert gl.audit.count_texts(model, cut, batch).noise == pytest.approx(3.0, rel=1e-3)


def test_what_it_cannot_say_is_refused():
    texts, digit = gl.data.from_texts([TEXT]), gl.data.sample("digits", seed=0)
    model, network = gl.models.build("gpt", texts, weights="trained"), gl.models.build("mlp", digit, seed=0)
    with pytest.raises(ValueError, match="batch must hold texts, got images, which gl.audit.predict"):
        gl.audit.count_texts(network, scalars(), digit)
    for other in (gl.protocols.FedSGD(), gl.defenses.Defended(scalars(), gl.defenses.get("sign"))):
        with pytest.raises(ValueError, match="protocol must send scalars along public directions"):
            gl.audit.count_texts(model, other, texts)
    with pytest.raises(ValueError, match="rounds must be"):
        gl.audit.count_texts(model, scalars(), texts, rounds=0)
