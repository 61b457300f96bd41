"""TabLeak on the shipped tables: cells that are right, by table and batch size, beside those who read no message.

The gradient of one batch of records, through a network of one hidden layer; labels told. Controls: the same search on a
gradient that was spoiled, the public means and commonest levels, and the nearest of the public records, which is chosen
by somebody who knows the private ones. Rows that are in the record already are kept.

    python benchmarks/tables.py [--seeds 10]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    tables_cpu: python benchmarks/tables.py
"""

from __future__ import annotations

import argparse

import torch
from common import arguments, measure

import glutils as gl

TABLES, SIZES, HIDDEN = ("wine", "diabetes", "adult_like", "breast_cancer"), (4, 8), 64
FED = gl.protocols.FedSGD()


def read(table: str, records: int, case: str, seed: int) -> dict:
    """One batch, one gradient, one attack with its defaults."""
    batch = gl.data.sample(table, count=records, seed=seed, device="cpu")
    model = gl.models.build("mlp", batch, hidden=(HIDDEN,), seed=seed)
    seen = gl.observe(model, FED, FED.transmit(model, batch.records, batch.labels), batch, knows={"labels"})
    if case != "as sent":
        seen = gl.tamper(seen, "wrong_gradient", seed=seed)
    found = gl.attack("tableak", seen, seed=seed, progress=False)
    score = gl.score(found, batch, public=gl.data.public(batch))
    about = {"cells": float(score.cells.mean()), "worst": float(score.cells.min()), "loss": max(found.loss, 0.0)}
    about |= {name: float(one.cells.mean()) for name, one in score.controls.items()}
    return about | dict(found.diagnostics)


def main() -> None:
    """Measure what is missing."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    options = arguments(parser)
    cells = [
        {"table": table, "records": records, "case": case, "seed": seed}
        for seed in range(options.seeds)
        for table in TABLES
        for records in SIZES
        for case in ("as sent", "wrong gradient")
    ]
    measure("tables_cpu", cells, read, {"network": "mlp", "hidden": HIDDEN})


if __name__ == "__main__":
    main()
