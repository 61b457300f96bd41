"""Tables that a screen reader can walk and a terminal can print."""

import importlib
from html.parser import HTMLParser

import pytest
import torch

from glutils import metrics, show

ROWS = [
    {"attack": "zerogla", "PSNR (dB)": 103.27, "loss": 1.2e-9, "images": 4, "exact": True},
    {"attack": "<dlg>", "PSNR (dB)": float("inf"), "loss": float("nan"), "images": 4, "note": None},
]


class Tags(HTMLParser):
    """Every start tag of a piece of HTML with its attributes, and all its text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_a_table_is_accessible_and_formats_numbers(capsys):
    show.table(ROWS, caption="Attacks & scores")
    tags = Tags(show.table_html(ROWS, caption="Attacks & scores"))
    assert [cell["scope"] for cell in tags.all("th")] == ["col"] * 6 + ["row"] * 2
    assert len(tags.all("caption")) == 1 and tags.all("div")[0]["aria-label"] == "Attacks & scores"
    words = tags.text.split("\n")
    assert "zerogla103.31.2e-094yes" in words and "<dlg>∞n/a4" in words
    assert capsys.readouterr().out.split("\n")[3:-1] == [
        "zerogla      103.3  1.2e-09       4  yes",
        "<dlg>            ∞      n/a       4",
    ]


def test_a_table_takes_chosen_columns_and_digits():
    rows = [{"a": torch.tensor(1.23456), "b": metrics.summary([1.0, 2.0, 3.0])}]
    tags = Tags(show.table_html(rows, columns={"b": "Seeds", "a": "Value"}, digits=3))
    assert tags.text.split("\n")[3:] == ["", "2 (1 to 3, n = 3)1.235", "", "", ""]
    assert show.table_html(rows, columns=["a"]) == show.table_html([{"a": 1.23456}])


def test_a_table_refuses_bad_input():
    with pytest.raises(TypeError, match="rows must be a list of mappings, got dict"):
        show.table({"a": 1})
    with pytest.raises(TypeError, match="rows must be mappings"):
        show.table([1, 2])
    with pytest.raises(ValueError, match="at least one row"):
        show.table([])
    with pytest.raises(ValueError, match=r"columns must be among \['a'\], got \['b'\]"):
        show.table([{"a": 1}], columns=["b"])


def test_heat_says_every_cell_and_refuses_what_it_cannot_colour(monkeypatch):
    said = []
    module = importlib.import_module("glutils.show.heat")  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "figure", lambda fig, alt, caption=None: said.append((fig, alt, caption)))
    cells = {("noise", "dlg"): (40.0, "7\n40 %"), ("noise", "ig"): (None, "never"), ("clip", "dlg"): (80.0, "1\n80 %")}
    show.heat(cells, low=10, high=90, label="accuracy left (%)", caption="Where attacks break.")
    ((fig, alt, caption),) = said
    assert "noise: dlg 7 40 %, ig never; clip: dlg 1 80 %" in alt and caption == "Where attacks break."
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["dlg", "ig"]
    for bad, message in (
        ({}, "at least one"),
        ({"noise": (1, "")}, "row, column"),
        ({("a", "b"): (float("inf"), "")}, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            show.heat(bad, low=0, high=1, label="x")
    with pytest.raises(ValueError, match="high must be above"):
        show.heat(cells, low=1, high=1, label="x")
