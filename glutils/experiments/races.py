"""Which rows of the leaderboard's records may stand in one table: the same images for every attack that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..runs import Record, intervals
from . import leaderboard

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Race:
    """One arena's rows, cut to the images that all attacks in it met.

    Attributes:
        title: of the arena.
        record: name of the record that the rows are from.
        rows: one for each image and attack, or refusal.
        seeds: of the images, the same for every attack in ``rows``.
        short: attack to the number of seeds that it has, where these are too few to stand beside the others.
        content: dB below which a blank card of every image lies; None if images were not asked for content.
    """

    title: str
    record: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    short: Mapping[str, int] = field(default_factory=dict)
    content: float | None = None

    @property
    def standings(self) -> list[dict[str, Any]]:
        """See :func:`glutils.experiments.leaderboard.standings`."""
        return leaderboard.standings(self.rows)


def race(title: str, rows: Iterable[Row], *, record: str = "", content: float | None = None) -> Race:
    """The largest table without holes: as many seeds times attacks as there are, every attack with every seed.

    A record is made seed by seed, so that its last seed may have met some attacks only; and an attack that joined late
    may lack seeds that the others have. Neither may stand beside means over other images. Seeds are added in the order
    of how many attacks they met, as long as the table grows.

    Example:
        >>> from glutils.experiments import races
        >>> rows = [{"attack": a, "seed": s, "refused": "no"} for a in ("a", "b", "c") for s in (0, 1)]
        >>> found = races.race("arena", [*rows, {"attack": "a", "seed": 2, "refused": "no"}])
        >>> found.seeds, found.short
        ((0, 1), {})
    """
    rows = list(rows)
    met: dict[str, set[int]] = {}
    for row in rows:
        met.setdefault(row["attack"], set()).add(row["seed"])
    often = sorted({row["seed"] for row in rows}, key=lambda s: (-sum(s in seen for seen in met.values()), s))
    sets = [set(often[: i + 1]) for i in range(len(often))]
    whole = {i: [name for name, seen in met.items() if seeds <= seen] for i, seeds in enumerate(sets)}
    if not whole:
        return Race(title, record, (), (), {}, content)
    best = max(whole, key=lambda i: (len(sets[i]) * len(whole[i]), len(whole[i])))
    kept = tuple(row for row in rows if row["attack"] in whole[best] and row["seed"] in sets[best])
    short = {name: len(seen) for name, seen in met.items() if name not in whole[best]}
    return Race(title, record, kept, tuple(sorted(sets[best])), short, content)


def choose(books: Sequence[Record], *, least: int = 3) -> dict[str, Race]:
    """Arena to its race, from the first of the records that has enough of it; arenas in the order of the last record.

    Args:
        books: records of ``benchmarks/leaderboard.py``, the preferred one first.
        least: seeds, of every attack, from which a record is preferred to later ones that have more. A record with
            fewer is taken where the later ones have fewer still.

    Raises:
        ValueError: no record.
    """
    if not books:
        raise ValueError("books must hold at least one record, got none")
    found: dict[str, list[Race]] = {}
    for book in reversed(books):
        arenas: dict[str, list[Row]] = {}
        for row in book.rows:
            arenas.setdefault(row["arena"], []).append(row)
        for title, rows in arenas.items():
            one = race(title, rows, record=book.name, content=book.parameters.get("content"))
            found.setdefault(title, []).insert(0, one)
    return {title: max(races, key=lambda one: min(len(one.seeds), least)) for title, races in found.items()}


def apart(rows: Iterable[Row], one: str, other: str, key: str = "psnr") -> intervals.Interval:
    """By how much attack ``one`` is above ``other``: mean over the seeds that both met, with its 95 % interval.

    Differences are taken within a seed, batch by batch (PSNR capped at 100 dB), since images differ more than attacks.

    Raises:
        ValueError: no seed that both have a score of.
    """
    rows = list(rows)
    scores = {name: _by_seed(rows, name, key) for name in (one, other)}
    if not scores[one].keys() & scores[other].keys():
        raise ValueError(f"rows must hold a seed with scores of both {one!r} and {other!r}, got none")
    return _paired(scores[one], scores[other])


def change(before: Race, after: Race, attack: str, key: str = "psnr") -> intervals.Interval:
    """By how much an attack is better in one arena than in another: mean over the seeds of both, with its interval.

    Seed by seed, as in :func:`apart`, and on the photographs that both arenas have: a larger batch begins with those of
    a smaller one.

    Raises:
        ValueError: no seed that the attack has a score of in both.
    """
    met = [
        {(row["seed"], row.get("image", 0)) for row in race.rows if row["attack"] == attack and "refused" not in row}
        for race in (before, after)
    ]
    both = met[0] & met[1]
    if not both:
        raise ValueError(f"attack must have a score of one seed in both races, got {attack!r}, which has none")
    shared = ([row for row in race.rows if (row["seed"], row.get("image", 0)) in both] for race in (after, before))
    return _paired(*(_by_seed(rows, attack, key) for rows in shared))


def _by_seed(rows: Iterable[Row], attack: str, key: str) -> dict[int, float]:
    """One attack's score for each seed that it was not refused on."""
    seeds: dict[int, list[Row]] = {}
    for row in rows:
        if row["attack"] == attack and "refused" not in row:
            seeds.setdefault(row["seed"], []).append(row)
    return {seed: leaderboard.by_attack(own, key)[attack][0] for seed, own in seeds.items()}


def _paired(one: Mapping[int, float], other: Mapping[int, float]) -> intervals.Interval:
    return intervals.mean([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def verdict(line: Row) -> str:
    """Whether an attack beats the best of its own controls: yes, no or undecided, by the interval of its margin."""
    return "yes" if line["from"] > 0 else "no" if line["to"] < 0 else "undecided"
