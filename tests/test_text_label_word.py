"""A sentence from the scalars of one label word: vectors by least squares, then tokens; and what is refused."""

import pytest
import torch

import glutils as gl
from glutils.attacks.text.label_word import Equations
from glutils.attacks.text.pairs import Pairs

PIECES, WORD, OTHER = 24, 20, 21


def sentence(seed, length=4):
    """Random tokens, and a label word that alone has a loss."""
    tokens = torch.randint(PIECES, (1, length), generator=torch.Generator().manual_seed(seed))
    tokens[0, -1] = WORD
    labels = torch.full_like(tokens, -100)
    labels[0, -1] = WORD
    return gl.data.Batch(tokens, labels, tuple(f"w{i}" for i in range(PIECES)))


def gpt(batch, frozen=False):
    model = gl.models.build("gpt", batch, depth=1, width=12, heads=2, context=8, seed=0)
    model.get_submodule("piece").requires_grad_(not frozen)
    return model


def observed(model, batch, directions):
    protocol = gl.protocols.ZerothOrder(directions=directions, mu=1e-3, law="gaussian", seed=5, dtype="float64")
    with torch.no_grad():
        return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)


@pytest.mark.parametrize("frozen", [False, True], ids=["whole model", "table frozen"])
def test_equations_hold_at_the_truth_and_their_rows_are_derivatives(frozen):
    batch = sentence(1)
    model = gpt(batch, frozen)
    with torch.no_grad():
        pairs = Pairs(observed(model, batch, 9), dtype=torch.float64)
    equations = Equations(pairs, "piece.weight", WORD, None, 3)
    u = equations.vectors[batch.images[0, :3]].flatten()
    r, gradient = equations.evaluate(u)
    assert float(r.abs().max()) < 1e-6 and equations.tokens(u).tolist() == batch.images[0].tolist()
    assert gradient.shape == (36,)
    step = 1e-6 * torch.randn(36, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ahead, behind = (equations.evaluate(u + sign * step)[0] for sign in (1, -1))
    torch.testing.assert_close(equations.jtj_vector(u, step)[0], (ahead - behind) / 2, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(equations.gram(u) @ step, equations.jtj_vector(u, step)[1])


def test_a_sentence_is_found_with_its_label_word_and_wrong_directions_find_none():
    batch = sentence(3)
    seen = observed(gpt(batch, frozen=True), batch, 60)
    result = gl.attack("zerogla_label_word", seen, words=[OTHER, WORD], progress=False)
    assert result.records.tolist() == batch.images.tolist() and result.labels[0, -1] == WORD
    assert result.diagnostics["certified"] == 1 and result.diagnostics["continuous"] < 1e-3
    how = {"words": [WORD], "restarts": 1, "iterations": 8, "progress": False}
    misled = gl.attack("zerogla_label_word", gl.tamper(seen, "wrong_seed"), **how)
    assert misled.records.tolist() != batch.images.tolist() and misled.diagnostics["certified"] == 0
    few = gl.attack("zerogla_label_word", observed(gpt(batch), batch, 6), **how)
    assert any("6 scalars for 36 numbers" in note for note in few.notes)


def test_other_tasks_are_refused():
    batch = sentence(4)
    seen = observed(gpt(batch), batch, 4)
    whole = gl.data.from_texts(["My card was lost."])
    model = gl.models.build("gpt", whole, depth=1, width=12, heads=2, seed=0)
    with pytest.raises(ValueError, match="'zerogla_text' decodes"):
        gl.attack("zerogla_label_word", observed(model, whole, 4), words=[WORD])
    for words in (None, []):
        with pytest.raises(ValueError, match="words must hold the pieces that may be the label word"):
            gl.attack("zerogla_label_word", seen, words=words)
    with pytest.raises(ValueError, match="words must be"):
        gl.attack("zerogla_label_word", seen, words=[PIECES])
