"""One name, one look: the colour, dash and mark that a name has in every figure of the book.

The mark says what kind of thing a name stands for, colour and dash which one. What follows a comma says *how* ("DLG,
scaled"): that changes the dash alone. Controls and predictions are grey or black. Names that mean something in one
figure only take the colours that the figure has left.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cycler import Cycler, cycler

from .. import _validate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart with any colour vision (Color Universal Design, 2008)."""
GREY = "#555555"
DASHES = ("-", "--", "-.", ":")
OTHERS = "o*HX"
"""Marks of names that no kind lists."""

KINDS = {
    # A new name goes to the end of its kind: all others keep their looks.
    "attack": ("os^", """
        dlg idlg ig zerogla fgla gias igims rgap stg fc_inversion dlg_adam dlg_cosine cpa rtf loki ggl gifd grnn spear
        april inverter rog fedleak sme tableak cpa_fi fishing dmgan dager lamp tag zerogla_text zerogla_label_word"""),
    "label rule": ("Dd", """
        alr ilrg rlu llg dlf network's_accuracy geng bias_corrected llg_star llg_plus zero_shot"""),
    "defence": ("ph", """
        gaussian_noise dpsgd topk bits soteria dp_scalars clip clip_scalars dp_update randomk mixup prune_last
        laplace_noise precode sign qsgd half resample"""),
    "protocol": ("<", "fedsgd zeroth_order fedavg"),
    "solver": (">", "gauss_newton lbfgs adam gradient_descent cmaes turbo boxed fastica the_division"),
    "prior": ("v", "none tv pca gaussian generator generator_rest smooth"),
    "attacker": ("P", "adaptive naive"),
    "run": (".", "this_run longer_run longer_run_quirks"),
    "precision": ("x", "float64 float32 bfloat16 float16"),
}  # fmt: skip
"""Kind to its marks and its names, in the order in which they take the colours."""
ALIASES = {
    "no_prior": "none", "total_variation": "tv", "zo_fl": "zeroth_order", "noise": "gaussian_noise",
    "gaussian_noise_on_the_gradient": "gaussian_noise", "noise_on_zeroth_order_scalars": "dp_scalars",
    "dp_sgd": "dpsgd", "top_k": "topk", "rounding": "bits", "cma_es": "cmaes", "cma": "cmaes", "l_bfgs": "lbfgs",
    "i_dlg": "idlg", "llg*": "llg_star", "llg+": "llg_plus",
}  # fmt: skip
"""Other words for the same thing, as titles write them."""
CONTROLS = {  # grey, with these dashes
    "mean_colour": ":", "blank_card": ":", "guessing": ":", "random_guess": ":", "pure_chance": ":", "control": ":",
    "permuted": "--", "permuted_scalars": "--", "wrong_gradient": "--", "public_mean": "--", "wrong_seed": "-.",
    "generator's_ceiling": "-.", "majority_class_told": "-.", "undefended": "-.",
}  # fmt: skip
VERDICTS = {"yes": (COLOURS[0], "o"), "undecided": (COLOURS[4], "D"), "no": (COLOURS[1], "x")}
PREDICTIONS = {"predicted": "--", "expected": "--", "theory": "--", "bound": ":", "√(d/k)": "-."}
HOW = {"adaptive": "-", "naive": "--", "scaled": "-", "unscaled": "--", "float64": "-", "float32": "--"}
"""Dashes of ways that several figures share; others take dashes in the order in which a name's ways come."""


class Look(NamedTuple):
    """How a name is drawn; its parts are what matplotlib calls color, linestyle and marker."""

    color: str
    linestyle: str
    marker: str

    @property
    def stroke(self) -> dict[str, str]:
        """Colour and dash, as a line without marks takes them: ``axes.plot(x, y, **look.stroke)``."""
        return {"color": self.color, "linestyle": self.linestyle}

    @property
    def dots(self) -> dict[str, str]:
        """Colour and mark, as points without a line take them."""
        return {"color": self.color, "linestyle": "none", "marker": self.marker}


def look(name: str) -> Look:
    """The look of one name by itself, the same in all figures.

    Args:
        name: of an attack, a label rule, a defence, a protocol, a solver, a prior or a control, as registered or as a
            title writes it: ``"gauss_newton"`` and ``"Gauss-Newton"`` are one name.

    Returns:
        Its colour, dash and mark. A name that no kind lists gets one by its letters, so that it is at least the same
        from figure to figure.

    Example:
        >>> import glutils as gl
        >>> gl.show.look("Gauss-Newton") == gl.show.look("gauss_newton")
        True
    """
    whole = _key(_validate.instance("name", name, str))
    if (fixed := _fixed(whole)) is not None:
        return fixed
    subject, how = _parts(name)
    base = _fixed(_key(subject)) or _numbered(zlib.crc32(_key(subject).encode()), OTHERS)
    return base._replace(linestyle=HOW.get(how, DASHES[0])) if how else base


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The looks of all names of one figure: no two of them share colour, dash and mark.

    Args:
        names: what the figure draws, in its order. Names that `KINDS` lists look as everywhere; the others take the
            colours that are left, in turn, one for each subject before a comma.

    Raises:
        TypeError, ValueError: names that are no strings, or more than the looks that there are.

    Example:
        >>> import glutils as gl
        >>> drawn = gl.show.looks(["DLG, scaled", "DLG, unscaled", "K = 2 D"])
        >>> [drawn[name].linestyle for name in drawn], len({found.color for found in drawn.values()})
        (['-', '--', '-'], 2)
    """
    names = list(dict.fromkeys(_validate.instance("a name", name, str) for name in names))
    known = {name: fixed for name in names if (fixed := _known(name)) is not None}
    taken = {fixed.color for fixed in known.values()}
    left = [colour for colour in COLOURS if colour not in taken] or list(COLOURS)
    given: dict[str, Look] = {}
    found: dict[str, Look] = {}
    ways: dict[str, list[str]] = {}
    first = sorted(names, key=lambda name: (_fixed(_key(name)) is None, name not in known))
    for name in first:  # what is fixed never has to give way
        subject, how = _parts(name)
        if name not in known and subject not in given:
            given[subject] = _numbered(len(given), OTHERS, left)
        one = known.get(name) or given[subject]
        if how and _fixed(_key(name)) is None:
            told = ways.setdefault(_key(subject), [])
            told += [] if how in told else [how]
            one = one._replace(linestyle=HOW.get(how, DASHES[told.index(how) % 4]))
        found[name] = _another(one, set(found.values()))
    return {name: found[name] for name in names}


def cycle() -> Cycler:
    """The looks of lines without a name, as matplotlib takes them in turn: all different, 28 of them."""
    drawn = [_numbered(i, OTHERS) for i in range(4 * len(COLOURS))]
    return cycler(color=[one.color for one in drawn], linestyle=[one.linestyle for one in drawn])


def _another(wanted: Look, taken: set[Look]) -> Look:
    """The wanted look, or where it is taken the next one of the same colour, or of any."""
    colours = dict.fromkeys((wanted.color, *COLOURS))
    marks, dashes = dict.fromkeys((wanted.marker, *OTHERS)), dict.fromkeys((wanted.linestyle, *DASHES))
    for colour, mark, dash in itertools.product(colours, marks, dashes):
        if (here := Look(colour, dash, mark)) not in taken:
            return here
    raise ValueError(f"one figure can tell {len(taken)} names apart, and no more")


def _known(name: str) -> Look | None:
    """The fixed look of a name, or of what stands before its comma."""
    whole = _fixed(_key(name))
    return whole if whole is not None else _fixed(_key(_parts(name)[0]))


def _fixed(key: str) -> Look | None:
    key = ALIASES.get(key, key)
    if key in CONTROLS:
        return Look(GREY, CONTROLS[key], "_")
    if key in PREDICTIONS:
        return Look(COLOURS[-1], PREDICTIONS[key], "|")
    if key in VERDICTS:
        return Look(VERDICTS[key][0], "none", VERDICTS[key][1])
    return TABLE.get(key)


def _parts(name: str) -> tuple[str, str]:
    """What a name is about, and how: ``("DLG", "scaled")``. Of several parts the first that a kind lists is meant."""
    parts = name.split(", ")
    about = [part for part in parts if part not in HOW] or parts
    subject = next((part for part in about if _fixed(_key(part)) is not None), about[0])
    parts.remove(subject)
    return subject, ", ".join(parts)


def _key(name: str) -> str:
    """A name in the one spelling of the tables: small letters, and no spaces, commas or hyphens."""
    return re.sub(r"[\s,\-‑–_]+", "_", name.strip().lower()).strip("_").replace("_+_", "_")


def _numbered(number: int, marks: str, colours: Sequence[str] = COLOURS) -> Look:
    """The look of a place in a list: colours change fastest, then dashes, then marks."""
    turn, place = divmod(number, len(colours))
    return Look(colours[place], DASHES[(place + turn) % 4], marks[turn // 4 % len(marks)])


TABLE = {
    name: _numbered(place, marks)
    for marks, names in KINDS.values()
    for place, name in enumerate(names.split())
}  # fmt: skip
"""Every listed name's look."""
