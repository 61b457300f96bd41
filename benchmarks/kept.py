"""Rows of a measurement that are written as they come, so that a run that was stopped goes on where it stood."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from timing import RESULTS

import glutils as gl

PAUSE = 20.0
"""Seconds between two writings of a record: at most so much is lost."""


def measure(
    record: str,
    cells: Iterable[Mapping[str, Any]],
    work: Callable[..., Mapping[str, Any]],
    parameters: Mapping[str, Any],
    again: Callable[[Mapping[str, Any]], bool] = lambda row: False,
) -> list[dict[str, Any]]:
    """Do ``work(**cell)`` for every cell that has no row in the record yet, and write the record every now and then.

    Args:
        record: name of the record in ``benchmarks/results``.
        cells: what identifies a row: keyword arguments of ``work``, with values that JSON can hold; ``seed`` is one.
        work: gives what was measured. A ``ValueError`` becomes a row with the reason under ``refused``.
        parameters: written into the record; rows measured with other parameters are an error, not mixed in.
        again: which of the old rows to measure anew.

    Raises:
        ValueError: the record was made with other parameters.
    """
    path, rows, spent = RESULTS / f"{record}.json", [], 0.0
    parameters = dict(parameters) | {"threads": torch.get_num_threads()}
    if path.is_file():
        old = gl.runs.load(path)
        if old.parameters != parameters:
            raise ValueError(f"record {record!r} was made with {old.parameters}, not {parameters}; move it away")
        rows, spent = [row for row in old.rows if not again(row)], old.seconds

    def write() -> None:
        seeds = sorted({row["seed"] for row in rows})
        gl.runs.record(record, parameters=parameters, rows=rows, seeds=seeds, seconds=spent, folder=RESULTS)

    written = time.perf_counter()
    try:
        for cell in cells:
            if any(all(row.get(key) == value for key, value in cell.items()) for row in rows):
                continue
            begin, used = time.perf_counter(), time.process_time()
            try:
                found = dict(work(**cell))
            except ValueError as error:
                found = {"refused": str(error)}
            rows.append(dict(cell) | found | {"cpu_seconds": time.process_time() - used})
            spent += time.perf_counter() - begin
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            if time.perf_counter() - written > PAUSE:
                write()
                written = time.perf_counter()
    finally:  # an interruption loses the cell in work, and no other
        if rows:
            write()
    return rows


def scored(result: gl.attacks.Reconstruction, batch: gl.data.Batch) -> dict[str, Any]:
    """What every row holds of an attack: PSNR of the median, best and worst image, SSIM, labels, mean colour (dB)."""
    score = gl.score(result, batch)
    return {
        "psnr": score.mean_psnr, "best": float(score.psnr.max()), "worst": float(score.psnr.min()),
        "ssim": float(score.ssim.mean()), "labels": score.label_accuracy, "loss": result.loss,
        "mean colour": float(score.controls["mean_colour"].mean()),
    }  # fmt: skip
