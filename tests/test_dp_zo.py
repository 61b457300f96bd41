"""Private scalars of DPZero and DP-ZO: laws of the noise, pure epsilons, and what several scalars of one draw cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import glutils as gl
from glutils import defenses
from glutils.defenses.accounting import per_message

PLAIN = gl.protocols.ZerothOrder(directions=400, law="gaussian", dtype="float64", seed=1)


@pytest.fixture(scope="module")
def batch():
    return gl.data.sample("digits", count=3, seed=0)


@pytest.fixture(scope="module")
def model(batch):
    return gl.models.build("mlp", batch, hidden=(4,), activation="tanh", seed=0)


def noise_of(law, model, batch, **how):
    """What a client adds to the cut slopes."""
    defense = defenses.get("dp_scalars", clip=0.5, sigma=2.0, law=law, **how)
    protected = defenses.Defended(PLAIN, defense, private=3)
    quiet = replace(protected, defense=replace(defense, sigma=0.0))
    sent = [p.transmit(model, batch.images, batch.labels).scalars for p in (protected, quiet)]
    return protected, sent[0] - sent[1]


@pytest.mark.parametrize(("law", "spread"), [("gaussian", 1.0), ("laplace", math.sqrt(2))])
@pytest.mark.parametrize("expected", [None, 7])
def test_noise_has_its_law_and_the_stated_size(law, spread, expected, model, batch):
    """Of 400 scalars: standard deviation, and the fourth moment that tells the laws apart (3 and 6)."""
    protected, found = noise_of(law, model, batch, expected=expected)
    stated = spread * 2.0 * 0.5 / (expected or len(batch))
    assert protected.defense.noise(None, len(batch)) == pytest.approx(stated)
    assert float(found.std()) == pytest.approx(stated, rel=0.12)
    assert abs(float(found.mean())) < 4 * stated / math.sqrt(len(found))
    kurtosis = float((found / found.std()).pow(4).mean())
    assert kurtosis > 4 if law == "laplace" else kurtosis < 4


def test_an_empty_poisson_batch_is_noise_alone(model, batch):
    defense = defenses.get("dp_scalars", clip=0.5, sigma=2.0, law="laplace", expected=2)
    sent = defenses.Defended(PLAIN, defense, private=3).transmit(model, batch.images[:0], batch.labels[:0])
    assert len(sent) == 400
    assert float(sent.scalars.std()) == pytest.approx(defense.noise(None, 0), rel=0.12)


@pytest.mark.parametrize("relation", ["add_remove", "replace_one"])
@pytest.mark.parametrize("rate", [1.0, 0.2])
@pytest.mark.parametrize("scalars", [1, 2])
def test_pure_epsilon_bounds_every_outcome(relation, rate, scalars):
    """The greatest ratio of densities of one message, over a grid of outcomes and both orders of the neighbours."""
    scale = 1.5
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    outcomes = torch.cartesian_prod(*[axis] * scalars).view(-1, scalars)
    ends = (0.0, 1.0) if relation == "add_remove" else (-1.0, 1.0)

    def density(at):
        laplace = lambda m: torch.exp(-(outcomes - m).abs().sum(1) / scale)  # noqa: E731  (the constant cancels)
        return (1 - rate) * laplace(0.0) + rate * laplace(at)

    ratio = (density(ends[0]) / density(ends[1])).log().abs().max()
    stated = defenses.pure_epsilon(scale, rate, 1, scalars=scalars, relation=relation)
    assert float(ratio) <= stated + 1e-9
    if rate == 1:
        assert float(ratio) == pytest.approx(stated, abs=1e-9)
    assert defenses.pure_epsilon(scale, rate, 9, scalars=scalars, relation=relation) == pytest.approx(9 * stated)


def test_pure_epsilon_of_little_noise_does_not_overflow():
    assert defenses.pure_epsilon(1e-3, 0.5, 1) == pytest.approx(1000 + math.log(0.5))
    assert defenses.pure_epsilon(0.02, 0.5, 1) == pytest.approx(math.log1p(0.5 * math.expm1(50)))


def test_scalars_of_one_draw_cost_more_than_as_many_draws():
    """Forty scalars of a Poisson batch: the loss of the joint message, by integrating along its one direction.

    All densities depend on the outcome through its mean alone, which has noise of sigma / sqrt(K).
    """
    sigma, numbers, rate, delta = 9.0, 40, 0.3, 1e-3
    client = replace(PLAIN, directions=numbers)
    protected = defenses.Defended(client, defenses.get("dp_scalars", clip=1.0, sigma=sigma, expected=3))
    how = {"records": 10, "rounds": 1, "batch": 3, "sampling": "poisson", "delta": delta}
    stated = defenses.privacy_statement(protected, **how).epsilon

    def excess(eps):
        """delta(eps), the worse order of the neighbours."""
        tau = per_message(sigma, numbers)
        x = torch.linspace(-14 * tau, 14 * tau + 1, 200_001, dtype=torch.float64)
        normal = [torch.exp(-0.5 * ((x - m) / tau) ** 2) / (tau * math.sqrt(2 * math.pi)) for m in (0.0, 1.0)]
        there = (1 - rate) * normal[0] + rate * normal[1]
        pairs = ((there, normal[0]), (normal[0], there))
        return max(float(torch.trapezoid((p - math.exp(eps) * q).clamp(min=0), x)) for p, q in pairs)

    assert excess(stated) <= delta < excess(stated - max(0.02 * stated, 0.02))
    assert stated > defenses.epsilon(sigma, rate, numbers, delta)  # as if each scalar had its own draw
    whole = defenses.privacy_statement(protected, **how | {"batch": 10}).epsilon
    assert whole == pytest.approx(defenses.epsilon(sigma, 1.0, numbers, delta))  # without drawing, both ways agree


def test_the_statement_of_laplace_noise_is_pure():
    protected = defenses.Defended(
        replace(PLAIN, directions=5), defenses.get("dp_scalars", clip=1.0, sigma=20.0, expected=2, law="laplace")
    )
    said = defenses.privacy_statement(protected, records=10, rounds=8, batch=2, sampling="poisson")
    assert (said.delta, said.steps) == (0.0, 40)
    assert said.epsilon == pytest.approx(8 * math.log1p(0.2 * math.expm1(5 / 20)))
    assert "Laplace noise" in str(said)
    with pytest.raises(ValueError, match="delta must be None for Laplace noise"):
        defenses.privacy_statement(protected, records=10, rounds=8, batch=2, sampling="poisson", delta=1e-3)


def test_what_is_refused(model, batch):
    with pytest.raises(ValueError, match="law must be one of 'gaussian', 'laplace'"):
        defenses.get("dp_scalars", clip=1.0, sigma=1.0, law="cauchy")
    for how, words in (
        ({"scale": 0}, "scale must be greater than 0"), ({"steps": 0}, "steps"), ({"scalars": 0}, "scalars"),
        ({"sample_rate": 1.5}, "sample_rate"), ({"relation": "both"}, "relation must be one of"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            defenses.pure_epsilon(**{"scale": 1.0, "sample_rate": 1.0, "steps": 1} | how)
    defense = defenses.get("dp_scalars", clip=0.5, sigma=2.0, law="laplace", expected=3)
    with pytest.raises(ValueError, match="protected must add Gaussian noise"):
        gl.audit.canaries(model, defenses.Defended(PLAIN, defense), None, batch, rounds=1, lr=0.1, delta=1e-3)
