"""One picture file, as a photographer means it: turned as it was held, eight bits a channel, whole, and not huge."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

LARGEST = 2**27
"""Pixels of a picture at most: as colours they take 1.5 GiB while they are shrunk."""
LONGEST = 64
"""Longer side over shorter side at most: of a thinner strip a square crop would keep nothing."""


def open_picture(path: str | Path) -> Image.Image:
    """The picture in a file, decoded, and turned as its EXIF data say. Of an animation it is the first picture.

    Raises:
        ValueError: naming the file, and what is wrong with it: it cannot be read, is no picture, is cut off, has more
            than 8 bits a channel (which a conversion would clip or cut without a word; known of PNG, TIFF, netpbm and
            grey JPEG 2000), more than 2^27 pixels, or is a strip of which a square crop would show next to nothing.
    """
    from PIL import Image, ImageOps

    # beside its own errors, Pillow lets through what broken files do to its parsers
    broken = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is ours
            with Image.open(path) as picture:
                _check(picture)
                return ImageOps.exif_transpose(picture)
    except broken as error:
        raise ValueError(f"cannot use the image {os.fspath(path)!r}: {_reason(error)}") from error


def _check(picture: Image.Image) -> None:
    """Refuse by the header, before a pixel is decoded."""
    width, height = picture.size
    if width * height > LARGEST:
        raise ValueError(f"images must have at most {LARGEST:,} pixels, got {width} x {height}; shrink it first")
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(f"images must not be {LONGEST} times longer than wide, got {width} x {height}")
    layouts = [layout for tile in getattr(picture, "tile", ()) if (layout := _deep(tile[0], tile[3]))]
    if layouts or picture.mode.startswith(("I", "F")):
        raise ValueError(f"images must have 8 bits a channel, got mode {(layouts or [picture.mode])[0]!r}")


def _deep(codec: str, told: Any) -> str | None:
    """The layout of a file's numbers if they have more than 8 bits, as in ``RGB;16B``; Pillow itself cuts them down."""
    layout, *more = told if isinstance(told, tuple) else (told,)
    if not isinstance(layout, str):
        return None
    if codec.startswith("ppm") and any(isinstance(most, int) and most > 255 for most in more):
        return f"{layout} up to {more[0]}"
    return layout if layout.partition(";")[2][:2] in ("10", "12", "16", "24", "32", "64") else None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ == "DecompressionBombError":
        return f"images must have at most {LARGEST:,} pixels, this one has more; shrink it first"
    return " ".join(str(error).split()) or type(error).__name__
