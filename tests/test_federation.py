"""Federated training and its transcript: learning, replay, what is recorded, and what the transcript refuses."""

from dataclasses import replace

import pytest
import torch

import glutils as gl


@pytest.fixture(scope="module")
def clients():
    return gl.data.partition("digits", clients=3, per_client=4, seed=0)


@pytest.fixture(scope="module")
def model(clients):
    return gl.models.build("mlp", clients[0], hidden=(12,), seed=0)


def scalars(**options):
    return gl.protocols.ZerothOrder(**({"directions": 6, "mu": 1e-4, "dtype": "float64", "seed": 3} | options))


@pytest.fixture(scope="module")
def transcript(clients, model):
    return gl.federation.train(scalars(), model, clients, rounds=5, lr=0.05, seed=0)


def test_fedsgd_with_all_clients_is_gradient_descent_on_all_data(clients, model):
    run = gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=2, lr=0.3)
    params = gl.models.parameters(model)
    images, labels = torch.cat([c.images for c in clients]), torch.cat([c.labels for c in clients])
    for _ in range(2):
        gradient = gl.models.gradient(model, params, images, labels)
        params = {name: p - 0.3 * gradient[name] for name, p in params.items()}
    for name, p in params.items():
        torch.testing.assert_close(run.states[-1][name], p)


def test_training_learns_and_leaves_the_model_alone(clients, model):
    before = {name: p.clone() for name, p in gl.models.parameters(model).items()}
    run = gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=40, lr=1.0)
    assert run.accuracy.shape == (40,) and run.accuracy[-1] > run.accuracy[0] + 0.2
    assert all(torch.equal(p, before[name]) for name, p in gl.models.parameters(model).items())


def test_fedavg_averages_the_clients_models(clients, model):
    protocol = gl.protocols.FedAvg(epochs=2, batch_size=2, lr=0.1)
    run = gl.federation.train(protocol, model, clients, rounds=1)
    deltas = [protocol.transmit(model, c.images, c.labels) for c in clients]
    for name, p in gl.models.parameters(model).items():
        torch.testing.assert_close(run.states[1][name], p - sum(d[name] for d in deltas) / 3)


UNEQUAL = {
    "FedSGD": (gl.protocols.FedSGD(), {"lr": 0.3}),
    "FedAvg": (gl.protocols.FedAvg(epochs=2, batch_size=2, lr=0.1), {}),
    "ZerothOrder": (scalars(scheme="exact"), {"lr": 0.3}),
    "clipped": (gl.defenses.Defended(gl.protocols.FedSGD(), gl.defenses.get("clip", bound=0.1)), {"lr": 0.3}),
}


@pytest.mark.parametrize("how", [{}, {"record": [1]}, {"record": [0, 4]}, {"record": [], "batched": False}],
                         ids=["recorded", "one recorded", "two recorded", "none recorded"])  # fmt: skip
@pytest.mark.parametrize("name", UNEQUAL)
def test_the_server_weighs_clients_by_their_images(clients, model, name, how):
    """Unequal clients, some of them together: the step that the clients' messages make, by hand."""
    protocol, own = UNEQUAL[name]
    batches = [clients[0], clients[1][[0]], clients[2][[0, 1]], clients[0][[2]], clients[1][[1, 2, 3]]]
    run = gl.federation.train(protocol, model, batches, rounds=1, **own, **how)
    asked = protocol.for_round(0)
    sent = [asked.transmit(model, c.images, c.labels) for c in batches]
    mean, plain = sum(len(c) * s for c, s in zip(batches, sent, strict=True)) / 11, sum(sent) / 5
    assert float((mean - plain).flat.norm()) > 0.05 * float(mean.flat.norm())  # weights matter here
    start = gl.models.parameters(model)
    if mean.kind == "scalars":
        wanted = gl.zo.replay(start, mean.scalars, asked.draw(model), 0.3)
    else:
        wanted = {name: p - own.get("lr", 1.0) * mean[name] for name, p in start.items()}
    for name, p in wanted.items():
        torch.testing.assert_close(run.states[1][name], p, rtol=1e-4, atol=1e-5)
    run.check()


def test_every_round_has_its_own_public_seed_and_its_own_scalars(transcript):
    seeds = [entry[0][0].protocol.seed for entry in transcript.messages]
    assert len(set(seeds)) == 5
    assert all(len({m[0].protocol.seed for m in entry}) == 1 for entry in transcript.messages)
    assert transcript.sent(0) == 30 and len(transcript.states) == 6
    transcript.check()


def test_local_steps_follow_the_clients_own_scalars_and_replay_to_the_global_state(clients, model):
    run = gl.federation.train(scalars(), model, clients, rounds=2, lr=0.05, local_steps=3)
    first, second = run.messages[1][2][:2]
    own = gl.zo.replay(first.parameters, first.payload.scalars, first.protocol.draw(model), 0.05)
    assert all(torch.equal(own[name], second.parameters[name]) for name in own)
    assert run.sent(2) == 2 * 3 * 6
    run.check()


def test_mini_batches_and_sampled_clients_are_drawn_by_the_seed(clients, model):
    options = {"rounds": 4, "lr": 0.05, "local_batch": 2, "sampled": 2}
    runs = [gl.federation.train(scalars(), model, clients, seed=seed, **options) for seed in (0, 0, 1)]
    drawn = [[tuple(i.tolist()) for entry in run.drawn for said in entry for i in said] for run in runs]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(sum(bool(said) for said in entry) == 2 for entry in runs[0].messages)


def spoiled(transcript, turn, **change):
    entry = transcript.messages[turn]
    said = (tuple(replace(m, **change) for m in entry[0]), *entry[1:])
    return replace(transcript, messages=(*transcript.messages[:turn], said, *transcript.messages[turn + 1 :]))


def test_a_transcript_names_the_round_that_does_not_follow(transcript):
    wrong_state = {name: p + 1 for name, p in transcript.states[3].items()}
    with pytest.raises(ValueError, match="round 3: the model state of client 0"):
        gl.observe(spoiled(transcript, 3, parameters=wrong_state), client=0)
    with pytest.raises(ValueError, match="round 2 mixes public seeds"):
        gl.observe(spoiled(transcript, 2, protocol=scalars(seed=99)), client=0)
    with pytest.raises(ValueError, match="round 4.*finite"):
        gl.observe(spoiled(transcript, 4, payload=torch.full((6,), torch.nan, dtype=torch.float64)), client=0)
    with pytest.raises(ValueError, match="round 1: its messages do not lead"):
        gl.observe(spoiled(transcript, 1, payload=torch.ones(6, dtype=torch.float64)), client=0)
    states = (*transcript.states[:2], wrong_state, *transcript.states[3:])
    with pytest.raises(ValueError, match="round 1|round 2"):
        gl.observe(replace(transcript, states=states), client=0)


def test_a_missing_round_is_noticed(transcript):
    fewer = transcript.messages[:2] + transcript.messages[3:]
    with pytest.raises(ValueError, match="one state more"):
        gl.observe(replace(transcript, messages=fewer), client=0)
    states = transcript.states[:2] + transcript.states[3:]
    with pytest.raises(ValueError, match="round 2 is missing or out of order|round 1"):
        gl.observe(replace(transcript, messages=fewer, states=states), client=0)


def test_an_observation_of_a_client_holds_its_messages_alone(transcript):
    seen = gl.observe(transcript, client=1, rounds=[0, 2], knows={"labels"})
    assert [m.number for m in seen.rounds] == [0, 2]
    assert torch.equal(seen.rounds[1].payload, transcript.messages[2][1][0].payload)
    assert seen.shape == (4, 1, 8, 8) and torch.equal(seen.labels, transcript.clients[1].labels)


def test_a_transcript_gives_the_client_away(clients):
    """Two digits, 128 unknowns, 16 rounds of 10 scalars, the model moving."""
    pair = [client[[0, 1]] for client in clients]
    model = gl.models.build("mlp", pair[0], hidden=(16,), seed=0)
    run = gl.federation.train(scalars(directions=10), model, pair, rounds=16, lr=0.01)
    result = gl.attack("zerogla", gl.observe(run, client=0, knows={"labels"}), seed=0)
    assert float(gl.score(result, pair[0]).psnr.min()) > 100
    wrong = gl.attack("zerogla", gl.tamper(gl.observe(run, client=0, knows={"labels"}), "wrong_seed"), restarts=1)
    score = gl.score(wrong, pair[0])
    assert float(score.psnr.mean()) < float(score.controls["mean_colour"].mean()) + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"lr": None}, "lr must be given"),
        ({"lr": 0.0}, "lr must be greater than 0"),
        ({"local_batch": 5}, "local_batch must be between 1 and 4"),
        ({"sampled": 4}, "sampled must be between 1 and 3"),
        ({"local_steps": 0}, "local_steps must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_the_first_round(clients, model, change, message):
    with pytest.raises(ValueError, match=message):
        gl.federation.train(scalars(), model, clients, **({"rounds": 1, "lr": 0.1} | change))


def test_what_does_not_fit_the_protocol_is_refused(clients, model, transcript):
    with pytest.raises(ValueError, match="lr must not be given for FedAvg"):
        gl.federation.train(gl.protocols.FedAvg(), model, clients, rounds=1, lr=0.1)
    with pytest.raises(ValueError, match="local_steps must be 1"):
        gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=1, lr=0.1, local_steps=2)
    with pytest.raises(ValueError, match="at least one Batch"):
        gl.federation.train(scalars(), model, [], rounds=1, lr=0.1)
    with pytest.raises(ValueError, match="client must be between 0 and 2"):
        gl.observe(transcript, client=3)
    with pytest.raises(TypeError, match="client=..."):
        gl.observe(transcript)


def test_directions_are_drawn_once_for_all_clients(clients, model, monkeypatch):
    drawn = []
    draw = gl.protocols.ZerothOrder.draw
    monkeypatch.setattr(gl.protocols.ZerothOrder, "draw", lambda self, m: drawn.append(self.seed) or draw(self, m))
    run = gl.federation.train(scalars(), model, clients, rounds=3, lr=0.05, local_steps=2)
    assert len(drawn) == len(set(drawn)) == 6
    run.check()
    assert len(drawn) == 12


def test_a_client_sends_what_it_would_have_sent_alone(clients, model):
    run = gl.federation.train(scalars(), model, clients, rounds=3, lr=0.05)
    twin = gl.models.build("mlp", clients[0], hidden=(12,), seed=0)
    for entry in run.messages:
        for client, (message,) in zip(clients, entry, strict=True):
            gl.federation.load(twin, message.parameters)
            assert torch.equal(message.protocol.transmit(twin, client.images, client.labels), message.payload)


def test_the_number_of_directions_may_differ_between_rounds(clients, model):
    counts = [6, 1, 9, 4]
    run = gl.federation.train([scalars(directions=p) for p in counts], model, clients, rounds=4, lr=0.05)
    run.check()
    assert [len(entry[1][0].payload) for entry in run.messages] == counts and run.sent(0) == 20
    assert len({entry[0][0].protocol.seed for entry in run.messages}) == 4
    same = gl.federation.train([scalars()] * 4, model, clients, rounds=4, lr=0.05)
    once = gl.federation.train(scalars(), model, clients, rounds=4, lr=0.05)
    assert all(torch.equal(same.states[-1][name], p) for name, p in once.states[-1].items())


def test_rounds_of_different_size_give_the_client_away_as_well(clients):
    pair = [client[[0, 1]] for client in clients]
    model = gl.models.build("mlp", pair[0], hidden=(16,), seed=0)
    protocols = [scalars(directions=4 + turn % 9) for turn in range(20)]
    run = gl.federation.train(protocols, model, pair, rounds=20, lr=0.05)
    result = gl.attack("zerogla", gl.observe(run, client=1, knows={"labels"}), seed=0, progress=False)
    assert result.diagnostics["scalars"] == run.sent(1)
    assert float(gl.score(result, pair[1]).psnr.min()) > 100


def test_local_steps_give_the_client_away_as_well(clients):
    pair = [client[[0, 1]] for client in clients]
    model = gl.models.build("mlp", pair[0], hidden=(16,), seed=0)
    run = gl.federation.train(scalars(directions=10), model, pair, rounds=8, lr=0.05, local_steps=2)
    result = gl.attack("zerogla", gl.observe(run, client=2, knows={"labels"}), seed=0, progress=False)
    assert float(gl.score(result, pair[2]).psnr.min()) > 100


@pytest.mark.parametrize(
    ("protocol", "error", "message"),
    [
        ([scalars()] * 3, ValueError, "one protocol for each of 2 rounds, got 3"),
        ([scalars(), gl.protocols.FedSGD()], ValueError, "protocol of round 1 must be of the first one's kind"),
        ([scalars(), 7], TypeError, "protocol of round 1 must be a Protocol, got int"),
        ("zo", TypeError, "protocol must be a Protocol or a list of them, got str"),
    ],
)
def test_protocols_that_do_not_fit_the_rounds_are_refused(clients, model, protocol, error, message):
    with pytest.raises(error, match=message):
        gl.federation.train(protocol, model, clients, rounds=2, lr=0.1)


# --- recording chosen clients ---


def test_unrecorded_clients_move_the_model_and_leave_no_messages(clients, model):
    options = {"rounds": 4, "lr": 0.05, "local_batch": 2, "local_steps": 2}
    whole = gl.federation.train(scalars(), model, clients, **options)
    some = gl.federation.train(scalars(), model, clients, record=[2], **options)
    for name, p in whole.states[-1].items():
        torch.testing.assert_close(some.states[-1][name], p, rtol=1e-5, atol=1e-7)
    assert all(not entry[0] and not entry[1] and len(entry[2]) == 2 for entry in some.messages)
    assert all(torch.equal(a[2][0].payload, b[2][0].payload) for a, b in zip(some.messages, whole.messages, strict=True)
               if torch.equal(a[2][0].parameters["1.weight"], b[2][0].parameters["1.weight"]))  # fmt: skip
    assert torch.equal(some.uplink, whole.uplink) and some.uplink.tolist() == [3 * 2 * 6 * 8] * 4
    seen = gl.observe(some, client=2, knows={"labels"})
    assert len(seen.rounds) == 8 and some.sent(2) == 48


def test_an_observation_of_an_unrecorded_client_is_refused_with_those_there_are(clients, model):
    run = gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=2, lr=0.1, record=[2, 0, 2])
    for client, text in ((1, r"client must be one of the recorded ones \(0, 2\), got 1"), (3, "between 0 and 2")):
        with pytest.raises(ValueError, match=text):
            gl.observe(run, client=client)
    with pytest.raises(ValueError, match=r"recorded ones \(0, 2\), got 1"):
        run.sent(1)
    nobody = gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=2, lr=0.1, record=[])
    with pytest.raises(ValueError, match=r"recorded ones \(none\), got 0"):
        gl.observe(nobody, client=0)


def test_states_are_kept_for_rounds_with_a_recorded_client_only(clients, model):
    run = gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=12, lr=0.1, sampled=1, record=[1])
    held = [t for t, state in enumerate(run.states) if state is not None]
    assert held == sorted({0, 12} | {t for t, who in enumerate(run.took_part) if 1 in who}) and len(held) < 13
    seen = gl.observe(run, client=1)
    assert [m.number for m in seen.rounds] == [t for t, who in enumerate(run.took_part) if who == (1,)]
    spoilt = list(run.messages)
    spoilt[seen.rounds[0].number] = ((), (), ())
    with pytest.raises(ValueError, match=f"round {seen.rounds[0].number} is missing"):
        gl.observe(replace(run, messages=tuple(spoilt)), client=1)
    states = [None if t == seen.rounds[1].number else state for t, state in enumerate(run.states)]
    with pytest.raises(ValueError, match=f"round {seen.rounds[1].number}: the model state before it is missing"):
        gl.observe(replace(run, states=tuple(states)), client=1)


def test_a_partly_recorded_round_is_checked_as_far_as_it_can_be(clients, model):
    run = gl.federation.train(scalars(), model, clients, rounds=3, lr=0.05, record=[0, 1])
    run.check()
    wrong = {name: p + 1 for name, p in run.states[1].items()}
    with pytest.raises(ValueError, match="round 1: the model state of client 0"):
        gl.observe(spoiled(run, 1, parameters=wrong), client=1)
    gone = (*run.messages[:2], ((), *run.messages[2][1:]))
    with pytest.raises(ValueError, match="round 2: the messages of client 0, who took part, are missing"):
        gl.observe(replace(run, messages=gone), client=1)


# --- step sizes, shares, epochs ---


def test_the_servers_step_size_decays_and_the_replay_knows(clients, model):
    run = gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=3, lr=0.3, decay=0.5)
    params, images = gl.models.parameters(model), torch.cat([c.images for c in clients])
    labels = torch.cat([c.labels for c in clients])
    for turn in range(3):
        gradient = gl.models.gradient(model, params, images, labels)
        params = {name: p - 0.3 * 0.5**turn * gradient[name] for name, p in params.items()}
    for name, p in params.items():
        torch.testing.assert_close(run.states[-1][name], p)
    run.check()
    gl.federation.train(scalars(), model, clients, rounds=3, lr=0.3, decay=0.5, local_steps=2).check()


def test_fedavg_steps_decay_and_every_message_says_with_what_it_was_made(clients, model):
    protocol = gl.protocols.FedAvg(epochs=1, batch_size=4, lr=0.2, decay=0.5, momentum=0.3, weight_decay=0.1)
    run = gl.federation.train(protocol, model, clients, rounds=3)
    said = [entry[0][0] for entry in run.messages]
    assert [m.protocol.lr for m in said] == [0.2, 0.1, 0.05]
    twin = gl.models.build("mlp", clients[0], hidden=(12,), seed=0)
    gl.federation.load(twin, said[2].parameters)
    again = said[2].protocol.transmit(twin, clients[0].images, clients[0].labels)
    assert all(torch.equal(p, said[2].payload[name]) for name, p in again.items())
    seen = gl.observe(run, client=0, rounds=[2])
    gradient = gl.observation.as_gradient(seen).payload
    wanted = gl.protocols.FedSGD().transmit(twin, clients[0].images, clients[0].labels)
    for name, g in wanted.items():
        torch.testing.assert_close(gradient[name], g, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("share", "count"), [(0.34, 2), (1.0, 3), (1, 1), (0.01, 1), (None, 3)])
def test_a_share_of_the_clients_takes_part(clients, model, share, count):
    run = gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=2, lr=0.1, sampled=share)
    assert [len(who) for who in run.took_part] == [count] * 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sampled": 0.0}, ValueError, "sampled must be greater than 0"),
        ({"sampled": 1.5}, ValueError, "sampled must be at most 1, got 1.5"),
        ({"sampled": True}, TypeError, "sampled must be an integer"),
        ({"lr": -0.1}, ValueError, "lr must be greater than 0, got -0.1"),
        ({"decay": 0}, ValueError, "decay must be greater than 0"),
        ({"record": [3]}, ValueError, "record must be between 0 and 2, got 3"),
        ({"batched": 1}, TypeError, "batched must be a bool"),
    ],
)
def test_bad_settings_are_refused_before_the_first_round(clients, model, change, error, message):
    with pytest.raises(error, match=message):
        gl.federation.train(scalars(), model, clients, **({"rounds": 1, "lr": 0.1} | change))


def test_fedavg_refuses_the_servers_settings(clients, model):
    with pytest.raises(ValueError, match="decay must not be given for FedAvg, which has its own"):
        gl.federation.train(gl.protocols.FedAvg(), model, clients, rounds=1, decay=0.9)
