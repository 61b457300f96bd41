"""A client's texts from mini-batches of which somebody told the members."""

import pytest
import torch

import glutils as gl
from glutils.attacks.text.batches import members
from glutils.attacks.text.certificate import certify

WORDS = gl.data.Vocabulary(tuple(f"w{i}" for i in range(24)), bos=0, eos=1)
TEXTS = ("w3 w5 w9 w4", "w7 w2 w11 w8", "w20 w6 w6", "w13 w21 w15")


def client(size, rounds, texts=4, seed=0):
    """A log, its texts, and who was behind each message."""
    batch = gl.data.from_texts(TEXTS[:texts], WORDS)
    model = gl.models.build("gpt", batch, depth=1, width=16, heads=2, context=8, seed=seed)
    protocol = gl.protocols.ZerothOrder(directions=4, mu=1e-3, law="gaussian", seed=3)
    how = {"rounds": rounds, "lr": 1e-6, "seed": 5, "local_batch": size, "test": batch, "progress": False}
    log = gl.federation.train(protocol, model, [batch], **how)
    draw = torch.Generator().manual_seed(5)
    batches = [torch.randperm(texts, generator=draw)[:size].tolist() for _ in range(rounds)]
    return gl.observe(log, client=0), batch, batches, [int((row >= 0).sum()) for row in batch.labels]


@pytest.mark.parametrize(("size", "rounds", "texts"), [(1, 24, 4), (2, 48, 3)])
def test_texts_of_known_batches_are_decoded_one_after_the_other(size, rounds, texts):
    seen, batch, batches, lengths = client(size, rounds, texts)
    result = gl.attack("zerogla_text", seen, batches=batches, lengths=lengths, width=8, examples=8, restarts=1)
    assert gl.score(result, batch).exact.all() and result.texts == batch.texts
    assert result.diagnostics["certified"] == 1 and result.diagnostics["scalars"] == 4 * rounds


def test_the_certificate_replays_each_message_with_its_own_texts():
    seen, batch, batches, _ = client(2, 6)
    behind = members(batches, 6, 4)
    assert certify(seen, batch.images, batch.labels, 0.0, behind).misfit < 1e-3
    assert certify(seen, batch.images, batch.labels, 0.0, behind.flip(1)).misfit > 0.1


def test_members_that_make_no_sense_are_refused():
    seen, _, batches, lengths = client(1, 4)
    for options, message in (
        ({"batches": batches}, "batches and lengths must be given together"),
        ({"batches": batches[:2], "lengths": lengths}, "one entry for each of 4 messages, got 2"),
        ({"batches": [[9]] * 4, "lengths": lengths}, "batches.0. must be between 0 and 3, got 9"),
        ({"batches": [[]] * 4, "lengths": lengths}, "batches.0. must not be empty"),
        ({"batches": [[0]] * 4, "lengths": lengths}, "text 1 is behind no message"),
        ({"batches": batches, "lengths": lengths[:2]}, "one number of targets for each of 4 texts"),
        ({}, "give batches= if you know who is in each"),
    ):
        with pytest.raises(ValueError, match=message):
            gl.attack("zerogla_text", seen, **options)
