"""The one way a figure, a table or a slider reaches the page."""

from __future__ import annotations

import base64
import io
import math
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, SupportsFloat

import matplotlib.style
from matplotlib.figure import Figure

from .palette import cycle

STYLE = Path(__file__).parent.parent / "glutils.mplstyle"


def style() -> AbstractContextManager[None]:
    """The book's look as a context: ``with gl.show.style(): fig, axes = plt.subplots()``. Undone on leaving."""
    return matplotlib.style.context(["default", str(STYLE), {"axes.prop_cycle": cycle()}])


def figure(fig: Figure, alt: str, caption: str | None = None) -> None:
    """Display a figure as PNG with alt text, and close it.

    The output's metadata is ``{"image/png": {"alt": alt}}``, with ``"caption"`` beside it where one is given; the
    book's build reads both from there. The same figure gives the same bytes. Outside a notebook the alt
    text is printed.

    Args:
        fig: a matplotlib Figure, from pyplot or not.
        alt: what a reader who does not see the figure must know; not empty.
        caption: the line below the figure.

    Raises:
        TypeError: not a Figure, or texts that are not strings.
        ValueError: an empty ``alt``.
    """
    if not isinstance(fig, Figure):
        raise TypeError(f"fig must be a matplotlib Figure, got {type(fig).__name__}")
    check_text("alt", alt)
    bundle = {"image/png": base64.b64encode(png_of(fig)).decode("ascii"), "text/plain": alt}
    metadata: dict[str, Any] = {"image/png": {"alt": alt}}
    if caption is not None:
        metadata["caption"] = check_text("caption", caption)
    emit(bundle, metadata)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)


def decibels(value: SupportsFloat) -> str:
    """A PSNR for reading: three digits and the unit, "exact" where it is infinite, "n/a" where it is NaN.

    Example:
        >>> import glutils as gl
        >>> gl.show.decibels(31.24)
        '31.2 dB'
    """
    psnr = float(value)
    if math.isnan(psnr):
        return "n/a"
    return "exact" if psnr == math.inf else f"{psnr:.3g} dB"


def png_of(fig: Figure) -> bytes:
    """The figure as PNG bytes, drawn in the book's style, with nothing in it that changes from run to run."""
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def emit(bundle: dict[str, str], metadata: dict[str, Any] | None = None) -> None:
    """Display a MIME bundle in the running notebook; outside one, print its ``text/plain``."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(bundle["text/plain"])
    else:
        display(bundle, raw=True, metadata=metadata or {})


def check_text(name: str, value: object) -> str:
    """``value`` if it is a string with something in it; ``TypeError`` or ``ValueError`` naming ``name`` otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} must say something, got {value!r}")
    return value
