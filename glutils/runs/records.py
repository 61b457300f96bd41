"""A run's record: one JSON file with what was asked, on what, and what came out, row by row.

Numbers in prose and in published tables are read from records, never typed. The JSON is strict; numbers it cannot hold
(NaN, infinities) are the strings "NaN", "Infinity", "-Infinity", which `load` turns back. What was measured has six
significant digits; what was asked is kept to the last. Controls that belong to an image, not to what was done with it,
can be written once for all of its rows; `load` puts them back into each.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, SupportsIndex

import torch

from .. import _files, _validate, metrics
from .._version import __version__
from . import provenance
from .contents import DIGITS, decode, dump, encode, put_back_controls, rounded, take_out_controls
from .published import RECORDS
from .published import SOURCE as SOURCE  # the name by which notebooks ask for it

PARTS = ("torch", "torchvision", "numpy")
ROW = ("attack", "loss", "seconds", "image", *metrics.METRICS, "label_found", "label_right", "controls", "beaten_by")
FOLDER = "GLUTILS_RECORDS"
"""The environment variable that says where records go."""
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
DIRTY = "-dirty"
"""What follows a commit that the files differed from."""


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
        command: the command line, from the root of the project; ``None`` if it was not recorded.
        script: the script or notebook in it, from there.
        changes: a digest of what differed from the commit (see ``glutils.runs.provenance.tree``), if it is known.
        earlier: commits that some of the rows were made from, where a run was stopped and went on with other code.
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
    command: str | None = None
    script: str | None = None
    changes: str | None = None
    earlier: list[str] = dataclasses.field(default_factory=list)

    @property
    def clean(self) -> bool | None:
        """Whether the files were those of the commit; ``None`` where the commit is not known."""
        return None if self.commit is None else not self.commit.endswith(DIRTY)

    @property
    def made_from(self) -> str:
        """The commit as tables show it: seven digits, with a mark where the files were not those of the commit."""
        short = "not known" if self.commit is None else self.commit[:7]
        return f"{short} (tree not clean)" if self.clean is False else short


def record(
    name: str,
    *,
    parameters: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    seeds: SupportsIndex | Iterable[SupportsIndex] | None = None,
    seconds: float | int | None = None,
    device: str | torch.device | None = None,
    folder: str | Path | None = None,
    image_is: Sequence[str] = (),
    command: str | None = None,
    earlier: Sequence[str] = (),
) -> Path:
    """Write a run's record and return its path.

    The command line, the commit, and whether files differed from it are found out here.

    Args:
        name: letters, digits, ``.``, ``_`` and ``-``; the file is ``<name>.json`` and replaces an earlier one.
        parameters: name to value.
        rows: a list of mappings. Values, here and in parameters, may be numbers, strings, booleans, ``None``, tensors,
            arrays, dataclasses, and lists and mappings of these.
        seeds: integers.
        seconds: wall-clock time.
        device: a ``torch.device``, or words; by default the CPU. A CUDA device is recorded by its product name.
        folder: where to write; by default ``$GLUTILS_RECORDS``, else ``_build/records`` under the project's root, where
            a folder that cannot be written is a warning.
        image_is: columns that say which image a row is about, such as ``("seed", "image")``. Controls that are equal in
            all rows of an image (two or more) are then written once; loaded rows have them as before.
        command: the command line; by default that of this process.
        earlier: commits that rows are from which were made before; this one's is left out.

    Raises:
        TypeError, ValueError: naming the argument, and within it the entry that JSON cannot hold.

    Example:
        >>> import tempfile
        >>> import glutils as gl
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = gl.runs.record("example", parameters={"seed": 0}, rows=[{"psnr": 30.5}], folder=folder)
        ...     path.name, gl.runs.load("example", folder=folder).rows
        ('example.json', [{'psnr': 30.5}])
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
    told = [] if seeds is None else [seeds] if isinstance(seeds, SupportsIndex) else seeds
    tree = provenance.tree()
    command, script = provenance.started_by(command)
    commit = f"{tree.commit}{DIRTY}" if tree.changes else tree.commit
    written, controls = take_out_controls(encode("rows", rows, DIGITS), image_is)
    content = Record(
        name=name,
        parameters=encode("parameters", parameters),
        rows=written,
        seeds=[_validate.integer("seeds", seed) for seed in told],
        seconds=None if seconds is None else rounded(_validate.number("seconds", seconds, at_least=0)),
        device=_device(device),
        versions=_versions(),
        commit=commit,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        script=script,
        changes=tree.changes,
        earlier=[name for name in dict.fromkeys(earlier) if name != commit],
    )
    path = _folder(folder) / f"{name}.json"
    text = dump(dataclasses.asdict(content) | ({"controls": controls} if controls else {}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _files.write(path, text)
    except OSError as error:
        if folder is not None or FOLDER in os.environ or error.errno not in UNWRITABLE:
            raise
        # nobody asked for it in this place: a course's folder that is read-only must not stop the notebook
        warnings.warn(
            f"the record {name!r} is not kept: {path.parent} cannot be written ({error.strerror}); the environment "
            f"variable {FOLDER} may name another folder",
            stacklevel=2,
        )
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as from `rows_from` as CSV: these columns, the PSNR of every control (of texts, its share of tokens in
    place), and what a row loses to."""
    names = list(dict.fromkeys(name for row in rows for name in row["controls"]))
    lines = io.StringIO(newline="")
    lead = "psnr" if all("psnr" in row for row in rows) else "token_accuracy"
    writer = csv.DictWriter(lines, [*columns, *(f"{lead} of {name}" for name in names), "beaten_by"])
    writer.writeheader()
    for row in rows:
        line = {column: row[column] for column in columns} | {"beaten_by": "; ".join(row["beaten_by"])}
        writer.writerow(line | {f"{lead} of {name}": own[lead] for name, own in row["controls"].items()})
    _files.write(path, lines.getvalue())


def load(name_or_path: str | os.PathLike[str], *, folder: str | Path | None = None) -> Record:
    """The record of a name from ``folder`` (as in `record`), or by the path of its file.

    Without a folder, a record of the book (``gl.runs.RECORDS``) is found too, where no run of yours has that name: in a
    checkout and in an installed package alike.

    Raises:
        MissingRecord: no such record; the message lists those in the folder.
        ValueError: a file that is not a record.

    Example:
        >>> import glutils as gl
        >>> gl.runs.load("text_cpu").script
        'benchmarks/text.py'
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"name_or_path must be a record's name or path, got {type(name_or_path).__name__}")
    path = Path(name_or_path)
    if path.suffix != ".json" and path.name == str(name_or_path):
        path = _folder(folder) / f"{name_or_path}.json"
        if folder is None and not path.is_file() and (RECORDS / path.name).is_file():
            path = RECORDS / path.name
    if not path.is_file():
        there = sorted(found.stem for found in path.parent.glob("*.json"))
        raise MissingRecord(f"no record {path.stem!r} in {path.parent}; there are: {', '.join(there) or 'none'}")
    try:
        content = decode(json.loads(path.read_text(encoding="utf-8")))
        put_back_controls(content["rows"], content.pop("controls", []))
        return Record(**content)
    except (TypeError, AttributeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"name_or_path must be a record, but {path.name} is not one: {error}") from error


def rows_from(result: object, score: metrics.Score, **extra: Any) -> list[dict[str, Any]]:
    """One row per attacked image, in the order of the truth, for `record` and for tables.

    Each row holds ``extra``, then the attack's name, its loss and seconds (those of the whole batch, as far as
    ``result`` has them), the image's index, PSNR (dB), SSIM, MSE and LPIPS, and of a table cells and numeric error (of
    a text instead: exact, token accuracy, secrets and edit distance), the label found and whether it is right,
    ``controls`` (name to the same metrics), and ``beaten_by``, the controls with at least the image's PSNR (token
    accuracy).

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> protocol = gl.protocols.ZerothOrder(directions=20, mu=1e-4, dtype="float64", seed=0)
        >>> payload = protocol.transmit(model, batch.images, batch.labels)
        >>> seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
        >>> result = gl.attack("zerogla", seen, iterations=1, progress=False)
        >>> rows = gl.runs.rows_from(result, gl.score(result, batch), case="example")
        >>> len(rows), rows[0]["case"]
        (2, 'example')
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
    rows, lead = [], "token_accuracy" if score.token_accuracy is not None else "psnr"
    for i in range(len(score)):
        own, controls = _metrics(score, i), {name: _metrics(control, i) for name, control in score.controls.items()}
        better = [
            name for name, other in controls.items() if not (own[lead] > other[lead] or math.isnan(other[lead]))
        ]
        found: dict[str, Any] = {"label_right": bool(score.label_hits[i])}
        if labels.ndim == 1:
            found = {"label_found": int(labels[score.matching[i]])} | found
        rows.append({**extra, **whole, "image": i, **own, **found, "controls": controls, "beaten_by": better})
    return rows


def _metrics(measured: metrics.Metrics, index: int) -> dict[str, float]:
    return {name: float(getattr(measured, name)[index]) for name in measured.measured}


def _folder(folder: str | Path | None) -> Path:
    """Where records are: as told, as the environment says, or below the project that the caller works in."""
    told = folder if folder is not None else os.environ.get(FOLDER)
    return Path(told) if told else _files.own_place("_build", "records")


def _device(device: str | torch.device | None) -> str:
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
    return found | {"glutils": __version__}
