"""A run's record: one JSON file with what was asked, on what, and what came out, row by row.

Numbers in prose and in published tables are read from records, never typed. The JSON is strict; numbers it cannot hold
(NaN, infinities) are the strings "NaN", "Infinity", "-Infinity", which `load` turns back.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

from .. import _files, _validate, metrics

SOURCE = Path(__file__).resolve().parents[2]  # what holds the package: a checkout, or site-packages
PARTS = ("torch", "torchvision", "numpy", "glutils")
ROW = ("attack", "loss", "seconds", "image", *metrics.METRICS, "label_found", "label_right", "controls", "beaten_by")
STRANGE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MissingRecord(ValueError, FileNotFoundError):
    """There is no record of that name; the message lists those there are."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        name: what the record's file is called, such as a notebook's name.
        parameters: what was asked, by name.
        rows: one mapping per attacked image or setting, with its scores and controls.
        seeds: the seeds the rows were made with.
        seconds: wall-clock time of the run, or ``None``.
        device: what it ran on, in words.
        versions: of Python, torch, torchvision, numpy and this package.
        commit: the checkout's git commit, ending in "-dirty" if files had changed; ``None`` outside a checkout.
        written: UTC time in ISO 8601.
    """

    name: str
    parameters: dict[str, Any]
    rows: list[dict[str, Any]]
    seeds: list[int]
    seconds: float | None
    device: str
    versions: dict[str, str]
    commit: str | None
    written: str


def record(
    name: Any,
    *,
    parameters: Any,
    rows: Any,
    seeds: Any = None,
    seconds: Any = None,
    device: Any = None,
    folder: Any = None,
) -> Path:
    """Write a run's record and return its path.

    Args:
        name: letters, digits, ``.``, ``_`` and ``-``; the file is ``<name>.json`` and replaces an earlier one.
        parameters: name to value.
        rows: a list of mappings. Values, here and in parameters, may be numbers, strings, booleans, ``None``, tensors,
            arrays, dataclasses, and lists and mappings of these.
        seeds: integers.
        seconds: wall-clock time.
        device: a ``torch.device``, or words; by default the CPU. A CUDA device is recorded by its product name.
        folder: where to write; by default ``$GLUTILS_RECORDS``, else ``_build/records`` under the project's root.

    Raises:
        TypeError, ValueError: naming the argument, and within it the entry that JSON cannot hold.
    """
    _validate.file_name("name", name)
    if not isinstance(parameters, Mapping):
        raise TypeError(f"parameters must be a mapping, got {type(parameters).__name__}")
    if (
        isinstance(rows, (str, Mapping))
        or not isinstance(rows, Sequence)
        or not all(isinstance(r, Mapping) for r in rows)
    ):
        raise TypeError(f"rows must be a list of mappings, got {type(rows).__name__}")
    seeds = [] if seeds is None else [seeds] if hasattr(seeds, "__index__") else seeds
    content = Record(
        name=name,
        parameters=encode("parameters", parameters),
        rows=encode("rows", rows),
        seeds=[_validate.integer("seeds", seed) for seed in seeds],
        seconds=None if seconds is None else _validate.number("seconds", seconds, at_least=0),
        device=_device(device),
        versions=_versions(),
        commit=_commit(),
        written=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = _folder(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _files.write(path, text)
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as from `rows_from` as CSV: these columns, the PSNR of every control, and what a row loses to."""
    names = list(dict.fromkeys(name for row in rows for name in row["controls"]))
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, [*columns, *(f"psnr of {name}" for name in names), "beaten_by"])
    writer.writeheader()
    for row in rows:
        line = {column: row[column] for column in columns} | {"beaten_by": "; ".join(row["beaten_by"])}
        writer.writerow(line | {f"psnr of {name}": four["psnr"] for name, four in row["controls"].items()})
    _files.write(path, lines.getvalue())


def load(name_or_path: Any, *, folder: Any = None) -> Record:
    """Read a record by name from ``folder`` (as in `record`), or by the path of its file.

    Raises:
        MissingRecord: no such record; the message lists those in the folder.
        ValueError: a file that is not a record.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"name_or_path must be a record's name or path, got {type(name_or_path).__name__}")
    path = Path(name_or_path)
    if path.suffix != ".json" and path.name == str(name_or_path):
        path = _folder(folder) / f"{name_or_path}.json"
    if not path.is_file():
        there = sorted(found.stem for found in path.parent.glob("*.json"))
        raise MissingRecord(f"no record {path.stem!r} in {path.parent}; there are: {', '.join(there) or 'none'}")
    try:
        return Record(**decode(json.loads(path.read_text(encoding="utf-8"))))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"name_or_path must be a record, but {path.name} is not one: {error}") from error


def rows_from(result: Any, score: Any, **extra: Any) -> list[dict[str, Any]]:
    """One row per attacked image, in the order of the truth, for `record` and for tables.

    Each row holds ``extra``, then the attack's name, its loss and seconds (those of the whole batch, as far as
    ``result`` has them), the image's index, PSNR (dB), SSIM, MSE and LPIPS, the label found and whether it is right,
    ``controls`` (name to the same four metrics), and ``beaten_by``, the controls with at least the image's PSNR.
    """
    if not isinstance(score, metrics.Score):
        raise TypeError(f"score must be a Score, got {type(score).__name__}")
    labels = getattr(result, "labels", None)
    if not isinstance(labels, torch.Tensor) or len(labels) != len(score):
        raise ValueError(f"result must be the Reconstruction that was scored, with {len(score)} labels")
    whole = {key: getattr(result, key) for key in ("attack", "loss", "seconds") if hasattr(result, key)}
    taken = sorted(set(extra) & set(ROW))
    if taken:
        raise ValueError(f"extra must not name what a row has anyway, got {taken}")
    rows = []
    for i in range(len(score)):
        own, controls = _four(score, i), {name: _four(control, i) for name, control in score.controls.items()}
        better = [
            name for name, other in controls.items() if not (own["psnr"] > other["psnr"] or math.isnan(other["psnr"]))
        ]
        found = {"label_found": int(labels[score.matching[i]]), "label_right": bool(score.label_hits[i])}
        rows.append({**extra, **whole, "image": i, **own, **found, "controls": controls, "beaten_by": better})
    return rows


def _four(measured: Any, index: int) -> dict[str, float]:
    return {name: float(getattr(measured, name)[index]) for name in metrics.METRICS}


def _folder(folder: Any) -> Path:
    """Where records are: as told, as the environment says, or below the project that the caller works in."""
    told = folder if folder is not None else os.environ.get("GLUTILS_RECORDS")
    return Path(told) if told else _files.project_root() / "_build" / "records"


def encode(where: str, value: Any) -> Any:
    """``value`` in JSON's types, as a record holds it; ``where`` names it in errors."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().as_subclass(torch.Tensor).tolist()
    elif isinstance(value, (numpy.ndarray, numpy.generic)):
        value = value.tolist()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, (torch.device, torch.dtype, Path)):
        value = str(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return (
            value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        )
    if isinstance(value, str):
        if value in STRANGE:
            raise ValueError(f"{where} must not be the string {value!r}, which stands for a number in records")
        return value
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{where} must have strings as keys, got {wrong[0]!r}")
        return {key: encode(f"{where}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, Sequence):
        return [encode(f"{where}[{index}]", item) for index, item in enumerate(value)]
    raise TypeError(f"{where} must be something JSON can hold, got {type(value).__name__}")


def decode(value: Any) -> Any:
    """What `encode` made of numbers that JSON cannot hold, turned back."""
    if isinstance(value, str):
        return STRANGE.get(value, value)
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    return [decode(item) for item in value] if isinstance(value, list) else value


def _device(device: Any) -> str:
    if isinstance(device, str) and not re.fullmatch(r"(cpu|cuda)(:\d+)?", device):
        return device
    device = torch.device("cpu" if device is None else device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else "CUDA"
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for part in PARTS:
        try:
            found[part] = importlib.metadata.version(part)
        except importlib.metadata.PackageNotFoundError:
            found[part] = "not installed"
    return found


def _commit() -> str | None:
    if not (SOURCE / "pyproject.toml").is_file():
        return None
    command = ["git", "-C", str(SOURCE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
