"""Records of a table beside what an attack made of them."""

from __future__ import annotations

import torch

from .. import _validate
from ..data.batch import Batch
from ..data.columns import Variable
from ..metrics.tables import TOLERANCE
from .tables import table


def records(
    batch: Batch,
    found: torch.Tensor,
    *,
    which: int = 0,
    caption: str | None = None,
    tolerance: float | int = TOLERANCE,
    most: int | None = None,
) -> None:
    """Display one record of a table and its reconstruction side by side, a line for each variable, in their units.

    Args:
        batch: the private records.
        found: (B, columns), reconstructions in the order of the batch: ``result.images[score.matching]``.
        which: the number of the record.
        caption: the line above the table.
        tolerance: standard deviations by which a number may be off and is still called right, as in ``gl.score``.
        most: variables to show, the first ones; None: all.

    Raises:
        TypeError, ValueError: a batch of another kind, reconstructions of another shape, no such record.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("wine", count=2, seed=0, device="cpu")
        >>> gl.show.records(batch, batch.records + 0.2, most=3)
        variable    true   found  right
        ----------  -----  -----  -----
        alcohol     13.88  14.04  no
        malic_acid  5.0    5.3    no
        ash         2.23   2.28   no
    """
    columns = _validate.instance("batch", batch, Batch).columns
    if columns is None:
        raise ValueError(f"batch must hold a table, got {batch.kind}")
    if _validate.instance("found", found, torch.Tensor).shape != batch.images.shape:
        raise ValueError(f"found must have shape {tuple(batch.images.shape)}, got {tuple(found.shape)}")
    which = _validate.integer("which", which, at_least=0, at_most=len(batch) - 1)
    tolerance = _validate.number("tolerance", tolerance, above=0)
    shown = columns.variables[: None if most is None else _validate.integer("most", most, at_least=1)]
    true, ours = (columns.rows(stack[which : which + 1])[0] for stack in (batch.images, found))
    lines = []
    for variable in shown:
        here, there = true[variable.name], ours[variable.name]
        if isinstance(here, str) or isinstance(there, str):
            right = here == there
        else:
            right = abs(here - there) <= tolerance * variable.deviation
        cells = {"true": _text(variable, here), "found": _text(variable, there), "right": right}
        lines.append({"variable": variable.name} | ({"unit": variable.unit} if _has_units(shown) else {}) | cells)
    table(lines, caption=caption)


def _has_units(variables: tuple[Variable, ...]) -> bool:
    return any(variable.unit for variable in variables)


def _text(variable: Variable, value: float | str) -> str:
    """A level's name, or a number to about a tenth of its deviation."""
    if isinstance(value, str):
        return value
    digits = 0
    while digits < 6 and 10.0**-digits > variable.deviation / 10:
        digits += 1
    return f"{round(value, digits) + 0.0:.{digits}f}"  # no minus before a zero
