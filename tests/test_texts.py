"""Texts through the street: messages, vocabulary, batches, the language model, protocols, observations, scores."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import glutils as gl
from glutils.attacks.base import Reconstruction
from glutils.data import messages, texts
from glutils.metrics.texts import distances
from glutils.models import functional


@pytest.fixture(scope="module")
def batch():
    return gl.data.sample("messages", count=2, seed=0, device="cpu")


@pytest.fixture(scope="module")
def model(batch):
    return gl.models.build("gpt", batch, weights="trained")


def tokens(*rows):
    """Rows of numbers, labelled by the next ones, in a vocabulary of 10 plain pieces."""
    stack, labels = texts.stacked(rows, None)
    return gl.data.Batch(stack, labels, tuple(map(str, range(10))))


# --- messages and vocabulary ---


def test_messages_are_the_same_each_time_and_hold_a_secret_each(batch):
    assert gl.data.sample("messages", count=3, seed=0, device="cpu").texts[:2] == batch.texts
    assert gl.data.sample("messages", count=2, seed=1, device="cpu").texts != batch.texts
    assert all(re.search(r"\d{4}", messages.text("private", i)) for i in range(100))


def test_splits_share_no_template_and_no_person():
    held = {split: {t for of in messages.templates(split).values() for p in of for t in p} for split in messages.COUNTS}
    assert held["private"] and not held["private"] & held["public"]
    assert {t for t in held["private"] if messages.is_private(t)} == held["private"]
    people = {}
    for split in messages.COUNTS:
        found = (re.match(r"([A-Z][a-z]+ [A-Z][a-z]+) (?:has|is|was|lives|wants|lost)", messages.text(split, i))
                 for i in range(300))  # fmt: skip
        people[split] = {match[1] for match in found if match}
    assert len(people["private"]) > 20 and not people["private"] & people["public"]
    assert all(map(messages.is_private, people["private"])) and not any(map(messages.is_private, people["public"]))


def test_topics_choose_messages_and_there_are_so_many():
    ill = gl.data.sample("messages", count=3, classes=["health"], seed=0, device="cpu")
    wanted = (*messages.ILLNESSES, *messages.MEDICINES, "operation", "test", "case")
    assert all(any(word in text for word in wanted) for text in ill.texts)
    assert gl.data.available("messages", split="private") == 1000
    with pytest.raises(ValueError, match="size must be left alone for the texts 'messages'"):
        gl.data.sample("messages", size=8)


def test_any_text_can_be_cut_and_put_together_again():
    vocabulary = gl.data.messages_vocabulary()
    assert len(vocabulary) == 512 and len({vocabulary.bos, vocabulary.eos, vocabulary.pad}) == 3
    for text in ("Zoë owes 12 € to Ångström.", "  two blanks\nand a line", "mississippi 0123456789", "漢字"):
        assert vocabulary.decode([vocabulary.bos, *vocabulary.encode(text), vocabulary.eos, vocabulary.pad]) == text
    digits = [vocabulary.pieces[token] for token in vocabulary.encode("account 48219937")]
    assert digits[-8:] == ["Ġ4", *"8219937"]


def test_the_stored_vocabulary_is_what_training_on_public_texts_gives():
    first = messages.COUNTS["public"]
    public = [messages.text("public", first + i) for i in range(200)]
    one, other = (gl.data.Vocabulary.train(public, size=300) for _ in range(2))
    assert one == other and len(one) == 300 and one.pieces[:3] == gl.data.messages_vocabulary().pieces[:3]


def test_a_plain_vocabulary_is_words():
    plain = gl.data.Vocabulary(("a", "b", "end"), eos=2)
    assert plain.encode("b a b") == [1, 0, 1] and plain.decode([1, 0, 2, 1]) == "b a"
    with pytest.raises(ValueError, match="text must be made of pieces, got 'c'"):
        plain.encode("a c")
    with pytest.raises(ValueError, match="pieces must be at least two"):
        gl.data.Vocabulary(("a", "a"))
    with pytest.raises(ValueError, match="eos must be between 0 and 1"):
        gl.data.Vocabulary(("a", "b"), eos=2)


# --- batches ---


def test_texts_of_ones_own_become_a_batch():
    own = gl.data.from_texts(["Call Jane.", "My code is 4821."], length=20)
    v = own.vocabulary
    assert own.kind == "tokens" and own.shape == (20,) and own.images.dtype == own.labels.dtype == torch.int64
    assert own.texts == ("Call Jane.", "My code is 4821.")
    assert own.images[:, 0].tolist() == [v.bos, v.bos] and (own.labels[:, 0] == -100).all()
    told = own.labels != -100
    assert torch.equal(own.labels[told], own.images[told]) and (own.images[:, 1:][~told[:, 1:]] == v.pad).all()
    assert all(int(row[t].tolist()[-1]) == v.eos for row, t in zip(own.labels, told, strict=True))
    for bad, said in (("Call", "list"), ([], "list"), ([""], "not be empty"), ([3], "texts must be a str")):
        with pytest.raises((TypeError, ValueError), match=said):
            gl.data.from_texts(bad)
    with pytest.raises(ValueError, match="length must be at least"):
        gl.data.from_texts(["Call Jane."], length=3)


def test_a_batch_of_tokens_checks_itself():
    good = tokens([1, 2, 3], [4, 5, 6])
    assert good.vocabulary == gl.data.Vocabulary(tuple(map(str, range(10)))) and good.texts == ("1 2 3", "4 5 6")
    assert good[1].texts == ("4 5 6",) and good.to("cpu").vocabulary == good.vocabulary
    bad = [
        ({"images": good.images + 5}, "tokens in 0..9"),
        ({"images": good.images.int()}, "int64 tokens"),
        ({"labels": good.labels[:, 1:]}, "labels must have the tokens' shape"),
        ({"labels": good.labels + 7}, "labels must lie in 0..9, or be -100"),
        ({"labels": good.labels * 0 - 100}, "at least one piece after the first"),
        ({"columns": gl.data.Columns.plain(3)}, "columns must be None for tokens"),
        ({"vocabulary": gl.data.Vocabulary.plain(5)}, "numbers of the 5 pieces"),
    ]
    for changed, said in bad:
        with pytest.raises((TypeError, ValueError), match=said):
            dataclasses.replace(good, **changed)
    with pytest.raises(ValueError, match="vocabulary must be None for images"):
        dataclasses.replace(gl.data.sample("digits", device="cpu"), vocabulary=good.vocabulary)
    with pytest.raises(TypeError, match="tokens with a vocabulary"):
        _ = gl.data.sample("digits", device="cpu").texts
    classified = gl.data.Batch(good.images, torch.tensor([0, 1]), ("good", "bad"), vocabulary=good.vocabulary)
    assert classified.kind == "tokens" and classified.texts == good.texts


def test_texts_are_dealt_out_held_back_and_joined(batch):
    clients = gl.data.partition("messages", clients=2, per_client=2, seed=0, device="cpu")
    assert len({text for client in clients for text in client.texts}) == 4
    train, test = gl.data.hold_out(clients, share=0.5)
    assert {*train[0].texts, *test[0].texts} == set(clients[0].texts)
    short = gl.data.from_texts(["Call Jane."])
    joined = gl.data.concatenate([short, batch])
    assert joined.texts == (*short.texts, *batch.texts)
    assert int((joined.labels != -100).sum()) == int((short.labels != -100).sum() + (batch.labels != -100).sum())
    with pytest.raises(ValueError, match="law must be 'iid'"):
        gl.data.partition("messages", clients=2, per_client=2, law="dirichlet")


# --- the language model ---


def test_the_model_is_causal_and_so_large(model, batch):
    assert sum(p.numel() for p in model.parameters()) == 169_728 and gl.models.probe(model, batch.images) == 512
    changed = batch.images.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 512
    before, after = model(batch.images), model(changed)
    assert before.shape == (*batch.images.shape, 512)
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.allclose(before[:, 5:], after[:, 5:])
    with pytest.raises(ValueError, match="tokens must be at most 64 in a row"):
        model(torch.zeros(1, 65, dtype=torch.int64))


def test_the_model_has_learnt_the_language_but_not_the_private_messages(model):
    loss = {}
    for split in ("private", "public"):
        some = gl.data.sample("messages", count=40, seed=0, split=split, device="cpu")
        with torch.no_grad():
            outputs = model(some.images)[:, :-1].flatten(0, 1)
        loss[split] = float(F.cross_entropy(outputs, some.labels[:, 1:].flatten()))
    assert 1 < loss["public"] < 1.7 and 1.2 < loss["private"] < 1.9  # a uniform guess costs 6.2


def test_steps_with_a_cache_are_the_whole_text_for_many_models_at_once(batch):
    model = gl.models.build("gpt", batch, width=16, heads=2, depth=3, context=40, seed=0)
    params, count, generator = gl.models.parameters(model), 3, torch.Generator().manual_seed(0)
    stack = {n: p + 0.1 * torch.randn(count, *p.shape, generator=generator) for n, p in params.items()}
    whole = torch.func.vmap(lambda p: functional.logits(model, p, batch.images))(stack)
    cache = model.empty(len(batch)).expand(count, *model.empty(len(batch)).shape)
    parts = []
    for piece in batch.images.split(7, 1):
        logits, cache = torch.func.vmap(lambda p, c, piece=piece: gl.models.step(model, p, piece, c))(stack, cache)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-4, atol=1e-4)


def test_a_second_text_in_a_cache_does_not_see_the_first(model, batch):
    params, length = gl.models.parameters(model), batch.images.shape[1]
    cache, parts = model.empty(len(batch)), []
    for at, piece in enumerate(torch.cat([batch.images.flip(0), batch.images], 1).T):
        start = torch.full((len(batch),), length if at >= length else 0)
        logits, cache = gl.models.step(model, params, piece[:, None], cache, start)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts[length:], 1), model(batch.images), rtol=1e-4, atol=1e-4)


def test_what_no_gpt_can_be_is_refused(batch):
    digits = gl.data.sample("digits", device="cpu")
    with pytest.raises(ValueError, match="batch must hold tokens for model 'gpt', got images"):
        gl.models.build("gpt", digits)
    with pytest.raises(ValueError, match="batch must hold images or tables for model 'mlp', got tokens, as gpt takes"):
        gl.models.build("mlp", batch)
    with pytest.raises(ValueError, match="width must be a multiple of the 3 heads"):
        gl.models.build("gpt", batch, heads=3)
    with pytest.raises(ValueError, match="context must be at least"):
        gl.models.build("gpt", batch, context=5)
    with pytest.raises(ValueError, match="does not fit the model"):
        gl.models.build("gpt", batch, weights="trained", depth=1)
    with pytest.raises(ValueError, match="weights must be None or a file for a vocabulary other than the messages"):
        gl.models.build("gpt", tokens([1, 2, 3]), weights="trained")


def test_the_likeliest_text_is_one_of_the_language(model, batch):
    v = batch.vocabulary
    text = gl.models.likeliest(model, torch.tensor([v.bos]), 40)
    assert len(text) == 40 and v.eos in text.tolist() and re.fullmatch(r"[A-Z].*\.", v.decode(text))


# --- protocols, training, observations ---

ALL = [
    gl.protocols.FedSGD(),
    gl.protocols.FedAvg(epochs=2, batch_size=1, lr=0.01),
    gl.protocols.ZerothOrder(directions=3, mu=1e-3, law="mezo"),
    gl.protocols.ZerothOrder(directions=3, mu=1e-4, dtype="float64", in_place=True),
    gl.protocols.ZerothOrder(directions=3, mu=1e-2, law="gaussian", dtype="bfloat16", loss_dtype="float32"),
    gl.protocols.ZerothOrder(directions=3, mu=1e-3, scheme="forward", loss="next_token"),
]


@pytest.mark.parametrize("protocol", ALL, ids=str)
def test_a_message_about_texts_is_observed_with_and_without_the_batch(protocol, model, batch):
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch)
    assert seen.record.name == "tokens" and seen.vocabulary == batch.vocabulary
    assert seen.targets == int((batch.labels != -100).sum()) and seen.labels is None
    blind = gl.observe(model, protocol, payload, shape=tuple(batch.images.shape))
    assert (blind.record.name, blind.classes, blind.vocabulary) == ("tokens", 512, batch.vocabulary)
    assert blind.targets is None  # of two texts, nobody said which is how long
    one = protocol.transmit(model, batch.images[:1], batch.labels[:1])
    assert gl.observe(model, protocol, one, shape=(1, batch.images.shape[1])).targets == batch.images.shape[1] - 1


def test_scalars_of_texts_are_sums_over_positions(model, batch):
    one = batch[1]
    protocol = gl.protocols.ZerothOrder(directions=4, mu=1e-3, law="gaussian", dtype="float64")
    whole = protocol.transmit(model, one.images, one.labels).scalars
    places = (one.labels[0] != -100).nonzero()[:, 0].tolist()
    parts = []
    for place in places:
        labels = torch.full_like(one.labels, -100)
        labels[0, place] = one.labels[0, place]
        cut = slice(0, place + 1)  # what comes later is not even needed
        parts.append(protocol.transmit(model, one.images[:, cut], labels[:, cut]).scalars)
    torch.testing.assert_close(torch.stack(parts).mean(0), whole)


def test_a_transcript_of_texts_is_kept_and_replayed(tmp_path, model, batch):
    protocol = gl.protocols.ZerothOrder(directions=1, mu=1e-3, law="mezo", dtype="float32")
    how = {"rounds": 3, "lr": 1e-4, "seed": 0, "progress": False}
    transcript = gl.federation.train(protocol, model, [batch], **how, checkpoint=tmp_path / "run")
    assert transcript.accuracy.shape == (3,) and 0.2 < float(transcript.accuracy[0]) < 0.8
    seen = gl.observe(transcript, client=0)
    assert len(seen.rounds) == 3 and seen.targets == int((batch.labels != -100).sum())
    gl.transcripts.write(transcript, tmp_path / "log.npz")
    log = gl.transcripts.read(tmp_path / "log.npz", model, protocol, lr=1e-4)
    again = gl.observe(log, client=0, shape=tuple(batch.images.shape))
    assert again.record.name == "tokens" and again.vocabulary == batch.vocabulary
    for one, other in zip(seen.rounds, again.rounds, strict=True):
        torch.testing.assert_close(one.payload.scalars, other.payload.scalars)


def test_classification_by_a_label_word_has_one_target_which_may_be_told(model, batch):
    labels = torch.full_like(batch.labels, -100)
    labels[:, 9] = torch.tensor([300, 301])
    sentiment = dataclasses.replace(batch, labels=labels)
    protocol = gl.protocols.ZerothOrder(directions=2, mu=1e-3)
    payload = protocol.transmit(model, sentiment.images, sentiment.labels)
    seen = gl.observe(model, protocol, payload, sentiment, knows={"labels"})
    assert seen.targets == 2 and torch.equal(seen.labels, labels)


def test_what_would_tell_the_text_or_is_not_about_texts_is_refused(model, batch):
    protocol = gl.protocols.FedSGD()
    payload = protocol.transmit(model, batch.images, batch.labels)
    with pytest.raises(ValueError, match="they are the text"):
        gl.observe(model, protocol, payload, batch, knows={"labels"})
    seen = gl.observe(model, protocol, payload, batch)
    for name in ("ig", "dlg", "fc_inversion", "rgap"):
        with pytest.raises(ValueError, match=f"attack '{name}' reconstructs images.*, got tokens"):
            gl.attack(name, seen)
    with pytest.raises(ValueError, match="label rule 'idlg' .* got tokens"):
        gl.labels.infer("idlg", seen)
    with pytest.raises(ValueError, match="shape must be one that the model can take"):
        gl.observe(model, protocol, payload, shape=(1, 3, 8, 8), classes=10)
    with pytest.raises(ValueError, match="model does not take records"):
        protocol.transmit(model, torch.rand(2, 8), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["gaussian_noise", "dpsgd", "topk", "mixup", "soteria"])
def test_clients_with_texts_defend_themselves_as_far_as_that_can_be(name, model, batch):
    strength = {"gaussian_noise": {"sigma": 1e-3}, "dpsgd": {"clip": 1e-6, "sigma": 0.0}, "topk": {"keep": 0.1},
                "mixup": {}, "soteria": {"prune": 0.3}}[name]  # fmt: skip
    protocol = gl.protocols.FedSGD()
    protected = gl.defenses.Defended(protocol, gl.defenses.get(name, **strength))
    if name in ("mixup", "soteria"):
        with pytest.raises(ValueError, match="works on the entries of images and tables, got tokens"):
            protected.transmit(model, batch.images, batch.labels)
        return
    payload = protected.transmit(model, batch.images, batch.labels)
    assert gl.observe(model, protected, payload, batch).record.name == "tokens"
    if name == "dpsgd":  # every text's own gradient is cut to one length
        parts = [protocol.transmit(model, x[None], y[None]) for x, y in zip(batch.images, batch.labels, strict=True)]
        mean = sum(1e-6 / float(part.flat.norm()) * part.flat for part in parts) / len(parts)
        torch.testing.assert_close(payload.flat, mean, rtol=1e-3, atol=1e-12)


def test_a_classifier_of_texts_is_trained_by_many_clients():
    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.piece, self.head = torch.nn.Embedding(10, 4), torch.nn.Linear(4, 2)

        def forward(self, tokens):
            return self.head(self.piece(tokens).mean(1))

    rows = torch.randint(10, (6, 5), generator=torch.Generator().manual_seed(0))
    clients = [gl.data.Batch(rows[i : i + 1], torch.tensor([i % 2]), ("no", "yes")) for i in range(6)]
    model, how = Mean(), {"rounds": 2, "lr": 0.1, "test": clients[0], "progress": False, "record": [0]}
    for protocol in (gl.protocols.FedSGD(), gl.protocols.ZerothOrder(directions=2)):
        transcript = gl.federation.train(protocol, model, clients, **how)
        seen = gl.observe(transcript, client=0, knows={"labels"})
        assert seen.record.name == "tokens" and seen.labels.tolist() == [0] and seen.targets is None


# --- scores ---


def test_edit_distances_are_those_of_a_slow_computation():
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    draw = np.random.RandomState(0)
    several = [draw.randint(3, size=draw.randint(6)).tolist() for _ in range(12)]
    for truth in several[:4]:
        assert distances(several, truth).tolist() == [slow(text, truth) for text in several]


def test_a_score_of_texts_matches_them_and_stands_beside_controls(batch, model):
    wrong = gl.data.from_texts([batch.texts[1], batch.texts[0][:-3] + "77."])  # in another order, two digits wrong
    guess = {"model_guess": gl.models.likeliest(model, torch.tensor([1]), 9).expand(2, -1)}
    result = Reconstruction(wrong.images, wrong.labels, 0.0, vocabulary=batch.vocabulary, controls=guess)
    score = gl.score(result, batch)
    assert score.matching.tolist() == [1, 0] and score.exact.tolist() == [False, True] and result.texts == wrong.texts
    assert score.secrets.tolist() == [0.0, 1.0] and score.edit_distance[1] == 0 and 0 < score.edit_distance[0] <= 2
    assert 0.8 < score.token_accuracy[0] < 1 and score.token_accuracy[1] == 1 and score.label_accuracy == 0.5
    assert set(score.controls) == {"model_guess", "nearest_public", "random_public"} and score.beaten_by == ()
    assert all(not control.exact.any() and float(control.mean()) < 0.6 for control in score.controls.values())
    assert score.measured == ("exact", "token_accuracy", "secrets", "edit_distance") and "1 of 2 exact" in repr(score)
    assert gl.metrics.summary([score], "secrets").median == 0.5
    rows = gl.runs.records.rows_from(result, score)
    assert rows[1]["exact"] == 1.0 and rows[1]["beaten_by"] == [] and "label_found" not in rows[1]
    with pytest.raises(ValueError, match="metric must be one of exact"):
        gl.metrics.summary([score], "psnr")


def test_a_text_that_says_nothing_loses_to_its_controls(batch):
    empty = gl.data.Batch(batch.images * 0 + 5, batch.labels, batch.classes, vocabulary=batch.vocabulary)
    score = gl.score(empty, batch, public=gl.data.public(batch, count=20, device="cpu"))
    assert not score.exact.any() and "nearest_public" in score.beaten_by


def test_texts_without_secrets_have_none_to_find():
    own = gl.data.from_texts(["Call Jane.", "Code 4821."])
    score = gl.score(own, own)
    assert score.secrets.isnan().tolist() == [True, False] and score.mean()["secrets"] == 1.0
    for how in ({"tolerance": 0.1}, {"lpips_net": "alex"}):
        with pytest.raises(ValueError, match=f"{min(how)} must be left alone for tokens"):
            gl.score(own, own, **how)
    with pytest.raises(ValueError, match="images must be whole numbers"):
        gl.score(Reconstruction(own.images.float(), own.labels, 0.0), own)


# --- names ---


def test_messages_are_named_among_others_whatever_their_padding(model):
    pool = gl.data.sample("messages", count=30, seed=2, device="cpu")
    protocol = gl.protocols.ZerothOrder(directions=16, mu=1e-3, law="mezo", seed=3)
    client = gl.data.from_texts([pool.texts[4], pool.texts[11]])
    assert client.shape != pool.shape
    seen = gl.observe(model, protocol, protocol.transmit(model, client.images, client.labels), client)
    named = gl.identify(seen, pool, progress=False)
    assert named.members.nonzero().flatten().tolist() == [4, 11]
    with pytest.raises(ValueError, match="labels must be given, one for each candidate"):
        gl.identify(seen, pool.images, progress=False)
