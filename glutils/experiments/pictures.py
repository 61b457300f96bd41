"""Pictures inside records, and what a reader sees of them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import _png, _validate, metrics, show

ATTACKERS = {"adaptive": "knows the defence", "naive": "does not know the defence"}
"""The two attackers of a defence, in words."""
FULL = 40
"""PSNR in dB at which the bar below a picture is full: nobody sees a difference."""


def frame_of(rows: Sequence[Mapping[str, Any]], private: Any, title: str, attacker: str = "adaptive") -> show.Frame:
    """What one attacker found, above the private images, with its median PSNR and the accuracy below.

    Args:
        rows: of one strength and seed, as from :func:`glutils.experiments.defended.measure`; those with a picture are
            shown.
        private: the images behind them (:func:`glutils.experiments.defended.truth`), or the first of them.
        title: of the frame, such as "noise 0.3".
        attacker: ``"adaptive"`` or ``"naive"``.
    """
    mine = [row for row in rows if row["attacker"] == _validate.choice("attacker", attacker, ATTACKERS)]
    seen = [row for row in mine if "found" in row]
    level = [_psnr_of(row["controls"]["mean_colour"]) for row in mine]
    psnr, blank = (metrics.summary([min(value, 100.0) for value in v]) for v in ([r["psnr"] for r in mine], level))
    accuracy, text = mine[0]["accuracy"], f"{psnr.median:.1f} dB (blank card {blank.median:.1f} dB)"
    bars = [bar(psnr.median, text), ("accuracy", accuracy, f"{accuracy:.0%}")]
    if "epsilon" in mine[0]:
        bars[1] = ("accuracy", accuracy, f"{accuracy:.0%}; privacy budget epsilon {_short(mine[0]['epsilon'])}")
    each = ", ".join(show.decibels(row["psnr"]) for row in seen)
    said = f"{title}: found by an attacker who {ATTACKERS[attacker]} {each}; median {text}; {': '.join(bars[1][::2])}"
    images = torch.stack([picture(row["found"]) for row in seen])
    private = private if isinstance(private, torch.Tensor) else private.images
    return show.frame(images, private[: len(seen)], title=title, said=said, bars=bars)


def bar(psnr: float, text: str) -> tuple[str, float, str]:
    """The bar of a frame that says what was found: full at :data:`FULL` dB."""
    return "found", min(max(float(psnr), 0.0) / FULL, 1.0), text


def _short(value: float) -> str:
    return f"{value:,.0f}" if 100 <= value < math.inf else f"{value:.2g}"


def _psnr_of(control: Any) -> float:
    """A control's PSNR, from a row with all four metrics or from a record that kept this one."""
    return float(control["psnr"] if isinstance(control, Mapping) else control)


def encode(image: torch.Tensor) -> str:
    """An image (1 or 3, H, W) as PNG in base64: clamped, 8 bits a channel, NaN black."""
    return base64.b64encode(_png.encode(image)).decode("ascii")


def picture(text: str) -> torch.Tensor:
    """The image (1 or 3, H, W) in [0, 1] behind a row's ``found``."""
    return _png.decode(base64.b64decode(text))
