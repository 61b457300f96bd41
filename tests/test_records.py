"""Records: strict JSON that comes back as it went in."""

import errno
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from glutils import metrics, runs
from glutils.data.batch import Batch
from glutils.runs import contents, records


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GLUTILS_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "records"


def test_a_record_comes_back_as_it_went_in(folder):
    parameters = {"attack": "zerogla", "directions": 3072, "mu": 1e-4, "size": None, "knows": ["labels"]}
    rows = [{"psnr": math.inf, "lpips": math.nan, "loss": 0.1 + 0.2, "ok": True}, {"psnr": -math.inf}]
    path = runs.record("03_objective", parameters=parameters, rows=rows, seeds=[0, 1], seconds=2.5)
    assert path == folder / "03_objective.json"
    for back in (runs.load("03_objective"), runs.load(path), runs.load(str(path))):
        assert back.parameters == parameters and back.seeds == [0, 1] and back.seconds == 2.5
        assert back.rows[0]["psnr"] == math.inf and math.isnan(back.rows[0]["lpips"])
        assert back.rows[0]["loss"] == 0.3 and back.rows[1] == {"psnr": -math.inf}


def test_a_record_is_strict_json_and_says_what_made_it(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    path = runs.record("run", parameters={}, rows=[{"x": math.nan}], seeds=7)
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["rows"] == [{"x": "NaN"}] and content["seeds"] == [7] and content["seconds"] is None
    assert content["versions"]["torch"] == torch.__version__
    assert set(content["versions"]) == {"python", "torch", "torchvision", "numpy", "glutils"}
    assert content["device"].startswith("CPU") and content["written"].endswith("+00:00")
    assert content["commit"] is None or len(content["commit"].removesuffix("-dirty")) == 40
    assert str(Path.home()) not in path.read_text(encoding="utf-8")


def test_tensors_arrays_and_dataclasses_become_plain_values():
    parameters = {
        "tensor": torch.tensor([1.5, 2.5]), "scalar": np.float32(0.5), "dtype": torch.float64, "pair": (1, 2),
        "summary": metrics.summary([1.0, 3.0]), "knows": {"labels", "batch_stats"},
    }  # fmt: skip
    back = runs.load(runs.record("run", parameters=parameters, rows=[]))
    assert back.parameters == {
        "tensor": [1.5, 2.5], "scalar": 0.5, "dtype": "torch.float64", "pair": [1, 2],
        "summary": {"median": 2.0, "min": 1.0, "max": 3.0, "n": 2}, "knows": ["batch_stats", "labels"],
    }  # fmt: skip


def test_one_row_per_image_in_the_order_of_the_truth():
    images = torch.rand((3, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    batch = Batch(images, torch.arange(3), tuple("abc"))
    found = images.flip(0).double()
    found[0] = 0  # the last image of the truth
    labels = torch.tensor([0, 1, 0])
    result = SimpleNamespace(images=found, labels=labels, attack="zerogla", loss=0.25, seconds=1.5)
    score = metrics.score(result, batch)
    rows = runs.rows_from(result, score, seed=4)
    assert [row["image"] for row in rows] == [0, 1, 2] and all(row["seed"] == 4 for row in rows)
    assert [row["attack"] for row in rows] == ["zerogla"] * 3 and rows[0]["loss"] == 0.25 and rows[0]["seconds"] == 1.5
    assert [row["label_found"] for row in rows] == [0, 1, 0] and [row["label_right"] for row in rows] == [1, 1, 0]
    assert rows[0]["psnr"] == math.inf and rows[0]["beaten_by"] == []
    assert rows[2]["beaten_by"] == ["mean_colour", "grey"]
    assert rows[1]["controls"]["mean_colour"]["psnr"] == float(score.controls["mean_colour"][1])
    back = runs.load(runs.record("run", parameters={}, rows=rows)).rows
    assert [row["psnr"] for row in back] == [float(f"{row['psnr']:.6g}") for row in rows]
    with pytest.raises(ValueError, match=r"extra must not name what a row has anyway, got \['psnr'\]"):
        runs.rows_from(result, score, psnr=1)
    with pytest.raises(TypeError, match="score must be a Score"):
        runs.rows_from(result, score.psnr)
    with pytest.raises(ValueError, match="the Reconstruction that was scored, with 3 labels"):
        runs.rows_from(SimpleNamespace(labels=labels[:2]), score)


def test_a_failed_image_is_beaten_by_every_control():
    batch = Batch(torch.rand(1, 3, 8, 8), torch.tensor([0]), ("a", "b"))
    result = SimpleNamespace(images=torch.full((1, 3, 8, 8), math.nan), labels=batch.labels)
    (row,) = runs.rows_from(result, metrics.score(result, batch))
    assert math.isnan(row["psnr"]) and row["beaten_by"] == ["mean_colour", "grey"] and "attack" not in row


def test_records_land_below_the_project_one_works_in(monkeypatch, tmp_path):
    monkeypatch.delenv("GLUTILS_RECORDS")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    path = runs.record("run", parameters={}, rows=[])
    assert path == tmp_path / "_build" / "records" / "run.json"
    published = runs.record("run", parameters={"gpu": True}, rows=[], folder=tmp_path / "benchmarks" / "results")
    assert runs.load("run", folder=published.parent).parameters == {"gpu": True} and runs.load("run").parameters == {}


def test_a_rewritten_record_replaces_the_old_one_and_a_refused_one_leaves_it(folder):
    runs.record("run", parameters={"a": 1}, rows=[])
    with pytest.raises(TypeError):
        runs.record("run", parameters={"a": object()}, rows=[])
    assert runs.load("run").parameters == {"a": 1}
    runs.record("run", parameters={"a": 2}, rows=[])
    assert runs.load("run").parameters == {"a": 2}
    assert [path.name for path in folder.iterdir()] == ["run.json"], "nothing half-written stays"


def test_what_was_measured_has_six_digits_and_what_was_asked_has_all(folder):
    rows = [{"loss": 1.23456789e-8, "bytes": 123456789, "name": "1.23456789", "each": torch.tensor([[2 / 3]])}]
    path = runs.record("run", parameters={"lr": 0.123456789}, rows=rows, seconds=12.3456789)
    back = runs.load("run")
    assert back.rows == [{"loss": 1.23457e-8, "bytes": 123456789, "name": "1.23456789", "each": [[0.666667]]}]
    assert back.parameters == {"lr": 0.123456789} and back.seconds == 12.3457
    text = path.read_text(encoding="utf-8").replace("1.23457e-08", "1.23456789e-08")
    path.write_text(text, encoding="utf-8")
    assert runs.load("run").rows[0]["loss"] == 1.23456789e-8, "an old record is read as it is"


def rows_of_images():
    """Two attacks on two images; a third attack refuses."""
    level = {("a", 0): 10.0, ("a", 1): 11.0, ("b", 0): 12.0, ("b", 1): math.nan}
    rows = [
        {"attack": attack, "seed": seed, "image": image, "psnr": value,
         "controls": {"mean_colour": {"psnr": 5.0 + image}, "misled": {"psnr": value - 1}, "lost": {"psnr": math.nan}}}
        for (attack, image), value in level.items() for seed in (0, 1)
    ]  # fmt: skip
    return [*rows, {"attack": "c", "seed": 0, "refused": "no"}]


def test_controls_of_an_image_are_written_once_and_stand_in_every_row(folder):
    path = runs.record("run", parameters={}, rows=rows_of_images(), image_is=("seed", "image"))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert [set(row["controls"]) for row in written["rows"] if "controls" in row] == [{"misled"}] * 8
    assert len(written["controls"]) == 4 and written["controls"][0] == {
        "seed": 0, "image": 0, "controls": {"mean_colour": {"psnr": 5.0}, "lost": {"psnr": "NaN"}},
    }  # fmt: skip
    whole = runs.load(runs.record("whole", parameters={}, rows=rows_of_images()))
    back = runs.load("run").rows
    assert contents.encode("rows", back) == contents.encode("rows", whole.rows)
    again = runs.record("again", parameters={}, rows=back, image_is=("seed", "image"))
    assert json.loads(again.read_text(encoding="utf-8"))["controls"] == written["controls"]


def test_a_control_that_differs_within_an_image_stays_in_its_rows(folder):
    rows = rows_of_images()
    rows[0]["controls"]["mean_colour"] = {"psnr": 5.1}
    alone = {"attack": "a", "seed": 9, "image": 0, "controls": {"mean_colour": {"psnr": 1.0}}}
    path = runs.record("run", parameters={}, rows=[*rows, alone], image_is=("seed", "image"))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert "mean_colour" in written["rows"][0]["controls"] and "mean_colour" not in written["rows"][1]["controls"]
    assert written["rows"][-1] == alone, "of one row nothing is taken out"
    assert runs.load("run").rows[0]["controls"]["mean_colour"] == {"psnr": 5.1}
    with pytest.raises(ValueError, match="image_is must name columns of every row with controls, got 'images'"):
        runs.record("run", parameters={}, rows=rows, image_is=("images",))


def test_a_record_of_before_has_no_command_and_says_whether_its_tree_was_clean(folder):
    path = runs.record("run", parameters={}, rows=[])
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in ("command", "script", "changes"):
        del content[name]
    shown = {"a" * 40: "aaaaaaa", "a" * 40 + "-dirty": "aaaaaaa (tree not clean)", None: "not known"}
    for commit, words in shown.items():
        path.write_text(json.dumps(content | {"commit": commit}), encoding="utf-8")
        old = runs.load("run")
        assert (old.command, old.script, old.changes) == (None, None, None)
        assert old.made_from == words and old.clean is {"aaaaaaa": True, "not known": None}.get(words, False)


def test_a_missing_record_is_told_with_those_there_are():
    with pytest.raises(runs.MissingRecord, match="there are: none"):
        runs.load("absent")
    runs.record("b", parameters={}, rows=[])
    runs.record("a", parameters={}, rows=[])
    with pytest.raises(ValueError, match=r"no record 'absent' in .*; there are: a, b"):
        runs.load("absent")


def test_bad_arguments_are_named(folder):
    for name in ("", "../up", "a/b", 3):
        with pytest.raises(ValueError, match="name must be letters"):
            runs.record(name, parameters={}, rows=[])
    with pytest.raises(TypeError, match="parameters must be a mapping, got list"):
        runs.record("a", parameters=[], rows=[])
    with pytest.raises(TypeError, match="rows must be a list of mappings, got dict"):
        runs.record("a", parameters={}, rows={})
    with pytest.raises(TypeError, match=r"rows\[0\]\['fn'\] must be something JSON can hold, got builtin_function"):
        runs.record("a", parameters={}, rows=[{"fn": len}])
    with pytest.raises(TypeError, match=r"parameters\['map'\] must have strings as keys, got 1"):
        runs.record("a", parameters={"map": {1: 2}}, rows=[])
    with pytest.raises(ValueError, match=r"parameters\['x'\] must not be the string 'NaN'"):
        runs.record("a", parameters={"x": "NaN"}, rows=[])
    with pytest.raises(TypeError, match="seeds must be an integer"):
        runs.record("a", parameters={}, rows=[], seeds=[0.5])
    with pytest.raises(ValueError, match="seconds must be at least 0"):
        runs.record("a", parameters={}, rows=[], seconds=-1)
    with pytest.raises(TypeError, match="name_or_path must be a record's name or path, got int"):
        runs.load(3)
    folder.mkdir(exist_ok=True)
    (folder / "broken.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="broken.json is not one"):
        runs.load("broken")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_place_that_nobody_chose_and_nobody_can_write_to_is_a_warning(tmp_path, monkeypatch, number):
    def refuses(path, content):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(records._files, "write", refuses)
    monkeypatch.delenv("GLUTILS_RECORDS", raising=False)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="the record 'a' is not kept: .*_build/records cannot be written .*GLUTILS_"):
        records.record("a", parameters={}, rows=[])
    with pytest.raises(OSError, match=os.strerror(number)):
        records.record("a", parameters={}, rows=[], folder=tmp_path)
    monkeypatch.setenv("GLUTILS_RECORDS", str(tmp_path))
    with pytest.raises(OSError, match=os.strerror(number)):
        records.record("a", parameters={}, rows=[])
