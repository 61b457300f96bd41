"""``glutils audit`` and the report that it writes: exit status, errors in a sentence, a page that everybody reads."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import glutils as gl
from glutils.audit import command
from glutils.runs import cli

VOID = ("meta", "img")


@pytest.fixture
def folder(tmp_path):
    """An audit in a folder: an update of a small network as arrays in order, its weights, pictures, and the file."""
    batch = gl.data.sample("digits", seed=0, device="cpu")
    model = gl.models.build("mlp", batch, hidden=(64,), seed=0)
    sent = gl.protocols.FedAvg(epochs=1, batch_size=1, lr=0.1).transmit(model, batch.images, batch.labels)
    np.savez(tmp_path / "update.npz", *(tensor.numpy() for tensor in sent.values()))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "global.pt")
    (tmp_path / "photos").mkdir()
    for k, image in enumerate(gl.data.sample("photos", count=3, size=8, seed=0, device="cpu").images):
        pixels = (image.permute(1, 2, 0) * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{k}.png")
    asked = {
        "model": {"name": "mlp", "options": {"hidden": [64]}, "weights": "global.pt"},
        "message": {"file": "update.npz"},
        "protocol": {"kind": "fedavg", "epochs": 1, "batch_size": 1, "lr": 0.1},
        "records": {"shape": [1, 1, 8, 8], "classes": 10},
        "stand_in": {"folder": "photos"},
        "attacks": ["fc_inversion"],
        "minutes": 0.1,
        "out": "out/report.html",
    }
    return tmp_path, asked


def called(folder, asked, *more):
    path = folder / "audit.yaml"
    path.write_text(asked if isinstance(asked, str) else yaml.safe_dump(asked), encoding="utf-8")
    return cli.main(["audit", str(path), *more])


def test_a_file_is_audited_and_leaves_a_page_and_a_record(folder, capsys):
    where, asked = folder
    assert called(where, asked, "--quiet") == 1
    assert capsys.readouterr().out.startswith("leaks: fc_inversion: what was found explains")
    found = json.loads((where / "out" / "report.json").read_text(encoding="utf-8"))
    assert found["parameters"]["verdict"] == "leaks" and found["rows"][0]["planted"]["passed"] is True
    assert found["parameters"]["audit"]["labels told"] is False


@pytest.mark.parametrize(
    "change, what",
    [
        ({"models": {}}, "entry must be one of"),
        ({"model": None}, "model must hold"),
        ({"message": {"file": "none.npz"}}, "existing file"),
        ({"message": {"path": "update.npz"}}, "entry of message"),
        ({"protocol": {"kind": "fedsgd", "lr": 1}}, "takes other arguments"),
        ({"protocol": {"kind": "sgd"}}, "kind must be one of"),
        ({"protocol": {"kind": "fedsgd", "defence": {"sigma": 1}}}, "defence must have 'name'"),
        ({"records": {"shape": [8, 8, 1], "classes": 10}}, "records must have 'shape'"),
        ({"records": {"shape": [1, 1, 8, 8], "classes": 10, "labels": [11]}}, "labels"),
        ({"stand_in": {"folder": "nowhere"}}, "there is none"),
        ({"model": {"name": "nowhere.models:net"}}, "nowhere"),
        ({"out": "report.pdf"}, "html"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence_and_status_3(change, what, folder, capsys):
    where, asked = folder
    assert called(where, asked | change) == 3
    said = capsys.readouterr().err
    assert what in said and said.count("\n") == 1 and not (where / "out").exists()


@pytest.mark.parametrize(
    "text, what", [("a:\n\tb: 1", "not YAML"), ("- 1", "entries"), ("minutes: 1", "entry 'model'")]
)
def test_a_file_that_is_none_is_refused(text, what, folder, capsys):
    assert called(folder[0], text) == 3 and what in capsys.readouterr().err
    assert cli.main(["audit", str(folder[0] / "no.yaml")]) == 3


def test_a_factory_beside_the_file_is_found(folder, monkeypatch):
    where, asked = folder
    (where / "own_network.py").write_text(
        "import torch\ndef net(batch):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), "
        "torch.nn.Tanh(), torch.nn.Linear(64, 10))\n"
    )
    monkeypatch.setattr("sys.path", __import__("sys").path[:])
    model = command.asked(asked | {"model": {"name": "own_network:net"}}, where)["model"]
    assert isinstance(model[2], torch.nn.Tanh) and not model.training


def test_pictures_are_turned_and_cropped_and_odd_ones_refused(tmp_path):
    image = Image.new("RGB", (20, 10), (255, 0, 0))
    tags = image.getexif()
    tags[274] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=tags)
    found = command.pictures(tmp_path, (1, 3, 16, 8))
    assert found.images.shape == (1, 3, 16, 8) and float(found.images[:, 0].min()) > 0.9
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png.*8 bits"):
        command.pictures(tmp_path, (1, 1, 8, 8))


def test_what_programs_leave_in_a_folder_of_stand_ins_is_no_record(tmp_path):
    for name in ("a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/._a.png", "more/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert len(command.pictures(tmp_path, (1, 3, 8, 8))) == 2


# --- the page ---


class Reader(HTMLParser):
    """What a screen reader meets: headings in order, scopes in tables, words for pictures, nothing from elsewhere."""

    def __init__(self):
        super().__init__()
        self.levels, self.open, self.faults, self.tables, self.alts = [], [], [], 0, []

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "th" and own.get("scope") not in ("col", "row"):
            self.faults.append("a head without scope")
        if tag == "img":
            self.alts.append(own.get("alt", ""))
            if not own.get("src", "").startswith("data:image/png;base64,"):
                self.faults.append("a picture from elsewhere")
        if tag in ("script", "link", "iframe"):
            self.faults.append(tag)
        self.tables += tag == "caption"

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} is closed where it was not open")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    batch = gl.data.sample("digits", seed=0, device="cpu")
    model = gl.models.build("mlp", batch, hidden=(64,), seed=0)
    sent = gl.protocols.FedSGD().transmit(model, batch.images, batch.labels)
    how = {"shape": (1, 1, 8, 8), "classes": 10, "attacks": ["fc_inversion"], "truth": batch}
    report = gl.audit.run(model, sent, gl.protocols.FedSGD(), **how)
    path = report.save(tmp_path_factory.mktemp("page") / "report.html")
    return path.read_text(encoding="utf-8")


def test_the_page_is_one_file_with_headings_scopes_and_words_for_pictures(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.faults and not reader.open and len(page) < 3_000_000
    assert reader.levels[0] == 1 and all(b - a <= 1 for a, b in zip(reader.levels, reader.levels[1:], strict=False))
    assert reader.tables == 4 and len(reader.alts) == 3 and len(set(reader.alts)) == 3 and all(reader.alts)
    assert '<html lang="en">' in page and "width=device-width" in page and "@media print" in page
    assert "http" not in page and re.search(r"\bsafe\b", page, flags=re.I) is None


def contrast(one, other):
    def light(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_in_light_and_in_the_dark(page):
    schemes = re.findall(r":root \{([^}]*--ink[^}]*)\}", page)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for ink in ("ink", "bad", "open", "good"):
            assert all(contrast(colours[ink], colours[paper]) >= 4.5 for paper in ("paper", "soft"))
        assert contrast(colours["line"], colours["paper"]) >= 3


def test_a_report_of_texts_and_tables_shows_them(tmp_path):
    batch = gl.data.sample("wine", count=1, seed=0, device="cpu")
    model = gl.models.build("mlp", batch, hidden=(32,), seed=0)
    sent = gl.protocols.FedSGD().transmit(model, batch.images, batch.labels)
    how = {"shape": (1, 13), "classes": 3, "attacks": ["fc_inversion"]}
    report = gl.audit.run(model, sent, gl.protocols.FedSGD(), **how)
    text = report.save(tmp_path / "table.html").read_text(encoding="utf-8")
    assert report.verdict == "leaks" and "<pre>" in text and "<img" not in text
    with pytest.raises(ValueError, match="path"):
        report.save(tmp_path / "table.pdf")
