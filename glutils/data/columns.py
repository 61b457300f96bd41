"""What is public about the columns of a table: names, units, levels, and the statistics that standardise them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .. import _validate


@dataclass(frozen=True)
class Variable:
    """One variable of a table: a numeric one is one column, a categorical one has a column for each of its levels.

    Attributes:
        name: in print.
        mean, deviation: of a numeric variable's public values, in its unit; a record holds (value - mean) / deviation.
        unit: in print; empty if there is none, or nobody knows it.
        levels: of a categorical variable, at least two; none for a numeric one.
        shares: of the levels among public records, adding up to 1.

    Raises:
        TypeError, ValueError: naming the attribute.
    """

    name: str
    mean: float = 0.0
    deviation: float = 1.0
    unit: str = ""
    levels: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _validate.number("mean", self.mean)
        _validate.number("deviation", self.deviation, above=0)
        if len(self.levels) == 1:
            raise ValueError(f"levels of {self.name!r} must be at least two, or none, got {self.levels!r}")
        if len(self.shares) != len(self.levels):
            raise ValueError(f"shares of {self.name!r} must be one for each of its {len(self.levels)} levels")
        if self.shares and (min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6):
            raise ValueError(f"shares of {self.name!r} must be at least 0 and add up to 1, got {self.shares}")

    def __len__(self) -> int:
        return len(self.levels) or 1


@dataclass(frozen=True)
class Columns:
    """The variables of a table, in the order of their columns.

    ``len()`` is the number of columns. Two tables have the same columns if these are equal.
    """

    variables: tuple[Variable, ...]

    def __post_init__(self) -> None:
        if not self.variables:
            raise ValueError("variables must hold at least one, got none")
        for variable in self.variables:
            _validate.instance("variables", variable, Variable)

    @classmethod
    def plain(cls, count: int) -> Columns:
        """Columns of which nothing is known: ``count`` numeric ones, taken to be standardised already."""
        return cls(tuple(Variable(f"column {i}") for i in range(count)))

    def __len__(self) -> int:
        return sum(map(len, self.variables))

    def places(self) -> Iterator[tuple[Variable, slice]]:
        """Every variable, and where in a record its columns are."""
        first = 0
        for variable in self.variables:
            yield variable, slice(first, first + len(variable))
            first += len(variable)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every column; of a level, ``variable=level``."""
        named = ([f"{v.name}={level}" for level in v.levels] or [v.name] for v in self.variables)
        return tuple(name for names in named for name in names)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of the columns that are one categorical variable, for each of these."""
        return tuple(tuple(range(place.start, place.stop)) for v, place in self.places() if v.levels)

    @property
    def numeric(self) -> tuple[int, ...]:
        """The numbers of the numeric columns."""
        return tuple(place.start for variable, place in self.places() if not variable.levels)

    @property
    def centre(self) -> Float64[Tensor, " columns"]:
        """The public mean of every column, as records hold it: 0 for a number, its share for a level."""
        values = (list(variable.shares) or [0.0] for variable in self.variables)
        return torch.tensor([value for several in values for value in several], dtype=torch.float64)

    @property
    def card(self) -> Float64[Tensor, " columns"]:
        """The record that says nothing: public means of the numbers, the most frequent levels."""
        card = torch.zeros(len(self), dtype=torch.float64)
        for variable, place in self.places():
            if variable.levels:
                card[place.start + variable.shares.index(max(variable.shares))] = 1.0
        return card

    def rows(self, records: Float[Tensor, "batch columns"]) -> list[dict[str, float | str]]:
        """Every record as a mapping from variable to its value: numbers in their units, the likeliest level's name.

        Raises:
            ValueError: records with another number of columns.
        """
        if records.ndim != 2 or records.shape[1] != len(self):
            raise ValueError(f"records must have shape (B, {len(self)}), got {tuple(records.shape)}")
        stack, rows = records.detach().cpu().double(), []
        for record in stack:
            row: dict[str, float | str] = {}
            for variable, place in self.places():
                entries = record[place]
                number = variable.mean + variable.deviation * float(entries[0])
                row[variable.name] = variable.levels[int(entries.argmax())] if variable.levels else number
            rows.append(row)
        return rows
