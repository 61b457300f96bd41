"""Texts from one gradient by search: TAG and LAMP on an untrained model, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import glutils as gl
from glutils.attacks.text.lamp import rearranged, surprise
from glutils.attacks.text.vectors import Vectors
from glutils.data import texts

PIECES, LENGTH = 32, 6
SHORT = {"tag": {"iterations": 150}, "lamp": {"rounds": 3}}
LITTLE = {"tag": {"iterations": 40}, "lamp": {"rounds": 2, "iterations": 15}}


def words(*lengths, seed=0):
    """Random tokens, texts of these lengths; the vocabulary says nothing of beginnings and ends."""
    rows = torch.randint(PIECES, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return gl.data.Batch(*texts.stacked(rows, None), tuple(map(str, range(PIECES))))


def observed(batch, model=None):
    model = gl.models.build("gpt", batch, depth=1, width=32, heads=2, seed=0) if model is None else model
    protocol = gl.protocols.FedSGD()
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)


@pytest.mark.parametrize("lengths", [None, (3, 5)])
def test_vectors_of_the_right_tokens_cause_the_observed_gradient(lengths):
    batch = words(LENGTH) if lengths is None else words(4, LENGTH)
    seen = observed(batch)
    searched = Vectors.of(seen, "tag", lengths)
    labels = F.one_hot(batch.images[:, 1:], PIECES).float()
    for found, target in zip(searched.gradient(searched.rows[batch.images], labels), searched.target, strict=True):
        torch.testing.assert_close(found, target, rtol=1e-4, atol=1e-6)
    assert searched.misfit(batch.images) < 1e-5 < searched.misfit(batch.images.roll(1, 1))
    assert set(searched.params) | {"piece.weight"} == set(seen.payload)


@pytest.mark.parametrize(("name", "options"), [("tag", {"absolute": 0}), ("lamp", {}), ("lamp", {"distance": "tag"})])
def test_a_text_of_an_untrained_model_comes_back(name, options):
    batch = words(LENGTH)
    seen, how = observed(batch), SHORT[name] | options
    result = gl.attack(name, seen, **how)
    assert torch.equal(result.tokens, batch.images) and torch.equal(result.labels, batch.labels)
    assert result.diagnostics["misfit"] < 1e-5 and gl.score(result, batch).exact.all()
    assert result.evaluations >= 150


@pytest.mark.parametrize("name", ["tag", "lamp"])
def test_a_spoiled_gradient_gives_no_text_twice_alike(name):
    batch = words(LENGTH)
    seen = gl.tamper(observed(batch), "permuted")
    first, second = (gl.attack(name, seen, **LITTLE[name]) for _ in range(2))
    assert first.diagnostics["misfit"] > 0.5 and not gl.score(first, batch).exact.any()
    assert first.loss == second.loss and torch.equal(first.tokens, second.tokens)


def test_texts_of_several_lengths_have_the_lengths_that_were_told():
    batch = words(4, LENGTH, seed=1)
    result = gl.attack("tag", observed(batch), lengths=(3, 5), iterations=20)
    assert torch.equal(result.labels == -100, batch.labels == -100)
    assert result.tokens[0, 4:].tolist() == batch.images[0, 4:].tolist()


def test_a_rearranged_text_holds_the_same_tokens_each_with_its_label():
    told = torch.arange(5) < torch.tensor([[5], [3]])
    vectors = torch.arange(12.0).view(2, 6, 1)
    labels = vectors[:, 1:] * 10
    generator, orders = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        new, said = rearranged((vectors, labels), told, generator)
        assert torch.equal(new[:, 1:] * 10, said) and torch.equal(new.sort(1)[0], vectors)
        assert torch.equal(new[:, 0], vectors[:, 0]) and torch.equal(new[1, 4:], vectors[1, 4:])
        orders.add(tuple(new.flatten().tolist()))
    assert len(orders) > 10


def test_likely_texts_are_preferred_by_the_models_own_surprise():
    batch = gl.data.from_texts(["My card was lost."])
    seen = observed(batch, gl.models.build("gpt", batch, weights="trained"))
    searched = Vectors.of(seen, "lamp")
    own, turned = (surprise(seen, searched, searched.rows[t]) for t in (batch.images, batch.images.flip(1)))
    assert own < turned


class Tied(nn.Module):
    """A network whose table of vectors is its last layer too; or one without a table."""

    def __init__(self, table=True):
        super().__init__()
        self.piece = nn.Embedding(PIECES, 8) if table else nn.Embedding(PIECES + 1, 8)
        self.head = nn.Linear(8, PIECES, bias=False)
        if table:
            self.head.weight = self.piece.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.piece(tokens)))


@pytest.mark.parametrize("name", ["tag", "lamp"])
def test_what_cannot_be_read_is_refused(name):
    batch = words(4, LENGTH)
    with pytest.raises(ValueError, match="needs lengths= of 2 texts with 8 targets in all"):
        gl.attack(name, observed(batch))
    with pytest.raises(ValueError, match="lengths must add up to the 8 targets"):
        gl.attack(name, observed(batch), lengths=(5, 5))
    with pytest.raises(ValueError, match="lengths must have one number of targets for each of 2 texts"):
        gl.attack(name, observed(batch), lengths=(8,))
    with pytest.raises(ValueError, match=f"attack '{name}' needs a table of vectors of its own"):
        gl.attack(name, observed(words(LENGTH), Tied()))
    with pytest.raises(ValueError, match=f"attack '{name}' needs a model with one table of 32 vectors, got 0"):
        gl.attack(name, observed(words(LENGTH), Tied(table=False)))
    option = {"tag": {"absolute": -1}, "lamp": {"distance": "euclidean"}}[name]
    with pytest.raises(ValueError, match=next(iter(option))):
        gl.attack(name, observed(words(LENGTH)), **option)
