"""What sources claim, beside what was measured: rows written by hand whose numbers are read from records.

One YAML file for each source, under ``book/claims``::

    source: What the document is.
    rows:
      - claim: What it says, in its words or nearly.
        measured: "one image {one:.1f} dB, four {four:.1f} dB"
        values:
          one: [leaderboard_cpu, {arena: ReLU network, attack: ig}, psnr, median]
          four: [leaderboard_cpu, {arena: "ReLU network, 4 images", attack: ig}, psnr, median]
        rests on: one > four
        verdict: holds
        reason: One sentence.
        chapter: 8

Values are named; each is a record, the rows to take, the column (``controls.misled.psnr`` reaches into mappings,
``refusals`` counts rows in which an attack declined), and how to sum up. ``rests on`` is what has to be true of them
for the verdict to stand: when a record changes, a verdict that no longer follows from it is an error, not a page that
is silently wrong. A row with ``by: reading`` judges the text itself, or follows by arithmetic, and rests on no record.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _validate
from . import notebook, records

VERDICTS = ("holds", "holds partly", "does not hold", "not measured")
FIELDS = {"claim", "measured", "values", "rests on", "by", "verdict", "reason", "chapter"}
TAKE = {
    "median": statistics.median, "mean": statistics.mean, "lowest": min, "highest": max, "count": len, "sum": sum,
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One row of the page.

    Attributes:
        source: the document. claim: what it says. verdict: one of :data:`VERDICTS`. reason: one sentence.
        measured: what we measured, in words with numbers from records; or why nothing was.
        chapter: where the book deals with it, or will; ``None`` for none.
        records: names of the records behind the numbers.
    """

    source: str
    claim: str
    measured: str
    verdict: str
    reason: str
    chapter: int | None
    records: tuple[str, ...]


def load(path: str | Path, folder: str | Path) -> list[Claim]:
    """The claims of one file, with numbers from the records in ``folder``.

    Raises:
        ValueError: a row with unknown fields or verdict, a record or rows that are not there, a verdict that what it
            rests on does not support. The message names file and claim.
    """
    text = notebook.load(path)
    found, books = [], {}
    for row in text["rows"]:
        where = f"{Path(path).name}, {row.get('claim', '?')!r:.70}"
        if strangers := set(row) - FIELDS:
            raise ValueError(f"{where}: fields must be among {', '.join(sorted(FIELDS))}, got {sorted(strangers)}")
        _validate.choice(f"{where}: verdict", row["verdict"], VERDICTS)
        try:
            found.append(_claim(text["source"], row, books, Path(folder)))
        except (ValueError, KeyError, NameError) as error:
            raise ValueError(f"{where}: {error}") from error
    return found


def _claim(source: str, row: Mapping[str, Any], books: dict[str, records.Record], folder: Path) -> Claim:
    values = {}
    for name, (book, where, column, how) in row.get("values", {}).items():
        if book not in books:
            books[book] = records.load(folder / f"{book}.json")
        values[name] = _value(books[book], where, column, how)
    if row["verdict"] != "not measured" and ("rests on" in row) == (row.get("by") == "reading"):
        raise ValueError("a verdict must say what it rests on, or be by reading")
    if "rests on" in row and not eval(row["rests on"], {"__builtins__": {"min": min, "max": max, "abs": abs}}, values):
        shown = ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
        raise ValueError(f"the verdict {row['verdict']!r} rests on {row['rests on']!r}, which is not so: {shown}")
    return Claim(
        source=source,
        claim=row["claim"],
        measured=row["measured"].format(**values),
        verdict=row["verdict"],
        reason=row["reason"],
        chapter=row.get("chapter"),
        records=tuple(dict.fromkeys(entry[0] for entry in row.get("values", {}).values())),
    )


def _value(book: records.Record, where: Mapping[str, Any], column: str, how: str) -> float:
    """One number from the rows of a record that agree with ``where``; a list there means any of its entries."""
    take = TAKE[_validate.choice("how a value is summed up", how, TAKE)]
    values = []
    for row in book.rows:
        if all(row.get(key) in (want if isinstance(want, list) else [want]) for key, want in where.items()):
            value: Any = row | ({"refusals": 1.0} if "refused" in row else {})
            for part in column.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is not None and not math.isnan(value):
                values.append(float(value))
    if not values:
        raise ValueError(f"record {book.name!r} has no rows with {dict(where)} and a {column!r}")
    return float(take(values))
