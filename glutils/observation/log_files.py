"""The file formats of a server's log: NumPy's ``.npz``, JSON, JSON lines, or a mapping that is in memory already."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import _files

GROUPS = ("start", "end")
FORMATS = (".npz", ".json", ".jsonl")


def load(source: Any) -> dict[str, Any]:
    """Arrays of a log by name, those of ``start`` and ``end`` as ``"start/<name>"``.

    Raises:
        TypeError, ValueError: neither a path nor a mapping, no such file, a file that is damaged or of another format.
    """
    if isinstance(source, Mapping):
        return _flat(source)
    if not isinstance(source, (str, Path)):
        raise TypeError(f"source must be a path or a mapping of arrays, got {type(source).__name__}")
    path = Path(source)
    if path.suffix not in FORMATS:
        raise ValueError(f"source must end in {', '.join(FORMATS)}, got {str(source)!r}")
    if not path.is_file():
        raise ValueError(f"source must be a file, there is none at {str(source)!r}")
    try:
        if path.suffix == ".npz":
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:  # closed if it is cut off
                return _flat({name: found[name] for name in found.files})
        text = path.read_text(encoding="utf-8")
        return _flat(json.loads(text)) if path.suffix == ".json" else _of_lines(text)
    except (OSError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"source {str(source)!r} cannot be read as {path.suffix}: {error}") from error


def dump(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as ``.npz`` or ``.json``, whole or not at all."""
    path = Path(path)
    if path.suffix == ".json":
        found: dict[str, Any] = {group: {} for group in GROUPS}
        for name, array in arrays.items():
            group, _, own = name.partition("/")
            (found[group] if own else found)[own or group] = _bare(array.tolist())
        _files.write(path, json.dumps({name: entry for name, entry in found.items() if entry != {}}, allow_nan=False))
    elif path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        _files.write(path, buffer.getvalue())
    else:
        raise ValueError(f"path must end in .npz or .json, got {str(path)!r}")


def _bare(value: Any) -> Any:
    """Nested lists with None in place of NaN, which JSON does not have."""
    if isinstance(value, list):
        return [_bare(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value


def _flat(found: Any) -> dict[str, Any]:
    """With ``{"start": {"0.weight": ...}}`` as ``{"start/0.weight": ...}``, and lists as arrays."""
    if not isinstance(found, Mapping):
        raise ValueError(f"it must hold arrays by name, got {type(found).__name__}")
    flat: dict[str, Any] = {}
    for name, entry in found.items():
        if name in GROUPS and not isinstance(entry, (Mapping, torch.Tensor, np.ndarray)):
            entry = dict(enumerate(entry))  # arrays in the order of the parameters
        if isinstance(entry, Mapping):
            flat |= {f"{name}/{own}": _array(f"{name}/{own}", value) for own, value in entry.items()}
        else:
            flat[str(name)] = _array(str(name), entry)
    return flat


def _array(name: str, value: Any) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value
    try:
        found = np.array(value)
        return np.array(value, dtype=np.float64) if found.dtype == object else found  # None becomes NaN
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be an array, or lists as deep and long as one: {error}") from error


def _of_lines(text: str) -> dict[str, Any]:
    """Arrays of one message a line; lines with "start" or "end" hold parameters."""
    said: dict[tuple[int, int, int], tuple[int, list]] = {}
    arrays: dict[str, Any] = {}
    for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
        entry = json.loads(line)
        if isinstance(entry, dict) and entry and set(entry) <= {*GROUPS, "sizes"}:
            arrays |= _flat(entry)
            continue
        try:
            at = (int(entry["round"]), int(entry["client"]), int(entry.get("step", 0)))
            seed, scalars = entry["seed"], entry["scalars"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"line {number} must have round, client, seed and scalars") from error
        if at in said or min(at) < 0:
            raise ValueError(f"line {number} repeats, or counts below 0: round {at[0]}, client {at[1]}, step {at[2]}")
        said[at] = (seed, scalars)
    if not said:
        raise ValueError("it holds no messages")
    rounds, clients, steps = (max(at[axis] for at in said) + 1 for axis in range(3))
    counts = {len(scalars) for _, scalars in said.values()}
    if len(counts) > 1:
        raise ValueError(f"scalars must be equally many in each line, got {sorted(counts)}")
    scalars, seeds = np.full((rounds, clients, steps, counts.pop()), np.nan), np.zeros((rounds, steps), dtype=object)
    for (turn, client, step), (seed, numbers) in said.items():
        if seeds[turn, step] not in (0, seed):
            raise ValueError(f"round {turn} mixes seeds {seeds[turn, step]} and {seed} in step {step}")
        seeds[turn, step], scalars[turn, client, step] = seed, numbers
    return arrays | {"seeds": np.array(seeds.tolist()), "scalars": scalars}
