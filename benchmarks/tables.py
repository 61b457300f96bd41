"""TabLeak on the shipped tables: cells that are right, table by table, beside those who read no message.

The gradient of one batch of eight records, through a network of one hidden layer; labels told. Settings were chosen on
public records. Controls: the same search on a gradient that was spoiled, the public means and commonest levels, and the
nearest of the public records, which is chosen by somebody who knows the private ones. Seventeen batches, because so
many that are all right exclude a share below 0.8 at 95 %. Rows that are in the record already are kept.

    python benchmarks/tables.py [--seeds 17]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    tables_cpu: python benchmarks/tables.py
"""

from __future__ import annotations

from common import measure, seeds

import glutils as gl

TABLES, RECORDS, HIDDEN = ("wine", "diabetes", "adult_like", "breast_cancer"), 8, 64
SEARCHES = "three, Adam and then L-BFGS"
CONTROLS = 2
"""The first seeds, in which a gradient is spoiled, too."""
FED = gl.protocols.FedSGD()


def read(table: str, case: str, seed: int) -> dict:
    """One batch, one gradient, one attack with its defaults."""
    batch = gl.data.sample(table, count=RECORDS, seed=seed, device="cpu")
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
    cells = [
        {"table": table, "case": case, "seed": seed}
        for seed in seeds(__doc__, 17)
        for table in TABLES
        for case in ("as sent", "wrong gradient")
        if case == "as sent" or seed < CONTROLS
    ]
    measure("tables_cpu", cells, read, {"network": "mlp", "hidden": HIDDEN, "records": RECORDS, "searches": SEARCHES})


if __name__ == "__main__":
    main()
