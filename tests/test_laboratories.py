"""Every laboratory on a reader's own data: a folder with two pictures a class, and MNIST's files as they are spread."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from glutils.runs import notebook

ROOT = Path(__file__).resolve().parent.parent
LABORATORIES = [
    path.stem for path in sorted((ROOT / "notebooks").glob("lab_*.ipynb")) if "root" in notebook.parameters(path)
]
FAST = yaml.safe_load((ROOT / "book" / "profiles" / "fast.yaml").read_text(encoding="utf-8"))
LESS = {"lab_audit": {"iterations": 5, "minutes": 0.05}, "lab_reconstruct": {"max_iteration": 2}}
"""What an own set needs to be read to the end, and no more."""


def folder(root):
    """Two pictures in each of two classes, of unequal sides, as a telephone leaves them."""
    draw = np.random.RandomState(0)
    for number in range(4):
        path = root / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.randint(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)


def mnist(root):
    """Six private and twelve public images in MNIST's own format: sizes, big endian, then bytes."""
    draw, raw = np.random.RandomState(0), root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 6)):
        arrays = {"images-idx3": draw.randint(0, 256, (count, 28, 28)), "labels-idx1": np.arange(count) % 10}
        for kind, array in arrays.items():
            head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
            (raw / f"{part}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())


def executed(name, **given):
    """What the code cells of a notebook leave behind, from top to bottom in this process."""
    space = {"__name__": name}
    for number, cell in enumerate(json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), space)
            if "parameters" in cell["metadata"].get("tags", []):
                assert set(given) <= set(space), "a parameter that the notebook does not have"
                space |= FAST.get(name, {}) | LESS.get(name, {}) | given
    return space


def test_all_laboratories_that_take_a_set_are_here():
    assert LABORATORIES == ["lab_audit", "lab_defense_sweep", "lab_reconstruct", "lab_train_generator"]


@pytest.mark.filterwarnings("ignore")  # of figures and of scores without LPIPS
@pytest.mark.parametrize("build", [folder, mnist])
@pytest.mark.parametrize("name", LABORATORIES)
def test_runs_to_its_record_on_own_data(name, build, tmp_path, monkeypatch, no_lpips):
    monkeypatch.setenv("GLUTILS_RECORDS", str(tmp_path / "records"))
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "own")
    executed(name, dataset=build.__name__, root=str(tmp_path / "own"))
    (record,) = (tmp_path / "records").glob("*.json")
    assert record.stem == name and json.loads(record.read_text("utf-8"))["rows"]


@pytest.mark.filterwarnings("ignore")  # of scores without LPIPS
@pytest.mark.parametrize(("algorithm", "dataset"), [("tableak", "wine"), ("tag", "messages")])
def test_the_laboratory_of_attacks_shows_records_and_texts(algorithm, dataset, tmp_path, monkeypatch, no_lpips, capsys):
    monkeypatch.setenv("GLUTILS_RECORDS", str(tmp_path / "records"))
    space = executed("lab_reconstruct", algorithm=algorithm, dataset=dataset, reconstruct_num=1, misled=None)
    ((truth, found),) = space["experiment"].said(0)
    said = capsys.readouterr().out
    assert space["words"](truth)[:20] in said and space["words"](found)[:10] in said
    assert space["unit"] in said and (tmp_path / "records" / "lab_reconstruct.json").is_file()
