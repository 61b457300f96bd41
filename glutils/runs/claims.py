"""What sources claim, beside what was measured: rows written by hand whose numbers and verdicts come from records.

One YAML file for each source, under ``book/claims``::

    source: What the document is.
    theirs: What its authors measured on.
    rows:
      - claim: What it says, in its words or nearly.
        measured: "IG on one image {one:.1f} dB, {gap:.1f} dB more than DLG"
        values:
          one: [leaderboard_content_cpu, {arena: ReLU network, attack: ig}, psnr, mean]
          gap: [leaderboard_content_cpu, {arena: ReLU network, attack: ig}, psnr, mean, {attack: dlg}]
        verdict: {holds: gap > 0, does not hold: gap < 0}
        reason: {undecided: "One sentence."}
        chapter: 8

A value is a record, the rows to take, the column (``controls.misled.psnr`` reaches into mappings), and how to sum up. A
fifth entry is subtracted, run by run: the same column of other rows, or another column of the same rows. ``mean`` and
``share`` have an interval, see :mod:`glutils.runs.intervals`; ``lowest``, ``highest``, ``count`` and ``sum`` are facts.

``verdict`` says what each verdict would rest on. The first that is true of all numbers in the intervals is the
verdict; where none is, it is "undecided". A score that does not certainly beat its blank card is never the larger of
two. ``reason`` is a sentence for the verdict that comes out; when a record changes so that another does, that is an
error, not a page that is silently wrong. ``about`` names attacks on whose own runs the verdict has to rest. A row with
``by: reading`` judges the text itself, or follows by arithmetic, and names its verdict; so does one that was not
measured.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _validate
from . import intervals, notebook, records
from .intervals import Interval

VERDICTS = ("holds", "holds partly", "does not hold", "undecided", "not measured")
FIELDS = {
    "claim", "name", "about", "theirs", "measured", "values", "by", "verdict", "reason", "chapter"
}  # fmt: skip
FACTS = {"lowest": min, "highest": max, "count": len, "sum": sum}
TAKE = ("mean", "share", *FACTS)
CARDS = ("mean colour", "controls.mean_colour.psnr")
"""Columns with the score of a blank card."""
SETTINGS = "settings.yml"
"""Beside the claims: record, or record/measure, to the setting and the budget it was made with."""


@dataclass(frozen=True)
class Claim:
    """One row of the page.

    Attributes:
        source: the document. claim: what it says. theirs: what its authors measured on.
        verdict: one of :data:`VERDICTS`. rests_on: the condition that was true, the conditions if none was.
        reason: one sentence.
        measured: what we measured, in words with numbers from records; or why nothing was.
        runs: how many runs (seeds) the numbers are from, fewest to most; 0 for none.
        card: PSNR (dB) of the blank card beside the scores, lowest and highest of their means; ``None`` without scores.
        setting: what we measured on, and with what budget.
        chapter: where the book deals with it, or will; ``None`` for none.
        records: names of the records behind the numbers.
        name: what chapters call it, see :func:`named`.
    """

    source: str
    claim: str
    theirs: str
    measured: str
    verdict: str
    rests_on: str
    reason: str
    runs: tuple[int, int]
    card: tuple[float, float] | None
    setting: str
    chapter: int | None
    records: tuple[str, ...]
    name: str | None = None

    @property
    def beside(self) -> str:
        """What stands beside the numbers on the page: runs, blank card, setting, budget."""
        if not self.runs[1]:
            return ""
        low, high = self.runs
        parts = [f"{low if low == high else f'{low} to {high}'} run{'s' * (high != 1)}"]
        if self.card is not None:
            ends = [f"{end:.1f}" for end in self.card]
            parts.append(f"blank card {' to '.join(dict.fromkeys(ends))} dB")
        return "; ".join([*parts, self.setting])


def load(path: str | Path, folder: str | Path) -> list[Claim]:
    """The claims of one file, with numbers and verdicts from the records in ``folder``.

    Raises:
        ValueError: a row with unknown fields or verdict, a record or rows that are not there, a verdict without its
            reason. The message names file and claim.
    """
    text, settings = notebook.load(path), _settings(Path(path).parent)
    found, books = [], {}
    for row in text["rows"]:
        where = f"{Path(path).name}, {row.get('claim', '?')!r:.70}"
        if strangers := set(row) - FIELDS:
            raise ValueError(f"{where}: fields must be among {', '.join(sorted(FIELDS))}, got {sorted(strangers)}")
        try:
            found.append(_claim(text, row, books, Path(folder), settings))
        except (ValueError, KeyError, NameError) as error:
            raise ValueError(f"{where}: {error}") from error
    return found


def named(name: str, *, folder: str | Path | None = None) -> Claim:
    """The claim that chapters call so, so that a chapter and the page have one verdict from one record.

    Raises:
        ValueError: there is no claim of that name.

    Example:
        >>> from glutils.runs import claims
        >>> claims.named("order of one image").verdict in claims.VERDICTS
        True
    """
    here = records.SOURCE
    for path in sorted((here / "book" / "claims").glob("*.yaml")):
        if any(row.get("name") == name for row in notebook.load(path)["rows"]):
            found = load(path, here / "benchmarks" / "results" if folder is None else folder)
            return next(claim for claim in found if claim.name == name)
    raise ValueError(f"name must be that of a claim in book/claims, got {name!r}")


def _settings(folder: Path) -> dict[str, str]:
    path = folder / SETTINGS
    return notebook.load(path) if path.is_file() else {}


def _claim(text: Mapping[str, Any], row: Mapping[str, Any], books: dict, folder: Path, settings: dict) -> Claim:
    """One row, judged."""
    values, cards, places = {}, [], {}
    for name, entry in row.get("values", {}).items():
        if entry[0] not in books:
            books[entry[0]] = records.load(folder / f"{entry[0]}.json")
        share = re.search(rf"\{{{name}:[^}}]*%\}}", row["measured"]) is not None
        values[name], card = _value(books[entry[0]], *entry[1:], share=share)
        cards += [] if card is None else [card]
        places[_place(entry, settings)] = None
    verdict, rests_on = _judge(row, values)
    reasons = row["reason"] if isinstance(row["reason"], Mapping) else {verdict: row["reason"]}
    if verdict not in reasons:
        shown = ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
        raise ValueError(f"the verdict is {verdict!r}, for which there is no reason: {rests_on!r} with {shown}")
    return Claim(
        source=text["source"],
        claim=row["claim"],
        theirs=row.get("theirs", text.get("theirs", "not told")),
        measured=row["measured"].format(**values),
        verdict=verdict,
        rests_on=rests_on,
        reason=reasons[verdict],
        runs=_runs(values),
        card=(min(cards), max(cards)) if cards else None,
        setting="; ".join(places),
        chapter=row.get("chapter"),
        records=tuple(dict.fromkeys(entry[0] for entry in row.get("values", {}).values())),
        name=row.get("name"),
    )


def _runs(values: Mapping[str, Interval]) -> tuple[int, int]:
    counts = [value.runs for value in values.values()] or [0]
    return min(counts), max(counts)


def _judge(row: Mapping[str, Any], values: Mapping[str, Interval]) -> tuple[str, str]:
    """The verdict, and what it rests on."""
    verdict = row["verdict"]
    if isinstance(verdict, str):
        _validate.choice("verdict", verdict, VERDICTS)
        if (verdict not in ("not measured", "undecided")) != (row.get("by") == "reading"):
            raise ValueError("a verdict must say what it rests on, or be by reading")
        return verdict, "reading" if "by" in row else ""
    for name, condition in verdict.items():
        _validate.choice("verdict", name, VERDICTS[:3])
        used = intervals.names(condition)
        for value in used & row["values"].keys():
            if row["values"][value][2] == "refusals":
                raise ValueError(f"{value!r} counts refusals: they are ours, and no evidence")
        about = {about} if isinstance(about := row.get("about", ()), str) else set(about)
        read = {attack for value in used & row["values"].keys() for attack in _attacks(row["values"][value])}
        if about and not about & read:
            raise ValueError(f"a verdict about {sorted(about)} must rest on its runs, got those of {sorted(read)}")
        if intervals.holds(condition, values):
            return name, condition
    return "undecided", "; ".join(f"{name}: {condition}" for name, condition in verdict.items())


def _attacks(entry: list) -> set[str]:
    """The attacks (or variants, or cases) whose rows a value is made of."""
    less = entry[4] if len(entry) > 4 and isinstance(entry[4], Mapping) else {}
    parts = [where[key] for where in (entry[1], less) for key in ("attack", "variant", "case") if key in where]
    return {str(one) for part in parts for one in (part if isinstance(part, list) else [part])}


def _place(entry: list, settings: Mapping[str, str]) -> str:
    """The setting and budget of a value's record, or of the part of it that it is from."""
    book, where = entry[0], entry[1]
    for part in (where.get("measure"), where.get("arena")):
        if isinstance(part, str) and f"{book}/{part}" in settings:
            return settings[f"{book}/{part}"]
    return settings.get(book, book)


def _value(
    book: records.Record, where: Mapping, column: str, how: str, less: Any = None, *, share: bool = False
) -> tuple[Interval, Any]:
    """One number from the rows of a record that agree with ``where``, run by run, and the blank card beside it.

    ``share``: it is told in per cent, so if it is one of shares, no end of its interval is beyond what a share can be.
    """
    _validate.choice("how a value is summed up", how, TAKE)
    runs = _column(book, where, column)
    rest: dict[Any, list[float]] = {}
    if less is not None:
        rest = _column(book, {**where, **less}, column) if isinstance(less, Mapping) else _column(book, where, less)
    margins, card = _margins(book, where, column, runs) if "psnr" in column.lower() else ([], None)
    shown = not margins or how in ("count", "sum") or intervals.mean(margins).low > 0
    share = share and all(0 <= one <= 1 for run in (*runs.values(), *rest.values()) for one in run)
    if less is not None:
        both = [key for key in runs if key in rest]
        if not both:
            raise ValueError(f"record {book.name!r} has no runs with both {dict(where)} and {less}")
        numbers = [statistics.fmean(runs[key]) - statistics.fmean(rest[key]) for key in both]
        gap = intervals.mean(numbers) if how == "mean" else intervals.fact(FACTS[how](numbers), len(both))
        gap = intervals.within(gap, -1, 1) if share else gap
        known = less in CARDS or shown or _margins_shown(book, where, less, column, rest)
        return dataclasses.replace(gap, shown=known, difference=True), card
    if how in FACTS:
        return _shown(intervals.fact(FACTS[how]([one for run in runs.values() for one in run]), len(runs)), shown), card
    take = intervals.share if how == "share" else intervals.mean
    found = take([statistics.fmean(run) for run in runs.values()])
    return _shown(intervals.within(found, 0, 1) if share else found, shown), card


def _shown(value: Interval, shown: bool) -> Interval:
    return dataclasses.replace(value, shown=shown)


def _margins_shown(book: records.Record, where: Mapping, less: Any, column: str, rest: dict) -> bool:
    """Whether the rows that are subtracted certainly beat their blank card."""
    if not isinstance(less, Mapping) or "psnr" not in column.lower():
        return True
    margins, _ = _margins(book, {**where, **less}, column, rest)
    return not margins or intervals.mean(margins).low > 0


def _margins(book: records.Record, where: Mapping, column: str, runs: dict) -> tuple[list[float], float | None]:
    """How far each run is above its blank card, and the card's mean; nothing where the rows have none."""
    for name in CARDS:
        cards = _column(book, where, name, needed=False)
        if cards and column != name:
            both = {key: statistics.fmean(cards[key]) for key in runs if key in cards}
            return [statistics.fmean(runs[key]) - both[key] for key in both], statistics.fmean(both.values())
    return [], None


def _column(book: records.Record, where: Mapping, column: str, needed: bool = True) -> dict[Any, list[float]]:
    """Run to its numbers: rows of one seed are one run; a list in ``where`` means any of its entries."""
    found: dict[Any, list[float]] = {}
    for place, row in enumerate(book.rows):
        if all(row.get(key) in (want if isinstance(want, list) else [want]) for key, want in where.items()):
            value: Any = row | ({"refusals": 1.0} if "refused" in row else {})
            for part in column.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            many = value if isinstance(value, list) else [value]
            numbers = [float(one) for one in many if one is not None and not math.isnan(one)]
            if numbers:
                found.setdefault(row.get("seed", f"row {place}"), []).extend(numbers)
    if needed and not found:
        raise ValueError(f"record {book.name!r} has no rows with {dict(where)} and a {column!r}")
    return found
