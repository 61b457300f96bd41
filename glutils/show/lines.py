"""Line plots whose lines carry their names."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import ArrayLike

from .. import _validate
from .figures import check_text, figure, style
from .palette import GREY, looks
from .panels import Series, draw, level_of, panels

MOST = 7
"""Lines that one panel may hold."""


@runtime_checkable
class Traced(Protocol):
    """What holds a loss over steps: a Reconstruction, in ``history.steps`` and ``history.loss``."""

    @property
    def history(self) -> Any: ...


Line = tuple[ArrayLike, ArrayLike] | list[ArrayLike] | Traced


def curves(
    lines: Mapping[str, Line],
    *,
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    logy: bool = False,
    references: Mapping[str, SupportsFloat] | None = None,
    apart: bool | None = None,
    alt: str | None = None,
    caption: str | None = None,
) -> None:
    """Display lines, each named at its right end, in the look that its name has in all figures (`look`).

    Args:
        lines: name to ``(x, y)``, or to a Reconstruction (its loss over its steps). ``x`` has shape (N,), ``y`` shape
            (N,) or, for repeated runs, (runs, N): then the median is drawn, over a band from minimum to maximum.
        xlabel, ylabel: the axes' labels, with units.
        logx, logy: logarithmic axes. Points that cannot be drawn (not finite, or not positive on a logarithmic axis)
            are left out.
        references: name to a height at which a horizontal line is drawn, such as a control's PSNR.
        apart: a panel for each line, with all others pale behind it; None: where there are more than seven lines, which
            nobody can follow in one panel.
        alt: alt text; by default the axes, and where each line starts and ends, in words.
        caption: the line below the figure.

    Raises:
        TypeError, ValueError: naming the line that cannot be drawn.

    Example:
        >>> import glutils as gl
        >>> gl.show.curves({"IG": ([1, 2], [20.0, 30.0])}, xlabel="images", ylabel="PSNR [dB]", alt="IG rises.")
        IG rises.
    """
    if not isinstance(lines, Mapping) or not lines:
        raise TypeError(f"lines must map names to (x, y) or Reconstructions, got {lines!r:.80}")
    check_text("xlabel", xlabel)
    check_text("ylabel", ylabel)
    series = {check_text("a line's name", name): _series(name, value, logx, logy) for name, value in lines.items()}
    levels = {check_text("a reference's name", name): float(level) for name, level in (references or {}).items()}
    apart = len(series) > MOST if apart is None else _validate.instance("apart", apart, bool)
    with style():
        scales = {"xscale": "log" if logx else "linear", "yscale": "log" if logy else "linear"}
        made = panels if apart else _together
        fig = made(series, levels, xlabel, ylabel, scales)
    figure(fig, _alt_text(series, levels, xlabel, ylabel) if alt is None else alt, caption)


def _together(
    series: Mapping[str, Series], levels: Mapping[str, float], xlabel: str, ylabel: str, scales: Mapping[str, str]
) -> Figure:
    """All lines in one panel, named at their ends."""
    fig = Figure()
    axes = fig.add_subplot(xlabel=xlabel, ylabel=ylabel, **scales)
    ends = []
    for name, found in looks(series).items():
        x, _, middle, _ = series[name]
        draw(axes, series[name], found)
        last = np.flatnonzero(np.isfinite(middle))[-1]
        ends.append((name, found.color, float(x[last]), float(middle[last])))
    for name, level in levels.items():
        axes.axhline(level, **level_of(name))
        ends.append((name, GREY, None, level))
    _name_ends(fig, axes, ends)
    return fig


def _series(name: str, value: Line, logx: bool, logy: bool) -> Series:
    """x, lower edge, middle and upper edge of one line; what cannot be drawn is NaN."""
    history = getattr(value, "history", None)
    if history is not None:
        value = (history.steps, history.loss)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"line {name!r} must be a pair (x, y) or a Reconstruction, got {type(value).__name__}")
    x, y = (np.asarray(part, dtype=np.float64) for part in value)
    if x.ndim != 1 or y.ndim not in (1, 2) or y.shape[-1] != len(x) or not y.size:
        raise ValueError(f"line {name!r} must have x of shape (N,) and y (N,) or (runs, N), got {x.shape}, {y.shape}")
    x = np.where(np.isfinite(x) & ((x > 0) | (not logx)), x, np.nan)
    y = np.where(np.isfinite(y) & ((y > 0) | (not logy)), np.atleast_2d(y), np.nan)
    if logx:
        y = np.where(np.isfinite(x), y, np.nan)
    seen = np.isfinite(x) & np.isfinite(y).any(0)
    if not seen.any():
        raise ValueError(f"line {name!r} has no point to draw: NaN, infinite, or not positive on a log axis")
    edges = np.full((3, len(x)), np.nan)
    edges[:, seen] = np.nanmin(y[:, seen], 0), np.nanmedian(y[:, seen], 0), np.nanmax(y[:, seen], 0)
    return x, edges[0], edges[1], edges[2]


def _name_ends(fig: Figure, axes: Axes, ends: list[tuple[str, str, float | None, float]]) -> None:
    """Write each line's name right of the axes, at the height of its end, moved as far as needed not to overlap."""
    texts = []
    for name, colour, x, y in ends:
        ink = tuple(0.65 * part for part in to_rgb(colour))  # the palette's light colours are hard to read as text
        where = {"xy": (1, y), "xycoords": ("axes fraction", "data")} if x is None else {"xy": (x, y)}
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
        place = {"xytext": (1.03, 0.5), "textcoords": "axes fraction", "va": "center", "annotation_clip": False}
        texts.append(axes.annotate(textwrap.fill(name, 16), **where, **place, color=ink, size=9, arrowprops=leader))
    fig.draw_without_rendering()  # the layout settles, and with it what a height in the data is in pixels
    heights = [Text.get_window_extent(text).height + 2 for text in texts]  # an annotation's own counts its leader too
    wanted = [axes.transData.transform((1.0, y))[1] for *_, y in ends]
    frame = axes.get_window_extent()
    for text, centre in zip(texts, _spread(wanted, heights, frame.y0, frame.y1), strict=True):
        text.set_position((1.03, (centre - frame.y0) / frame.height))


def _spread(wanted: list[float], heights: list[float], bottom: float, top: float) -> list[float]:
    """Centres near ``wanted`` at which boxes of these heights do not overlap, inside bottom..top where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    centres, floor = [0.0] * len(wanted), bottom - heights[order[0]] / 2
    for i in order:  # upwards: never below the neighbour
        centres[i] = max(wanted[i], floor + heights[i] / 2)
        floor = centres[i] + heights[i] / 2
    ceiling = top + heights[order[-1]] / 2
    for i in reversed(order):  # downwards: back under the top edge
        centres[i] = min(centres[i], ceiling - heights[i] / 2)
        ceiling = centres[i] - heights[i] / 2
    return centres


def _alt_text(
    series: Mapping[str, Series], levels: Mapping[str, float], xlabel: str, ylabel: str
) -> str:
    parts = []
    for name, (x, _, middle, _) in series.items():
        first, last = np.flatnonzero(np.isfinite(middle))[[0, -1]]
        parts.append(f"{name}: {middle[first]:.3g} at {x[first]:.3g} to {middle[last]:.3g} at {x[last]:.3g}")
    parts += [f"{name}: level {level:.3g}" for name, level in levels.items()]
    return f"Line plot of {ylabel} against {xlabel}. " + "; ".join(parts) + "."
