"""What a lecturer counts: minutes of each section, exercises and points of each chapter, from the notebooks themselves.

A chapter says at its top how long it takes to read. That time is shared out over its sections by what there is to read:
words, lines of code that are not folded, and cells that show something, which count as much as fifty words.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import editions

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = {"five": 5, "ten": 10, "fifteen": 15, "twenty": 20, "twenty-five": 25}
A_LINE, A_FIGURE = 8, 50
"""Words that a line of visible code, and a cell that shows something, count as."""
TIME = re.compile(r"\*\*Time\.\*\* ([\w-]+) minutes to read")


@dataclass(frozen=True)
class Chapter:
    """A chapter's title, its minutes to read, those of each section by its heading, and its exercises' points."""

    stem: str
    title: str
    minutes: int
    sections: dict[str, int]
    points: tuple[int, ...]


def chapter(path: Path) -> Chapter:
    """What :class:`Chapter` holds, of one notebook.

    Raises:
        ValueError: the notebook does not say how long it takes to read.
    """
    found = list(editions.pieces(json.loads(path.read_text(encoding="utf-8"))["cells"], path.stem))
    whole = "\n".join(editions.source(piece) for piece in found if piece["cell_type"] == "markdown")
    told = TIME.search(whole)
    if told is None:
        raise ValueError(f"{path.stem} must say '**Time.** N minutes to read'")
    minutes = int(told[1]) if told[1].isdigit() else NUMBERS[told[1].lower()]
    weights: dict[str, float] = {}
    heading = ""
    for piece in found:
        text = editions.source(piece)
        if piece["cell_type"] == "markdown":
            if "marking" in editions.tags(piece):
                continue
            for part in re.split(r"^(?=## )", text, flags=re.M):
                if part.startswith("## "):
                    heading = part[3:].split("\n", 1)[0].strip()
                if heading and heading != "Exercises":
                    weights[heading] = weights.get(heading, 0) + len(part.split())
        elif heading and heading != "Exercises":
            shown = not {"hide-input", "remove-cell", "hide-cell"} & set(editions.tags(piece))
            figure = A_FIGURE if re.search(r"gl\.show\.|print\(", text) else 0
            weights[heading] = weights.get(heading, 0) + figure + (A_LINE * len(text.splitlines()) if shown else 0)
    title = re.search(r"^# (.+)$", whole, flags=re.M)
    return Chapter(
        path.stem, title[1] if title else path.stem, minutes, shared(minutes, weights), tuple(editions.points(found))
    )


def shared(minutes: int, weights: dict[str, float]) -> dict[str, int]:
    """Whole minutes that add up to ``minutes``: by weight, the largest remainders rounded up."""
    total = sum(weights.values())
    exact = {name: minutes * weight / total for name, weight in weights.items()}
    whole = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: whole[name] - exact[name])[: minutes - sum(whole.values())]:
        whole[name] += 1
    return whole


def chapters() -> list[Chapter]:
    """Every numbered chapter, in order."""
    paths = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    return [chapter(path) for path in paths if "## Exercises" in path.read_text(encoding="utf-8")]


def lines() -> list[tuple[str, ...]]:
    """A row for each chapter, and the sum: chapter, minutes to read, its sections with minutes, exercises, points."""
    made, found = [], chapters()
    for one in found:
        told = "; ".join(f"{heading} ({minutes})" for heading, minutes in one.sections.items() if minutes)
        made.append((
            f"[{one.title}](../notebooks/{one.stem}.ipynb)", str(one.minutes), told, str(len(one.points)),
            str(sum(one.points)),
        ))  # fmt: skip
    minutes, all_points = sum(one.minutes for one in found), [worth for one in found for worth in one.points]
    return [*made, ("**All**", str(minutes), "", str(len(all_points)), str(sum(all_points)))]
