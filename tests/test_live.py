"""Panels without a browser: move a dial, see the picture change. Pictures to choose among in a page without script."""

import dataclasses
import io
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

import glutils as gl
from glutils import show
from glutils._png import encode as png
from glutils.experiments import defended, live, pictures

TINY = defended.Scene(clients=2, per_client=2, images=1, rounds=2, evaluations=2, practice=0, misled=None, device="cpu")


def changed(**parts):
    return dataclasses.replace(TINY, **parts)


class Tags(HTMLParser):
    """Every start tag of a piece of HTML with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def all(self, tag, **wanted):
        return [a for name, a in self.found if name == tag and all(a.get(k) == v for k, v in wanted.items())]


def frames(count=3, word="a"):
    pictures = [torch.full((1, 4, 4), k / count) for k in range(count)]
    return [show.Frame(png(p), f"{word} {k}", f"title {word} {k}", (("acc", k / count, f"{k} %"),))
            for k, p in enumerate(pictures)]  # fmt: skip


# --- the static page ---


def page(**more):
    series = {(d, w): frames(3 + (d == "bits"), f"{d}{w}") for d in ("noise", "bits") for w in ("knows", "guesses")}
    options = {"name": "try", "axes": ["Defence", "Attacker"], "label": "Strength", "caption": "Move."} | more
    return show.choice_html(series, **options), series


def test_the_page_holds_every_frame_with_its_alt_text_and_shows_one():
    text, series = page()
    tags = Tags(text)
    assert [image["alt"] for image in tags.all("img")] == [one.alt for s in series.values() for one in s]
    blocks = [a for tag, a in tags.found if tag == "div" and "data-frame" in a]
    assert text.count("<div hidden>noise, knows</div>") == 3, "names for readers without script"
    assert [("hidden" in a) for a in blocks] == [False] + [True] * 13
    assert [a["data-frame"] for a in blocks] == ["0-0"] * 3 + ["0-1"] * 3 + ["1-0"] * 4 + ["1-1"] * 4
    assert all(image["src"].startswith("data:image/png;base64,") for image in tags.all("img"))
    assert "http" not in text and not tags.all("script") and not tags.all("link"), "nothing to load"


def test_every_control_is_the_browsers_own_and_has_a_name():
    text, _ = page()
    tags = Tags(text)
    (chosen,), (slider,) = tags.all("select"), tags.all("input", type="range")
    labels = {a["for"] for a in tags.all("label") if "for" in a}
    assert {chosen["id"], slider["id"]} <= labels and slider["aria-label"] == "Strength"
    assert (slider["max"], slider["value"], slider["aria-valuetext"]) == ("2", "0", "noiseknows 0")
    buttons = tags.all("input", type="radio")
    assert len(buttons) == 2 and len({a["name"] for a in buttons}) == 1 and "checked" in buttons[0]
    assert all(a.get("oninput") for a in (chosen, slider, *buttons))
    assert all(a.get("aria-label") for a in tags.all("meter"))


def test_without_script_every_frame_shows_and_no_control():
    text, _ = page()
    fallback = text[text.index("<noscript>") : text.index("</noscript>")]
    assert "#frames-try [data-controls]{display:none}" in fallback
    assert "#frames-try [hidden]{display:block!important}" in fallback


def test_the_page_escapes_texts_and_is_deterministic(capsys):
    bad = [show.Frame(frames()[0].png, '<b>"x"', "<i>", (("<u>", 0.5, "&"),))] * 2
    options = {"name": "x", "axes": ["<A>"], "label": "<L>", "caption": "<C>"}
    text = show.choice_html({("<O>",): bad}, **options)
    assert text == show.choice_html({("<O>",): bad}, **options)
    assert not {"b", "i", "u", "o", "a", "l", "c"} & {tag for tag, _ in Tags(text).found}
    show.choice({("one",): frames(2)}, name="x", axes=["A"], label="L")
    assert capsys.readouterr().out == "one: a 0\none: a 1\n"


@pytest.mark.parametrize(
    "change, error, message",
    [({"name": "No"}, ValueError, "name must be lower-case"), ({"axes": []}, TypeError, "axes must be a list"),
     ({"axes": ["one"]}, ValueError, "one name for each of 1 axes"), ({"label": ""}, ValueError, "label must say"),
     ({"caption": " "}, ValueError, "caption must say")],
)  # fmt: skip
def test_the_page_refuses_bad_texts(change, error, message):
    with pytest.raises(error, match=message):
        page(**change)


def test_the_page_refuses_frames_that_leave_a_choice_empty():
    options = {"name": "x", "axes": ["a", "b"], "label": "l"}
    with pytest.raises(ValueError, match="every combination of its names"):
        show.choice_html({("p", "q"): frames(), ("r", "s"): frames()}, **options)
    with pytest.raises(ValueError, match="lacks all"):
        show.choice_html({}, **options)
    with pytest.raises(TypeError, match="a list of two or more Frames"):
        show.choice_html({("p", "q"): frames(1)}, **options)
    with pytest.raises(ValueError, match="bar 'acc' must be between 0 and 1, got 1.5"):
        show.Frame(frames()[0].png, "a", "t", (("acc", 1.5, "150 %"),))
    with pytest.raises(TypeError, match="png must be the bytes of a PNG file"):
        show.Frame(b"GIF", "a", "t")


# --- one strength, measured ---


def test_a_measurement_has_both_attackers_and_its_picture_shows_what_was_found(no_lpips):
    rows = defended.measure(TINY, "topk", 0.05)
    assert [row["attacker"] for row in rows] == ["adaptive", "naive"] and rows[0]["psnr"] != rows[1]["psnr"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"] and {row["strength"] for row in rows} == {0.05}
    private = defended.truth(TINY)
    found = pictures.picture(rows[0]["found"])
    assert float(gl.metrics.psnr(found[None], private.images)) == pytest.approx(rows[0]["psnr"], abs=0.1)
    frame = pictures.frame_of(rows, private, "5 % sent")
    drawn = Image.open(io.BytesIO(frame.png))
    assert "5 % sent: found by an attacker who knows the defence" in frame.alt and drawn.size == (17, 8)
    assert [label for label, *_ in frame.bars] == ["found", "accuracy"]


def test_undefended_the_two_attackers_are_one(no_lpips):
    one, other = defended.measure(changed(practice=1), None, None)
    assert one["psnr"] == other["psnr"] and one["tv_weight"] == other["tv_weight"]


def test_a_budget_is_told_and_grows_with_less_noise(no_lpips):
    loose, tight = (defended.measure(TINY, "dpsgd", s)[0]["epsilon"] for s in (1.0, 4.0))
    assert loose > tight == pytest.approx(
        gl.defenses.epsilon(4.0, 0.5, 2, 0.01, relation="replace_one", sampling="fixed")
    )


@pytest.mark.parametrize(
    "parts, message",
    [({"attack": "dmgan"}, "cannot be run on an update"), ({"data": "dogs"}, "data must be one of"),
     ({"images": 3}, r"images must be at most per_client \(2\), got 3"),
     ({"misled": "bribed"}, "misled must be one of"),
     ({"attack": "zerogla"}, "evaluations must be None for 'zerogla'"), ({"delta": 1.0}, "delta must be less than 1")],
)  # fmt: skip
def test_a_scene_that_cannot_be_played_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        changed(**parts)


@pytest.mark.parametrize(
    "name, strength, message",
    [("half", 1, "defense must be one of 'gaussian_noise'"), ("bits", 2.5, "a whole number of bits"),
     ("topk", 1.5, "keep must be at most 1|keep must be between"), (None, 1.0, "must be left out without a defence"),
     ("moat", 1.0, "moat")],
)  # fmt: skip
def test_a_strength_that_is_none_is_refused(name, strength, message):
    with pytest.raises(ValueError, match=message):
        defended.defense_of(name, strength)


# --- an experiment in a folder ---

SMALL = {"clients": 2, "per_client": 2, "images": 1, "rounds": 2, "evaluations": 2, "practice": 0, "device": "cpu"}


def test_an_experiment_goes_on_where_it_stopped_and_refuses_other_parameters(tmp_path, no_lpips):
    def again(strengths=(0.5,), seeds=1, **more):
        where = {"exp_name": "e", "folder": tmp_path, "workers": 0}
        return gl.experiments.defense_sweep("ig", "topk", list(strengths), seeds=seeds, **where, **(SMALL | more))

    first = again()
    assert first.runs.fresh == 2 and [row["strength"] for row in first.rows] == [None, None, 0.5, 0.5]
    assert again().runs.fresh == 0
    more = again(strengths=(0.5, 0.1))
    assert more.runs.fresh == 1 and len(more.of(0.1, "naive")) == 1
    lines = (tmp_path / "e" / "results.csv").read_text().splitlines()
    assert len(lines) == 7 and lines[0].startswith("defence,strength,seed,attacker") and "psnr of permuted" in lines[0]
    kept = (tmp_path / "e" / "results.csv").read_bytes()
    with pytest.raises(FileExistsError, match=r"exists with other parameters \(rounds was 2, now 3\)"):
        again(strengths=(0.5, 0.1), rounds=3)
    with pytest.raises(FileExistsError, match=r"strengths was \[0.5, 0.1\], now \[0.5\]"):
        again()
    assert (tmp_path / "e" / "results.csv").read_bytes() == kept
    table = more.summary()
    assert [row["strength"] for row in table] == [None, 0.5, 0.1] and set(table[0]["psnr"]) == {"adaptive", "naive"}
    assert set(more.breaks) == {"adaptive", "naive"}


@pytest.mark.parametrize(
    "change, error, message",
    [({"attack": "nobody"}, ValueError, "nobody"), ({"strengths": []}, ValueError, "at least one number"),
     ({"strengths": [1.0, 1.0]}, ValueError, "strengths must differ"), ({"seeds": 0}, ValueError, "seeds must be"),
     ({"defense": "dp_scalars"}, ValueError, "protects payloads of kind scalars"),
     ({"strengths": [2.0], "defense": "soteria"}, ValueError, "prune must be less than 1"),
     ({"exp_name": "a/b"}, ValueError, "exp_name must be letters"),
     ({"speed": 3}, TypeError, "unknown argument 'speed'")],
)  # fmt: skip
def test_an_experiment_refuses_before_any_run(tmp_path, change, error, message):
    asked = {"attack": "ig", "defense": "topk", "strengths": [0.5], "exp_name": "e", "folder": tmp_path} | SMALL
    with pytest.raises(error, match=message):
        gl.experiments.defense_sweep(**(asked | change))
    assert not list(tmp_path.iterdir())


# --- panels ---


def test_a_panel_draws_when_a_dial_moves_keeps_what_it_drew_and_shows_errors():
    import ipywidgets

    drawn = []

    def draw(level):
        drawn.append(level)
        if level == 3:
            raise ValueError("level must be < 3")
        return frames()[level]

    dial = ipywidgets.IntSlider(value=0, min=0, max=3)
    panel = live.Panel({"level": dial}, draw)
    assert panel.frame.alt == "a 0" and 'alt="a 0"' in panel.view.value
    for value in (1, 0, 1):
        dial.value = value
    assert panel.frame.alt == "a 1" and drawn == [0, 1]
    dial.value = 3
    assert panel.frame is None and panel.view.value == '<p role="alert">level must be &lt; 3</p>'
    dial.value = 2
    assert panel.frame.alt == "a 2"


def test_the_defence_panel_attacks_as_chosen(no_lpips):
    panel = live.defense(TINY)
    assert panel.frame.title == "Gaussian noise, undefended"
    panel.dials["defense"].value = "bits"
    assert panel.frame.title == "Fixed-point, undefended" and panel.dials["strength"].value == 0
    panel.dials["strength"].value = 2
    knows = panel.frame
    panel.dials["attacker"].value = "naive"
    assert knows.title == panel.frame.title == "Fixed-point, bits 2" and knows.alt != panel.frame.alt
    rows = defended.measure(TINY, "bits", 2)
    assert knows == pictures.frame_of(rows, defended.truth(TINY), "Fixed-point, bits 2"), "the static page's function"


def test_the_budget_panel_finds_the_digit_once_there_are_enough_scalars(no_lpips):
    panel = live.query_budget()
    panel.dials["ratio"].value = 0.25
    few = panel.frame
    panel.dials["ratio"].value = 1.5
    assert few.bars[0][1] < 0.5 and panel.frame.bars[0][1] == 1.0 and panel.frame.title == "96 scalars for 64 pixels"


def test_the_smoothing_panel_shows_where_single_precision_ends(no_lpips):
    panel = live.smoothing()
    panel.dials["mu"].value = 1e-8
    exact = panel.frame
    panel.dials["dtype"].value = "float32"
    assert exact.bars[0][1] == 1.0 and panel.frame.bars[0][1] < 0.3 and "mu = 1e-08, float32" in panel.frame.alt


def test_the_iterations_panel_walks_through_a_history(digit, capsys):
    from types import SimpleNamespace

    kept = tuple(digit.images + 0.5**k for k in range(4))
    history = SimpleNamespace(frames=kept, frame_steps=(0, 5, 10, 15))
    result = SimpleNamespace(images=kept[-1], history=history)
    panel = live.iterations(result, digit)
    assert panel.frame.title == "step 15 of 15"
    panel.dials["number"].value = 0
    assert panel.frame.title == "step 0 of 15"
    live.show(panel)
    assert capsys.readouterr().out.startswith("step 0 of 15: ")
    with pytest.raises(ValueError, match="result must have a history with frames"):
        live.iterations(SimpleNamespace(history=None), digit)


@pytest.mark.parametrize("call, message", [
    (lambda: live.budget_frame(0), "ratio must be greater than 0"),
    (lambda: live.smoothing_frame(-1.0), "mu must be"),
    (lambda: live.smoothing_frame(1e-4, "float8"), "dtype must be one of"),
])  # fmt: skip
def test_a_dial_that_goes_too_far_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
