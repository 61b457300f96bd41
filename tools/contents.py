"""The table of contents on the welcome page, from ``_toc.yml`` and from what each chapter claims in its second line."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def chapters(toc: dict | None = None) -> list[tuple[str, int, str]]:
    """Part, number in the book and file of every numbered chapter, in order.

    A quiz cuts a part in two, since what stands among numbered chapters would be numbered, too. What follows the quiz
    has no caption then, and belongs to the part before.
    """
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")) if toc is None else toc
    found, caption = [], ""
    for part in toc["parts"]:
        caption = part.get("caption", caption)
        if part.get("numbered"):
            found += [(caption, len(found) + n, one["file"]) for n, one in enumerate(part["chapters"], 1)]
    return found


@functools.cache
def numbers() -> dict[str, int]:
    """Each numbered chapter's number in the book, by its file's name; the number in that name may be another."""
    return {Path(file).name: number for _, number, file in chapters()}


def claim(path: Path) -> str:
    """The one sentence below a notebook's title."""
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]).strip()
    return " ".join(re.split(r"\n\s*\n", first)[1].split()).strip("*")


def table() -> str:
    """The contents as Markdown: each part with its chapters, and what each of them claims."""
    made, before = [], None
    for part, number, file in chapters():
        if part != before:
            made.append(f"### {part}\n")
        before = part
        made.append(f"Chapter {number}: {{doc}}`../{file}`\n: {claim(ROOT / f'{file}.ipynb')}\n")
    return "\n".join(made)
