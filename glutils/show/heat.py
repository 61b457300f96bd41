"""A table whose cells are coloured by a number and say it in words: defences against attacks, say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import _validate
from .figures import check_text, figure, style

EMPTY = "#f0f0f0"


def heat(
    cells: Mapping[tuple[str, str], tuple[float | None, str]],
    *,
    low: float,
    high: float,
    label: str,
    caption: str | None = None,
) -> None:
    """Display a table as a figure: colour for the number, text for the reader.

    Args:
        cells: ``{(row, column): (number or None, text)}``; rows and columns in the order in which they are met. A
            cell without a number is grey; one that is not there is empty.
        low, high: the numbers at the two ends of the colours.
        label: what the number is.
        caption: the line below.

    Raises:
        TypeError, ValueError: no cells, a key that is not a pair, a number that is not finite, ``high`` not above
            ``low``.
    """
    _validate.instance("cells", cells, Mapping)
    if not cells or not all(isinstance(key, tuple) and len(key) == 2 for key in cells):
        raise ValueError("cells must map (row, column) to (number or None, text), and hold at least one")
    low, high = _validate.number("low", low), _validate.number("high", high)
    if high <= low:
        raise ValueError(f"high must be above low={low}, got {high}")
    for key, (number, _) in cells.items():
        if number is not None and not math.isfinite(number):
            raise ValueError(f"cells[{key}] must hold a finite number or None, got {number}")
    rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    label = check_text("label", label)
    said = "; ".join(
        f"{row}: " + ", ".join(f"{c} {cells[row, c][1]}" for c in columns if (row, c) in cells).replace("\n", " ")
        for row in rows
    )
    with style():
        figure(
            _draw(cells, rows, columns, float(low), float(high), label), f"Table coloured by {label}. {said}", caption
        )


def _draw(
    cells: Mapping[tuple[str, str], tuple[float | None, str]],
    rows: Sequence[str],
    columns: Sequence[str],
    low: float,
    high: float,
    label: str,
) -> Figure:
    fig = Figure(figsize=(1.9 + 1.0 * len(columns), 0.9 + 0.42 * len(rows)), layout="constrained")
    axes, colours = fig.subplots(), colormaps["cividis"]
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            number, text = cells.get((row, column), (None, ""))
            share = None if number is None else min(1.0, max(0.0, (number - low) / (high - low)))
            face = EMPTY if share is None else colours(share)
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white"))
            dark = share is not None and share < 0.5
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", color="white" if dark else "black", fontsize=7)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, fontsize=8)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    scale = ScalarMappable(Normalize(low, high), colours)
    fig.colorbar(scale, ax=axes, label=label, shrink=0.8)
    return fig
