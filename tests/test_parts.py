"""Rounds as parts of one system: stacked or one by one, the equations are the same."""

import dataclasses

import pytest
import torch

import glutils as gl
from glutils.attacks.zerogla import equations

DOUBLE = torch.float64


def transcript(batch, counts=(4, 4, 3, 3, 3), **options):
    """An observation of one batch over rounds of these many scalars each, from a model that moves."""
    model = gl.models.build("mlp", batch, seed=0)
    rounds = []
    for k, count in enumerate(counts):
        protocol = gl.protocols.ZerothOrder(directions=count, seed=k, **options)
        moved = {name: p + 0.01 * k for name, p in gl.models.parameters(model).items()}
        gl.federation.load(model, moved)
        payload = protocol.transmit(model, batch.images, batch.labels)
        rounds.append(gl.transcripts.Round(protocol, payload, moved, k))
    seen = gl.observe(model, rounds[-1].protocol, rounds[-1].payload, batch, knows={"labels"})
    return dataclasses.replace(seen, rounds=tuple(rounds))


def system(seen):
    return equations.ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), seen.labels.numel() * 64)


@pytest.mark.parametrize("options", [
    {"scheme": "exact", "dtype": "float64"},
    {"scheme": "exact"},
    {"scheme": "central", "dtype": "float64", "law": "gaussian"},
    {"scheme": "forward", "mu": 1e-2},
    {"scheme": "central", "mu": 1e-2},
])  # fmt: skip
def test_stacked_rounds_are_the_same_equations_as_single_ones(digits, monkeypatch, options):
    seen = transcript(digits[:2], **options)
    stacked = system(seen)
    assert [type(block).__name__ for block in stacked.blocks] == ["StackedRounds", "StackedRounds"]
    assert [block.count for block in stacked.blocks] == [8, 9]
    monkeypatch.setattr(equations, "STACK", 0)
    single = system(seen)
    assert [type(block).__name__ for block in single.blocks] == ["StreamedRound"] * 5
    assert single.count == stacked.count == 17
    generator = torch.Generator().manual_seed(1)
    u, v = (torch.rand(128, generator=generator, dtype=DOUBLE) for _ in range(2))
    r = torch.rand(17, generator=generator, dtype=DOUBLE)
    for one, other in zip(stacked.evaluate(u), single.evaluate(u), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(stacked.jtj_vector(u, v), single.jtj_vector(u, v), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(stacked.vjp(u, r), single.vjp(u, r))
    torch.testing.assert_close(stacked.gram(u, DOUBLE), single.gram(u, DOUBLE))
    measured = [stacked.calibrate(u), single.calibrate(u)]
    assert measured[0][:2] == pytest.approx(measured[1][:2], rel=1.0, abs=1e-30)
    torch.testing.assert_close(measured[0].problem.offset, measured[1].problem.offset, rtol=1e-3, atol=1e-9)


def test_a_stack_keeps_to_its_memory(digits, monkeypatch):
    seen = transcript(digits[:1], counts=(4, 4, 4, 4))
    dim = sum(p.numel() for p in seen.model.parameters())
    monkeypatch.setattr(equations, "STACK", 8 * 4 * dim * 3)
    assert [block.count for block in system(seen).blocks] == [12, 4]
