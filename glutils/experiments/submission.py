"""An attack that is submitted to the leaderboard as one file, and its rows beside those of the book's record."""

from __future__ import annotations

import hashlib
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..attacks.base import ATTACKS
from ..runs import Record
from . import conditions, races

SAME = ("size", "evaluations", "dataset", "content")
"""Parameters that two records of the leaderboard must share before their rows may stand in one table."""


@dataclass(frozen=True)
class Submission:
    """An attack from a file.

    Attributes:
        name: that it registered.
        code: SHA-256 of the file, 64 hexadecimal digits: what made a row of its record.
    """

    name: str
    code: str


def load(path: str | Path) -> Submission:
    """Run a file that registers one attack, and take it into the race.

    The file is a Python module with one function under ``glutils.attacks.base.register``, as the page *How to add
    an attack* describes. It may hold ``CONDITIONS``, a :class:`glutils.experiments.conditions.Conditions`, that says
    what the attack needs and how a budget of evaluations becomes its options; without it the attack runs with its own
    defaults, and its row says so by its count of evaluations. **The file is run**: read it first.

    Raises:
        ValueError: no such file; a file that registers no attack or several, or a name that is taken; ``CONDITIONS`` of
            another type. Nothing of such a file stays registered.

    Example:
        >>> from glutils.experiments import submission
        >>> try:
        ...     submission.load("nowhere.py")
        ... except ValueError as error:
        ...     print(error)
        path must be a Python file that exists, got 'nowhere.py'
    """
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"path must be a Python file that exists, got {str(path)!r}")
    before = dict(ATTACKS._entries)
    try:
        held = runpy.run_path(str(file))
        new = [name for name in ATTACKS.names() if name not in before]
        if len(new) != 1:
            raise ValueError(f"path must be a file that registers one attack, got {len(new)} of them: {', '.join(new)}")
        own = held.get("CONDITIONS")
        if own is not None and not isinstance(own, conditions.Conditions):
            raise ValueError(f"CONDITIONS in {file.name} must be a Conditions, got {type(own).__name__}")
    except BaseException:
        ATTACKS._entries.clear()
        ATTACKS._entries.update(before)
        raise
    if own is not None:
        conditions.CONDITIONS[new[0]] = own
    return Submission(new[0], hashlib.sha256(file.read_bytes()).hexdigest())


def beside(submitted: Record, book: Record) -> dict[str, list[dict[str, Any]]]:
    """Arena to standings of the submitted attack among those of the book's record, on the photographs that all met.

    Args:
        submitted: the record that ``benchmarks/leaderboard.py --submit`` wrote.
        book: the record to stand beside.

    Raises:
        ValueError: records of other photographs or another budget; a record without rows.
    """
    _check(submitted.parameters, book.parameters)
    if not submitted.rows:
        raise ValueError(f"submitted must hold rows, got none in {submitted.name!r}")
    name, found = submitted.rows[0]["attack"], {}
    for title in dict.fromkeys(row["arena"] for row in submitted.rows):
        own = [row for row in submitted.rows if row["arena"] == title]
        seeds = {row["seed"] for row in own}
        others = [row for row in book.rows if row["arena"] == title and row["attack"] != name and row["seed"] in seeds]
        found[title] = races.race(title, [*own, *others], record=submitted.name).standings
    return found


def _check(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Refuse records made under other conditions."""
    if differ := [key for key in SAME if one.get(key) != other.get(key)]:
        told = "; ".join(f"{key} {one.get(key)!r} and {other.get(key)!r}" for key in differ)
        raise ValueError(f"submitted must be raced under the conditions of the record, got {told}")
