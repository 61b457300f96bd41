"""What reaches the page: figures with alt text, and sliders that need nothing."""

import base64
import io
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib
import matplotlib.figure
import numpy as np
import pytest
import torch
from PIL import Image

from glutils import metrics, show
from glutils.data.batch import Batch


@pytest.fixture
def page(monkeypatch, tmp_path):
    """A running notebook: the list of what was displayed, as (data, metadata)."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.history import HistoryManager
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.setattr(HistoryManager, "enabled", False)
    shell = InteractiveShell.instance()
    publisher = CapturingDisplayPublisher(shell=shell)
    monkeypatch.setattr(shell, "display_pub", publisher)
    yield publisher.outputs
    InteractiveShell.clear_instance()


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


def truth(count=2, side=32):
    images = torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count), tuple("abcde"))


def run(batch, frames=16):
    """A reconstruction that approaches the batch, reversed in order, keeping every frame."""
    noise = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(1))
    kept = tuple((batch.images + noise * 0.3**k).flip(0) for k in range(frames))
    steps = tuple(range(frames))
    history = SimpleNamespace(steps=steps, loss=tuple(0.1**k for k in steps), frame_steps=steps, frames=kept)
    return SimpleNamespace(images=kept[-1], labels=batch.labels.flip(0), history=history)


def pixels(output):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).convert("RGB"))


# --- figures ---


def test_a_figure_carries_its_alt_text_and_caption_and_is_closed(page):
    import matplotlib.pyplot as plt

    with show.style():
        fig, axes = plt.subplots()
        axes.plot([1, 2, 3])
    assert show.figure(fig, "a line that rises", caption="Rising") is None
    (output,) = page
    assert output["metadata"] == {"image/png": {"alt": "a line that rises"}, "caption": "Rising"}
    assert output["data"]["text/plain"] == "a line that rises" and pixels(output).shape[1] > 400
    assert not plt.fignum_exists(fig.number)


def test_figures_are_deterministic_and_leave_settings_alone(page):
    before = dict(matplotlib.rcParams)
    for _ in range(2):
        show.curves({"a": ([1, 2], [3, 4])}, xlabel="x", ylabel="y")
    assert page[0] == page[1]
    assert dict(matplotlib.rcParams) == before


def test_outside_a_notebook_the_alt_text_is_printed(capsys):
    show.figure(matplotlib.figure.Figure(), "nothing at all")
    assert capsys.readouterr().out == "nothing at all\n"


def test_a_figure_without_alt_text_is_refused():
    fig = matplotlib.figure.Figure()
    with pytest.raises(ValueError, match="alt must say something"):
        show.figure(fig, " ")
    with pytest.raises(TypeError, match="alt must be a string"):
        show.figure(fig, None)
    with pytest.raises(TypeError, match="fig must be a matplotlib Figure, got str"):
        show.figure("fig", "alt")


def test_decibels_are_short():
    assert [show.decibels(x) for x in (103.27, 9.876, torch.tensor(31.24), float("inf"), float("nan"))] == [
        "103 dB", "9.88 dB", "31.2 dB", "exact", "n/a",
    ]  # fmt: skip


# --- galleries ---


def test_a_gallery_shows_tensors_batches_and_reconstructions_and_says_so(page):
    batch = truth()
    show.gallery({"private": batch, "raw": batch.images * 2 - 0.5, "found": run(batch)}, notes={"raw": ["poor", "bad"]})
    assert page[0]["metadata"]["image/png"]["alt"] == (
        "Rows of images. private: 2 images; raw: 2 images (poor, bad); found: 2 images."
    )
    show.gallery({"private": batch}, alt="two patches", caption="Noise.")
    assert page[1]["metadata"] == {"image/png": {"alt": "two patches"}, "caption": "Noise."}
    notes = {"private": ["31 dB", "8 dB"]}
    show.gallery({"private": batch}, alt="two patches.", notes=notes)
    assert page[2]["metadata"]["image/png"]["alt"] == "two patches. private: 31 dB, 8 dB.", "it says what is to be seen"
    show.gallery({"private": batch}, alt="found at 31 dB and lost at 8 dB", notes=notes)
    assert page[3]["metadata"]["image/png"]["alt"] == "found at 31 dB and lost at 8 dB"


def test_a_gallery_draws_the_pixels_enlarged_and_unblurred(page):
    halves = torch.zeros(1, 3, 2, 2)
    halves[:, 0, :, 1] = 1.0
    show.gallery({"half red": halves})
    drawn = pixels(page[0])
    red, black = ((drawn == colour).all(2).sum() for colour in ([255, 0, 0], [0, 0, 0]))
    assert red > 5000 and black > 5000, "two flat areas"


def test_a_score_puts_a_row_into_the_order_of_the_truth(page):
    batch = Batch(torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)]), torch.arange(2), ("dark", "light"))
    found = SimpleNamespace(images=batch.images.flip(0), labels=batch.labels.flip(0))
    score = metrics.score(found, batch)
    show.gallery({"found": found}, notes={"found": score})
    show.gallery({"found": batch}, notes={"found": score.psnr})
    assert "2 images (exact, exact)" in page[0]["data"]["text/plain"]
    assert page[0] == page[1]


@pytest.mark.parametrize(
    "rows", [{"gray": torch.rand(11, 1, 8, 12)}, {name: torch.rand(1, 3, 9, 5) for name in "vwxyz"}]
)
def test_a_gallery_wraps_and_takes_any_shape(page, rows):
    show.gallery(rows)
    assert pixels(page[0]).shape[1] <= 560


def test_a_gallery_refuses_what_it_cannot_show():
    with pytest.raises(TypeError, match="images_by_row must map titles"):
        show.gallery([torch.rand(1, 3, 4, 4)])
    with pytest.raises(TypeError, match="'a' must be a floating-point tensor or hold one as .images, got str"):
        show.gallery({"a": "image"})
    with pytest.raises(ValueError, match=r"'a' must have shape \(B, 1 or 3, H, W\)"):
        show.gallery({"a": torch.rand(1, 2, 4, 4)})
    with pytest.raises(ValueError, match="notes must be for rows among"):
        show.gallery({"a": torch.rand(1, 3, 4, 4)}, notes={"b": ["1 dB"]})
    with pytest.raises(ValueError, match=r"notes\['a'\] must have one entry per image \(1\), got 2"):
        show.gallery({"a": torch.rand(1, 3, 4, 4)}, notes={"a": ["1 dB", "2 dB"]})


# --- curves ---


def test_curves_describe_themselves(page):
    runs = np.array([[1.0, 5.0], [3.0, 7.0], [2.0, 9.0]])
    show.curves(
        {"zerogla": ([0, 10], runs), "dlg": (torch.tensor([0, 10]), torch.tensor([4.0, 4.5]))},
        xlabel="iteration", ylabel="PSNR (dB)", references={"mean colour": 11.0},
    )  # fmt: skip
    assert page[0]["data"]["text/plain"] == (
        "Line plot of PSNR (dB) against iteration. zerogla: 2 at 0 to 7 at 10; dlg: 4 at 0 to 4.5 at 10; "
        "mean colour: level 11."
    )


def test_curves_take_reconstructions_and_leave_out_what_has_no_place(page):
    show.curves({"zerogla": run(truth())}, xlabel="step", ylabel="loss", logy=True)
    show.curves({"a": ([0, 1, 2, 3], [0.0, float("inf"), 2.0, 1.0])}, xlabel="x", ylabel="y", logx=True, logy=True)
    assert "zerogla: 1 at 0 to 1e-15 at 15" in page[0]["data"]["text/plain"]
    assert "a: 2 at 2 to 1 at 3" in page[1]["data"]["text/plain"]


def test_names_at_the_ends_do_not_overlap():
    from glutils.show.lines import _spread

    heights = [10.0, 20.0, 10.0, 10.0]
    centres = _spread([50.0, 52.0, 51.0, 99.0], heights, 0.0, 100.0)
    boxes = sorted((c - h / 2, c + h / 2) for c, h in zip(centres, heights, strict=True))
    assert all(above[0] >= below[1] for below, above in zip(boxes, boxes[1:], strict=False))
    assert sorted(range(4), key=lambda i: centres[i]) == [0, 2, 1, 3], "order kept"


def test_curves_refuse_what_they_cannot_draw():
    with pytest.raises(TypeError, match=r"lines must map names to \(x, y\)"):
        show.curves([1, 2], xlabel="x", ylabel="y")
    with pytest.raises(TypeError, match="line 'a' must be a pair"):
        show.curves({"a": 3}, xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match=r"line 'a' must have x of shape \(N,\)"):
        show.curves({"a": ([1, 2], [1, 2, 3])}, xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match="line 'a' has no point to draw"):
        show.curves({"a": ([1, 2], [0.0, -1.0])}, xlabel="x", ylabel="y", logy=True)


# --- sliders ---


def test_a_scrubber_is_one_labelled_slider_over_described_frames(page):
    batch = truth(1)
    show.scrubber(run(batch), batch, name="zerogla", caption="Drag & look.")
    html = page[0]["data"]["text/html"]
    tags = Tags(html)
    (slider,) = tags.all("input")
    images = tags.all("img")
    assert slider["type"] == "range" and slider["aria-label"] and slider["min"] == "0" and slider["max"] == "15"
    assert tags.all("label")[0]["for"] == slider["id"] == "frames-zerogla-range"
    assert len(images) == 16 and len({image["alt"] for image in images}) == 16
    assert images[7]["alt"].startswith("Reconstruction, step 7 of 15: ") and images[7]["alt"].endswith(" dB")
    assert [i for i, image in enumerate(images) if "display:block" in image["style"]] == [15] == [int(slider["value"])]
    assert all("max-width:100%" in image["style"] and "pixelated" in image["style"] for image in images)
    assert slider["aria-valuetext"] == images[15]["alt"] in tags.text and "Drag & look." in tags.text
    assert "http" not in html and not tags.all("script") and "autoplay" not in html
    frame = Image.open(io.BytesIO(base64.b64decode(images[15]["src"].split(",")[1])))
    assert frame.size == (32 + 2 + 32, 32)
    right = np.asarray(frame)[:, 34:].transpose(2, 0, 1) / 255
    assert np.abs(right - batch.images[0].numpy()).max() < 0.003, "the truth, at the right"
    assert page[0]["data"]["text/plain"] == images[15]["alt"]


def test_a_scrubber_matches_several_images_to_the_truth(page):
    batch = truth(3, side=8)
    show.scrubber(run(batch), batch, name="three")
    last = Tags(page[0]["data"]["text/html"]).all("img")[-1]
    frame = np.asarray(Image.open(io.BytesIO(base64.b64decode(last["src"].split(",")[1])))).astype(int)
    above, below = frame[:8], frame[-8:]
    assert np.abs(above - below).max() <= 1 and frame.shape == (17, 3 * 8 + 2, 3)


def test_a_scrubber_thins_frames_keeps_both_ends_and_its_budget(page):
    batch = truth(1)
    noisy = run(batch, frames=60)
    noisy.history.frames = tuple(torch.rand(1, 3, 32, 32) for _ in range(60))  # the hardest pictures to compress
    show.scrubber(noisy, name="noise")
    html = page[0]["data"]["text/html"]
    alts = [image["alt"] for image in Tags(html).all("img")]
    assert len(html) < 300_000 and len(alts) == 24
    assert "step 0 of 59: loss 1" in alts[0] and "step 59 of 59" in alts[-1]
    noisy.history.frames = tuple(torch.rand(1, 3, 160, 160) for _ in range(60))
    show.scrubber(noisy, name="large")
    html = page[1]["data"]["text/html"]
    assert len(html) < 1_000_000 and 2 <= len(Tags(html).all("img")) < 24


def test_a_frame_that_failed_has_no_number(page):
    batch = truth(1)
    result = run(batch, frames=3)
    result.history.frames = (torch.full((1, 3, 32, 32), float("nan")), *result.history.frames[1:])
    show.scrubber(result, batch, name="failed-first")
    assert Tags(page[0]["data"]["text/html"]).all("img")[0]["alt"].endswith("step 0 of 2: n/a")


def test_a_scrubber_needs_frames():
    batch = truth(1)
    with pytest.raises(ValueError, match="result must have a history with frames"):
        show.scrubber(batch, name="a")
    with pytest.raises(ValueError, match="images must have the truth's shape"):
        show.scrubber(run(batch), truth(2), name="a")
    with pytest.raises(ValueError, match="max_frames must be at least 2, got 1"):
        show.scrubber(run(batch), name="a", max_frames=1)


def test_frames_escape_every_text_and_are_deterministic():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, format="PNG")
    texts = {"alts": ['<b>"x"</b>', "a & b"], "label": "<i>", "caption": "<script>alert(1)</script>"}
    first, second = (show.frames_html("f", [buffer.getvalue()] * 2, **texts, start=0) for _ in range(2))
    tags = Tags(first)
    assert first == second and {name for name, _ in tags.found} == {
        "figure", "img", "label", "input", "div", "ol", "li", "figcaption",
    }  # fmt: skip
    assert [image["alt"] for image in tags.all("img")] == texts["alts"] and tags.all("input")[0]["value"] == "0"
    assert all(text in tags.text for text in ("<i>", texts["caption"], texts["alts"][0]))
    assert '<ol data-print="" hidden>' in first and len(tags.all("li")) == 2, "what paper shows of all frames"
    assert "data-print" not in show.frames_html("f", [buffer.getvalue()], ["one"], "i"), "one frame needs no list"


def test_frames_refuse_bad_input():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, format="PNG")
    png = buffer.getvalue()
    with pytest.raises(ValueError, match="name must be lower-case"):
        show.frames_html('x" onload="', [png], ["a"], "l")
    with pytest.raises(ValueError, match="equally many and not none, got 1 and 2"):
        show.frames_html("x", [png], ["a", "b"], "l")
    with pytest.raises(TypeError, match="bytes of PNG files"):
        show.frames_html("x", [b"GIF"], ["a"], "l")
    with pytest.raises(ValueError, match="an alt text must say something"):
        show.frames_html("x", [png], [""], "l")
    with pytest.raises(ValueError, match="start must be between 0 and 0, got 1"):
        show.frames_html("x", [png], ["a"], "l", start=1)


def test_strengths_of_a_defence_are_one_slider(page):
    batch = truth(2)
    stacks = [batch.images + level for level in (0.0, 0.1, 0.5)]
    show.strengths(stacks, ["none: exact", "a little", "a lot"], batch, name="noise-strength", label="Strength")
    tags = Tags(page[0]["data"]["text/html"])
    images, (slider,) = tags.all("img"), tags.all("input")
    assert [image["alt"] for image in images] == ["none: exact", "a little", "a lot"]
    assert slider["aria-label"] == "Strength" and slider["value"] == "0"
    assert "display:block" in images[0]["style"] and "display:none" in images[1]["style"]
    with pytest.raises(ValueError, match="equally many"):
        show.strengths(stacks, ["one"], batch, name="n", label="Strength")
