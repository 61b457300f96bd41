"""Rows of images, enlarged pixel by pixel."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float32
from matplotlib.figure import Figure
from torch import Tensor

from .. import _validate
from .figures import check_text, decibels, figure, style

WIDTH, LARGEST, GAP = 4.8, 1.5, 0.06  # inches: the figure, an image at most, the space between images
TITLE, NOTE, LETTER = 0.24, 0.2, 0.095  # inches: the heights of a title's and a note's line, a letter's width


@runtime_checkable
class Pictured(Protocol):
    """What holds images to look at: a Batch, a Reconstruction."""

    @property
    def images(self) -> Tensor: ...


@runtime_checkable
class Marked(Protocol):
    """What holds a PSNR for each image: a Score, a Control."""

    @property
    def psnr(self) -> Tensor: ...


Pictures = Tensor | Pictured
Notes = Sequence[str] | Tensor | Marked


def gallery(
    images_by_row: Mapping[str, Pictures],
    *,
    notes: Mapping[str, Notes] | None = None,
    columns: int = 8,
    alt: str | None = None,
    caption: str | None = None,
) -> None:
    """Display rows of images, each row with its title, each image with its note; rows of one image stand side by side.

    Args:
        images_by_row: title to images: a tensor (B, C, H, W) with one or three channels, a `Batch`, or a
            Reconstruction. Pixels are clamped to [0, 1]; a NaN pixel is shown black.
        notes: title to what stands below that row's images: strings, or a tensor (B,) of PSNRs in dB, or the row's
            `Score`, which also puts the row into the truth's order. Rows without notes may be left out.
        columns: images side by side at most; a longer row wraps.
        alt: alt text; by default rows and counts in words. What the notes say follows in both cases, so
            that a reader who does not see the pictures knows, too, whether they are alike.
        caption: the line below the figure.

    Raises:
        TypeError, ValueError: naming the row that cannot be shown, or notes that fit no row.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> gl.show.gallery({"private": batch}, notes={"private": ["exact", "9 dB"]})
        Rows of images. private: 2 images (exact, 9 dB).
    """
    if not isinstance(images_by_row, Mapping) or not images_by_row:
        raise TypeError(f"images_by_row must map titles to images, got {images_by_row!r:.80}")
    _validate.integer("columns", columns, at_least=1)
    notes = {} if notes is None else notes
    _validate.instance("notes", notes, Mapping)
    strangers = [title for title in notes if title not in images_by_row]
    if strangers:
        raise ValueError(f"notes must be for rows among {list(images_by_row)}, got {strangers}")
    rows = {check_text("a row's title", title): stack(title, value) for title, value in images_by_row.items()}
    said = {title: _note_texts(title, notes.get(title), len(images)) for title, images in rows.items()}
    rows = {title: _in_order(images, notes.get(title)) for title, images in rows.items()}
    with style():
        fig = _draw(rows, said, columns)
    figure(fig, _alt_text(rows, said) if alt is None else _with_notes(check_text("alt", alt), said), caption)


def stack(name: str, value: Pictures) -> Float32[Tensor, "batch channel height width"]:
    """Images to look at, (B, C, H, W) float32 in [0, 1] on the CPU, from a tensor or from what holds ``.images``."""
    images = value if isinstance(value, Tensor) else getattr(value, "images", None)
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(f"{name!r} must be a floating-point tensor or hold one as .images, got {type(value).__name__}")
    if images.ndim != 4 or 0 in images.shape or images.shape[1] not in (1, 3):
        raise ValueError(f"{name!r} must have shape (B, 1 or 3, H, W) with no empty axis, got {tuple(images.shape)}")
    return images.detach().cpu().float().nan_to_num(nan=0.0).clamp(0, 1)


def _in_order(images: Tensor, note: Notes | None) -> Tensor:
    matching = getattr(note, "matching", None)
    return images if matching is None else images[matching]


def _note_texts(title: str, note: Notes | None, count: int) -> list[str]:
    note = getattr(note, "psnr", note)
    if note is None:
        return []
    if isinstance(note, Tensor):
        note = [decibels(value) for value in note.flatten()]
    if isinstance(note, str) or not isinstance(note, Sequence) or not all(isinstance(text, str) for text in note):
        raise TypeError(f"notes[{title!r}] must be strings, a tensor of PSNRs or a Score, got {type(note).__name__}")
    if len(note) != count:
        raise ValueError(f"notes[{title!r}] must have one entry per image ({count}), got {len(note)}")
    return list(note)


def _alt_text(rows: Mapping[str, Tensor], said: Mapping[str, list[str]]) -> str:
    parts = []
    for title, images in rows.items():
        count = f"{len(images)} image" + "s" * (len(images) > 1)
        parts.append(f"{title}: {count}" + f" ({', '.join(said[title])})" * bool(said[title]))
    return " ".join(f"Rows of images. {'; '.join(parts)}.".split())


def _with_notes(alt: str, said: Mapping[str, list[str]]) -> str:
    """The alt text that was given, and the notes below the pictures, unless it says them already."""
    new = {title: notes for title, notes in said.items() if not all(note in alt for note in notes)}
    told = [f"{title}: {', '.join(notes)}" for title, notes in new.items()]
    return " ".join(f"{alt.rstrip('.')}. {'; '.join(told)}.".split()) if told else alt


def _draw(rows: Mapping[str, Tensor], said: Mapping[str, list[str]], columns: int) -> Figure:
    """Rows under one another; rows of a single image side by side instead, as the columns of one row."""
    longest = max(map(len, rows.values()))
    across = min(columns, longest if longest > 1 else min(len(rows), 4))
    wide = min(LARGEST, (WIDTH + GAP) / across - GAP)
    room = max(8, int((wide if longest == 1 else WIDTH) / LETTER))  # letters in a line of a title
    runs: list[list[list[Any]]] = []  # lines of cells, each of a title, an image and a note
    for title, images in rows.items():
        cells = [["", image, note] for image, note in zip_longest(images, said[title], fillvalue="")]
        cells[0][0] = textwrap.fill(title, room)
        runs.append(cells)
    runs = [[cell for cells in runs for cell in cells]] if longest == 1 else runs
    blocks = [cells[i : i + across] for cells in runs for i in range(0, len(cells), across)]
    sizes = [_heights(cells, wide) for cells in blocks]
    fig = Figure(figsize=(WIDTH, sum(map(sum, sizes))), layout="none")  # pyright: ignore[reportArgumentType]  (matplotlib's stub lacks it)
    top = float(fig.get_figheight())
    for cells, (above, tall, below) in zip(blocks, sizes, strict=True):
        for column, cell in enumerate(cells):
            _cell(fig, cell, (wide + GAP) * column, top - above, wide, tall)
        top -= above + tall + below
    return fig


def _heights(cells: list[list[Any]], wide: float) -> tuple[float, float, float]:
    """Inches above, of, and below the images of one line of cells."""
    above = max(title.count("\n") + 1 if title else 0 for title, _, _ in cells) * TITLE
    below = max(note.count("\n") + 1 if note else 0 for *_, note in cells) * NOTE
    return above, max(wide * image.shape[1] / image.shape[2] for _, image, _ in cells), below + GAP


def _cell(fig: Figure, cell: list[Any], left: float, top: float, wide: float, tall: float) -> None:
    """One image with its upper left corner at these inches, its title above and its note below."""
    title, image, note = cell
    width, height = fig.get_size_inches()
    own = wide * image.shape[1] / image.shape[2]
    axes = fig.add_axes((left / width, (top - own) / height, wide / width, own / height))
    axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), vmin=0, vmax=1, aspect="auto")
    axes.set_axis_off()
    fig.text(left / width, (top + GAP / 2) / height, title, va="bottom", ha="left", weight="bold")
    where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "top"}
    axes.annotate(note, (0.5, 0), (0, -2), size=9, **where)
