"""Logs of servers: written by a client that is not ours, read, replayed, checked against the end weights, attacked."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import glutils as gl

ROUNDS, CLIENTS, STEPS, K, LR, MU = 12, 3, 2, 4, 1e-3, 1e-3
PROTOCOL = gl.protocols.ZerothOrder(directions=K, mu=MU, law="decomfl")


def direction(seed, i, like):
    """DeComFL's: a normal vector for all parameters, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed * (i + 17) + i)
    return torch.randn(len(like), generator=generator)


class Client:
    """A zeroth-order client as DeComFL's program has it: one flat float32 vector, perturbed in place."""

    def __init__(self, model, batch):
        self.model, self.batch = model, batch

    def step(self, theta, seed):
        """Scalars at theta, (K,)."""
        scalars = torch.zeros(K)
        for i in range(K):
            z = direction(seed, i, theta)
            theta += MU * z
            ahead = self.loss(theta)
            theta -= 2 * MU * z
            scalars[i] = (ahead - self.loss(theta)) / (2 * MU)
            theta += MU * z
        return scalars

    def loss(self, theta):
        torch.nn.utils.vector_to_parameters(theta, self.model.parameters())
        return F.cross_entropy(self.model(self.batch.images), self.batch.labels)


def moved(theta, scalars, seed):
    return theta - LR * sum(s * direction(seed, i, theta) for i, s in enumerate(scalars)) / K


@pytest.fixture(scope="module")
def clients():
    return gl.data.partition("digits", clients=CLIENTS, per_client=1, seed=0, device="cpu")


@pytest.fixture(scope="module")
def model(clients):
    return gl.models.build("mlp", clients[0], hidden=(12,), seed=0)


@pytest.fixture(scope="module")
@torch.no_grad()
def log(clients, model):
    """A run of three clients, of which two take part in a round, with two local steps."""
    names = [name for name, _ in model.named_parameters()]
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).clone()
    scratch = gl.models.build("mlp", clients[0], hidden=(12,), seed=0)
    found = {f"start/{n}": p.detach().clone().numpy() for n, p in model.named_parameters()}
    rng = np.random.default_rng(0)
    found["seeds"] = rng.integers(0, 10**6, (ROUNDS, STEPS))
    found["scalars"] = np.full((ROUNDS, CLIENTS, STEPS, K), np.nan, dtype=np.float32)
    for turn, seeds in enumerate(found["seeds"].tolist()):
        for k in sorted(rng.permutation(CLIENTS)[:2]):
            own = theta.clone()
            for j, seed in enumerate(seeds):
                scalars = Client(scratch, clients[k]).step(own.clone(), seed)
                found["scalars"][turn, k, j] = scalars.numpy()
                own = moved(own, scalars, seed)
        for j, seed in enumerate(seeds):
            theta = moved(theta, torch.from_numpy(np.nanmean(found["scalars"][turn, :, j], 0)), seed)
    torch.nn.utils.vector_to_parameters(theta, scratch.parameters())
    return found | {f"end/{n}": p.detach().numpy() for n, p in zip(names, scratch.parameters(), strict=True)}


def read(log, model, protocol=PROTOCOL, lr=LR, **options):
    return gl.transcripts.read(log, model, protocol, lr=lr, **options)


def without_end(log):
    return {name: array for name, array in log.items() if not name.startswith("end/")}


# --- what is read ---


def test_a_foreign_log_is_replayed_to_its_end_weights(log, model):
    found = read(log, model)
    assert found.rounds == ROUNDS and found.clients == (None,) * CLIENTS and bool(found.accuracy.isnan().all())
    for name, p in found.states[-1].items():
        assert torch.allclose(p, torch.from_numpy(log[f"end/{name}"]), atol=1e-6)
    sent = ~np.isnan(log["scalars"][:, :, 0, 0])
    assert [list(np.flatnonzero(row)) for row in sent] == [list(active) for active in found.took_part]
    message = found.of(1)[1]
    assert message.protocol.seed == log["seeds"][message.number, 1] and message.client == 1
    first = found.of(1)[0]
    assert not torch.equal(first.parameters["3.bias"], message.parameters["3.bias"])  # it moved by itself


def test_all_formats_say_the_same(log, model, tmp_path):
    np.savez(tmp_path / "log.npz", **log)
    scalars = np.where(np.isnan(log["scalars"]), None, log["scalars"]).tolist()
    nested = {"seeds": log["seeds"].tolist(), "scalars": scalars}
    for group in ("start", "end"):
        nested[group] = {n.partition("/")[2]: a.tolist() for n, a in log.items() if n.startswith(f"{group}/")}
    (tmp_path / "log.json").write_text(json.dumps(nested))
    lines = [{"start": nested["start"]}, {"end": nested["end"]}]
    for turn, client, step in np.argwhere(~np.isnan(log["scalars"][..., 0])).tolist():
        numbers = log["scalars"][turn, client, step].tolist()
        where = {"round": turn, "client": client, "step": step}
        lines.append(where | {"seed": int(log["seeds"][turn, step]), "scalars": numbers})
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    numbered = {n: torch.as_tensor(a) for n, a in log.items() if "/" not in n}
    numbered |= {g: [log[f"{g}/{n}"] for n in gl.models.parameters(model)] for g in ("start", "end")}
    wanted = read(log, model)
    for source in (tmp_path / "log.npz", str(tmp_path / "log.json"), tmp_path / "log.jsonl", numbered):
        found = read(source, model)
        for one, other in zip(wanted.of(2), found.of(2), strict=True):
            assert one.payload.dtype == other.payload.dtype == torch.float32 and torch.equal(one.payload, other.payload)
            assert one.protocol == other.protocol


def test_a_run_of_ours_is_written_and_read_back(clients, model, tmp_path):
    uneven = [clients[0], gl.data.sample("digits", count=3, seed=9, device="cpu")]
    protocol = gl.protocols.ZerothOrder(directions=3, seed=4)
    run = gl.federation.train(protocol, model, uneven, rounds=3, lr=0.01, local_steps=2, sampled=2, progress=False)
    for name in ("run.npz", "run.json"):
        gl.transcripts.write(run, tmp_path / name)
        back = gl.transcripts.read(tmp_path / name, model, protocol, lr=0.01)
        assert back.sizes == (1, 3)
        for one, other in zip(run.of(1), back.of(1), strict=True):
            assert torch.equal(one.payload, other.payload) and one.protocol == other.protocol
            assert all(torch.equal(p, other.parameters[n]) for n, p in one.parameters.items())
        with pytest.raises(ValueError, match="shape must begin with the 3 images that client 1 has, got 2"):
            gl.observe(back, client=1, shape=(2, 1, 8, 8), classes=10)
        with pytest.raises(ValueError, match=r"lr=0.01 fits instead of lr=0.02.*from round 0 on"):
            gl.transcripts.read(tmp_path / name, model, protocol, lr=0.02)
    partly = gl.federation.train(protocol, model, uneven, rounds=1, lr=0.01, record=[0], progress=False)
    with pytest.raises(ValueError, match="round 0 lacks those of client 1"):
        gl.transcripts.write(partly, tmp_path / "partly.npz")


# --- what is refused ---


def edited(log, name, change):
    array = log[name].copy()
    change(array)
    return log | {name: array}


WRONG = {
    "law": (lambda log: log, {"protocol": replace(PROTOCOL, law="gaussian")}, "from round 0 on; law='decomfl' does"),
    "parallel law": (lambda log: log, {"protocol": replace(PROTOCOL, law="decomfl_unit")}, "on, or law='decomfl'"),
    "lr": (lambda log: log, {"lr": 0.01}, "lr=0.001 fits instead of lr=0.01, from round 0 on"),
    "sign": (lambda log: log | {"scalars": -log["scalars"]}, {}, "opposite sign of all scalars.*from round 0 on"),
    "seed": (lambda log: edited(log, "seeds", lambda s: s.__setitem__((7, 1), 4242)), {}, r"messages of round 7 \("),
    "scalar": (
        lambda log: edited(log, "scalars", lambda s: s.__setitem__((3, ..., 0), 2 * s[3, ..., 0])), {},
        r"of round 3 \(",
    ),
    "rounds exchanged": (
        lambda log: edited(log, "seeds", lambda s: s.__setitem__([2, 9], s[[9, 2]])), {}, r"of round 2 \(.*, 9 \(",
    ),
    "order in a message": (lambda log: log | {"scalars": log["scalars"][..., ::-1].copy()}, {}, "the opposite order"),
    "shifted seeds": (lambda log: log | {"seeds": np.roll(log["seeds"], 1, 0)}, {}, "seeds of the round after"),
    "round left out": (
        lambda log: log | {n: np.delete(log[n], 5, 0) for n in ("seeds", "scalars")}, {},
        "Each of rounds 0 to 10 .*a round is missing from the log",
    ),
    "round left out, numbered": (
        lambda log: log | {n: np.delete(log[n], 5, 0) for n in ("seeds", "scalars")}
        | {"rounds": np.delete(np.arange(ROUNDS), 5)}, {}, "round 5 is missing or out of order",
    ),
    "round of NaN": (
        lambda log: edited(log, "scalars", lambda s: s.__setitem__(5, np.nan)), {}, "round 5 is missing: no client's",
    ),
    "start": (lambda log: log | {"start/3.bias": log["start/3.bias"] + 0.01}, {}, "or the end are those of another"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_contradicts_the_end_weights_is_refused_by_round(log, model, name):
    change, options, text = WRONG[name]
    with pytest.raises(ValueError, match=text):
        read(change(log), model, **options)


def hole(log):
    turn, client = np.argwhere(~np.isnan(log["scalars"][:, :, 0, 0]))[5]
    return edited(log, "scalars", lambda s: s.__setitem__((turn, client, 1, 2), np.nan)), f"round {turn}: some scalars"


def test_bad_arrays_are_refused_by_name(log, model, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    spoilt, text = hole(log)
    for source, error, said in [
        (spoilt, ValueError, text),
        (tmp_path / "bad.npz", ValueError, "cannot be read as .npz"),
        (tmp_path / "none.npz", ValueError, "there is none at"),
        (tmp_path / "log.csv", ValueError, "must end in .npz, .json, .jsonl"),
        (3, TypeError, "source must be a path or a mapping"),
        ({"seeds": log["seeds"]}, ValueError, "source must hold 'scalars'"),
        (log | {"loss": log["seeds"]}, ValueError, "got 'loss' too"),
        (log | {"seeds": log["seeds"].astype(float)}, TypeError, "seeds must be integers, got float64"),
        (log | {"seeds": -log["seeds"]}, ValueError, "seeds must be 0 or more"),
        (log | {"scalars": log["scalars"][..., :3]}, ValueError, "K = 4, the protocol's directions; got"),
        (log | {"scalars": log["scalars"][1:]}, ValueError, r"scalars must have shape .* with 12 rounds"),
        (log | {"scalars": log["seeds"]}, TypeError, "scalars must be floating-point numbers"),
        (log | {"sizes": [1, 2]}, ValueError, "sizes must be 3 numbers of images"),
        (log | {"start/3.bias": log["start/3.bias"][:5]}, ValueError, r"start/3.bias must have shape \(10,\), got"),
        ({n: a for n, a in log.items() if n != "end/3.bias"}, ValueError, r"end must name .* lacks \['3.bias'\]"),
    ]:
        with pytest.raises(error, match=said):
            read(source, model)
    for options, error, said in [
        ({"lr": 0}, ValueError, "lr must be greater than 0"),
        ({"protocol": gl.protocols.FedSGD()}, ValueError, "protocol must send scalars along directions"),
        ({"protocol": "decomfl"}, TypeError, "protocol must be a Protocol"),
    ]:
        with pytest.raises(error, match=said):
            read(log, model, **options)


# --- what an adversary makes of it ---


def test_shape_and_classes_stand_in_place_of_a_batch(log, model, clients):
    found, told = read(log, model), {"shape": (1, 1, 8, 8), "classes": 10}
    seen = gl.observe(found, client=0, **told)
    assert seen.shape == (1, 1, 8, 8) and seen.classes == 10 and seen.labels is None and not seen.knows
    assert gl.observe(found, client=0, labels=clients[0].labels.numpy(), **told).knows == {"labels"}
    sent = PROTOCOL.transmit(model, clients[0].images, clients[0].labels)
    one = gl.observe(model, PROTOCOL, sent, labels=[3], **told)
    assert one.labels.tolist() == [3] and torch.equal(one.payload, sent)
    for how, error, text in [
        ({}, TypeError, "shape and classes must be given for client 0"),
        ({"shape": (1, 1, 8, 8)}, TypeError, "classes must be given"),
        (told | {"shape": (1, 1, 9, 8)}, ValueError, "shape must be one that the model can take"),
        (told | {"shape": 8}, TypeError, "shape must be"),
        (told | {"classes": 9}, ValueError, "classes must be the model's outputs"),
        (told | {"labels": [10]}, ValueError, r"labels must lie in 0..9, got \[10\]"),
        (told | {"labels": [1, 2]}, ValueError, r"labels must have shape \(1,\)"),
        (told | {"labels": torch.ones(1)}, TypeError, "labels must be integer class indices"),
        (told | {"knows": {"labels"}}, ValueError, "knows names 'labels': give them"),
    ]:
        with pytest.raises(error, match=text):
            gl.observe(found, client=0, **how)
    with pytest.raises(ValueError, match="stand in place of a batch; got both"):
        gl.observe(model, PROTOCOL, sent, clients[0], labels=clients[0].labels)
    with pytest.raises(ValueError, match="batch_stats' without a batch"):
        gl.observe(model, PROTOCOL, sent, knows={"batch_stats"}, **told)


def test_a_wrong_law_without_end_weights_is_noted_by_the_attack(log, model, clients, no_lpips):
    """It cannot be seen before; then the result says that the scalars are not explained. By the right law they are."""
    for law, explained in (("decomfl", True), ("gaussian", False)):
        found = read(without_end(log), model, replace(PROTOCOL, law=law))
        k = max(range(CLIENTS), key=found.sent)
        assert found.sent(k) > 64
        seen = gl.observe(found, client=k, shape=(1, 1, 8, 8), classes=10, labels=clients[k].labels)
        result = gl.attack("zerogla", seen, seed=0, iterations=20, restarts=1, progress=False)
        assert any("the scalars are not explained" in note for note in result.notes) != explained
        assert (float(gl.score(result, clients[k]).psnr) > 30) == explained


@pytest.mark.parametrize("solver", ["gauss-newton", "adam"])
def test_one_unexplained_message_is_noted_too(clients, model, solver):
    protocol = gl.protocols.ZerothOrder(directions=100, mu=1e-4, dtype="float64")
    payload = protocol.transmit(model, clients[0].images, clients[0].labels)
    seen = gl.observe(model, protocol, payload, clients[0], knows={"labels"})
    how = {"seed": 0, "solver": solver, "iterations": 25 if solver == "gauss-newton" else 150, "progress": False}
    for held, explained in ((seen, True), (gl.tamper(seen, "wrong_seed"), False)):
        notes = gl.attack("zerogla", held, **how).notes
        assert any("the scalars are not explained" in note for note in notes) != explained


def test_the_recorded_program_gives_its_digits_away(no_lpips):
    run = gl.transcripts.recorded("decomfl_central")
    log = gl.transcripts.read(run.path, run.model, run.protocol, lr=run.lr)
    seen = gl.observe(log, client=1, shape=(2, 1, 8, 8), classes=10, labels=run.clients[1].labels)
    result = gl.attack("zerogla", seen, solver="gauss-newton", seed=0, progress=False)
    assert not result.notes and float(gl.score(result, run.clients[1]).psnr.min()) > 90
    with pytest.raises(ValueError, match="from round 0 on; law='decomfl' does"):
        gl.transcripts.read(run.path, run.model, replace(run.protocol, law="gaussian"), lr=run.lr)


def test_the_other_recorded_run_leads_to_its_end_weights():
    run = gl.transcripts.recorded("decomfl_forward_local2")
    log = gl.transcripts.read(run.path, run.model, run.protocol, lr=run.lr)
    assert (log.rounds, len(log.of(0)[0].payload), len(run.clients[0])) == (120, 5, 4)
    with pytest.raises(ValueError, match="name must be one of 'decomfl_central'"):
        gl.transcripts.recorded("decomfl")
