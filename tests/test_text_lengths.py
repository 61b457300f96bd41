"""Texts of which nobody said how long they are: the misfit finds their length, and a certificate holds as before."""

from dataclasses import replace

import pytest
import torch

import glutils as gl
from glutils.data import Batch

PIECES, LONGEST = 24, 8


def words(length, seed=0):
    """A text of random tokens, labelled by the next one."""
    found = torch.randint(PIECES, (1, length), generator=torch.Generator().manual_seed(seed))
    labels = found.clone()
    labels[:, 0] = -100
    return Batch(found, labels, tuple(f"w{i}" for i in range(PIECES)))


def unknown(batch, model, longest, directions=96):
    """What is seen by an attacker who knows how long a text can be, and not how long this one is."""
    protocol = gl.protocols.ZerothOrder(directions=directions, mu=1e-3, law="gaussian", seed=5)
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
    return replace(seen, shape=(1, longest), targets=None)


@pytest.mark.parametrize("length", [3, 8])
def test_a_text_without_an_end_piece_is_found_with_its_length(length):
    batch = words(length, seed=length)
    model = gl.models.build("gpt", words(LONGEST), depth=1, width=16, heads=2, context=LONGEST, seed=0)
    result = gl.attack("zerogla_text", unknown(batch, model, LONGEST), targets=range(2, LONGEST), width=16, seed=0)
    assert result.diagnostics["targets"] == length - 1 and result.diagnostics["certified"] == 1
    assert result.tokens.shape == (1, LONGEST) and torch.equal(result.tokens[:, :length], batch.images)
    assert torch.equal(result.labels[:, :length], batch.labels) and bool((result.labels[:, length:] == -100).all())


def test_a_message_is_found_with_its_end_and_wrong_directions_certify_none():
    batch = gl.data.from_texts(["My card was lost."])
    model, own = gl.models.build("gpt", batch, weights="trained"), int((batch.labels != -100).sum())
    seen = unknown(batch, model, 16, directions=64)
    result = gl.attack("zerogla_text", seen, targets=[own + 1, own], width=24, examples=16, seed=0)
    assert result.texts == batch.texts and result.diagnostics["certified"] == 1
    misled = gl.tamper(seen, "wrong_seed")
    result = gl.attack("zerogla_text", misled, targets=[4, 5], width=4, examples=4, restarts=1, seed=0)
    assert result.diagnostics["certified"] == 0 and result.diagnostics["targets"] in (4, 5)


def test_lengths_that_cannot_be_are_refused_before_any_work():
    batch = words(5)
    model = gl.models.build("gpt", words(LONGEST), depth=1, width=16, heads=2, context=LONGEST, seed=0)
    seen = unknown(batch, model, LONGEST, directions=2)
    for targets, why in (
        ([], "targets must be a number, or the numbers that it may be"), ("8", "targets must be"),
        (range(3), "targets must be between 1 and 7, got 0"), (range(2, 9), "targets must be between 1 and 7, got 8"),
        ([2.5], "targets must be an integer"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=why):
            gl.attack("zerogla_text", seen, targets=targets)
