"""Rows of a measurement that are written as they come, so that a run that was stopped goes on where it stood."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import glutils as gl
from glutils.runs import contents

RESULTS = Path(__file__).resolve().parents[1] / "results"
"""Where published records lie."""
PAUSE = 20.0
"""Seconds between two writings of a record: at most so much is lost."""


class Rows:
    """The rows of a record in ``benchmarks/results``: those that are there, and those that are added.

    Used as a context: leaving it, also by an error or Ctrl-C, writes the record; so does adding, every now and then.

    Args:
        record: the record's name.
        parameters: written into the record.
        same: which of them an old record must have been made with; default: all but a ``note``. Rows of others are not
            mixed in.
        drop: which of the old rows to leave out, to be made again.
        seeds: of the record; default: the ``seed`` of its rows.
        device, image_is: see :func:`glutils.runs.record`.
        folder: of the record.

    Attributes:
        was: parameters of the record that was there, as they were written.

    Raises:
        ValueError: the record there is was made with other parameters.
    """

    def __init__(
        self,
        record: str,
        parameters: Mapping[str, Any],
        *,
        same: Collection[str] | None = None,
        drop: Callable[[Mapping[str, Any]], bool] = lambda row: False,
        seeds: Sequence[int] | None = None,
        device: Any = None,
        image_is: Sequence[str] = (),
        folder: Path | None = None,
    ):
        self.record, self.parameters, self.seeds = record, dict(parameters), seeds
        self.how = {"device": device, "image_is": image_is, "folder": RESULTS if folder is None else folder}
        self.rows: list[dict[str, Any]] = []
        self.was: dict[str, Any] = {}
        self.before, self.earlier, self.new = 0.0, [], False
        self.begin = self.written = time.perf_counter()
        path = self.how["folder"] / f"{record}.json"
        if path.is_file():
            self._take(gl.runs.load(path), same, drop)

    def _take(self, old: gl.runs.Record, same: Collection[str] | None, drop: Callable[..., bool]) -> None:
        now = contents.decode(contents.encode("parameters", self.parameters))
        asked = (now.keys() | old.parameters.keys()) - {"note"} if same is None else same
        differ = sorted(name for name in asked if old.parameters.get(name) != now.get(name))
        if differ:
            was, new = ({name: found.get(name) for name in differ} for found in (old.parameters, now))
            raise ValueError(
                f"record {self.record!r} was made with {was}, not {new}; move it away, or choose another name"
            )
        self.was = dict(old.parameters)
        if "note" in old.parameters:  # it is about rows that are there
            self.parameters.setdefault("note", old.parameters["note"])
        self.rows = [row for row in old.rows if not drop(row)]
        self.before, self.earlier = old.seconds or 0.0, [*old.earlier, old.commit or "not known"]

    def __contains__(self, cell: Mapping[str, Any]) -> bool:
        """Whether there is a row with these values."""
        cell = plain(cell)
        return any(all(row.get(key) == value for key, value in cell.items()) for row in self.rows)

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Take rows that belong together; write the record if it was not written for a while."""
        self.rows += plain(rows)
        self.new = True
        if time.perf_counter() - self.written > PAUSE:
            self.write()

    def write(self) -> None:
        """Write the record as far as it goes."""
        seeds = sorted({row["seed"] for row in self.rows}) if self.seeds is None else self.seeds
        seconds = self.before + time.perf_counter() - self.begin
        gl.runs.record(
            self.record, parameters=self.parameters, rows=self.rows, seeds=seeds, seconds=seconds,
            earlier=self.earlier, **self.how,
        )  # fmt: skip
        self.written = time.perf_counter()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *error: object) -> None:
        if self.new:
            self.write()


def plain(value: Any) -> Any:
    """A value as it comes back from a record."""
    return contents.decode(contents.encode("rows", value, contents.DIGITS))


def measure(
    record: str,
    cells: Iterable[Mapping[str, Any]],
    work: Callable[..., Mapping[str, Any]],
    parameters: Mapping[str, Any],
    seeds: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Do ``work(**cell)`` for every cell that has no row in the record yet, and return the record's rows.

    Args:
        record: name of the record in ``benchmarks/results``.
        cells: what identifies a row: keyword arguments of ``work``, with values that JSON can hold; ``seed`` is one.
        work: gives what was measured. A ``ValueError`` becomes a row with the reason under ``refused``.
        parameters: written into the record, with the number of threads.
        seeds: of the record; default: the ``seed`` of its rows.

    Raises:
        ValueError: the record was made with other parameters.
    """
    with Rows(record, dict(parameters) | {"threads": torch.get_num_threads()}, seeds=seeds) as rows:
        for cell in cells:
            if cell in rows:
                continue
            used = time.process_time()
            try:
                found = dict(work(**cell))
            except ValueError as error:
                found = {"refused": str(error)}
            rows.add(dict(cell) | found | {"cpu_seconds": time.process_time() - used})
            say(rows.rows[-1])
    return rows.rows


def say(row: Mapping[str, Any]) -> None:
    """Print a row."""
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def scores(result: gl.attacks.Reconstruction, batch: gl.data.Batch) -> dict[str, Any]:
    """What every row holds of an attack: PSNR of the median, best and worst image, SSIM, labels, mean colour (dB)."""
    score = gl.score(result, batch)
    return {
        "psnr": score.mean_psnr, "best": float(score.psnr.max()), "worst": float(score.psnr.min()),
        "ssim": float(score.ssim.mean()), "labels": score.label_accuracy, "loss": result.loss,
        "mean colour": float(score.controls["mean_colour"].mean()),
    }  # fmt: skip
