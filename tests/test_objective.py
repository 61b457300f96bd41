"""The distances of payloads against autograd in float64."""

import pytest
import torch

from glutils.attacks.matching.objective import cosine, squared


def reference(found, target, kind):
    found = [f.double().requires_grad_() for f in found]
    target = [t.double() for t in target]
    if kind is squared:
        value = sum((f - t).square().sum() for f, t in zip(found, target, strict=True))
    else:
        dot = sum((f * t).sum() for f, t in zip(found, target, strict=True))
        norms = [sum(t.square().sum() for t in tensors).sqrt() for tensors in (found, target)]
        value = 1 - dot / (norms[0] * norms[1])
    return value.detach(), torch.autograd.grad(value, found)


@pytest.mark.parametrize("kind", [squared, cosine])
@pytest.mark.parametrize("apart", [1.0, 1e-1, 1e-2])
def test_distances_and_slopes_are_exact_to_round_off_for_a_million_entries(kind, apart):
    """Close to the solution, too: there a slope of the cosine is a small difference of long vectors."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1000, 1000), (40, 3, 3), (7,)]
    target = [0.01 * torch.randn(shape, generator=generator) for shape in shapes]
    found = [t + apart * 0.01 * torch.randn(t.shape, generator=generator) for t in target]
    value, slopes = kind(found, target)
    exact, expected = reference(found, target, kind)
    assert float(value) == pytest.approx(float(exact), rel=1e-3, abs=2e-7)
    error = sum((a - b).square().sum() for a, b in zip(slopes, expected, strict=True)).sqrt()
    size = sum(b.square().sum() for b in expected).sqrt()
    assert float(error / size) < 5e-7 / apart


def test_the_cosine_of_nothing_is_finite():
    value, slopes = cosine([torch.zeros(3)], [torch.ones(3)])
    assert float(value) == 1 and all(torch.isfinite(s).all() for s in slopes)
