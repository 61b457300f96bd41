"""Experiments in a folder: what is stored, what resumes, what is refused, and what Ctrl-C leaves."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import glutils as gl
from glutils.experiments import conditions

SMALL = {"dataset": "digits", "max_iteration": 3, "device": "cpu"}


@pytest.fixture
def run(tmp_path, no_lpips):
    """``reconstruct`` with small defaults, in a fresh folder."""
    return lambda algorithm="ig", **asked: gl.experiments.reconstruct(algorithm, folder=tmp_path, **(SMALL | asked))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_stores_images_table_and_records(run, tmp_path):
    found = run(reconstruct_num=2, batch_size=2, misled="wrong_gradient")
    assert found.folder == tmp_path / "my_exp" and found.stopped is None
    assert {"experiment.json", "results.csv", "batch_0000.json", "batch_0001.json"} <= set(files(found.folder))
    assert len(list(found.folder.glob("*.png"))) == 8
    with (found.folder / "results.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(row["batch"], row["image"]) for row in table] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    for row, stored in zip(found.rows, table, strict=True):
        assert float(stored["psnr"]) == row["psnr"]
        assert float(stored["psnr of mean_colour"]) == row["controls"]["mean_colour"]["psnr"]
        assert float(stored["psnr of misled: wrong_gradient"]) == row["controls"]["misled: wrong_gradient"]["psnr"]
    assert gl.runs.load(found.folder / "batch_0001.json").parameters["algorithm"] == "ig"


@pytest.fixture
def own_images(tmp_path):
    """Two classes of four pictures each, as a reader has them."""
    pixels = np.random.RandomState(0).randint(0, 256, (8, 12, 12, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        (tmp_path / "mine" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "mine" / "ab"[k % 2] / f"{k}.png")
    return str(tmp_path / "mine")


def test_a_handful_of_own_images_is_enough(run, own_images):
    found = run(dataset="folder", root=own_images, size=8, reconstruct_num=2)
    assert len(found.rows) == 2 and "mean_colour" in found.rows[0]["controls"]


def test_a_defence_is_swept_on_own_images(tmp_path, own_images, no_lpips):
    small = {"size": 8, "clients": 2, "per_client": 2, "images": 1, "rounds": 1, "evaluations": 2, "practice": 1}
    how = {"data": "folder", "root": own_images, "seeds": 1, "workers": 0, "folder": tmp_path} | small
    found = gl.experiments.defense_sweep("ig", strengths=[1.0], **how)
    assert not found.runs.failures and [row["strength"] for row in found.rows] == [None, None, 1.0, 1.0]
    with pytest.raises(ValueError, match="practice must be at most 4, the public images of 'folder'; got 5"):
        gl.experiments.defended.measure(gl.experiments.defended.Scene(
            data="folder", root=own_images, **small | {"practice": 5}))  # fmt: skip


def test_training_on_own_images_says_what_accuracy_needs(own_images):
    clients = gl.data.partition("folder", root=own_images, clients=1, per_client=2, size=8, device="cpu")
    model = gl.models.build("mlp", clients[0], hidden=(4,), seed=0)
    with pytest.raises(ValueError, match=r"test must be given .*root must name a folder.*test=gl.data.public\("):
        gl.federation.train(gl.protocols.FedSGD(), model, clients, rounds=1, lr=0.1)


def test_a_batch_that_was_made_with_other_parameters_is_refused(run):
    found = run(reconstruct_num=1)
    path = found.folder / "batch_0000.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7', 1))
    with pytest.raises(FileExistsError, match="batch_0000.json was made with another seed .7, not 0."):
        run(reconstruct_num=2)


def test_files_hold_what_was_scored(run):
    found = run(batch_size=2, reconstruct_num=1, max_iteration=20)
    truth, guess = found.images(0)
    assert torch.equal(truth, (gl.data.sample("digits", count=2, device="cpu").images * 255).round() / 255)
    scored = torch.tensor([row["psnr"] for row in found.rows])
    assert torch.allclose(gl.metrics.psnr(guess, truth).float(), scored, atol=0.1)  # 8 bits a channel


def test_same_arguments_change_nothing_and_more_batches_are_added(run, monkeypatch):
    first = run(reconstruct_num=1)
    before = files(first.folder)
    monkeypatch.setattr(gl.attacks.base, "attack", lambda *a, **k: pytest.fail("nothing is left to attack"))
    again = run(reconstruct_num=1)
    monkeypatch.undo()
    assert files(first.folder) == before and again.rows == first.rows
    more = run(reconstruct_num=3)
    assert more.rows[:1] == first.rows and len(more.rows) == 3
    after = files(first.folder)
    assert all(after[name] == before[name] for name in before if name.startswith("batch_"))


def test_a_run_in_two_halves_equals_one_in_one(run):
    halves = run(reconstruct_num=1, exp_name="halves")
    halves, whole = run(reconstruct_num=2, exp_name="halves"), run(reconstruct_num=2, exp_name="whole")
    assert [row["psnr"] for row in halves.rows] == [row["psnr"] for row in whole.rows]


@pytest.mark.parametrize("other", [{"seed": 1}, {"max_iteration": 4}, {"batch_size": 2}, {"lr": 0.2}])
def test_other_parameters_are_refused_by_name(run, other):
    stored = run(reconstruct_num=1)
    before = files(stored.folder)
    with pytest.raises(FileExistsError, match="options" if "lr" in other else next(iter(other))):
        run(reconstruct_num=1, **other)
    assert files(stored.folder) == before


def test_interrupting_loses_nothing_finished(run, monkeypatch):
    transmit, calls = gl.protocols.FedSGD.transmit, []

    def interrupted(self, *args, **how):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return transmit(self, *args, **how)

    monkeypatch.setattr(gl.protocols.FedSGD, "transmit", interrupted)
    part = run(reconstruct_num=3)
    assert part.stopped == "interrupted at batch 1" and len(part.rows) == 1
    assert not list(part.folder.glob("batch_0001*"))
    whole = run(reconstruct_num=3)
    assert whole.stopped is None and whole.rows[:1] == part.rows and len(whole.rows) == 3


def test_an_attack_that_was_interrupted_is_not_stored(run, monkeypatch, tmp_path):
    """Attacks catch Ctrl-C and report what they have; half a search is not the result of the experiment."""
    report, losses = gl.solvers.Trace.report, []

    def interrupted(self, step, loss, variables):
        ending = report(self, step, loss, variables)
        losses.append(loss)
        if len(losses) == 2:
            raise KeyboardInterrupt
        return ending

    monkeypatch.setattr(gl.solvers.Trace, "report", interrupted)
    with pytest.raises(KeyboardInterrupt, match="nothing was finished"):
        run(reconstruct_num=2)
    assert not (tmp_path / "my_exp").exists()


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"algorithm": "nope"}, "unknown attack 'nope'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"reconstruct_num": 0}, "reconstruct_num must be at least 1"),
        ({"max_iteration": -1}, "max_iteration must be at least 0"),
        ({"algorithm": "fc_inversion"}, "max_iteration must be None for 'fc_inversion'"),
        ({"num_pert": 5}, "num_pert must be None where a gradient is sent"),
        ({"update": "scalars"}, "update must be one that attack 'ig' reads .*zerogla"),
        ({"update": "gossip"}, "update must be one of"),
        ({"generator_weights": "w.pt"}, "generator_weights must be None for 'ig'"),
        ({"exp_name": "a/b"}, "exp_name must be letters"),
        ({"misled": "wrong_seed"}, "misled must be one of"),
        ({"algorithm": "idlg", "batch_size": 2}, "at most 1 image"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(run, tmp_path, asked, said):
    with pytest.raises(ValueError, match=said):
        run(**asked)
    assert not list(tmp_path.iterdir())


def test_options_that_have_a_parameter_are_refused(run):
    with pytest.raises(TypeError, match="use max_iteration"):
        run(iterations=3)
    with pytest.raises(TypeError, match="no option 'speed'"):
        run(speed=3)


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "my_exp").mkdir()
    (tmp_path / "my_exp" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="something else"):
        run()


def test_default_folder_is_ignored_by_git(tmp_path, monkeypatch, no_lpips):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    found = gl.experiments.reconstruct(reconstruct_num=1, **SMALL)
    assert found.folder == tmp_path / "data" / "reconstruct" / "my_exp"
    ignored = (gl.runs.records.SOURCE / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/data/" in ignored


def test_the_update_decides_what_is_attacked(digit):
    """The estimate with and without d differ by d; from the scalars of an exact client it is V.T V g / K, times d."""
    seen = {u: conditions.observe("ig", digit, update=u, directions=9) for u in ("estimate", "short estimate")}
    d = sum(p.numel() for p in seen["estimate"].model.parameters())
    for name, tensor in seen["estimate"].payload.items():
        assert torch.allclose(tensor, d * seen["short estimate"].payload[name], rtol=1e-4, atol=1e-9)
    assert conditions.observe("ig", digit, update="delta").kind == "delta"
    assert conditions.observe("ig", digit, update="average").kind == "gradient"
    assert len(conditions.observe("zerogla", digit).payload) == int(1.25 * digit.images.numel())


def test_zerogla_gets_scalars_and_solves_them(run):
    found = run("zerogla", max_iteration=None, reconstruct_num=1, num_pert=80)
    assert (
        found.rows[0]["psnr"] > 97 and json.loads((found.folder / "experiment.json").read_text())["update"] == "scalars"
    )


SHORT = {"iterations": 2, "polish": 0, "ensemble": 1, "samples": 500, "examples": 40, "targets": (3,), "width": 2}
SHORT |= {"rounds": 1, "restarts": 1}
NEWER = [
    "april", "dager", "fedleak", "fishing", "inverter", "lamp", "loki", "rog", "sme", "spear", "tableak", "tag",
    "zerogla_label_word", "zerogla_text",
]  # fmt: skip
"""Of 2022 and later, and on other records than images; the leaderboard's tests run the others."""


@pytest.mark.parametrize("name", NEWER)
def test_an_attack_runs_as_the_laboratory_calls_it(name, run):
    """With a spoiled message as one more control, or a note that the attack refuses it."""
    card, own = gl.attacks.base.ATTACKS.get(name), conditions.of(name)
    dataset = {"images": "digits", "tables": "wine", "tokens": "messages"}[card.records[0]]
    asked = {"dataset": "photos", "size": 8} if name in ("loki", "rtf", "april") else {"dataset": dataset}
    takes = conditions.options_of(name)
    asked |= {option: value for option, value in SHORT.items() if option in takes and option != "iterations"}
    asked |= {"max_iteration": SHORT["iterations"] if "iterations" in takes else None, "misled": "wrong_gradient"}
    asked |= {"num_pert": 24} if name.startswith("zerogla_") else {}
    found = run(name, reconstruct_num=1, batch_size=1 if own.largest == 1 or dataset == "messages" else 2, **asked)
    (row, *_) = found.rows
    assert "misled: wrong_gradient" in row["controls"] or "refuses the spoiled message" in row["notes"]
    truth, made = found.images(0)
    assert made.shape == truth.shape and (found.folder / "results.csv").is_file()


def test_every_attack_has_its_conditions():
    missing = [name for name in gl.attacks.names() if name not in conditions.CONDITIONS | conditions.PLAYERS]
    assert not missing, f"add an entry to CONDITIONS in glutils/experiments/conditions.py for {missing}"
    assert not [name for name in conditions.CONDITIONS if name not in gl.attacks.names()]
