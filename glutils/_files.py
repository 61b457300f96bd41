"""Files that are there whole or not at all, whenever a run is killed; one writer a folder; where a project begins."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is held there
    fcntl = None

_held: dict[tuple[int, int], int] = {}
"""Folders (device, inode) that this process holds, and how many times."""


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


@contextlib.contextmanager
def held(folder: str | Path, argument: str) -> Iterator[None]:
    """Within this context no other process writes to ``folder``: each that asks as well is refused.

    The folder is made if it is not there, and removed again if nothing was put into it. The system lets go of it when a
    process ends, however it ends; nothing is left to clean up. A process may hold a folder several times. Where a file
    system cannot lock, nothing is held.

    Raises:
        FileExistsError: another process is writing there; ``argument`` names what the caller has to change.
    """
    path = Path(folder)
    ours = not path.exists()
    descriptor, key = _lock(path, argument)
    _held[key] = _held.get(key, 0) + 1
    try:
        yield
    finally:
        _held[key] -= 1
        if not _held[key]:
            del _held[key]
            if ours:
                with contextlib.suppress(OSError):  # it holds something
                    path.rmdir()
        if descriptor is not None:
            os.close(descriptor)


def _lock(path: Path, argument: str) -> tuple[int | None, tuple[int, int]]:
    """A descriptor of the folder that holds it (None: it is held already, or cannot be), and which folder it is."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return None, (0, 0)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # removed by the one that held it
            continue
        found = os.fstat(descriptor)
        key = (found.st_dev, found.st_ino)
        if key in _held:
            os.close(descriptor)
            return None, key
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FileExistsError(
                f"{path} is being written by another process; wait for it, or choose another {argument}"
            ) from None
        except OSError:  # a file system without locks
            return descriptor, key
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == found.st_ino:
                return descriptor, key
        os.close(descriptor)  # another folder stands in its place by now


def project_root(start: str | Path | None = None) -> Path:
    """The nearest folder from ``start`` upwards that has a ``pyproject.toml``; ``start`` itself where there is none.

    ``start`` is a folder, by default the one that the caller works in.
    """
    here = Path.cwd() if start is None else Path(start)
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


def own_place(*parts: str) -> Path:
    """A folder for results for which nobody chose one: ``parts`` below the project's root.

    A course's or a package's folder may be read-only. Then the same ``parts`` below ``leaky-scalars`` in the user's own
    folder take its place, and a warning says where that is.
    """
    here = project_root().joinpath(*parts)
    if _writable(next(folder for folder in (here, *here.parents) if folder.exists())):
        return here
    there = Path.home().joinpath("leaky-scalars", *parts)
    warnings.warn(f"{here} cannot be written; results go to {there}", stacklevel=3)
    return there


def _writable(folder: Path) -> bool:
    """Whether a file can be made there: tried, since permissions do not tell of a read-only disk."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
