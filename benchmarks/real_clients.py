"""Digits of clients of the public DeComFL program, from the log of its server: PSNR and seconds.

Labels told and unknown, every client, and readings of the log that must be refused.

    python benchmarks/real_clients.py

Record in benchmarks/results (OMP_NUM_THREADS=1):

    real_clients_cpu: python benchmarks/real_clients.py
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from common import RESULTS, arguments

import glutils as gl

BARS = {"decomfl_central": (90, 20), "decomfl_forward_local2": (60, None)}
"""Worst PSNR (dB) and seconds that the project has set itself."""


def attacked(name: str, run, client: int, told: bool) -> dict:
    """One client in one line: the log is read, observed and attacked by public calls alone."""
    begin, truth = time.perf_counter(), run.clients[client]
    log = gl.transcripts.read(run.path, run.model, run.protocol, lr=run.lr)
    labels = truth.labels if told else None
    seen = gl.observe(log, client=client, shape=truth.images.shape, classes=10, labels=labels)
    result = gl.attack("zerogla", seen, solver="gauss-newton", seed=0, progress=False)
    seconds, score = time.perf_counter() - begin, gl.score(result, truth)
    return {
        "log": name, "client": client, "labels told": told, "scalars": seen.scalars, "PSNR": score.psnr,
        "worst PSNR": float(score.psnr.min()), "mean colour": float(score.controls["mean_colour"].mean()),
        "labels right": int(score.label_hits.sum()), "seconds": seconds, "misfit": result.loss**0.5,
        "noise": result.diagnostics["noise"], "notes": list(result.notes),
    } | dict(zip(("bar (dB)", "bar (s)"), BARS[name], strict=True))  # fmt: skip


def refused(name: str, run) -> list[dict]:
    """What is said of readings that contradict the end weights."""
    gaussian = replace(run.protocol, law="gaussian")
    rows = []
    for reading, protocol, lr in (("law gaussian", gaussian, run.lr), ("lr tenfold", run.protocol, 10 * run.lr)):
        said = None
        try:
            gl.transcripts.read(run.path, run.model, protocol, lr=lr)
        except ValueError as error:
            said = str(error)
        rows.append({"log": name, "reading": reading, "refused": said is not None, "said": said})
    return rows


def main() -> None:
    """Attack every client of every recorded run, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(BARS), choices=list(BARS))
    parser.add_argument("--name", default="real_clients_cpu")
    options = arguments(parser)
    rows, begin = [], time.perf_counter()
    for name in options.only:
        run = gl.transcripts.recorded(name)
        for client in range(len(run.clients)):
            for told in (True, False):
                rows.append(attacked(name, run, client, told))
                shown = ("log", "client", "labels told", "worst PSNR", "seconds")
                print({key: rows[-1][key] for key in shown}, flush=True)
        rows += refused(name, run)
    parameters = {"logs": options.only, "threads": torch.get_num_threads()}
    seconds = time.perf_counter() - begin
    gl.runs.record(options.name, parameters=parameters, rows=rows, seeds=[0], seconds=seconds, folder=RESULTS)


if __name__ == "__main__":
    main()
