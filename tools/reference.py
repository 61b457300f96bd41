"""Tables of the reference: what can be asked for by name, and what each name stands for, from the code."""

from __future__ import annotations

import dataclasses
import inspect
import re


def data_rows() -> list[tuple[str, ...]]:
    """Each data set: its name, what its records are, and what it needs."""
    import glutils as gl

    return [(f'`"{name}"`', *escaped(said).split(", ", 1)) for name, said in gl.data.names().items()]


def model_rows() -> list[tuple[str, ...]]:
    """Each network: its name, what it takes beside shape and classes, and what it is."""
    import glutils as gl

    rows = []
    for name in gl.models.names():
        made = getattr(gl.models, name, None)
        if made is None:
            from glutils.models import zoo

            made = getattr(zoo, name, None)
        options = list(inspect.signature(made).parameters)[2:] if made else []
        rows.append((f'`"{name}"`', ", ".join(f"`{one}`" for one in options) or "nothing", first_sentence(made)))
    return rows


def attack_rows() -> list[tuple[str, ...]]:
    """Each attack: its name, which messages it reads, who attacks, what it searches, and whose labels it uses."""
    from glutils.attacks.base import ATTACKS

    cards = {name: ATTACKS.get(name) for name in ATTACKS.names()}
    return [
        (f'`"{name}"`', card.title, ", ".join(card.kinds) or "takes part in the rounds", card.adversary, card.variable,
         card.labels)
        for name, card in cards.items()
    ]  # fmt: skip


def defense_rows() -> list[tuple[str, ...]]:
    """Each defence: its name, what it protects, its strength from weak to strong, and whether it has a budget."""
    from glutils.defenses.base import DEFENSES
    from glutils.experiments.strengths import STRENGTHS

    rows = []
    for name in DEFENSES.names():
        found, strength = DEFENSES.get(name), STRENGTHS.get(name)
        options = {field.name for field in dataclasses.fields(found)}
        ends = f"{strength.grid[0]:g} to {strength.grid[-1]:g}" if strength else ""
        told = f"`{strength.option}`, {ends}" if strength else "none, or not swept"
        budget = "yes" if {"clip", "sigma"} <= options else "no"
        rows.append((f'`"{name}"`', ", ".join(found.kinds), told, budget, first_sentence(found)))
    return rows


def label_rows() -> list[tuple[str, ...]]:
    """Each rule for labels: its name, what it reads, needs and assumes."""
    import glutils as gl

    return [(f'`"{row["name"]}"`', row["reads"], row["needs"], row["assumes"]) for row in gl.labels.table()]


HEADERS = {
    "data": ("Name", "Kind", "Needs"),
    "models": ("Name", "Options", "What it is"),
    "attacks": ("Name", "Title", "Reads", "Adversary", "Searches", "Labels"),
    "defences": ("Name", "Protects", "Strength, from weak to strong", "Budget", "What it does"),
    "label rules": ("Name", "Reads", "Needs", "Assumes"),
}
ROWS = {
    "data": data_rows, "models": model_rows, "attacks": attack_rows, "defences": defense_rows,
    "label rules": label_rows,
}  # fmt: skip


def first_sentence(thing: object) -> str:
    """The first sentence of a docstring, with Markdown's marks for code."""
    paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n", 1)[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z])", paragraph)[0].replace("``", "`")


def escaped(text: str) -> str:
    """Text whose ``<``, ``*`` and ``_`` Markdown leaves alone."""
    return re.sub(r"([<*_])", r"\\\1", text)
