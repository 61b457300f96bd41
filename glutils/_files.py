"""Files that are there whole or not at all, whenever a run is killed; and where a project begins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(path: str | Path, content: str | bytes) -> None:
    """Write a file beside its place, then move it there: a reader finds the old one or the new one, never a part.

    Safe beside other writers of the same file: each has a part of its own, and the last one to finish wins. Text is
    written as UTF-8 with the line ends that it has. The folder has to exist.
    """
    path = Path(path)
    content = content.encode("utf-8") if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=".part", delete=False) as part:
        try:
            part.write(content)
            part.close()
            os.chmod(part.name, 0o644)
            os.replace(part.name, path)
        except BaseException:
            os.unlink(part.name)
            raise


def project_root(start: str | Path | None = None) -> Path:
    """The nearest folder from ``start`` upwards that has a ``pyproject.toml``; ``start`` itself where there is none.

    ``start`` is a folder, by default the one that the caller works in.
    """
    here = Path.cwd() if start is None else Path(start)
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)
