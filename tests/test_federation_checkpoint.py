"""Runs that are killed and continued: equal to the bit, refused where they cannot be."""

import copy
import json
import multiprocessing
import signal
import time

import pytest
import torch

import glutils as gl
from glutils.federation.checkpoint import Checkpoint
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

CASES = {
    "scalars": (ZerothOrder(directions=4, dtype="float64", seed=2), {"lr": 0.05, "local_steps": 2, "local_batch": 2}),
    "gradient": (FedSGD(), {"lr": 0.1, "sampled": 2, "local_batch": 2, "decay": 0.9}),
    "delta": (FedAvg(2, 2, 0.1, shuffle=1, momentum=0.5, decay=0.9), {"sampled": 0.5, "record": [1, 4]}),
}


@pytest.fixture(scope="module")
def clients():
    return gl.data.partition("digits", clients=5, per_client=3, seed=0, device="cpu")


@pytest.fixture(scope="module")
def model(clients):
    return gl.models.build("mlp", clients[0], hidden=(4,), seed=0)


def same(one, other):
    """Every tensor of two transcripts, to the bit."""
    assert torch.equal(one.accuracy, other.accuracy) and torch.equal(one.uplink, other.uplink)
    assert one.took_part == other.took_part and len(one.states) == len(other.states)
    for a, b in zip(one.states, other.states, strict=True):
        assert (a is None) == (b is None) and all(torch.equal(a[n], b[n]) for n in a or {})
    for a, b in zip(one.messages, other.messages, strict=True):
        for said, again in zip(a, b, strict=True):
            for m, n in zip(said, again, strict=True):
                assert (m.protocol, m.number, m.client) == (n.protocol, n.number, n.client)
                assert (m.payload.kind, m.payload.mode) == (n.payload.kind, n.payload.mode)
                assert m.payload.kind == "scalars" or [*m.payload] == [*n.payload]
                pairs = list(zip(m.payload.numbers, n.payload.numbers, strict=True))
                pairs += [(m.parameters[key], n.parameters[key]) for key in m.parameters]
                assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in pairs)
    for a, b in zip(one.drawn, other.drawn, strict=True):
        assert [[i.tolist() for i in said] for said in a] == [[i.tolist() for i in said] for said in b]


class Killed(Exception):
    pass


def train(case, model, clients, **change):
    protocol, how = CASES[case]
    return gl.federation.train(protocol, model, clients, **({"rounds": 5, "seed": 3} | how | change))


def killed_after(rounds, monkeypatch, case, model, clients, folder):
    """A run that dies within round ``rounds``, while it writes: its files are there, the index is not replaced."""
    keep, counted = Checkpoint.keep, []

    def dying(self, run):
        counted.append(run)
        if len(counted) > rounds:
            self.write_tensors(f"state-{rounds + 1:05d}.safetensors", run.states[-1])
            raise Killed
        keep(self, run)

    monkeypatch.setattr(Checkpoint, "keep", dying)
    with pytest.raises(Killed):
        train(case, model, clients, checkpoint=folder)
    monkeypatch.setattr(Checkpoint, "keep", keep)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_to_the_bit(case, model, clients, tmp_path, monkeypatch):
    whole = train(case, model, clients)
    killed_after(3, monkeypatch, case, model, clients, tmp_path / "run")
    done = []
    run = gl.federation.rounds.Run
    advance = run.advance
    monkeypatch.setattr(run, "advance", lambda self, turn: done.append(turn) or advance(self, turn))
    again = train(case, model, clients, checkpoint=tmp_path / "run")
    assert done == [3, 4]
    same(again, whole)
    again.check()
    same(train(case, model, clients, checkpoint=str(tmp_path / "run")), whole)
    assert done == [3, 4]  # finished: read, not run


def test_a_finished_run_takes_more_rounds_and_not_fewer(model, clients, tmp_path):
    train("gradient", model, clients, rounds=3, checkpoint=tmp_path)
    same(train("gradient", model, clients, checkpoint=tmp_path), train("gradient", model, clients))
    with pytest.raises(ValueError, match="rounds must be at least 5, those done in"):
        train("gradient", model, clients, rounds=4, checkpoint=tmp_path)


def test_states_that_nobody_needs_are_not_kept_on_disk(model, clients, tmp_path):
    train("delta", model, clients, record=[], checkpoint=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.json", "state-00005.safetensors"]


@pytest.mark.parametrize("case", ["gradient", "delta", "scalars"])
def test_the_mode_of_a_message_is_read_back_from_the_disk_and_not_from_the_model(case, clients, tmp_path):
    """The model's batch norm layers alone are switched meanwhile: a run of two modes, and known as one."""
    norms = gl.models.build("resnet8", clients[0], width=2, seed=0).train()
    switched = copy.deepcopy(norms)
    for module in switched.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    how = {"checkpoint": tmp_path / "run", "sampled": None, "record": None}
    first = train(case, norms, clients, rounds=2, **how)
    again = train(case, norms, clients, rounds=2, **how)
    same(again, first)
    assert gl.observe(again, client=0).batchnorm == "train"
    both = train(case, switched, clients, rounds=3, **how)
    modes = [message.payload.mode for entry in both.messages for said in entry for message in said]
    assert modes == ["train"] * (2 * len(modes) // 3) + ["eval"] * (len(modes) // 3)
    with pytest.raises(ValueError, match="in 'eval' mode, but the payload was computed in 'train' mode"):
        gl.observe(both, client=0)


FOREVER = FedAvg(2, 2, 0.1, shuffle=1, momentum=0.5, decay=0.999)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child does nothing but compute
def test_a_process_that_is_killed_loses_its_last_round_at_most(model, clients, tmp_path):
    """By the operating system, without warning, at a moment that nobody chose."""
    folder, how = tmp_path / "run", {"seed": 3, "record": [0], "progress": False}
    run = lambda rounds, **where: gl.federation.train(FOREVER, model, clients, rounds=rounds, **how, **where)  # noqa: E731
    process = multiprocessing.get_context("fork").Process(target=run, args=(10**5,), kwargs={"checkpoint": folder})
    process.start()
    try:
        while process.is_alive() and len(list(folder.glob("state-*.safetensors"))) < 8:
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    done = len(json.loads((folder / "run.json").read_text())["run"]["rounds"])
    assert done >= 7 and process.exitcode == -signal.SIGKILL
    same(run(done + 2, checkpoint=folder), run(done + 2))


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
@pytest.mark.parametrize("file", ["state-00005.safetensors", "messages-00003.safetensors", "run.json"])
def test_a_corrupt_checkpoint_is_one_error_that_names_the_file(file, how, model, clients, tmp_path):
    train("gradient", model, clients, checkpoint=tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-40] if how == "cut" else content[:60] + bytes([content[60] ^ 8]) + content[61:])
    others = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="is neither" if (file, how) == ("run.json", "gone") else file) as caught:
        train("gradient", model, clients, rounds=6, checkpoint=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == others  # finished work is left where it is
    path.write_bytes(content)
    same(train("gradient", model, clients, rounds=6, checkpoint=tmp_path), train("gradient", model, clients, rounds=6))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 4}, "seed=3, not 4"),
        ({"lr": 0.2}, "lr=0.1, not 0.2"),
        ({"sampled": 3}, "sampled=2, not 3"),
        ({"record": [0]}, "recorded=None"),
        ({"local_batch": None}, "local_batch=2, not None"),
        ({"decay": 1.0}, "decay=0.9, not 1.0"),
    ],
)
def test_a_checkpoint_of_other_parameters_is_refused(change, text, model, clients, tmp_path):
    train("gradient", model, clients, rounds=2, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=text):
        train("gradient", model, clients, checkpoint=tmp_path, **change)


def test_a_checkpoint_of_another_model_data_or_protocol_is_refused(model, clients, tmp_path):
    train("delta", model, clients, rounds=2, checkpoint=tmp_path)
    other = gl.models.build("mlp", clients[0], hidden=(4,), activation="relu", seed=0)
    with pytest.raises(ValueError, match="was made with model="):
        train("delta", other, clients, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="was made with clients="):
        train("delta", model, clients[::-1], checkpoint=tmp_path)
    with pytest.raises(ValueError, match="was made with test="):
        train("delta", model, clients, checkpoint=tmp_path, test=clients[0])
    with pytest.raises(ValueError, match="round 0 in .* was run with FedAvg"):
        gl.federation.train(FedAvg(2, 2, 0.2, shuffle=1, momentum=0.5, decay=0.9), model, clients, rounds=6, seed=3,
                            sampled=0.5, record=[1, 4], checkpoint=tmp_path)  # fmt: skip


def test_a_folder_with_something_else_is_refused(model, clients, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is neither"):
        train("gradient", model, clients, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="is neither"):
        train("gradient", model, clients, checkpoint=tmp_path / "thesis.tex")
    with pytest.raises(TypeError, match="checkpoint must be the path of a folder, got int"):
        train("gradient", model, clients, checkpoint=3)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
