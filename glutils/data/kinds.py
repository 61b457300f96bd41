"""The kinds of records that a client may hold, each declared once: how a stack of them looks, and what is allowed.

Whoever treats kinds differently asks these declarations: an attack where its search begins and whether there is a box,
a prior whether neighbours mean anything. A further kind is a further declaration here, a measure in
``glutils/metrics`` and a way to show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .. import _validate
from .columns import Columns
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Kind:
    """One kind of record.

    Attributes:
        name: in the plural, as a sentence needs it.
        axes: of a stack of records.
        centre: the value of an entry of which nothing is known; of a table whose columns are described, their
            description has a better one.
        spread: how far entries are from there, typically: where a search that knows nothing begins.
        bounds: least and greatest value of an entry, or None.
        neighbours: whether entries next to each other resemble each other, which is what total variation believes.
        check: refuses entries that a private record of this kind cannot have, and what is said about others.
        whole: whether entries are whole numbers, int64: names of things, between which there is nothing.
    """

    name: str
    axes: tuple[str, ...]
    centre: float
    spread: float
    bounds: tuple[float, float] | None
    neighbours: bool
    check: Callable[[Tensor, Columns | None, Vocabulary | None], None]
    whole: bool = False

    @property
    def shape(self) -> str:
        """The axes in print."""
        return f"({', '.join(self.axes)})"

    def box(self, asked: bool | None) -> bool:
        """Whether a search keeps entries within their bounds: as asked, by default where this kind has any.

        Raises:
            TypeError, ValueError: ``box`` that is no bool, or bounds asked of records that have none.
        """
        if asked is None:
            return self.bounds is not None
        if _validate.instance("box", asked, bool) and self.bounds is None:
            raise ValueError(f"box must be False or left alone for {self.name}, which have no bounds; got True")
        return asked

    def weight(self, name: str, asked: float | int | None, default: float) -> float:
        """The weight of a prior on neighbours: as asked, by default ``default``, and 0 where they mean nothing.

        Raises:
            TypeError, ValueError: naming the argument: no number of at least 0, or above 0 without neighbours.
        """
        if asked is None:
            return default if self.neighbours else 0.0
        value = _validate.number(name, asked, at_least=0)
        if value and not self.neighbours:
            raise ValueError(
                f"{name} must be 0 or left alone for {self.name}: total variation is about neighbouring pixels; "
                f"got {asked!r}"
            )
        return value


def of(name: str, records: Tensor) -> Kind:
    """The kind of a stack of records; ``ValueError`` naming the argument if there is none."""
    return of_shape(name, records.shape, whole=not records.is_floating_point())


def of_shape(name: str, shape: Sequence[int], *, whole: bool = False) -> Kind:
    """The kind whose stacks have so many axes, of real or of ``whole`` numbers; ``ValueError`` naming the argument if
    there is none."""
    for kind in KINDS.values():
        if len(shape) == len(kind.axes) and 0 not in shape and kind.whole == whole:
            return kind
    allowed = " or ".join(f"{kind.shape} of {kind.name}" for kind in KINDS.values())
    raise ValueError(f"{name} must have shape {allowed}, with no empty axis; got {tuple(shape)}")


def _pixels(images: Tensor, columns: Columns | None, vocabulary: Vocabulary | None) -> None:
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise ValueError(f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}")
    _foreign("images", columns=columns, vocabulary=vocabulary)


def _cells(records: Tensor, columns: Columns | None, vocabulary: Vocabulary | None) -> None:
    _foreign("tables", vocabulary=vocabulary)
    if columns is None:
        return
    if len(columns) != records.shape[1]:
        raise ValueError(f"columns must describe all {records.shape[1]} columns of the records, got {len(columns)}")
    for variable, place in columns.places():
        if variable.levels:
            entries = records[:, place]
            if bool(((entries != 0) & (entries != 1)).any()) or bool((entries.sum(1) != 1).any()):
                row = int(((entries != 0) & (entries != 1)).any(1).logical_or(entries.sum(1) != 1).nonzero()[0, 0])
                raise ValueError(
                    f"images must hold one 1 and else 0 in the columns of {variable.name!r}, "
                    f"got {entries[row].tolist()} in record {row}"
                )


def _pieces(tokens: Tensor, columns: Columns | None, vocabulary: Vocabulary | None) -> None:
    _foreign("tokens", columns=columns)
    if vocabulary is not None and int(tokens.max()) >= len(vocabulary):
        raise ValueError(f"images must hold numbers of the {len(vocabulary)} pieces, got {int(tokens.max())}")


def _foreign(kind: str, **described: object) -> None:
    """Refuse what describes records of another kind."""
    for name, value in described.items():
        if value is not None:
            owner = "tables" if name == "columns" else "tokens"
            raise ValueError(f"{name} must be None for {kind}: they belong to {owner}")


IMAGES = Kind("images", ("B", "C", "H", "W"), 0.5, 0.25, (0.0, 1.0), True, _pixels)
TABLES = Kind("tables", ("B", "columns"), 0.0, 1.0, None, False, _cells)
TOKENS = Kind("tokens", ("B", "L"), 0.0, 1.0, None, False, _pieces, whole=True)
KINDS = {kind.name: kind for kind in (IMAGES, TABLES, TOKENS)}
