"""A private record and its reconstruction as files of an experiment: pictures, or JSON where records are no images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import _files, _png
from ..data.batch import Batch

SAYS = "says"
"""What a file that is no picture says in words: a text, or the variables of a record by name."""


def write(folder: Path, stem: str, batch: Batch, record: torch.Tensor) -> None:
    """One record of the kind that ``batch`` holds: ``<stem>.png``, or ``<stem>.json``."""
    if batch.images.ndim == 4:
        _files.write(folder / f"{stem}.png", _png.encode(record))
        return
    said: dict[str, Any] = {"record": record.tolist()}
    if batch.vocabulary is not None:
        said[SAYS] = batch.vocabulary.decode(record.cpu())
    elif batch.columns is not None:
        said[SAYS] = batch.columns.rows(record[None].cpu())[0]
    _files.write(folder / f"{stem}.json", json.dumps(said, indent=1) + "\n")


def read(folder: Path, stem: str) -> torch.Tensor:
    """The record of a file: (C, H, W) in [0, 1], (columns,) float32, or (L,) int64."""
    picture = folder / f"{stem}.png"
    if picture.is_file():
        return _png.decode(picture.read_bytes())
    return torch.tensor(json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))["record"])


def says(folder: Path, stem: str) -> str | Mapping[str, Any] | None:
    """What the record says in words; None of a picture, and where nobody said what pieces or columns stand for."""
    path = folder / f"{stem}.json"
    return json.loads(path.read_text(encoding="utf-8")).get(SAYS) if path.is_file() else None
