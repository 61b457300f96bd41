"""Priors: total variation in its four definitions, batch norm statistics, the quadratic prior of Gauss-Newton."""

import numpy as np
import pytest
import torch
from torch import nn

from glutils import models, priors
from glutils.data.batch import Batch


@pytest.fixture
def images():
    return torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_four_total_variations_against_their_formulas(images):
    x = images.numpy()
    down, right = np.diff(x, axis=2), np.diff(x, axis=3)
    circular = (x - np.roll(x, 1, axis=2)) ** 2 + (x - np.roll(x, 1, axis=3)) ** 2
    expected = {
        "l1mean": np.abs(down).mean() + np.abs(right).mean(),
        "l1sum": (np.abs(down).sum() + np.abs(right).sum()) / 3,
        "l2circ": np.mean([circular[i].sum() for i in range(3)]),
        "l2count": 2 * ((down**2).sum() / (2 * 4 * 4) + (right**2).sum() / (2 * 5 * 3)) / 3,
    }
    assert set(expected) == set(priors.TV_KINDS)
    for kind, value in expected.items():
        assert float(priors.tv(images, kind)) == pytest.approx(value, rel=1e-12)
    assert float(priors.tv(images)) == pytest.approx(expected["l1mean"])


@pytest.mark.parametrize("kind", priors.TV_KINDS)
def test_total_variation_of_constant_images_is_zero_and_its_gradient_finite(kind):
    flat = torch.full((2, 3, 4, 4), 0.3, requires_grad=True)
    value = priors.tv(flat, kind)
    value.backward()
    assert float(value.detach()) == 0 and torch.isfinite(flat.grad).all()


def test_unknown_total_variation():
    with pytest.raises(ValueError, match="kind must be one of 'l1mean', .*got 'huber'"):
        priors.tv(torch.zeros(1, 1, 4, 4), "huber")


def test_smoothness_is_the_sum_of_squared_differences(images):
    matrix = priors.smoothness(tuple(images.shape)).to_dense()
    x = images.flatten()
    assert matrix.shape == (120, 120) and torch.equal(matrix, matrix.T)
    squares = images.diff(dim=2).square().sum() + images.diff(dim=3).square().sum() + 0.01 * images.square().sum()
    assert float(x @ matrix @ x) == pytest.approx(float(squares), rel=1e-12)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0.0099  # can be inverted


def test_weighted_smoothness_is_the_total_variation_where_it_was_taken(images):
    grey = images[:, :1]
    matrix = priors.smoothness(tuple(grey.shape), grey, eps=1e-6).to_dense()
    x = grey.flatten()
    variation = float(priors.tv(grey, "l1sum")) * len(grey)
    assert float(x @ matrix @ x) == pytest.approx(variation + 0.01 * float(x @ x), rel=1e-4)


def test_weights_are_shared_by_the_channels_and_bounded_by_eps(images):
    eps = 0.3
    matrix = priors.smoothness(tuple(images.shape), images, eps=eps).to_dense()
    y = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 0.01 * float(y.square().sum())
    for axis in (2, 3):
        weight = 1 / (images.diff(dim=axis).square().mean(1, keepdim=True) + eps**2).sqrt()
        expected += float((weight * y.diff(dim=axis).square()).sum())
        assert float(weight.max()) <= 1 / eps
    assert float(y.flatten() @ matrix @ y.flatten()) == pytest.approx(expected, rel=1e-12)


def test_smoothness_of_a_flat_guess_is_the_unweighted_one_over_eps():
    shape = (1, 1, 3, 3)
    weighted = priors.smoothness(shape, torch.full(shape, 0.5), eps=0.1).to_dense()
    plain = priors.smoothness(shape).to_dense()
    eye = 0.01 * torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(weighted - eye, 10 * (plain - eye))


def test_batchnorm_statistics_are_those_computed_by_hand():
    images = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    batch = Batch(images, torch.arange(4), tuple("abcd"))
    model = models.build("resnet8", batch, width=2, seed=2).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = priors.batchnorm_statistics(model, images)
    assert list(found) == [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    first = model[0](images)  # the input of the first batch norm layer
    torch.testing.assert_close(found["1"][0], first.mean((0, 2, 3)))
    torch.testing.assert_close(found["1"][1], first.var((0, 2, 3), unbiased=True))
    mean, var = first.mean((0, 2, 3), keepdim=True), first.var((0, 2, 3), unbiased=False, keepdim=True)
    second = model[3].conv1(((first - mean) / (var + 1e-5).sqrt()).relu())  # weights are 1 and biases 0 at the start
    torch.testing.assert_close(found["3.norm1"][0], second.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_batchnorm_distance_is_zero_at_the_truth_and_differentiable():
    batch = Batch(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), ("a", "b"))
    model = models.build("resnet8", batch, width=2)
    target = priors.batchnorm_statistics(model, batch.images)
    assert float(priors.batchnorm_distance(target, target)) == 0
    guess = torch.zeros_like(batch.images).requires_grad_()
    found = priors.batchnorm_statistics(model, guess)
    distance = priors.batchnorm_distance(found, target)
    by_hand = sum(((a - b) ** 2).sum() for name in target for a, b in zip(found[name], target[name], strict=True))
    torch.testing.assert_close(distance, by_hand)
    (slope,) = torch.autograd.grad(distance, guess)
    assert float(slope.abs().max()) > 0


def test_running_statistics_are_the_models_own():
    batch = Batch(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), ("a", "b"))
    model = models.build("resnet8", batch, width=2)
    found = priors.running_statistics(model)
    assert set(found) == set(priors.batchnorm_statistics(model, batch.images))
    assert found["1"][0] is model[1].running_mean
    assert priors.running_statistics(models.build("mlp", batch)) == {}
