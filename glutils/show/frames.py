"""A slider over precomputed pictures that needs no kernel, no network and no script file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from .. import _validate, metrics
from .._png import encode as png
from .figures import check_text, decibels, emit
from .images import Pictures, stack

SHOWN = 192  # CSS pixels the shorter side of small pictures is enlarged to, as far as 640 px of width allow
BUDGET = 700_000  # bytes of PNG in one scrubber at most; text encoding adds a third

# JupyterLab's own arrow keys stay off the slider (data-lm-suppress-shortcuts).
# On input: show the frame of that number, hide the others, and say the frame's alt text, seen and to screen readers.
_ON_INPUT = (
    "var f=this.closest('figure'),m=f.querySelectorAll('img'),i=+this.value;"
    "m.forEach(function(e,k){e.style.display=k===i?'block':'none'});"
    "this.setAttribute('aria-valuetext',m[i].alt);f.querySelector('[data-status]').textContent=m[i].alt"
)


@runtime_checkable
class History(Protocol):
    """How a search went: its loss at some steps, and the images (B, C, H, W) at some."""

    @property
    def steps(self) -> Sequence[int]: ...

    @property
    def loss(self) -> Sequence[float]: ...

    @property
    def frame_steps(self) -> Sequence[int]: ...

    @property
    def frames(self) -> Sequence[Tensor]: ...


@runtime_checkable
class Recorded(Protocol):
    """What holds a history: a Reconstruction."""

    @property
    def history(self) -> History: ...


def frames_html(
    name: str,
    pngs: Sequence[bytes],
    alts: Sequence[str],
    label: str,
    caption: str | None = None,
    *,
    width: int = 320,
    start: int | None = None,
) -> str:
    """HTML of a figure with a slider over pictures; it works in JupyterLab, in a built page and from a file.

    The pictures are in the page itself; arrow keys move the slider; nothing plays by itself. A reader without script
    sees the frame ``start``.

    Args:
        name: what its ids are made of: lower-case letters, digits and hyphens, once per page.
        pngs: the frames, PNG bytes, all of one size.
        alts: one alt text per frame; the current one is also printed below the slider.
        label: what the slider moves through, as in "iteration".
        caption: the line below.
        width: CSS pixels, on screens that have them; narrower screens shrink the picture.
        start: index of the frame shown first; the last one by default.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    ident = f"frames-{html_id(name)}"
    _validate.instance("pngs", pngs, Sequence)
    _validate.instance("alts", alts, Sequence)
    if not pngs or len(pngs) != len(alts):
        raise ValueError(f"pngs and alts must be equally many and not none, got {len(pngs)} and {len(alts)}")
    if not all(isinstance(png, bytes) and png.startswith(b"\x89PNG") for png in pngs):
        raise TypeError("pngs must be the bytes of PNG files")
    last = len(pngs) - 1
    start = last if start is None else _validate.integer("start", start, at_least=0, at_most=last)
    _validate.integer("width", width, at_least=1)
    said = [check_text("an alt text", alt) for alt in alts]
    images = "\n".join(
        image_tag(png, alt, width, shown=index == start)
        for index, (png, alt) in enumerate(zip(pngs, said, strict=True))
    )
    slider = slider_tag(ident, check_text("label", label), last, start, said[start], width, _ON_INPUT)
    below = "" if caption is None else f"\n<figcaption>{html.escape(check_text('caption', caption))}</figcaption>"
    return (
        f'<figure id="{ident}" style="margin:1em 0;max-width:100%">\n{images}\n{slider}\n'
        f'<div data-status="">{html.escape(said[start])}</div>{on_paper(said)}{below}\n</figure>'
    )


def on_paper(said: Sequence[str]) -> str:
    """What the frames show, one after the other, for a style sheet to print beside all of them; hidden on a screen."""
    lines = "".join(f"<li>{html.escape(text)}</li>" for text in said)
    return f'\n<ol data-print="" hidden>{lines}</ol>' if len(said) > 1 else ""


def html_id(name: str) -> str:
    """``name`` if ids can be made of it; ``ValueError`` otherwise."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(f"name must be lower-case letters, digits and hyphens, got {name!r}")
    return name


def image_tag(png: bytes, alt: str, width: int, *, shown: bool = True) -> str:
    """An image in the page itself, enlarged pixel by pixel to ``width`` CSS pixels, or to what a phone has."""
    return (
        f'<img src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}" alt="{html.escape(alt)}" '
        f'style="display:{"block" if shown else "none"};width:{width}px;max-width:100%;height:auto;'
        f'image-rendering:pixelated;margin:0">'
    )


def slider_tag(ident: str, label: str, last: int, start: int, said: str, width: int, script: str) -> str:
    """A labelled slider from 0 to ``last``; ``said`` is what its place means, ``script`` what happens on input."""
    label = html.escape(label)
    return (
        f'<label for="{ident}-range" style="display:block;margin-top:.5em">{label}</label>\n'
        f'<input type="range" id="{ident}-range" min="0" max="{last}" step="1" value="{start}" aria-label="{label}" '
        f'aria-valuetext="{html.escape(said)}" autocomplete="off" '
        f'style="display:block;box-sizing:border-box;width:{width}px;max-width:100%;height:2em;margin:0" '
        f'data-lm-suppress-shortcuts="true" oninput="{html.escape(script)}">'
    )


def width_of(picture: Float32[Tensor, "channel height width"]) -> int:
    """CSS pixels at which a small picture (C, H, W) is shown."""
    height, width = picture.shape[1:]
    return max(width, min(640, width * SHOWN // min(height, width)))


def scrubber(
    result: Recorded,
    truth: Pictures | None = None,
    *,
    name: str,
    alt: str = "Reconstruction",
    caption: str | None = None,
    max_frames: int = 24,
) -> None:
    """Display a reconstruction over its iterations, with a slider that also works in a static page.

    Args:
        result: a Reconstruction whose ``history`` kept frames.
        truth: the private `Batch` or images. Shown beside one image, or below several; each frame then tells its PSNR
            (of several images the mean, each capped at 100 dB), with images matched as in the last frame. Without it a
            frame tells its loss, where the history has it.
        name: as in `frames_html`.
        alt: what the pictures show; each frame adds its step and PSNR, as in "Reconstruction, step 7 of 15: 103 dB".
        caption: the line below.
        max_frames: frames at most, evenly spaced, first and last included; fewer where all would exceed 700 kB.

    Raises:
        TypeError, ValueError: no frames kept, or a truth of another size.
    """
    history: History | None = getattr(result, "history", None)
    if history is None or not getattr(history, "frames", None):
        raise ValueError("result must have a history with frames; run the attack with frames kept")
    check_text("alt", alt)
    _validate.integer("max_frames", max_frames, at_least=2)
    frames = [stack("result.history.frames", frame) for frame in history.frames]
    beside, order = None, slice(None)
    if truth is not None:
        beside = stack("truth", truth)
        order = metrics.match(frames[-1], beside)
    picked = evenly_spaced(range(len(frames)), max_frames)
    pngs = {i: png(montage(frames[i][order], beside)) for i in picked}
    while len(picked) > 2 and (size := sum(len(pngs[i]) for i in picked)) > BUDGET:
        picked = evenly_spaced(picked, max(2, min(len(picked) - 1, len(picked) * BUDGET // size)))
    alts = [f"{alt}, {_step(history, i, history.frames[i][order], beside)}" for i in picked]
    label = "Iteration"
    if beside is not None:
        label += (
            " (left: reconstruction, right: truth)" if len(beside) == 1 else " (above: reconstruction, below: truth)"
        )
    width = width_of(montage(frames[0], beside))
    pictures = [pngs[i] for i in picked]
    emit({"text/html": frames_html(name, pictures, alts, label, caption, width=width), "text/plain": alts[-1]})


def strengths(
    stacks: Sequence[Pictures],
    said: Sequence[str],
    truth: Pictures,
    *,
    name: str,
    label: str,
    caption: str | None = None,
) -> None:
    """Display what an attack finds at several strengths of a defence, with a slider over the strengths.

    Args:
        stacks: one Reconstruction or image stack (B, C, H, W) for each strength, images in the order of ``truth``.
        said: for each strength what a reader should know, such as "noise 0.1: worst 22 dB, accuracy 78 %"; printed
            below the picture, and its alt text.
        truth: the private `Batch` or images, shown beside one image or below several.
        name: as in `frames_html`.
        label: what the slider moves through.
        caption: the line below.

    Raises:
        TypeError, ValueError: no stacks, or not one text for each.
    """
    if not isinstance(stacks, Sequence) or not stacks or not isinstance(said, Sequence) or len(said) != len(stacks):
        raise ValueError("stacks and said must be equally many and not none")
    beside = stack("truth", truth)
    pictures = [montage(stack("stacks", entry), beside) for entry in stacks]
    width = width_of(pictures[0])
    pngs = [png(picture) for picture in pictures]
    emit({"text/html": frames_html(name, pngs, said, label, caption, width=width, start=0), "text/plain": said[0]})


def evenly_spaced(indices: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the indices, evenly spaced, with the first and the last."""
    return [indices[i] for i in sorted({round(x) for x in np.linspace(0, len(indices) - 1, min(count, len(indices)))})]


def _step(
    history: History,
    index: int,
    frame: Float32[Tensor, "batch channel height width"],
    truth: Float32[Tensor, "batch channel height width"] | None,
) -> str:
    step = history.frame_steps[index]
    text = f"step {step} of {max(*history.frame_steps, *history.steps)}"
    if truth is not None:
        return f"{text}: {decibels(metrics.mean_psnr(metrics.psnr(frame, truth)))}"
    loss = dict(zip(history.steps, history.loss, strict=True)).get(step)
    return text if loss is None else f"{text}: loss {loss:.3g}"


def montage(
    images: Float32[Tensor, "batch channel height width"],
    truth: Float32[Tensor, "truths channel height width"] | None = None,
) -> Float32[Tensor, "channel _ _"]:
    """One picture (C, H', W'): images side by side, the truth's below them or, for a single image, right of it."""
    gap = max(1, images.shape[3] // 16)

    def joined(parts: list[torch.Tensor], axis: int) -> torch.Tensor:
        shape = list(parts[0].shape)
        shape[axis] = gap
        pieces = [piece for part in parts for piece in (torch.ones(shape), part)][1:]
        return torch.cat(pieces, axis)

    row = joined(list(images), 2)
    return row if truth is None else joined([row, joined(list(truth), 2)], 2 if len(images) == 1 else 1)
