"""What the book's pages take from the code, so that nothing there is typed twice.

A page names the place with a line of its own, ``% made from the code: NAME``; :func:`fill` puts the text there. Names
are the keys of :data:`MAKERS`, and ``status``. Opened without a build, such a page has a gap and is whole otherwise.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import contents
import course
import record_index
import reference

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"^% made from the code: (.+)$", flags=re.M)
CLASS = re.compile(r"^\.\. autoclass:: ([\w.]+)$", flags=re.M)
CHAPTERS = {
    name: stem
    for stem, names in {
        "01_threat_model": ("fc_inversion",),
        "03_zerogla_objective": ("zerogla",),
        "07_dlg_and_its_family": ("dlg", "idlg", "dlg_adam", "dlg_cosine", "grnn", "rgap"),
        "08_inverting_gradients": ("ig", "stg"),
        "09_fgla": ("fgla", "inverter"),
        "10_generative_priors": ("ggl", "gias", "gifd", "igims"),
        "12_aggregates_and_malicious_parties": ("cpa", "cpa_fi", "rtf", "dmgan", "spear"),
        "14_federated_reality": ("dlf", "fedleak", "sme"),
        "16_compression": ("rog",),
        "17_secure_aggregation": ("fishing", "loki"),
        "19_records_that_are_not_images": ("april", "tableak"),
        "21_a_sentence_in_192_numbers": ("dager", "lamp", "tag", "zerogla_text"),
        "23_what_stops_the_decoder": ("zerogla_label_word",),
    }.items()
    for name in names
}
"""Attack to the file of the chapter that explains it."""
NO_MESSAGE = "no message"
"""What stands in the place of payload kinds for an adversary that takes part instead of reading."""
FAMILIES = {
    "closed_form": (
        "Solve the message alone",
        "The client is not simulated: a division, equations, or a matrix that unmixes take the message apart.",
    ),
    "matching": (
        "Search the pixels",
        "The attacker guesses an image, computes what it would have sent, and changes the pixels until both agree.",
    ),
    "generative": (
        "Search what a generator can make",
        "As before, but the guess is what a generator makes of a few numbers, or of its weights.",
    ),
    "zerogla": (
        "Solve for images from scalars",
        "Every scalar is an equation for the pixels, along a direction that the attacker knows: solve them together.",
    ),
    "text": (
        "Decode texts",
        "What each token adds to a scalar is known: search the sum from left to right. In a gradient, search vectors "
        "for the tokens.",
    ),
    "malicious": (
        "Break the protocol",
        "A server that sends a model of its own making, or a client that plays against the others.",
    ),
}
"""Folder of :mod:`glutils.attacks` to the family's title and what its attacks have in common."""


def fill(folder: Path, rows: list[dict]) -> None:
    """Put the text from the code into every page below ``folder``.

    Args:
        folder: holds the copied pages and assets; its pages are rewritten, the originals are not touched.
        rows: one mapping for each executed notebook: ``notebook``, ``seconds``, ``device``, ``commit``, ``versions``.

    Raises:
        ValueError: a page asks for a text that has no maker.
    """
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    for name, drawn in (("map_of_attacks", picture()), ("map_of_attacks_dark", darkened(picture()))):
        (folder / "assets" / f"{name}.svg").write_text(drawn, encoding="utf-8")
    makers = MAKERS | {"status": lambda: status(rows)}

    def made(found: re.Match) -> str:
        if found[1] not in makers:
            raise ValueError(f"{page.name} asks for {found[1]!r}; there is {', '.join(makers)}")
        return makers[found[1]]()

    for page in sorted(folder.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = CLASS.sub(lambda found: f".. autoclass:: {spelled(found[1])}", MARK.sub(made, text))
        if new != text:
            page.write_text(new, encoding="utf-8")


def spelled(target: str) -> str:
    """A class as autodoc is asked for it: with its arguments where Sphinx cannot read a default that is made afresh."""
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not dataclasses.is_dataclass(found) or "<factory>" not in str(inspect.signature(found)):
        return target
    words = []
    for argument in inspect.signature(found).parameters.values():
        plain = DEFAULTS.get(repr(argument.default), "...")
        words.append(argument.name + ("" if argument.default is argument.empty else f"={plain}"))
    return f"{target}({', '.join(words)})"


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    header = list(header)
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |" for row in rows)


def status(rows: list[dict]) -> str:
    """What was executed, how long it took, on what, with which software, from which state of the code."""
    sets = list(dict.fromkeys(tuple(row["versions"].items()) for row in rows))
    letters = {versions: chr(ord("A") + n) for n, versions in enumerate(sets)}
    lines = [
        (f"[{row['notebook']}](../notebooks/{row['notebook']}.ipynb)", row["seconds"], row["device"],
         letters[tuple(row["versions"].items())], f"`{row['commit']}`" if row["commit"] else "not known")
        for row in rows
    ]  # fmt: skip
    names = list(dict.fromkeys(name for versions in sets for name, _ in versions))
    software = [(name, *(dict(versions).get(name, "") for versions in sets)) for name in names]
    made = table(["Notebook", "Seconds", "Device", "Software", "Commit"], lines)
    return made + "\n\n" + table(["Software", *letters.values()], software)


def records_table() -> str:
    """What made each published record, and what reads it."""
    made = record_index.lines()
    return f":::{{div}} wide\n{table(made[0], (line.values() for line in made))}\n:::"


def cards() -> dict[str, object]:
    """Every attack's card by its name."""
    from glutils.attacks.base import ATTACKS

    return {name: ATTACKS.get(name) for name in ATTACKS.names()}


def family(card) -> str:
    """Which of :data:`FAMILIES` an attack belongs to: the folder of :mod:`glutils.attacks` that its code is in.

    Raises:
        ValueError: the code is in none of these folders.
    """
    folder = card.run.__module__.removeprefix("glutils.attacks.").split(".")[0]
    if folder not in FAMILIES:
        raise ValueError(f"{card.title} must lie in a folder of {', '.join(FAMILIES)}, got {card.run.__module__}")
    return folder


def grouped() -> dict[str, list[str]]:
    """Names of attacks by family, in the order of their chapters."""
    order = sorted(cards(), key=lambda name: (contents.numbers().get(CHAPTERS.get(name, ""), 99), name))
    return {folder: [name for name in order if family(cards()[name]) == folder] for folder in FAMILIES}


def chapter(name: str, words: str = "", up: str = "..") -> str:
    """A link to the chapter that explains an attack; the bare words where there is none."""
    stem = CHAPTERS.get(name)
    words = words or (f"chapter {contents.numbers()[stem]}" if stem else "no chapter")
    return f"[{words}]({up}/notebooks/{stem}.ipynb)" if stem else words


def facts(name: str) -> dict[str, bool]:
    """The columns of the picture: what an attack reads, what else it needs, and what it can do."""
    from glutils.experiments.conditions import CONDITIONS, of

    card = cards()[name]
    ours = of(name) if name in CONDITIONS else None
    return {
        "gradient": "gradient" in card.kinds,
        "model update": "delta" in card.kinds,
        "scalars": "scalars" in card.kinds,
        "batch statistics": "BN" in card.prior and "optional" not in card.prior,
        "public images": ours is not None and "public" in ours.knows,
        "breaks the protocol": "malicious" in card.adversary,
        "several images": ours is not None and ours.largest is None,
        "no search": card.solver.startswith("closed form"),
    }


COURSE = ("Chapter", "Minutes", "Its sections, with their minutes", "Exercises", "Points")
DEFAULTS = {repr(value): repr(value) for value in (None, True, False, 0, 0.0, 1, "", ())}
"""Defaults that are shown as they are; others, such as an empty dictionary made for each object, as an ellipsis."""
MARKS = ("reads", "needs", "can do")
COLUMNS = {"reads": 3, "needs": 3, "can do": 2}
COLOURS = {"reads": "#0072B2", "needs": "#B84A00", "can do": "#00775A"}


def picture() -> str:
    """The map of attacks as SVG: a row for each attack, a mark for each fact; made to be read on a phone."""
    left, top, step, high = 118, 126, 29, 19
    kinds = [kind for kind, count in COLUMNS.items() for _ in range(count)]
    titles = list(facts("dlg"))
    body, y = [], top
    for n, (title, kind) in enumerate(zip(titles, kinds, strict=True)):
        x = left + step * n + step / 2
        body.append(f'<text transform="translate({x + 3} {top - 8}) rotate(-60)" fill="{COLOURS[kind]}">{title}</text>')
    for folder, names in grouped().items():
        if not names:
            continue
        y += 8
        body.append(f'<text x="4" y="{y + 12}" font-weight="bold">{FAMILIES[folder][0]}</text>')
        y += high
        for name in names:
            body.append(f'<line x1="4" x2="{left + 8 * step}" y1="{y + 17}" y2="{y + 17}" stroke="#ddd"/>')
            body.append(f'<text x="10" y="{y + 13}">{short(cards()[name].title)}</text>')
            for n, (here, kind) in enumerate(zip(facts(name).values(), kinds, strict=True)):
                body += [mark(kind, left + step * n + step / 2, y + 9)] if here else []
            y += high
    key = "".join(
        f'{mark(kind, 16 + 90 * n, y + 20)}<text x="{28 + 90 * n}" y="{y + 24}">{kind}</text>'
        for n, kind in enumerate(MARKS)
    )
    width, height = left + 8 * step + 42, y + 34
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(body) + f"\n{key}\n</svg>\n"
    )


DARK = {
    "#0072B2": "#6CB8F0", "#B84A00": "#FFA366", "#00775A": "#4CCBA0", 'fill="#222"': 'fill="#ddd"',
    'stroke="#ddd"': 'stroke="#555"', 'fill="white"': 'fill="#121212"',
}  # fmt: skip
"""Colours of the picture to those on a dark page."""


def darkened(svg: str) -> str:
    """The picture for the dark theme: a file cannot ask for the page's theme, so the page shows one or the other."""
    for light, dark in DARK.items():
        svg = svg.replace(light, dark)
    return svg


def short(title: str) -> str:
    """A title that fits the picture's first column."""
    return {"Fully connected inversion": "Fully connected", "STG (GradInversion)": "STG"}.get(title, title)


def mark(kind: str, x: float, y: float) -> str:
    """A mark whose shape and colour both say what kind of fact it is."""
    paint = f'fill="{COLOURS[kind]}"'
    if kind == "reads":
        return f'<circle cx="{x}" cy="{y}" r="5.5" {paint}/>'
    turn = f' transform="rotate(45 {x} {y})"' if kind == "can do" else ""
    return f'<rect x="{x - 4.7}" y="{y - 4.7}" width="9.4" height="9.4" {paint}{turn}/>'


def map_tables() -> str:
    """The table of attacks, family by family."""
    header = ["Attack", "Simulates", "Variable", "Distance", "Prior", "Solver", "Labels"]
    parts = []
    for folder, names in grouped().items():
        title, common = FAMILIES[folder]
        rows = [
            (f"{chapter(name, card.title)} {{cite}}`{card.source}`", card.simulates, card.variable, card.distance,
             card.prior, card.solver, card.labels)
            for name in names for card in [cards()[name]]
        ]  # fmt: skip
        parts.append(f"### {title}\n\n{common}\n\n:::{{div}} wide\n{table(header, rows)}\n:::")
    return "\n\n".join(parts)


def threat_table() -> str:
    """Who attacks, what it reads, and what the laboratory tells it."""
    from glutils.experiments.conditions import CONDITIONS, of

    rows = []
    for names in grouped().values():
        for name in names:
            card, ours = cards()[name], of(name) if name in CONDITIONS else None
            told = "sees every global model" if ours is None else ", ".join(ours.knows).replace("_", " ") or "nothing"
            most = "" if ours is None else ours.largest or "any"
            reads = ", ".join(card.kinds) or NO_MESSAGE
            count = "any" if card.kinds and card.several == card.kinds else "1"
            if card.several and count == "1":
                count = ", ".join(f"{kind}: {'any' if kind in card.several else 1}" for kind in card.kinds)
            rows.append((chapter(name, card.title), card.adversary, reads, count if card.kinds else "", told, most))
    header = ["Attack", "Adversary", "Reads", "Messages at most", "Is told, in the laboratory", "Images at most"]
    return f":::{{div}} wide\n{table(header, rows)}\n:::"


def reference_table(what: str) -> str:
    """What can be asked for by name, as a table."""
    return f":::{{div}} wide\n{table(reference.HEADERS[what], reference.ROWS[what]())}\n:::"


def entry(target: str, directive: str = "function", options: str = "") -> str:
    """The reference of one object."""
    return f"```{{eval-rst}}\n.. auto{directive}:: {target}\n{options}```"


def path(thing) -> str:
    """Where an object is defined."""
    return f"{thing.__module__}.{thing.__qualname__}"


def attacks_reference(folder: str) -> str:
    """Each attack of a family: how to call it, its paper, its chapter, and what its docstring says."""
    from glutils.attacks.base import OBSERVATION

    parts = [FAMILIES[folder][1], ""]
    for name in grouped()[folder]:
        card = cards()[name]
        if card.takes != OBSERVATION:
            call = f"`gl.attacks.{name}({card.takes}, ...)`, which takes part in the rounds"
        else:
            call = f'`gl.attack("{name}", seen, ...)`'
        where = chapter(name, up="../..")
        parts.append(f"## {card.title}\n\n{call}. Source: {{cite}}`{card.source}`. Explained in {where}.\n")
        parts.append(entry(path(card.run)))
    return "\n".join(parts)


def families_table() -> str:
    """A row for each family: the page of its attacks, what they have in common, and their names."""
    rows = [
        (f"[{title}](attacks_{folder}.md)", common, ", ".join(f"`{name}`" for name in grouped()[folder]))
        for folder, (title, common) in FAMILIES.items()
    ]
    return table(["Family", "What its attacks have in common", "Attacks"], rows)


def labels_reference() -> str:
    """Each label rule, as its card and its docstring tell it."""
    from glutils.labels import base

    parts = []
    for name in base.names():
        card = base._RULES.get(name)
        parts.append(f'### {card.title}\n\n`gl.labels.infer("{name}", seen, ...)`. Source: {{cite}}`{card.source}`.')
        parts.append(f"\nReads: {', '.join(card.kinds)}. Needs: {card.needs}. Assumes: {card.assumes}.\n")
        parts.append(entry(path(card.run)))
    return "\n".join(parts)


def defenses_reference() -> str:
    """Each defence, by name."""
    import glutils as gl
    from glutils.defenses.base import DEFENSES

    parts = []
    for name in DEFENSES.names():
        found = DEFENSES.get(name)
        public = getattr(gl.defenses, found.__name__, None) is found
        parts.append(f'### {found.__name__}\n\n`gl.defenses.get("{name}", ...)`\n')
        parts.append(entry(f"glutils.defenses.{found.__name__}" if public else path(found), "class"))
    return "\n".join(parts)


def laws_table() -> str:
    """Each law of directions: what direction i of a step with seed s is, and where that comes from."""
    from glutils.zo.laws import KNOWN

    rows = []
    for law in KNOWN.values():
        source = f"{{cite}}`{law.source}`, {law.program}" if law.source else "this book"
        rows.append((f"`{law.name}`", law.meaning, "d" if law.factor(2) == 2 else "1", source))
    return table(["Law", "Direction i of a step with seed s", "Factor of the estimate", "Source"], rows)


MAKERS: dict[str, Callable[[], str]] = {
    "direction laws": laws_table,
    "map of attacks": map_tables,
    "threat models": threat_table,
    **{f"attacks of {folder}": partial(attacks_reference, folder) for folder in FAMILIES},
    "families of attacks": families_table,
    "label rules": labels_reference,
    "defences": defenses_reference,
    "records": records_table,
    "contents": contents.table,
    **{f"table of {what}": partial(reference_table, what) for what in reference.ROWS},
    "course": lambda: table(COURSE, course.lines()),
}
