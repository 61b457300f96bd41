"""DAGER: texts from one gradient, exactly, with its limits."""

import pytest
import torch

import glutils as gl
from glutils.attacks.closed_form.dager import Span
from glutils.data import texts


def observed(batch, **how):
    model, protocol = gl.models.build("gpt", batch, **how), gl.protocols.FedSGD()
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)


@pytest.fixture(scope="module")
def four():
    """Four beginnings of messages, 12 tokens each."""
    rows = gl.data.sample("messages", count=4, seed=3, device="cpu").images[:, :12].tolist()
    vocabulary = gl.data.messages_vocabulary()
    return gl.data.Batch(*texts.stacked(rows, vocabulary), vocabulary.pieces, vocabulary=vocabulary)


@pytest.mark.parametrize("weights", ["trained", None])
def test_four_texts_of_twelve_tokens_are_exact(four, weights):
    result = gl.attack("dager", observed(four, weights=weights))
    score = gl.score(result, four)
    assert score.exact.all() and result.diagnostics["found"] == 4 and not result.notes
    assert (result.evaluations, result.pullbacks) == (0, 0)
    assert result.controls["model_guess"].shape == (4, 12) and not score.beaten_by


def test_ends_shared_beginnings_and_repeated_texts_are_counted():
    batch = gl.data.from_texts(["The code is 4821.", "The code is 4829.", "The code is 4821.", "The code."])
    assert sorted(gl.attack("dager", observed(batch, weights="trained")).texts) == sorted(batch.texts)


def test_pieces_of_no_language_and_a_text_that_begins_another():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(64, (3, 8), generator=generator).tolist()
    rows.append(rows[0][:5])
    batch = gl.data.Batch(*texts.stacked(rows, None), tuple(map(str, range(64))))
    found = gl.attack("dager", observed(batch, seed=1)).tokens.tolist()
    assert sorted(found) == sorted(batch.images.tolist())


def test_a_control_finds_nothing_and_too_many_positions_are_refused(four):
    seen = observed(four, weights="trained")
    with pytest.raises(ValueError, match="spans all of its 64 inputs; 'tag' and 'lamp'"):
        gl.attack("dager", gl.tamper(seen, "wrong_gradient"))
    with pytest.raises(ValueError, match="the gradient.s span says too little"):
        gl.attack("dager", observed(four, width=16))
    with pytest.raises(ValueError, match="more than most=1"):
        gl.attack("dager", seen, most=1)
    with pytest.raises(ValueError, match="reads payloads of kind gradient"):
        protocol = gl.protocols.ZerothOrder(directions=2)
        payload = protocol.transmit(seen.model, four.images, four.labels)
        gl.attack("dager", gl.observe(seen.model, protocol, payload, four))
    with pytest.raises(ValueError, match="reconstructs tokens, got images"):
        digits = gl.data.sample("digits", device="cpu")
        model, protocol = gl.models.build("mlp", digits), gl.protocols.FedSGD()
        gl.attack("dager", gl.observe(model, protocol, protocol.transmit(model, digits.images, digits.labels), digits))


def test_the_loss_by_its_name_is_read_and_another_is_refused(four):
    model = gl.models.build("gpt", four, weights="trained")
    for loss in ("next_token", gl.models.losses.CrossEntropy(label_smoothing=0.1)):
        protocol = gl.protocols.FedSGD(loss=loss)
        seen = gl.observe(model, protocol, protocol.transmit(model, four.images, four.labels), four)
        if loss == "next_token":
            assert gl.score(gl.attack("dager", seen), four).exact.all()
        else:
            with pytest.raises(ValueError, match=r"attack 'dager' is derived for the cross entropy.*mixed=False\)$"):
                gl.attack("dager", seen)


def test_a_span_holds_what_made_it_and_little_else():
    generator = torch.Generator().manual_seed(0)
    inputs, others = (torch.randn(count, 16, generator=generator) for count in (5, 50))
    span = Span.of(torch.randn(30, 5, generator=generator) @ inputs, 1e-2)
    assert len(span.basis) == 5 and span.holds(inputs).all() and not span.holds(others).any()
