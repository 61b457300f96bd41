"""Files that are there whole or not at all, whenever a run is killed."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, then move it there: a reader finds the old one or the new one, never a part."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    os.replace(part, path)
