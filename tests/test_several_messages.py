"""Several messages of one client: an attack puts all of them together, or refuses and names who does. None reads one of
them in silence."""

import dataclasses
import functools

import pytest
import torch

import glutils as gl
from glutils.attacks.base import ATTACKS, OBSERVATION
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

READERS = [name for name in gl.attacks.names() if ATTACKS.get(name).takes == OBSERVATION]
PAIRS = [(name, kind) for name in READERS for kind in ATTACKS.get(name).kinds]
TOGETHER = [(name, kind) for name, kind in PAIRS if kind in ATTACKS.get(name).several]
SCALARS = ZerothOrder(directions=8, mu=1e-4, dtype="float64", seed=0)
PROTOCOLS = {"gradient": FedSGD(), "delta": FedAvg(epochs=2, batch_size=1, lr=0.1), "scalars": SCALARS}
SHORT = {"iterations": 6, "restarts": 1, "ensemble": 1, "progress": False, "words": [5]}
SHORT |= {"prior": "pca", "components": 4, "width": 4}
FEWER = dict.fromkeys(("dlf", "dlg", "idlg", "zerogla"), {"iterations": 1, "simulator": "full"})
FEWER |= {"gifd": {"prior": "untrained"}, "ggl": {"iterations": 9}}
"""An iteration is many evaluations."""


@functools.cache
def client(name, kind):
    """Two messages of one client, each about a state of the model of its own."""
    record = ATTACKS.get(name).records[0]
    if record == "tokens":  # the last piece alone has a loss where a label word is asked for
        pieces = torch.tensor([[3, 1, 4, 5]])
        labels = torch.where(torch.arange(4) < (3 if name == "zerogla_label_word" else 1), -100, pieces)
        batch, build = gl.data.Batch(pieces, labels, tuple("abcdefgh")), ("gpt", {"depth": 1, "width": 8, "heads": 2})
    else:
        batch = gl.data.sample("wine" if record == "tables" else "digits", count=1, seed=0, device="cpu")
        build = ("mlp", {"hidden": (16,)})
    seen, rounds = None, []
    for number in range(2):
        model = gl.models.build(build[0], batch, seed=number, **build[1])
        sent = PROTOCOLS[kind].transmit(model, batch.records, batch.labels)
        told = {} if record == "tokens" else {"knows": {"labels", "public"}, "public": gl.data.public(batch, count=20)}
        seen = gl.observe(model, PROTOCOLS[kind], sent, batch, **told)
        own = gl.models.parameters(model)
        rounds.append(dataclasses.replace(seen.rounds[0], number=number, parameters=own))
    return dataclasses.replace(seen, rounds=tuple(rounds))


def attacked(name, seen):
    takes = gl.experiments.conditions.options_of(name)
    how = {option: value for option, value in (SHORT | FEWER.get(name, {})).items() if option in takes}
    return gl.attack(name, seen, **how)


@pytest.mark.filterwarnings("ignore")  # a search of six steps
@pytest.mark.parametrize(("name", "kind"), TOGETHER)
def test_every_message_counts_for_an_attack_that_says_so(name, kind):
    seen = client(name, kind)
    spoiled = gl.tamper(seen, "wrong_gradient", seed=1).rounds
    ways = [seen, dataclasses.replace(seen, rounds=(seen.rounds[0], spoiled[1]))]
    found = [attacked(name, way) for way in ways]
    assert found[1].loss != found[0].loss or not torch.equal(found[1].images, found[0].images)


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair not in TOGETHER])
def test_an_attack_of_one_message_refuses_two_and_names_who_reads_them(name, kind):
    seen = client(name, kind)
    with pytest.raises(ValueError, match=f"attack '{name}' reads one {kind}, got 2: .*rounds=") as refused:
        gl.attack(name, seen)
    able = [other for other, what in TOGETHER if what == kind and seen.record.name in ATTACKS.get(other).records]
    said = str(refused.value).split("; ")[-1]
    assert said.split("'")[1::2] == [other for other in gl.attacks.names() if other in able]
    assert able or said == "no attack reads several of these"


def test_one_message_of_several_is_picked_as_the_refusal_says():
    """What the sentence advises works: of a transcript, one round."""
    clients = [gl.data.sample("digits", count=1, seed=seed, device="cpu") for seed in range(2)]
    model = gl.models.build("mlp", clients[0], hidden=(16,), activation="relu", seed=0)
    run = gl.federation.train(FedSGD(), model, clients, rounds=2, lr=0.1, seed=0, test=clients[0], progress=False)
    with pytest.raises(ValueError, match="'fc_inversion' reads one gradient, got 2"):
        gl.attack("fc_inversion", gl.observe(run, client=1))
    found = gl.attack("fc_inversion", gl.observe(run, client=1, rounds=[1]))
    assert float(gl.metrics.psnr(found.images, clients[1].images)) > 60


def test_a_message_about_drawn_records_that_is_read_as_one_about_all_is_noted():
    seen = dataclasses.replace(client("ig", "gradient"), shape=(2, 1, 8, 8), labels=torch.tensor([0, 1]), local_batch=1)
    assert any("about 1 of 2, and was read as one about all" in note for note in attacked("ig", seen).notes)
    whole = attacked("ig", dataclasses.replace(seen, local_batch=2))
    assert not any("read as one about all" in note for note in whole.notes)
