"""Texts that were read from messages: beside the private ones, and growing piece by piece under a slider."""

from __future__ import annotations

import html
from collections.abc import Sequence

from jaxtyping import Int64
from torch import Tensor

from .. import _validate
from ..data.batch import Batch
from ..data.vocabulary import Vocabulary
from ..metrics.texts import pieces
from .figures import check_text, emit
from .frames import History, Recorded, evenly_spaced, html_id, on_paper, slider_tag

MOST = 48
"""Frames of a slider, at most, unless told otherwise; a frame is some hundred bytes."""
_RIGHT = "border-bottom:2px solid currentColor"
_ON_INPUT = (
    "var f=this.closest('figure'),m=Array.from(f.querySelectorAll('[data-frame]')),i=+this.value;"
    "m.forEach(function(e,k){e.hidden=k!==i});var t=m[i].dataset.frame;"
    "this.setAttribute('aria-valuetext',t);f.querySelector('[data-status]').textContent=t"
)


def texts(batch: Batch, found: Int64[Tensor, "batch length"], *, caption: str | None = None) -> None:
    """Display the private texts and what an attack made of them; pieces in their right place are underlined.

    Args:
        batch: the private texts, with a vocabulary.
        found: (B, L) int64, in the order of the batch: ``result.tokens[score.matching]``.
        caption: the line below.

    Raises:
        TypeError, ValueError: a batch of another kind, another number of texts.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.from_texts(["The code is 4821."])
        >>> gl.show.texts(batch, gl.data.from_texts(["The code is 4827."]).images)
        true:  The code is 4821.
        found: The code is 4827.
        8 of 9 tokens in place
    """
    vocabulary = _vocabulary("batch", batch)
    if _validate.instance("found", found, Tensor).ndim != 2 or len(found) != len(batch) or found.is_floating_point():
        raise ValueError(f"found must be tokens ({len(batch)}, L), got {found.dtype} of shape {tuple(found.shape)}")
    rows, plain = [], []
    for own, truth in zip(found.cpu(), batch.images.cpu(), strict=True):
        ours, theirs = pieces(own, vocabulary), pieces(truth, vocabulary)
        count = f"{_right(ours, theirs)} of {len(theirs)} tokens in place"
        said = html.escape(vocabulary.decode(truth))
        rows.append(f"<dt>true</dt><dd>{said}</dd><dt>found</dt><dd>{_marked(ours, theirs, vocabulary)} ({count})</dd>")
        plain.append(f"true:  {vocabulary.decode(truth)}\nfound: {vocabulary.decode(own)}\n{count}")
    below = "" if caption is None else f"<figcaption>{html.escape(check_text('caption', caption))}</figcaption>"
    page = f'<figure style="margin:1em 0;max-width:100%"><dl>{"".join(rows)}</dl>{below}</figure>'
    emit({"text/html": page, "text/plain": "\n".join(plain)})


def text_scrubber(
    result: Recorded, truth: Batch, *, name: str, caption: str | None = None, max_frames: int = MOST
) -> None:
    """Display how a text was found, with a slider over the steps of the search that also works in a static page.

    Args:
        result: a Reconstruction of one text whose ``history`` kept frames: rows of tokens, -1 where there is none yet.
        truth: the private text, as a Batch of one. Pieces in their right place are underlined; no attack sees it.
        name: what its ids are made of: lower-case letters, digits and hyphens, once per page.
        caption: the line below.
        max_frames: frames at most, evenly spaced, first and last included.

    Raises:
        TypeError, ValueError: no frames kept, or several texts.
    """
    history: History | None = getattr(result, "history", None)
    if history is None or not getattr(history, "frames", None):
        raise ValueError("result must have a history with frames; run the attack with frames kept")
    vocabulary = _vocabulary("truth", truth)
    if len(truth) != 1:
        raise ValueError(f"truth must be one text, got {len(truth)}")
    _validate.integer("max_frames", max_frames, at_least=2)
    theirs = pieces(truth.images[0].cpu(), vocabulary)
    parts, said = [], []
    for i in evenly_spaced(range(len(history.frames)), max_frames):
        row = history.frames[i].reshape(-1).round().long()
        ours = pieces(row[row >= 0], vocabulary)
        text = vocabulary.decode(ours)
        count = f"{_right(ours, theirs)} of {len(theirs)} tokens in place"
        said.append(f"step {history.frame_steps[i]}: {count}: {text}")
        parts.append(_marked(ours, theirs, vocabulary))
    page = _page(name, parts, said, vocabulary.decode(truth.images[0].cpu()), caption)
    emit({"text/html": page, "text/plain": said[-1]})


def _page(name: str, parts: Sequence[str], said: Sequence[str], truth: str, caption: str | None) -> str:
    """The figure; a reader without script sees its last frame."""
    ident, last = f"frames-{html_id(name)}", len(parts) - 1
    shown = "\n".join(
        f'<div data-frame="{html.escape(alt)}" style="font-family:monospace;font-size:1.15em;min-height:3em"'
        f"{'' if i == last else ' hidden'}>{part}</div>"
        for i, (part, alt) in enumerate(zip(parts, said, strict=True))
    )
    slider = slider_tag(ident, "Step of the search", last, last, said[last], 320, _ON_INPUT)
    below = "" if caption is None else f"\n<figcaption>{html.escape(check_text('caption', caption))}</figcaption>"
    return (
        f'<figure id="{ident}" style="margin:1em 0;max-width:100%">\n{shown}\n{slider}\n'
        f'<div data-status="">{html.escape(said[last])}</div>\n'
        f'<div style="margin-top:.5em">true: <span style="font-family:monospace">{html.escape(truth)}</span></div>'
        f"{on_paper(said)}{below}\n</figure>"
    )


def _marked(ours: Sequence[int], theirs: Sequence[int], vocabulary: Vocabulary) -> str:
    """The text as HTML, with a line below every piece that stands in its place."""
    out = []
    for i, piece in enumerate(ours):
        before = len(vocabulary.decode(ours[:i]))  # a character may need several pieces: so the text is cut, not made
        text = html.escape(vocabulary.decode(ours[: i + 1])[before:])
        right = i < len(theirs) and piece == theirs[i]
        out.append(f'<span style="{_RIGHT}">{text}</span>' if right and text else text)
    return "".join(out)


def _right(ours: Sequence[int], theirs: Sequence[int]) -> int:
    return sum(a == b for a, b in zip(ours, theirs, strict=False))


def _vocabulary(name: str, batch: Batch) -> Vocabulary:
    vocabulary = _validate.instance(name, batch, Batch).vocabulary
    if vocabulary is None:
        raise ValueError(f"{name} must hold texts with a vocabulary, got {batch.kind}")
    return vocabulary
