"""One colour, one meaning: a name looks alike in all figures, and no two names of one figure look alike."""

import json
import random
import re

import matplotlib.colors
import pytest
from conftest import ROOT

import glutils as gl
from glutils import show
from glutils.defenses import names as defences
from glutils.labels import names as rules
from glutils.show import lines
from glutils.show import palette as looks

TITLES = (
    "DLG", "iDLG, scaled", "iDLG, unscaled", "Gauss-Newton", "L-BFGS", "total variation", "generator + rest", "FedSGD",
    "ZO-FL, 64 scalars", "RLU", "RLU, along the path", "mean colour", "permuted scalars", "DP-SGD, mlp", "adaptive",
)  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """The figures that curves make."""
    found = []
    monkeypatch.setattr(lines, "figure", lambda fig, alt, caption: found.append(fig))
    return found


def strokes(axes):
    """Colour, dash and mark of the lines of one panel that have a colour of their own."""
    return [
        (one.get_color(), one.get_linestyle(), one.get_marker())
        for one in axes.lines if one.get_color() not in ("#CCCCCC", looks.GREY)
    ]  # fmt: skip


@pytest.mark.parametrize("names", [gl.attacks.names(), defences(), rules()], ids=["attacks", "defences", "label rules"])
def test_everything_that_is_registered_has_a_place(names):
    missing = [name for name in names if name not in looks.TABLE]
    assert not missing, f"append to its kind in glutils/show/palette.py: {missing}"


def test_no_two_listed_names_look_alike():
    listed = [name for _, names in looks.KINDS.values() for name in names.split()]
    assert len(set(listed)) == len(listed) == len(set(looks.TABLE.values()))


def test_a_listed_name_looks_the_same_in_any_company():
    rng, listed = random.Random(0), [*looks.TABLE, *TITLES]
    for _ in range(60):
        own = dict.fromkeys([*rng.sample(listed, 8), *(f"K = {rng.random():.2f} D" for _ in range(4))])
        found = show.looks(rng.sample(list(own), len(own)))
        assert len(set(found.values())) == len(found)
        for name in own:
            if name in looks.TABLE:
                assert found[name] == show.look(name)


@pytest.mark.parametrize("count", [1, 7, 8, 30, 100])
def test_names_of_one_figure_differ_however_many(count):
    found = list(show.looks([f"width {i}" for i in range(count)]).values())
    assert len(set(found)) == count
    assert len({one.color for one in found}) == min(count, 7), "colours repeat only where all are taken"


def test_titles_and_registered_names_are_one_name():
    same = {"Gauss-Newton": "gauss_newton", "L-BFGS": "lbfgs", "no prior": "none", "LLG*": "llg_star",
            "Gaussian noise on the gradient": "gaussian_noise", "Zeroth-Order": "zeroth_order"}  # fmt: skip
    assert all(show.look(title) == show.look(name) == looks.TABLE[name] for title, name in same.items())


def test_how_a_thing_was_done_changes_the_dash_alone():
    found = show.looks(["DLG, scaled", "iDLG, scaled", "DLG, unscaled", "cosine, bare", "squared, bare", "cosine, mean",
                        "largest, adaptive", "largest, naive"])  # fmt: skip
    assert found["largest, adaptive"].color == found["largest, naive"].color
    assert found["DLG, scaled"].color == found["DLG, unscaled"].color == show.look("dlg").color
    assert found["DLG, scaled"].linestyle == found["iDLG, scaled"].linestyle != found["DLG, unscaled"].linestyle
    assert found["cosine, bare"].color == found["cosine, mean"].color != found["squared, bare"].color


def test_controls_are_grey_and_nothing_else_is():
    assert {show.look(name).color for name in looks.CONTROLS} == {looks.GREY}
    assert looks.GREY not in {one.color for one in looks.TABLE.values()}


def test_names_can_be_read_on_white():
    """Names at the ends of lines are written in a darker tone of the line's colour: 4.5 to 1 (WCAG 1.4.3)."""
    for colour in looks.COLOURS:
        ink = [0.65 * part for part in matplotlib.colors.to_rgb(colour)]
        light = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in ink]
        assert 1.05 / (0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] + 0.05) >= 4.5, colour


def test_curves_draw_names_in_their_looks(drawn):
    for company in ({"K = 1 D": ([1, 2], [1, 2])}, {"Adam": ([1, 2], [2, 2]), "L-BFGS": ([1, 2], [3, 4])}):
        show.curves(company | {"Gauss-Newton": ([1, 2], [5, 6])}, xlabel="x", ylabel="y", references={"mean colour": 0})
    for fig in drawn:
        assert strokes(fig.axes[0])[-1] == tuple(show.look("gauss_newton"))
        assert len(set(strokes(fig.axes[0]))) == len(strokes(fig.axes[0]))


def test_more_lines_than_a_reader_can_follow_get_panels(drawn):
    many = {f"width {i}": (range(20), [float(i)] * 20) for i in range(9)}
    show.curves(many, xlabel="x", ylabel="y", references={"mean colour": 3.0})
    show.curves(dict(list(many.items())[:7]), xlabel="x", ylabel="y")
    show.curves(dict(list(many.items())[:2]), xlabel="x", ylabel="y", apart=True)
    assert [len([axes for axes in fig.axes if axes.axison]) for fig in drawn] == [9, 1, 2]
    panels = [axes for axes in drawn[0].axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == list(many)
    assert len({stroke for axes in panels for stroke in strokes(axes)}) == 9
    assert all(len(axes.lines) == 10 for axes in panels), "all others stand pale behind, with the control"
    with pytest.raises(TypeError, match="apart must be a bool"):
        show.curves(many, xlabel="x", ylabel="y", apart=1)


def test_lines_without_a_name_do_not_repeat_before_the_twenty_ninth():
    assert len(list(looks.cycle())) == len({tuple(one.values()) for one in looks.cycle()}) == 28


def test_no_notebook_chooses_its_own_colours():
    """They come from the names; grey and black, for axes and controls, may be written down."""
    own = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                found = re.findall(r"""["'](?:C\d\w?|#[0-9A-Fa-f]{6}|tab:\w+|red|green|blue|orange)["']|f["']C\{""",
                                   "".join(cell["source"]))  # fmt: skip
                own |= {path.name: found} if found else {}
    assert not own
