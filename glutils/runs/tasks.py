"""What a sweep runs, and at which points: checked before anything starts, and run on a worker without raising."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import notebook, records

_ALONE = threading.Lock()  # a kernel finds its records' folder in the environment, which threads of a worker share


@dataclass(frozen=True)
class Task:
    """A notebook or a function.

    Attributes:
        name: what its folder may be called. title: what it is, in words.
        source: digest of the notebook's file or of the function's text.
        path: of the notebook, or ``None``. function: or ``None``.
    """

    name: str
    title: str
    source: str
    path: Path | None = None
    function: Callable[..., Any] | None = None

    @classmethod
    def of(cls, task: str | os.PathLike[str] | Callable[..., Any]) -> Task:
        """The task that a path, a notebook's name or a function stands for."""
        if isinstance(task, str | os.PathLike):
            path = notebook.find(os.fspath(task)).resolve()
            notebook.parameters(path)
            return cls(path.stem, f"notebook {path.name}", notebook.digest(path.read_text(encoding="utf-8")), path)
        if not inspect.isfunction(task):
            raise TypeError(f"task must be a notebook's path or name, or a function, got {type(task).__name__}")
        try:
            text = inspect.getsource(task)
        except (OSError, TypeError):
            text = ""
        title = f"function {task.__module__}.{task.__qualname__}"
        return cls(task.__name__.strip("<>"), title, notebook.digest(text), function=task)

    @property
    def _called(self) -> Callable[..., Any]:
        assert self.function is not None, "a task is a notebook or a function"
        return self.function

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of one run: names known, none missing, and for a notebook each of its type."""
        if self.path is not None:
            return notebook.check(notebook.parameters(self.path), given)
        takes = inspect.signature(self._called).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            unknown = [name for name in given if name not in takes]
            if unknown:
                names = ", ".join(takes) or "none"
                raise ValueError(f"unknown parameter {', '.join(map(repr, unknown))} of {self.title}; valid: {names}")
        loose = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        needed = [n for n, p in takes.items() if p.default is p.empty and p.kind not in loose and n not in given]
        if needed:
            raise ValueError(f"grid must give {', '.join(map(repr, needed))}, which {self.title} needs")
        return dict(given)


def grid_points(task: Task, grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points of a grid, in order, each checked; see :func:`glutils.runs.sweep`."""
    if isinstance(grid, Mapping):
        for name, values in grid.items():
            if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
                raise TypeError(f"grid[{name!r}] must be a list of values, got {type(values).__name__}")
            if not values:
                raise ValueError(f"grid[{name!r}] must hold at least one value, got none")
        points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        points = points if grid else []
    elif isinstance(grid, Sequence) and not isinstance(grid, str):
        points = list(grid)
    else:
        raise TypeError(f"grid must be a mapping from names to lists, or a list of mappings, got {type(grid).__name__}")
    if not points:
        raise ValueError("grid must hold at least one point, got none")
    found: dict[str, dict[str, Any]] = {}
    for number, point in enumerate(points):
        if not isinstance(point, Mapping):
            raise TypeError(f"grid[{number}] must be a mapping of parameters, got {type(point).__name__}")
        point = task.check({name: _json(f"parameter {name!r}", value) for name, value in point.items()})
        if (key := key_of(point)) in found:
            raise ValueError(f"grid must name every point once, got {point} twice")
        found[key] = point
    return list(found.values())


def key_of(point: Mapping[str, Any]) -> str:
    """What the files of a run are called: a digest of its parameters."""
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:16]


def outcome(task: Task, key: str, point: dict[str, Any]) -> dict[str, Any]:
    """Run a task, on a worker: its rows, seconds and device, or its error; and of a notebook the execution."""
    begin = time.perf_counter()
    try:
        found = _notebook(task, task.path, key, point) if task.path is not None else _function(task, point)
    except Exception as error:  # whatever a run raises is its own affair: the others go on
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    return {"seconds": time.perf_counter() - begin, "device": None} | found


def _function(task: Task, point: dict[str, Any]) -> dict[str, Any]:
    rows = task._called(**point)
    rows = [rows] if isinstance(rows, Mapping) else rows
    if isinstance(rows, str) or not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(f"{task.title} must return a mapping or a list of mappings, got {type(rows).__name__}")
    return {"rows": records.decode(records.encode("rows", list(rows)))}


def _notebook(task: Task, path: Path, key: str, point: dict[str, Any]) -> dict[str, Any]:
    if not path.is_file() or notebook.digest(path.read_text(encoding="utf-8")) != task.source:
        raise FileNotFoundError(f"a worker needs the notebook, as it was, at {path}")
    with tempfile.TemporaryDirectory() as folder, _ALONE:
        out, kept = Path(folder) / f"{key}.ipynb", Path(folder) / "records"
        try:
            notebook.run(path, point, out=out, progress=False, records=kept)
        except RuntimeError as error:  # a cell failed
            partial = out.with_suffix(".partial.ipynb")
            text = str(error).replace(f"{folder}{os.sep}", "")
            trace = "\n".join(getattr(error.__cause__, "traceback", [])) or None
            return {"error": text, "trace": trace, "notebook": partial.read_text(encoding="utf-8")}
        own = kept / f"{path.stem}.json"
        found = records.load(own) if own.is_file() else None
        left = {"rows": [], "device": None} if found is None else {"rows": found.rows, "device": found.device}
        return left | {"notebook": out.read_text(encoding="utf-8")}


def _json(where: str, value: Any) -> Any:
    """``value`` if JSON holds it exactly, so that what is written is what was run; ``TypeError`` or ``ValueError``."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a number that JSON can hold, got {value}")
    if isinstance(value, list):
        return [_json(f"{where}[{k}]", item) for k, item in enumerate(value)]
    if isinstance(value, dict) and all(type(name) is str for name in value):
        return {name: _json(f"{where}[{name!r}]", item) for name, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{where} must be a number, string, boolean, None, list or mapping, got {type(value).__name__}")
