"""Many runs of one notebook or function, on this machine's cores or wherever a dask scheduler has workers.

Only the process that calls :func:`sweep` writes. Workers compute and send back, so a worker that dies takes nothing
with it but the run it was at, which another worker repeats; and a run counts once its record is there, whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .. import _files, _validate
from ..solvers.engine import show_progress
from . import provenance, records
from .tasks import Task, grid_points, key_of, outcome

STORED = "sweep.json"
RETRIES = 3
"""Deaths of workers that one run may be at before it counts as failed."""


@dataclass(frozen=True)
class Failure:
    """A run that did not finish. It is tried again when the sweep is called again.

    Attributes:
        parameters: of the run. error: what went wrong, in a line; ``<key>.error.txt`` in the folder has the rest.
    """

    parameters: dict[str, Any]
    error: str


@dataclass(frozen=True)
class Sweep:
    """What a sweep holds so far.

    Attributes:
        folder: where the records are: ``<key>.json`` for each run, and for notebooks ``<key>.ipynb``.
        parameters: of each run, in the order of the grid.
        records: of each run, in that order; ``None`` where there is none yet.
        failures: runs of this call that failed.
        fresh: number of runs that this call has finished; the others were there before.
        stopped: why not all runs were tried, or ``None``.
    """

    folder: Path
    parameters: list[dict[str, Any]]
    records: list[records.Record | None]
    failures: list[Failure]
    fresh: int
    stopped: str | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of all records, each with its run's parameters before it (its own values win)."""
        return [one.parameters | row for one in self.records if one is not None for row in one.rows]


def sweep(
    task: str | os.PathLike[str] | Callable[..., Any],
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    cluster: object = None,
    *,
    workers: int | None = None,
    folder: str | Path | None = None,
    progress: bool | None = None,
    timeout: float | int = 5.0,
) -> Sweep:
    """Run a notebook or a function once for every point of a grid, and keep a record of each run.

    Called again, a sweep goes on where it stopped: a run whose record is in the folder is never repeated, whatever the
    rest of the grid looks like. Ctrl-C keeps what is finished. A run that fails is reported and stops no other.

    Args:
        task: a notebook's path, or its name in ``notebooks/``: every run executes it with other parameters, and its
            record has the rows of the record that the notebook left. Or a function: its result, a mapping or a list of
            mappings of what :func:`glutils.runs.record` takes, is the record's rows.
        grid: parameter to a list of values, for every combination of them; or a list of mappings, one for each run.
            Values are JSON's: numbers, strings, booleans, None, lists and mappings of these.
        cluster: the address of a dask scheduler (``tcp://host:8786``), a ``distributed.Client`` or a dask cluster;
            default: worker processes on this machine, for the time of the call. Workers elsewhere need this package
            and, for a notebook, the same file at the same path; they should have one thread each.
        workers: worker processes on this machine, default: one a core, and no more than runs. 0: no other process,
            one run after the other in this one. Only without ``cluster``.
        folder: where the records go; default ``data/sweeps/<name of the task>`` under the project's root. A folder
            belongs to one task: one that another notebook, or another version of it, has filled is refused.
        progress: see :func:`glutils.solvers.search`.
        timeout: seconds that the scheduler has to answer.

    Raises:
        ValueError, TypeError: an empty grid, a point twice, an unknown parameter, a value of the wrong type or one that
            JSON cannot hold; before anything starts.
        FileNotFoundError: no such notebook. FileExistsError: the folder holds something else, or
            another process is writing there.
        ConnectionError: no scheduler answers at the address.

    A script that calls this with worker processes needs the usual ``if __name__ == "__main__":``, since every worker
    imports it.
    """
    asked = Task.of(task)
    points = {key_of(point): point for point in grid_points(asked, grid)}
    if workers is not None:
        _validate.integer("workers", workers, at_least=0)
        if cluster is not None:
            raise ValueError(f"workers must be None where a cluster is given, which has its own; got {workers}")
    _validate.number("timeout", timeout, above=0)
    where = Path(folder) if folder is not None else _files.own_place("data", "sweeps", asked.name)
    with _files.held(where, "folder"):
        return _continued(asked, points, where, cluster, workers, timeout, progress)


def _continued(
    task: Task, points: Mapping[str, dict[str, Any]], where: Path, cluster: object, workers: int | None,
    timeout: float | int, progress: bool | None,
) -> Sweep:  # fmt: skip
    """The sweep, when nobody else writes to its folder."""
    _claim(where, task)
    there = {key: _record_of(where, key, point) for key, point in points.items()}
    missing = {key: point for key, point in points.items() if there[key] is None}
    failures, fresh, stopped = [], 0, None
    hidden = not show_progress(progress)
    bar = tqdm(total=len(points), initial=len(points) - len(missing), desc=task.name, disable=hidden)
    try:
        with bar, contextlib.closing(_outcomes(task, missing, cluster, workers, timeout)) as outcomes:
            for key, found in outcomes:
                error = _store(where, task, key, points[key], found)
                failures += [Failure(points[key], error)] if error else []
                fresh += not error
                there[key] = _record_of(where, key, points[key])
                bar.update()
                bar.set_postfix({"failed": len(failures)} if failures else {})
    except KeyboardInterrupt:
        finished = sum(one is not None for one in there.values())
        stopped = f"interrupted with {finished} of {len(points)} runs finished"
        if not finished:
            raise KeyboardInterrupt(stopped) from None
    return Sweep(where, list(points.values()), list(there.values()), failures, fresh, stopped)


def _claim(where: Path, task: Task) -> None:
    """Say in the folder whose it is; refuse one that is somebody else's."""
    stored, mine = where / STORED, {"task": task.title, "source": task.source}
    if stored.is_file():
        before = json.loads(stored.read_text(encoding="utf-8"))
        if before == mine:
            return
        what = f"of {before.get('task')}" if before.get("task") != task.title else f"of another version of {task.title}"
        raise FileExistsError(f"{where} holds runs {what}; choose another folder, or remove it")
    if where.exists() and any(where.iterdir()):
        raise FileExistsError(f"{where} holds files of something else; choose another folder")
    where.mkdir(parents=True, exist_ok=True)
    _files.write(stored, json.dumps(mine, indent=1) + "\n")


def _record_of(where: Path, key: str, point: Mapping[str, Any]) -> records.Record | None:
    """The record of a run, if it is there."""
    path = where / f"{key}.json"
    if not path.is_file():
        return None
    found = records.load(path)
    if found.parameters != point:
        raise ValueError(f"{path} is not the record of {dict(point)}: its parameters are {found.parameters}")
    return found


def _store(where: Path, task: Task, key: str, point: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Write what a run left; return its error, or None. The record comes last: it says that the run is finished."""
    executed, trouble = found.get("notebook"), where / f"{key}.error.txt"
    if "error" in found:
        _files.write(trouble, f"{json.dumps(point)}\n\n{found.get('trace') or found['error']}\n")
        if executed:
            _files.write(where / f"{key}.partial.ipynb", executed)
        return found["error"]
    if executed:
        _files.write(where / f"{key}.ipynb", executed)
    seeds = [point[name] for name in ("seed", "seeds") if type(point.get(name)) is int]
    records.record(
        key, parameters=point, rows=found["rows"], seeds=seeds, seconds=found["seconds"], device=found["device"],
        folder=where, command=None if task.path is None else provenance.notebook_command(task.path, point),
    )  # fmt: skip
    for left in (trouble, where / f"{key}.partial.ipynb"):
        left.unlink(missing_ok=True)
    return None


def _outcomes(
    task: Task, missing: Mapping[str, dict[str, Any]], cluster: object, workers: int | None, timeout: float | int
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """Key and outcome of each run, as they finish."""
    if not missing and cluster is None:
        return
    if workers == 0:
        for key, point in missing.items():
            yield key, outcome(task, key, point)
        return
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    with _client(cluster, workers, len(missing), timeout) as client:
        futures = {client.submit(outcome, task, key, point, pure=False): key for key, point in missing.items()}
        for future in as_completed(list(futures), loop=client.loop):
            key = futures.pop(future)
            error = future.exception()
            if error is None:
                yield key, future.result()
            elif isinstance(error, KilledWorker):
                yield key, {"error": f"{RETRIES + 1} workers died at this run (out of memory, or killed)"}
            else:  # of dask, or of taking the task apart and putting it together again: outcome() raises nothing
                yield key, {"error": f"{type(error).__name__}: {error}"}
            future.release()


@contextlib.contextmanager
def _client(cluster: object, workers: int | None, runs: int, timeout: float | int) -> Iterator[Any]:
    """A connection to the workers: those of a scheduler somewhere, or own ones that end with the block."""
    import dask.config
    from distributed import Client, LocalCluster

    if isinstance(cluster, Client):
        yield cluster
    elif cluster is not None:
        address = getattr(cluster, "scheduler_address", cluster)
        if not isinstance(address, str):
            raise TypeError(f"cluster must be an address, a Client or a dask cluster, got {type(cluster).__name__}")
        try:
            with dask.config.set({"distributed.comm.timeouts.connect": timeout}):
                client = Client(address, timeout=timeout, set_as_default=False)
        except (OSError, ValueError, ImportError) as error:
            raise ConnectionError(
                f"cluster must be the address of a running dask scheduler, such as 'tcp://host:8786'; "
                f"{address!r} did not answer within {timeout:g} s ({type(error).__name__})"
            ) from error
        with client:
            if not client.scheduler_info()["workers"]:
                warnings.warn(f"the scheduler at {address} has no workers yet; waiting for the first", stacklevel=2)
            yield client
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = min(cores, runs) if workers is None else min(workers, runs)
        rules = {"distributed.scheduler.allowed-failures": RETRIES, "distributed.worker.daemon": False}
        quiet: dict[str, Any] = {"dashboard_address": None, "silence_logs": "CRITICAL"}
        with (
            dask.config.set(rules),
            LocalCluster(n_workers=count, threads_per_worker=1, processes=True, memory_limit=0, **quiet) as own,
            Client(own, set_as_default=False) as client,
        ):
            yield client
