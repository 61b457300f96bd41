"""A folder of the reader's own images: which folders are classes, which files are images, and what is neither."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

SPLIT_FOLDERS = ("private", "public")
OTHER_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"))
"""What others call the parts of a set. A class may have such a name; all of them together cannot."""
READABLE = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jp2",
    ".pgm", ".ppm", ".pbm", ".pnm", ".qoi", ".tga",
))  # fmt: skip
"""Endings of the files that are read; of an animation that is the first picture."""
_SHOWN = 3

Samples = list[tuple[str, int]]


def image_folder(root: Path, split: str) -> tuple[Samples, list[str]]:
    """The images (path, class number) of one split of ``root``, and the names of the classes, in alphabetical order.

    ``root/<class>/*``, where the images of every class are private and public in turn, or ``root/private/<class>/*``
    and ``root/public/<class>/*``. A class's own folders are read too. Files and folders whose names begin with a dot,
    and ``__MACOSX``, are left by programs and are no data. Of other files that cannot be read as images a warning
    tells.

    Raises:
        ValueError: folders that are splits where classes are expected, or the other way round.
        FileNotFoundError: no classes, a class without images, two splits with different classes.
    """
    parts = [name for name in SPLIT_FOLDERS if (root / name).is_dir()]
    if len(parts) == 1:
        (missing,) = set(SPLIT_FOLDERS) - set(parts)
        raise ValueError(f"there is a folder {parts[0]!r}, but no folder {missing!r} beside it")
    if parts:
        stray = [folder.name for folder in _folders(root) if folder.name not in parts]
        if stray:
            raise ValueError(f"beside the folders private and public there is {_names(stray)}: it belongs to neither")
        found = {name: _read(root / name) for name in parts}
        if found["private"][1] != found["public"][1]:
            raise FileNotFoundError("the folders private and public hold different classes")
        return found[split]
    samples, classes = _read(root)
    rank, mine = [-1] * len(classes), []
    for path, label in samples:
        rank[label] += 1
        if rank[label] % 2 == SPLIT_FOLDERS.index(split):
            mine.append((path, label))
    for name, last in zip(classes, rank, strict=True):
        if not last:
            raise ValueError(f"the class {name!r} has a single image: it cannot be private and public")
    return mine, classes


def picture_files(folder: Path) -> list[Path]:
    """All files that are read as images, in a folder and the folders in it, without what programs left there."""
    return [path for path in _files(folder, folder) if path.suffix.lower() in READABLE]


def _files(folder: Path, root: Path) -> list[Path]:
    """Files, and links to nothing, which are refused by name where they are opened."""
    there = [path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink() and not path.exists()]
    return [path for path in there if not _hidden(path.relative_to(root))]


def _read(root: Path) -> tuple[Samples, list[str]]:
    """All images below the classes of one folder."""
    classes = _folders(root)
    if not classes:
        raise FileNotFoundError(f"{str(root)!r} holds no folders, one for each class")
    _check_classes(root, classes)
    samples, skipped = [], []
    for label, folder in enumerate(classes):
        files = _files(folder, root)
        images = [path for path in files if path.suffix.lower() in READABLE]
        if not images:
            raise FileNotFoundError(f"the class {folder.name!r} has no images")
        samples += [(str(path), label) for path in images]
        skipped += [path.name for path in files if path.suffix.lower() not in READABLE]
    if skipped:
        warnings.warn(f"{len(skipped)} files in {str(root)!r} are not read as images: {_names(skipped)}", stacklevel=2)
    return samples, [folder.name for folder in classes]


def _check_classes(root: Path, classes: list[Path]) -> None:
    """Refuse splits that look like classes: all named like splits, or holding the same folders and no image."""
    names = [folder.name for folder in classes]
    inside = [{path.name for path in _folders(folder)} for folder in classes]
    bare = not any(path.is_file() and not _hidden(Path(path.name)) for folder in classes for path in folder.iterdir())
    alike = len(classes) > 1 and bare and bool(set.intersection(*inside))
    if alike or {name.lower() for name in names} <= OTHER_SPLITS:
        raise ValueError(
            f"{_names(names)} look like splits of a set, not like classes: give {str(root / names[0])!r}, or call two "
            "of them private and public"
        )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not _hidden(Path(path.name)))


def _hidden(path: Path) -> bool:
    """Whether a program left it there: Jupyter's checkpoints, a Mac's ``._`` files and ``__MACOSX``."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _names(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
