"""Small multiples: a panel for each line, with all others pale behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .palette import GREY, Look, look, looks

Series = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""x, lower edge, middle and upper edge of a line, each of shape (N,)."""
COLUMNS = 2  # at three, a phone shows a panel narrower than its title
PALE = "#CCCCCC"


def panels(
    series: Mapping[str, Series], levels: Mapping[str, float], xlabel: str, ylabel: str, scales: Mapping[str, str]
) -> Figure:
    """A figure with a panel for each line, titled with its name; heights that all panels share stand in a legend."""
    rows = -(-len(series) // COLUMNS)
    fig = Figure(figsize=(4.8, 0.7 + 1.25 * rows))
    grid = fig.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, own) in zip(grid, looks(series).items(), strict=False):
        axes.set(**scales)
        for x, _, middle, _ in (series[other] for other in series if other != name):
            axes.plot(x, middle, color=PALE, linestyle="-", linewidth=1, zorder=1)
        draw(axes, series[name], own)
        for level_name, level in levels.items():
            axes.axhline(level, label=level_name, **level_of(level_name))
        axes.set_title(name, loc="left", fontsize=9)
    for axes in grid[len(series) :]:
        axes.set_axis_off()
    for axes in grid[len(series) - 1 :: -1][:COLUMNS]:  # the lowest panel of each column
        axes.tick_params(labelbottom=True)
    if levels:
        fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    fig.supxlabel(xlabel, fontsize=10)
    fig.supylabel(ylabel, fontsize=10)
    return fig


def draw(axes: Axes, one: Series, own: Look) -> None:
    """A line in its look, over the band between its edges; with marks where its points can be told apart."""
    x, low, middle, high = one
    dash = "-" if own.linestyle == "none" else own.linestyle
    axes.plot(x, middle, color=own.color, linestyle=dash, marker=own.marker if len(x) <= 16 else None)
    if not np.array_equal(low, high, equal_nan=True):
        axes.fill_between(x, low, high, color=own.color, alpha=0.18, linewidth=0)


def level_of(name: str) -> dict[str, Any]:
    """How a height is drawn: grey, and a control as it is drawn everywhere."""
    own = look(name)
    return {"color": GREY, "linewidth": 1, "linestyle": own.linestyle if own.color == GREY else ":"}
