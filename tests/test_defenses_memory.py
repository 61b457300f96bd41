"""Error feedback: what a client keeps, what it sends later, and that nobody else ever holds it."""

import dataclasses

import pytest
import torch

import glutils as gl
from glutils import defenses, models, protocols


@pytest.fixture(scope="module")
def deal():
    return gl.data.partition("digits", clients=3, per_client=4, seed=0, device="cpu")


@pytest.fixture(scope="module")
def model(deal):
    return models.build("mlp", deal[0], hidden=(16,), seed=0)


def client(feedback=True, keep=0.05):
    return defenses.Defended(protocols.FedSGD(), defenses.get("topk", keep=keep, feedback=feedback))


def test_what_is_held_back_is_sent_later(model, deal):
    """Over messages about one batch and one state: sum of what was sent + what is kept = sum of the gradients."""
    batch, mine = deal[0], client()
    gradient = models.flatten(protocols.FedSGD().transmit(model, batch.images, batch.labels))
    total = torch.zeros_like(gradient)
    for turn in range(1, 6):
        payload, memory = mine.transmit_with_memory(model, batch.images, batch.labels)
        mine = mine.with_memory(memory)
        total += models.flatten(payload)
        torch.testing.assert_close(total + models.flatten(memory[0]), turn * gradient)
    alone = client(feedback=False).transmit(model, batch.images, batch.labels)
    assert (models.flatten(alone) != 0).sum() * 3 < (total != 0).sum()
    torch.testing.assert_close(
        models.flatten(client().transmit(model, batch.images, batch.labels)), models.flatten(alone)
    )


def test_every_client_of_a_run_has_its_own_memory_and_the_server_none(model, deal):
    how = {"rounds": 3, "lr": 0.1, "progress": False}
    run = gl.federation.train(client(), model, deal, **how)
    again = gl.federation.train(client(), model, deal, **how)
    for turn in range(3):
        for k in range(len(deal)):
            (message,), (same,) = run.messages[turn][k], again.messages[turn][k]
            assert message.protocol.memory is None
            torch.testing.assert_close(dict(message.payload), dict(same.payload))
    work = gl.models.build("mlp", deal[0], hidden=(16,), seed=0)
    for k, batch in enumerate(deal):  # by hand, along the states of the run
        memory = None
        for turn in range(3):
            gl.federation.load(work, run.states[turn])
            mine = client().with_memory(memory)
            payload, memory = mine.transmit_with_memory(work, batch.images, batch.labels)
            assert torch.equal(payload.flat, mine.transmit(work, batch.images, batch.labels).flat)
            torch.testing.assert_close(dict(payload), dict(run.messages[turn][k][0].payload))
    seen = gl.observe(run, client=1, knows={"labels"})
    assert all(isinstance(entry.protocol.defenses[0], defenses.Masked) for entry in seen.rounds)


def test_feedback_keeps_the_accuracy_that_compression_loses(deal):
    clients = gl.data.partition("digits", clients=4, per_client=25, seed=0, device="cpu")
    start = models.build("mlp", clients[0], hidden=(16,), seed=0)
    how = {"rounds": 60, "lr": 0.5, "progress": False}
    left = {f: float(gl.federation.train(client(f, 0.005), start, clients, **how).accuracy[-1]) for f in (True, False)}
    assert left[True] > left[False] + 0.05


def test_memory_is_refused_where_it_would_be_lost(model, deal, tmp_path):
    with pytest.raises(ValueError, match="protocol must not remember"):
        defenses.Defended(client(), defenses.get("clip", bound=1))
    with pytest.raises(ValueError, match="checkpoint must be None"):
        gl.federation.train(client(), model, deal, rounds=1, lr=0.1, checkpoint=tmp_path / "run", progress=False)
    chained = defenses.Defended(protocols.FedSGD(), (defenses.get("clip", bound=1), client().defense))
    assert chained.keeps_memory and dataclasses.replace(chained, memory=None).keeps_memory
