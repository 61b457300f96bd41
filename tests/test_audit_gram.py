"""G'G by coordinates of moving matrices is that of the whole derivative, and layers that move otherwise are seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import glutils as gl
from glutils import models
from glutils.attacks.zerogla.derivatives import TANGENTS, gradients_jacobian
from glutils.audit import gram

CLIENT = gl.protocols.ZerothOrder(directions=4, mu=1e-3)


def both(model, batch):
    state = [models.parameters(model, torch.float64)]
    rows = gradients_jacobian(model, state, batch.images.double(), batch.labels, CLIENT.criterion)
    return gram.gradient_gram(model, CLIENT, batch), rows @ rows.T


class Mixed(nn.Module):
    """A matrix whose gradient is a full one beside an outer product: it moves outside the gradient's small space."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(80, 64, generator=torch.Generator().manual_seed(0)) / 8)

    def forward(self, x):
        x = x.flatten(1)
        bent = torch.tanh(self.weight + x.mean() ** 2 * self.weight.flip(0))
        return (x @ bent.T).view(len(x), 10, 8).sum(2)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(gram, "SMALL", 1)


@pytest.mark.parametrize("name", ["mlp", "lenet", "convnet", "vit"])
@pytest.mark.parametrize("count", [1, 3])
def test_it_is_the_product_of_the_whole_derivative(name, count, small):
    batch = gl.data.sample("digits", count=count, seed=1)
    model = gl.models.build(name, batch, seed=0)
    found, whole = both(model, batch)
    assert float((found - whole).abs().max()) < 1e-12 * float(whole.abs().max())


def test_matrices_of_few_outer_products_are_not_kept_whole(small):
    outer = torch.outer(torch.arange(1.0, 65), torch.ones(64))
    shown = [part.double() for part in (outer, torch.eye(64), torch.ones(9))]
    sizes = [gram._Frame(part).coordinates(torch.zeros(2, *part.shape).double()).shape[1] for part in shown]
    assert sizes == [128, 64 * 64, 9]


def test_a_layer_that_moves_otherwise_is_kept_whole(small):
    batch = gl.data.sample("digits", count=1, seed=1)
    model = Mixed()
    found, whole = both(model, batch)
    assert float((found - whole).abs().max()) < 1e-12 * float(whole.abs().max())
    frame = gram._Frame(torch.outer(torch.ones(64).double(), torch.ones(64).double()))
    frame.coordinates(torch.eye(64).double()[None])
    assert not frame.holds


def test_numbers_come_in_chunks_that_need_not_divide_them():
    table = gl.data.sample("breast_cancer", count=3, seed=0)
    assert table.images.numel() % TANGENTS
    model = gl.models.build("mlp", table, seed=0)
    found, whole = both(model, table)
    assert float((found - whole).abs().max()) < 1e-12 * float(whole.abs().max())


def test_a_client_without_a_gradient_moves_nothing():
    batch = gl.data.sample("digits", count=1, seed=1)
    model = gl.models.build("mlp", batch, seed=0)
    with torch.no_grad():
        for part in model.parameters():
            part.zero_()
    assert float(gram.gradient_gram(model, CLIENT, batch)[:10, :10].abs().max()) == 0
