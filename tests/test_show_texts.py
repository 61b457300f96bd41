"""Texts beside what was found, and the slider over a search for one."""

import importlib

import pytest
import torch
from test_show_tables import Tags

import glutils as gl
from glutils import show
from glutils.attacks.base import Reconstruction
from glutils.solvers import History

MODULE = importlib.import_module("glutils.show.texts")  # its name in the room is that of a function


@pytest.fixture(scope="module")
def truth():
    return gl.data.from_texts(["The <code> is 4821."])


def grown(truth, wrong):
    """A search that finds one more piece at every step, with one of them wrong up to the last."""
    row, frames = truth.images[0], []
    for known in range(1, len(row) + 1):
        frame = torch.full_like(row, -1)
        frame[:known] = row[:known]
        if wrong < known < len(row):
            frame[wrong] = (row[wrong] + 1) % 512
        frames.append(frame.float())
    steps = tuple(range(len(row)))
    history = History(steps, (1.0,) * len(steps), steps, tuple(frames))
    return Reconstruction(truth.images, truth.labels, 0.0, history)


def test_pieces_in_place_are_underlined_and_text_is_escaped(truth, capsys):
    other = gl.data.from_texts(["The <code> is 4827."])
    show.texts(truth, other.images, caption="One digit off")
    found = capsys.readouterr().out
    assert "true:  The <code> is 4821." in found and "found: The <code> is 4827." in found
    own = other.images[0, 1:].tolist()
    tags = Tags(MODULE._marked(own, truth.images[0, 1:].tolist(), truth.vocabulary))
    assert tags.text == "The <code> is 4827."
    assert len(tags.all("span")) == len(own) - 2  # one digit is wrong, and the end cannot be seen


def test_a_text_grows_under_a_slider(truth, monkeypatch):
    pages = []
    monkeypatch.setattr(MODULE, "emit", pages.append)
    show.text_scrubber(grown(truth, 5), truth, name="growing", caption="A text appears", max_frames=8)
    tags = Tags(pages[0]["text/html"])
    frames = [div for div in tags.all("div") if "data-frame" in div]
    assert len(frames) == 8 and sum("hidden" not in frame for frame in frames) == 1 and "hidden" not in frames[-1]
    slider = tags.all("input")[0]
    assert slider["max"] == "7" and slider["aria-valuetext"] == frames[-1]["data-frame"]
    count = truth.images.shape[1] - 1
    assert frames[-1]["data-frame"].endswith(f"{count} of {count} tokens in place: The <code> is 4821.")
    assert "0 of" in frames[0]["data-frame"] and pages[0]["text/plain"] == frames[-1]["data-frame"]


def test_what_cannot_be_shown_is_refused(truth):
    with pytest.raises(ValueError, match="history with frames"):
        show.text_scrubber(Reconstruction(truth.images, truth.labels, 0.0), truth, name="x")
    with pytest.raises(ValueError, match="truth must be one text, got 2"):
        show.text_scrubber(grown(truth, 2), gl.data.from_texts(["a", "b"]), name="x")
    with pytest.raises(ValueError, match="batch must hold texts"):
        show.texts(gl.data.sample("digits", device="cpu"), truth.images)
    with pytest.raises(ValueError, match=r"found must be tokens \(1, L\)"):
        show.texts(truth, truth.images.float())
