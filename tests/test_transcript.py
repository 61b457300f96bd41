"""Transcripts that do not hold together: noticed by replay, or, where replay is blind, by the misfit of rounds."""

import itertools
import math
import time
from dataclasses import replace

import pytest
import torch

import glutils as gl
from glutils.attacks.zerogla import consistency, gauss_newton
from glutils.attacks.zerogla.consistency import check_rounds
from glutils.solvers import Solution


def scalars(**options):
    return gl.protocols.ZerothOrder(**({"directions": 10, "mu": 1e-4, "dtype": "float64", "seed": 3} | options))


@pytest.fixture(scope="module")
def clients():
    """Three clients with two digits each: 128 unknowns."""
    return gl.data.partition("digits", clients=3, per_client=2, seed=0)


@pytest.fixture(scope="module")
def model(clients):
    return gl.models.build("mlp", clients[0], hidden=(16,), seed=0)


@pytest.fixture(scope="module")
def transcript(clients, model):
    return gl.federation.train(scalars(), model, clients, rounds=24, lr=0.05)


def edited(transcript, turn, **said):
    """The transcript with the messages of some clients in one round replaced; ``said`` maps "client<k>" to them."""
    entry = list(transcript.messages[turn])
    for name, messages in said.items():
        entry[int(name.removeprefix("client"))] = tuple(messages)
    return replace(transcript, messages=(*transcript.messages[:turn], tuple(entry), *transcript.messages[turn + 1 :]))


def exchanged(transcript, turns, whole=False):
    """Clients 0 and 1 exchanged in some rounds: their payloads, or their whole messages."""
    for turn in turns:
        one, two = transcript.messages[turn][:2]
        if not whole:
            one, two = (
                [replace(own, payload=other.payload) for own, other in zip(*pair, strict=True)]
                for pair in ((two, one), (one, two))
            )
        transcript = edited(transcript, turn, client0=two, client1=one)
    return transcript


def attacked(seen):
    return gl.attack("zerogla", seen, seed=0, restarts=1, check=False, progress=False)


# --- what replay sees ---


def test_messages_of_two_clients_exchanged_are_named(transcript):
    with pytest.raises(ValueError, match="round 7: a message of client 1 stands in the place of client 0's"):
        gl.observe(exchanged(transcript, [7], whole=True), client=0)


def test_payloads_exchanged_between_clients_of_different_size_are_noticed(clients, model):
    uneven = [clients[0], clients[1][[0]], clients[2]]
    run = gl.federation.train(scalars(), model, uneven, rounds=4, lr=0.05)
    with pytest.raises(ValueError, match="round 2: its messages do not lead to the next model state"):
        gl.observe(exchanged(run, [2]), client=0)


def test_a_client_that_sent_fewer_messages_than_the_others_is_named(clients, model):
    run = gl.federation.train(scalars(), model, clients, rounds=3, lr=0.05, local_steps=2)
    with pytest.raises(ValueError, match="round 1: client 2 sent 1 messages, client 0 2"):
        gl.observe(edited(run, 1, client2=run.messages[1][2][:1]), client=0)


def test_a_wrong_state_between_local_steps_is_named(clients, model):
    run = gl.federation.train(scalars(), model, clients, rounds=3, lr=0.05, local_steps=2)
    first, second = run.messages[2][1]
    wrong = replace(second, parameters=first.parameters)
    with pytest.raises(ValueError, match="round 2: the model state of client 1 is not the one that its own scalars"):
        gl.observe(edited(run, 2, client1=[first, wrong]), client=0)


def test_protocols_mixed_within_a_round_are_named(transcript):
    (message,) = transcript.messages[5][2]
    fewer = replace(message, protocol=replace(message.protocol, directions=9), payload=message.payload[:9])
    with pytest.raises(ValueError, match="round 5 mixes protocols in step 0, client 0 against client 2"):
        gl.observe(edited(transcript, 5, client2=[fewer]), client=0)


def test_bad_numbers_name_round_and_client(transcript):
    (message,) = transcript.messages[5][2]
    spoilt = message.payload.clone()
    spoilt.scalars[3] = float("inf")
    for payload, error, text in (
        (spoilt, ValueError, "payload of client 2 in round 5 must be finite, got 1 NaN or infinite entries of 10"),
        (message.payload[:9], ValueError, "payload of client 2 in round 5 must hold 10 scalars"),
        (message.payload.scalars.long(), TypeError, "payload of client 2 in round 5 must be floating-point"),
    ):
        with pytest.raises(error, match=text):
            gl.observe(edited(transcript, 5, client2=[replace(message, payload=payload)]), client=0)


def test_a_diverged_run_is_refused_with_its_round(clients, model):
    run = gl.federation.train(scalars(directions=1), model, clients, rounds=3, lr=0.01)
    broken = {name: torch.full_like(p, torch.nan) for name, p in run.states[2].items()}
    with pytest.raises(ValueError, match="model state before round 2, 1.weight, must be finite"):
        gl.observe(replace(run, states=(*run.states[:2], broken, run.states[3])), client=0)


def test_an_empty_round_is_named(transcript):
    nobody = replace(transcript, messages=(*transcript.messages[:4], ((), (), ()), *transcript.messages[5:]))
    with pytest.raises(ValueError, match="round 4 is missing: it holds no messages"):
        gl.observe(nobody, client=1)


# --- what only a reconstruction sees ---


def test_replay_does_not_see_payloads_exchanged_between_clients_of_equal_size(transcript):
    assert exchanged(transcript, [2, 11, 17]).check() is None


def test_rounds_of_another_client_are_named_and_left_out(transcript, clients):
    seen = gl.observe(exchanged(transcript, [2, 11, 17]), client=0, knows={"labels"})
    spoiled = attacked(seen)
    assert float(gl.score(spoiled, clients[0]).psnr.min()) < 40
    images, rounds = gl.attacks.without_strangers(seen, spoiled.images, spoiled.labels)
    assert rounds == [2, 11, 17]
    assert float(gl.score(replace(spoiled, images=images), clients[0]).psnr.min()) > 100
    assert gl.attacks.inconsistent_rounds(seen, images, spoiled.labels) == rounds
    cleaned = check_rounds(spoiled, seen)
    assert "left out rounds [2, 11, 17]" in cleaned.notes[-1] and cleaned.diagnostics["left out"] == 3
    assert cleaned.loss < 1e-12 < spoiled.loss


@pytest.mark.parametrize("off", [0.0, 1e-8, 3e-7, 1e-6])
def test_a_fit_that_leaves_rounds_out_must_reach_the_noise(off, transcript, clients, monkeypatch):
    """A refit that ends near the solution, at a misfit that would count as none had all rounds been asked."""
    seen = gl.observe(exchanged(transcript, [2, 11, 17]), client=0, knows={"labels"})
    truth = clients[0].images.double()
    tilt = torch.arange(truth.numel()).cos().view(truth.shape)
    near = (truth + off * tilt).flatten()
    monkeypatch.setattr(consistency, "gauss_newton", lambda problem, *_, **how: Solution(near, 0.0, problem))
    grey = torch.full_like(truth, 0.5)
    found, noise = gl.attacks.misfits(seen, near.view(truth.shape), seen.labels)
    honest = found[[number for number in range(len(found)) if number not in (2, 11, 17)]]
    assert float(honest.max()) < 10 * consistency.FLOOR
    images, rounds = gl.attacks.without_strangers(seen, grey, seen.labels)
    reached = float(honest.max()) < 10 * noise
    assert reached is (off == 0.0)
    assert rounds == ([2, 11, 17] if reached else []) and (images is grey) is not reached


def test_rounds_are_compared_only_while_there_is_time(transcript, monkeypatch):
    seen = gl.observe(exchanged(transcript, [2, 11, 17]), client=0, knows={"labels"})
    spoiled = attacked(seen)
    late = check_rounds(spoiled, seen, deadline=-math.inf)
    assert late.images is spoiled.images and late.evaluations == spoiled.evaluations
    assert late.notes[-2] == consistency.UNCHECKED and "not explained" in late.notes[-1]
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    short = check_rounds(spoiled, seen, deadline=2.0)  # the first refit ends after two steps
    assert short.images is spoiled.images and consistency.UNCHECKED in short.notes
    assert spoiled.evaluations < short.evaluations < check_rounds(spoiled, seen).evaluations
    deadlines = []
    monkeypatch.setattr(gauss_newton, "check_rounds", lambda result, seen, end: deadlines.append(end) or result)
    begin = next(ticks)
    gl.attack("zerogla", seen, seconds=100, iterations=1)
    assert 100 + begin < deadlines[0] <= 110 + begin


def test_a_consistent_transcript_accuses_nobody(transcript):
    seen = gl.observe(transcript, client=0, knows={"labels"})
    result = attacked(seen)
    assert gl.attacks.inconsistent_rounds(seen, result.images, result.labels) == []
    assert gl.attacks.without_strangers(seen, result.images, result.labels)[0] is result.images
    same = check_rounds(result, seen)
    assert same.images is result.images and "left out" not in same.diagnostics
    assert not any("rounds" in note for note in same.notes)


def test_a_wrong_seed_accuses_no_single_round(transcript):
    seen = gl.tamper(gl.observe(transcript, client=0, knows={"labels"}), "wrong_seed")
    result = check_rounds(attacked(seen), seen)
    assert "the scalars are not explained" in result.notes[-1] and "left out" not in result.diagnostics


def test_two_clients_half_and_half_are_not_attacked_as_one(transcript):
    seen = gl.observe(exchanged(transcript, range(0, 24, 2)), client=0, knows={"labels"})
    result = check_rounds(attacked(seen), seen)
    assert "the scalars are not explained" in result.notes[-1]


def test_misfits_are_those_of_the_simulated_scalars(transcript, clients):
    seen = gl.observe(transcript, client=0, knows={"labels"})
    found, noise = gl.attacks.misfits(seen, clients[0].images, clients[0].labels)
    assert found.shape == (24,) and noise < 1e-8 and float(found.max()) < 1e-8
    grey, _ = gl.attacks.misfits(seen, torch.full_like(clients[0].images, 0.5), clients[0].labels)
    assert float(grey.median()) > 0.3


def test_what_cannot_be_judged_is_refused(transcript, clients, model):
    images, labels = clients[0].images, clients[0].labels
    few = gl.observe(transcript, client=0, knows={"labels"}, rounds=range(12))
    with pytest.raises(ValueError, match="more scalars than the 128 unknowns to accuse a round, got 120"):
        gl.attacks.without_strangers(few, torch.full_like(images, 0.5), labels)
    gradient = gl.protocols.FedSGD()
    seen = gl.observe(model, gradient, gradient.transmit(model, images, labels), clients[0], knows={"labels"})
    with pytest.raises(ValueError, match="seen must hold scalars, got a payload of kind 'gradient'"):
        gl.attacks.inconsistent_rounds(seen, images, labels)
    with pytest.raises(ValueError, match="most must be at most 0.5"):
        gl.attacks.without_strangers(few, images, labels, most=0.9)
    batches = gl.observe(gl.federation.train(scalars(), model, clients, rounds=2, lr=0.1, local_batch=1), client=0)
    with pytest.raises(ValueError, match="got mini-batches"):
        gl.attacks.misfits(batches, images, labels)
