"""A client's text from its scalars: the code adds up, the search decodes it, and what cannot be decoded is said."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import glutils as gl
from glutils import models
from glutils.attacks.text import beam, certify, combine, shift
from glutils.attacks.text.attack import frame_of
from glutils.attacks.text.code import Code
from glutils.attacks.text.layout import NOTHING, Frame, Sentences
from glutils.attacks.text.pairs import Pairs
from glutils.attacks.text.reader import CachedReader, Prefixes, Reader, reader_of
from glutils.attacks.text.remainder import Outlook, Typical
from glutils.attacks.text.repair import Text, repaired
from glutils.data import Batch

PIECES, LENGTH = 24, 6


class Plain(nn.Module):
    """One layer of attention, or a network that also looks ahead; it knows nothing of caches."""

    def __init__(self, width=16, ahead=False):
        super().__init__()
        self.piece, self.qkv, self.head = (
            nn.Embedding(PIECES, width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, PIECES),
        )
        self.ahead = ahead

    def forward(self, tokens):
        x = self.piece(tokens)
        q, k, v = self.qkv(x).chunk(3, -1)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) & (not self.ahead)
        return self.head(torch.tanh(x + (q @ k.mT).masked_fill(later, -1e9).softmax(-1) @ v))


def tokens(seed, count=1, length=LENGTH):
    """Random tokens, labelled by the next one."""
    found = torch.randint(PIECES, (count, length), generator=torch.Generator().manual_seed(seed))
    labels = found.clone()
    labels[:, 0] = -100
    return Batch(found, labels, tuple(f"w{i}" for i in range(PIECES)))


def plain(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Plain(**options).eval()


def gpt(batch, seed=0):
    return gl.models.build("gpt", batch, depth=1, width=16, heads=2, context=8, seed=seed)


def observed(model, batch, directions=96, **options):
    protocol = gl.protocols.ZerothOrder(
        **{"directions": directions, "mu": 1e-3, "law": "gaussian", "seed": 5} | options
    )
    with torch.no_grad():
        return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)


def code_of(seen, **options):
    return Code(Pairs(seen, **options), reader_of(seen.model, seen.classes, seen.shape[1]), frame_of(seen))


@pytest.mark.parametrize("make", [plain, lambda: gpt(tokens(0))], ids=["any causal model", "gpt"])
def test_scalars_are_the_sum_of_what_each_token_adds(make):
    batch = tokens(1)
    code = code_of(observed(make(), batch, dtype="float64"), dtype=torch.float64)
    with torch.no_grad():
        found, likely = code.texts(batch.images)
        step, prior = code.next(Prefixes.start(batch.images[:, 0]))
    torch.testing.assert_close(found.sum((1, 2)), code.target, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(step[:, 0, batch.images[0, 1]], found[:, 0, 0])
    torch.testing.assert_close(prior[0, batch.images[0, 1]], likely[0, 0])


def test_every_scheme_and_every_message_of_a_moving_model_adds_up():
    batch, model = tokens(2), plain()
    for scheme in ("forward", "central"):
        protocol = gl.protocols.ZerothOrder(directions=3, mu=1e-2, scheme=scheme, law="mezo", dtype="float64", seed=1)
        log = gl.federation.train(protocol, model, [batch], rounds=4, lr=1e-2, seed=0, test=tokens(9), progress=False)
        code = code_of(gl.observe(log, client=0), dtype=torch.float64)
        with torch.no_grad():
            assert code.misfits(batch.images) < 1e-7


def test_weights_that_do_not_fit_are_rebuilt_and_give_the_same(monkeypatch):
    batch = tokens(3)
    seen = observed(plain(), batch, directions=7)
    with torch.no_grad():
        kept = code_of(seen).texts(batch.images)[0]
        monkeypatch.setattr(
            "glutils.attacks.text.pairs.BLOCK", 2 * 4 * 3 * sum(p.numel() for p in seen.model.parameters())
        )
        rebuilt = code_of(seen, budget=0)
        assert rebuilt.pairs.blocks_count == 3 and rebuilt.pairs._kept is None
        torch.testing.assert_close(rebuilt.texts(batch.images)[0], kept)


def test_a_tree_of_prefixes_is_read_as_each_of_them_would_be():
    """Branches share what they begin with; a new sentence sees nothing of the one before."""
    model = gpt(tokens(0))
    cached, own = reader_of(model, PIECES, LENGTH), Reader(model)
    assert isinstance(cached, CachedReader)
    weights = {name: torch.stack([p, 0.9 * p]) for name, p in models.parameters(model).items()}
    prefixes = Prefixes.start(torch.tensor([3, 7]))
    with torch.no_grad():
        for parents, new, fresh in (
            ([0, 0, 1], [1, 2, 1], [0, 0, 0]),
            ([2, 0, 0], [5, 5, 6], [0, 1, 0]),
            ([1, 2], [4, 4], [0, 0]),
        ):
            torch.testing.assert_close(cached.next(weights, prefixes, 0), own.next(weights, prefixes, 0))
            prefixes = prefixes.extended(
                torch.tensor(parents), torch.tensor(new), torch.tensor(fresh, dtype=torch.bool)
            )
            prefixes = replace(prefixes, visible=cached.keep(prefixes.visible))
        torch.testing.assert_close(cached.next(weights, prefixes, 0), own.next(weights, prefixes, 0))
    assert prefixes.lengths.tolist() == [2, 4]


def test_hypotheses_that_end_alike_share_few_places_of_the_beam():
    """Else the variants of one number that nothing has decided yet would fill it."""
    targets = torch.tensor([[5, 3, 4], [6, 3, 4], [7, 3, 4], [8, 3, 4], [5, 7, 8]])
    lengths, nothing = torch.full((5,), 4), torch.zeros(5)
    prefixes = Prefixes(torch.zeros(5, 4, dtype=torch.int64), lengths, torch.zeros(5, 3, dtype=torch.bool))
    hypotheses = beam.Beam(prefixes, targets, lengths * 0, nothing[None], nothing, lengths // 4, nothing)
    parents, frame = torch.arange(5), Frame(9, 1, 6, begin=0, end=1, length=8)
    kept = beam._varied(hypotheses, parents, torch.full((5,), 6), frame, width=16)
    assert kept.tolist() == [0, 1, 4]
    ended = beam._varied(hypotheses, parents, torch.full((5,), 1), frame, width=16)
    assert ended.tolist() == [0, 1], "behind an end all goes on alike"


def test_three_changes_that_hide_each_other_are_found_together():
    """Each of them alone makes the misfit larger."""
    draw = torch.Generator().manual_seed(0)
    changes = torch.randn(40, 30, generator=draw)
    changes[:, 20] = 0.3 * changes[:, 20] - changes[:, 3] - changes[:, 11]
    left = changes[:, [3, 11, 20]].sum(1)
    assert all((left - changes[:, i]).norm() > left.norm() for i in (3, 11, 20))
    best = combine._best(left, changes, torch.arange(30) // 3)
    assert best[0].tolist() == [3, 11, 20]
    assert all(len({int(i) // 3 for i in chosen}) == len(chosen) for chosen in best), "one change a place"


def test_a_token_missed_here_and_made_up_there_is_mended_in_one_move():
    batch, model = tokens(11, length=8), gpt(tokens(0))
    seen = observed(model, batch)
    code = code_of(seen)
    right = batch.images[0]
    wrong = right.clone()
    wrong[3:6], wrong[2] = right[2:5], 23 - right[2]  # made up at 2, and the token at 5 is missed
    with torch.no_grad():
        table, likely = code.table(wrong)
        left = code.target - table[:, torch.arange(7), wrong[1:]].sum(1)
        found = [row for _, row in shift.shifts(table, likely, wrong, left, set(), share=1.0, count=24)]
        mended = repaired(code, Text(wrong, float(code.misfits(wrong[None]))), tolerance=1e-3)
    assert tuple(right.tolist()) in found
    assert torch.equal(mended.flat, right) and mended.misfit < 1e-3


def test_flat_texts_and_sentences_are_the_same_texts():
    frame = Frame(9, 2, 6, begin=0, end=1, length=5)
    written = Sentences.of(torch.tensor([[0, 5, 1, 6, 7, 8, 1], [0, 4, 1, 3, 1, NOTHING, NOTHING]]), frame)
    assert written.tokens.tolist() == [[0, 5, 1, 0, 0], [0, 6, 7, 8, 1], [0, 4, 1, 0, 0], [0, 3, 1, 0, 0]]
    assert written.labels[0].tolist() == [-100, 5, 1, -100, -100]
    assert written.told.sum(1).tolist() == [6, 4]
    assert written.lengths.tolist() == [2, 4, 2, 2]
    assert (written.rows[0].tolist(), written.places[0].tolist()) == ([0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 2, 3])


def test_a_sentence_that_begins_another_is_read_only_once():
    frame = Frame(9, 2, 5, begin=0, end=1, length=5)
    flat = torch.tensor([[0, 5, 1, 5, 6, 1], [0, 5, 6, 7, 1, 4], [0, 4, 1, 5, 1, NOTHING]])
    written, shared = Sentences.of(flat, frame), Sentences.of(flat, frame).shared()
    assert (len(written.tokens), len(shared.tokens)) == (6, 4)
    own = (part[shared.told] for part in (shared.rows, shared.places, written.rows))
    for row, place, old in zip(*own, strict=True):
        assert torch.equal(shared.tokens[row, : place + 1], written.tokens[old, : place + 1])


@pytest.mark.parametrize("make", [plain, lambda: gpt(tokens(0))], ids=["any causal model", "gpt"])
def test_random_tokens_of_an_untrained_model_come_back_and_wrong_directions_give_nothing(make):
    batch = tokens(4)
    seen = observed(make(), batch)
    result = gl.attack("zerogla_text", seen, seed=0, width=32)
    assert torch.equal(result.tokens, batch.images) and torch.equal(result.labels, batch.labels)
    assert result.diagnostics["certified"] == 1 and result.diagnostics["misfit"] < 1e-3
    assert gl.score(result, batch).exact.all() and result.texts == batch.texts
    misled = gl.attack("zerogla_text", gl.tamper(seen, "wrong_seed"), seed=0, width=8, restarts=1)
    assert misled.diagnostics["misfit"] > 0.3 and misled.diagnostics["certified"] == 0
    assert any("not certified" in note for note in misled.notes)


def test_known_noise_is_part_of_what_a_hypothesis_leaves():
    """Where texts hardly differ, noise is all that is left, and the whitener is its own; a wrong scale counts."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(12, generator=draw) + 0.5
    found = 1e-4 * torch.randn(12, 40, 5, generator=draw)
    flat = torch.zeros(40, 6, dtype=torch.int64)
    outlook = Outlook.of(found, flat, 5, Typical.of(found.flatten(1), noise, 5))
    for whitener in outlook.whiteners:
        torch.testing.assert_close((whitener * noise.square()) @ whitener.T, torch.eye(12), atol=1e-3, rtol=0)
    batch = tokens(4)
    protocol = gl.protocols.ZerothOrder(directions=3, mu=1e-3, law="gaussian", seed=5)
    protocol = gl.defenses.Defended(protocol, gl.defenses.get("dp_scalars", clip=2.0, sigma=0.25))
    seen = gl.observe(plain(), protocol, protocol.transmit(plain(), batch.images, batch.labels), batch)
    assert code_of(seen).noise.tolist() == [0.5 * (LENGTH - 1)] * 3, "of the sum over targets, as the target is"
    assert Typical.of(found.flatten(1), torch.zeros(12), 5).noise is None


def test_noise_that_hides_one_piece_certifies_no_text():
    """The text explains the scalars down to the noise, and so would one with another digit."""
    batch, model = tokens(1), plain()
    for sigma, certain in ((0.01, True), (0.6, False)):
        plain_one = gl.protocols.ZerothOrder(directions=96, mu=1e-3, law="gaussian", seed=5)
        size = float(plain_one.transmit(model, batch.images, batch.labels).scalars.square().mean().sqrt())
        protocol = gl.defenses.Defended(plain_one, gl.defenses.get("gaussian_noise", sigma=sigma * size), private=1)
        seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        found = certify(seen, batch.images, batch.labels, 10.0)
        assert found.misfit <= found.tolerance and found.surplus > 20, "that much speaks for the text"
        assert found.certified == certain


def test_a_clients_own_rounding_is_replayed_by_the_certificate():
    """In bfloat16 the search, in float32, never comes near; the replay says when the text is right all the same."""
    batch = tokens(5)
    seen = observed(plain(), batch, dtype="bfloat16", loss_dtype="float32", mu=1e-2)
    right = certify(seen, batch.images, batch.labels, 20.0)
    other = tokens(6)
    wrong = certify(seen, other.images, other.labels, 20.0)
    assert right.certified and right.misfit < 1e-6 and not wrong.certified
    few = certify(observed(plain(), batch, directions=2), batch.images, batch.labels, 400.0)
    assert few.misfit < 1e-3 and not few.certified, "two numbers do not tell one text among exp(400)"


def test_what_the_attack_cannot_read_is_refused_before_any_work():
    batch = tokens(7, count=2)
    with pytest.raises(ValueError, match="model must be causal"):
        gl.attack("zerogla_text", observed(plain(ahead=True), batch[:1], directions=2))
    with pytest.raises(ValueError, match="vocabulary with a first token"):
        gl.attack("zerogla_text", observed(plain(), batch, directions=2))
    with pytest.raises(ValueError, match="width must be at least 1"):
        gl.attack("zerogla_text", observed(plain(), batch[:1], directions=2), width=0)
    protocol = gl.protocols.ZerothOrder(directions=2, law="gaussian")
    log = gl.federation.train(
        protocol, plain(), [batch], rounds=2, lr=1e-9, seed=0, local_batch=1, test=batch, progress=False
    )
    with pytest.raises(ValueError, match="needs all texts of a client behind every scalar"):
        gl.attack("zerogla_text", gl.observe(log, client=0))


def test_a_search_that_runs_out_of_time_says_how_far_it_came():
    result = gl.attack("zerogla_text", observed(plain(), tokens(8), directions=8), seconds=1e-6, width=4)
    assert any("time is up" in note for note in result.notes) and result.diagnostics["certified"] == 0
    assert result.tokens.shape == (1, LENGTH) and not math.isfinite(result.diagnostics["misfit"])


def test_messages_of_the_trained_model_are_decoded_and_the_search_can_be_watched():
    batch = gl.data.from_texts(["My card was lost."])
    model = gl.models.build("gpt", batch, weights="trained")
    seen = observed(model, batch, directions=96)
    result = gl.attack("zerogla_text", seen, seed=0, width=32, examples=16)
    score = gl.score(result, batch)
    assert score.exact.all() and result.texts == ("My card was lost.",)
    assert not score.controls["model_guess"].exact.any()
    first, last = result.history.frames[0], result.history.frames[-1]
    assert (first == NOTHING).sum() > 0 and (last == NOTHING).sum() == 0, "the message appears token by token"


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_adapters_alone_tell_the_text_and_frozen_weights_are_read_as_the_client_has_them(dtype):
    batch = tokens(10)
    model = gl.models.adapted(gpt(batch), rank=2)
    half = {"loss_dtype": "float32", "mu": 1e-2} if dtype == "bfloat16" else {}
    seen = observed(model, batch, dtype=dtype, **half)
    result = gl.attack("zerogla_text", seen, seed=0, width=16, restarts=1)
    assert torch.equal(result.tokens, batch.images) and result.diagnostics["certified"] == 1
