"""Tables that a screen reader can walk, a phone can scroll and a terminal can print."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch

from .. import _validate
from .figures import check_text, emit


def table(
    rows: Sequence[Mapping[str, Any]],
    *,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    caption: str | None = None,
    digits: int = 1,
) -> None:
    """Display rows as a table: HTML in a notebook, aligned text elsewhere. Arguments as in `table_html`.

    Example:
        >>> import glutils as gl
        >>> gl.show.table([{"attack": "IG", "PSNR [dB]": 31.24}])
        attack  PSNR [dB]
        ------  ---------
        IG           31.2
    """
    keys, body = _cells(rows, columns, digits)
    plain = ([check_text("caption", caption)] if caption is not None else []) + _aligned(keys, body)
    emit(
        {"text/html": table_html(rows, columns=columns, caption=caption, digits=digits), "text/plain": "\n".join(plain)}
    )


def table_html(
    rows: Sequence[Mapping[str, Any]],
    *,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    caption: str | None = None,
    digits: int = 1,
) -> str:
    """The same table as HTML.

    Args:
        rows: mappings from column to value. A missing value is an empty cell; the first column names its row.
        columns: the columns in order, as keys, or as a mapping from key to heading; by default all keys, as first met.
        caption: the line above the table.
        digits: decimals of floats. One too small for them is written as in 1.2e-09; NaN is "n/a", infinity "∞".

    Raises:
        TypeError: rows that are not mappings.
        ValueError: no rows, or a column that no row has.

    Example:
        >>> import glutils as gl
        >>> gl.show.table_html([{"attack": "IG"}]).count("<tr>")
        2
    """
    keys, body = _cells(rows, columns, digits)
    above = "" if caption is None else f"<caption>{html.escape(check_text('caption', caption))}</caption>\n"
    head = "".join(f'<th scope="col" style="{_side(right)}">{html.escape(text)}</th>' for text, right in keys)
    lines = []
    for first, *others in body:
        cells = "".join(
            f'<td style="{_side(right)}">{html.escape(text)}</td>'
            for text, (_, right) in zip(others, keys[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row" style="{_side(keys[0][1])}">{html.escape(first)}</th>{cells}</tr>')
    name = html.escape(caption) if caption else "Table"
    return (
        f'<div role="region" tabindex="0" aria-label="{name}" style="overflow-x:auto;max-width:100%">\n'
        f'<table class="table">\n{above}<thead><tr>{head}</tr></thead>\n<tbody>\n' + "\n".join(lines) + "\n</tbody>\n"
        "</table>\n</div>"
    )


def _cells(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str] | None, digits: int
) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """Headings, each with whether its column holds numbers, and the cells as text."""
    _validate.integer("digits", digits, at_least=0)
    if isinstance(rows, (str, Mapping)) or not isinstance(rows, Sequence):
        raise TypeError(f"rows must be a list of mappings, got {type(rows).__name__}")
    if not all(isinstance(row, Mapping) for row in rows):
        raise TypeError("rows must be mappings from column to value")
    met = list(dict.fromkeys(key for row in rows for key in row))
    if not met:
        raise ValueError("rows must hold at least one row with one column, got none")
    headings = {key: key for key in met} if columns is None else columns
    if not isinstance(headings, Mapping):
        headings = {key: key for key in headings}
    unknown = [key for key in headings if key not in met]
    if unknown or not headings:
        raise ValueError(f"columns must be among {met}, got {unknown or 'none'}")
    keys = []
    for key, heading in headings.items():
        values = [row[key] for row in rows if row.get(key) is not None]
        keys.append((str(heading), all(_is_number(value) for value in values)))
    return keys, [[_text(row.get(key), digits) for key in headings] for row in rows]


def _is_number(value: object) -> bool:
    return isinstance(_plain(value), Real) and not isinstance(_plain(value), bool)


def _plain(value: object) -> object:
    return value.item() if isinstance(value, torch.Tensor) and value.ndim == 0 else value


def _text(value: object, digits: int) -> str:
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral) or not isinstance(value, Real):
        return str(value)
    value = float(value)
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.2g}" if value and abs(value) < 0.5 * 10**-digits else f"{value:.{digits}f}"


def _aligned(keys: list[tuple[str, bool]], body: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in [[text for text, _ in keys], *body]) for i in range(len(keys))]
    lines = [[text for text, _ in keys], ["-" * width for width in widths], *body]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, (_, right) in zip(line, widths, keys, strict=True)
        ).rstrip()
        for line in lines
    ]


def _side(right: bool) -> str:
    return "padding:.2em .6em;" + ("text-align:right;white-space:nowrap" if right else "text-align:left")
