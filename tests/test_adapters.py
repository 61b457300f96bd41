"""Low-rank adapters: the network begins as it was, and nothing else is trained."""

import pytest
import torch
from torch import nn

import glutils as gl


def test_adapters_begin_as_nothing_and_are_all_that_is_trained():
    batch = gl.data.sample("digits", count=2, seed=0, device="cpu")
    model = gl.models.build("mlp", batch, seed=0)
    found = gl.models.adapted(model, rank=3, skip=(), seed=1)
    assert torch.equal(found(batch.images), model(batch.images))
    names = list(gl.models.parameters(found))
    assert names and all(name.endswith((".down", ".up")) for name in names)
    assert all(p.requires_grad for p in model.parameters()), "the model itself is left as it was"
    again = gl.models.adapted(model, rank=3, skip=(), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), again.parameters(), strict=True))


def test_an_adapted_layer_is_the_layer_plus_a_product():
    layer = nn.Linear(5, 4)
    found = gl.models.adapted(layer, rank=2, scale=0.5)
    with torch.no_grad():
        found.up.copy_(torch.arange(8.0).view(4, 2))
        x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(found(x), layer(x) + 0.5 * x @ (found.up @ found.down).T)


def test_layers_that_are_skipped_have_none():
    batch = gl.data.sample("messages", seed=0, device="cpu")
    model = gl.models.build("gpt", batch, depth=1, width=8, heads=1)
    found = gl.models.parameters(gl.models.adapted(model, skip=("head", "blocks.0.up")))
    assert {name.rpartition(".")[0] for name in found} == {"blocks.0.qkv", "blocks.0.out", "blocks.0.down"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank must be at least 1"),
        ({"scale": 0}, ValueError, "scale must be greater than 0"),
        ({"skip": "head"}, TypeError, "skip must be a sequence of names"),
        ({"skip": ("0",)}, ValueError, "model must have linear layers beside those in skip"),
    ],
)
def test_what_cannot_be_adapted_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        gl.models.adapted(nn.Sequential(nn.Linear(2, 2)), **options)
