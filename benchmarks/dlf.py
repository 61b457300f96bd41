"""Reconstruction from FedAvg updates by what the attacker simulates, against the client's step size.

Four photographs, two local epochs of two batches, shuffled anew in every epoch; labels known. Beside each result: every
image in its mean colour, and the attack on a payload of the same norm in a random direction.

    python benchmarks/dlf.py [--seeds 3] [--iterations 200]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    dlf_cpu: python benchmarks/dlf.py --iterations 150
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common import RESULTS, arguments

import glutils as gl

RATES = (0.004, 0.05, 0.1)
SIMULATORS = ("full_many", "full", "none_epoch", "none")


def observe(seed: int, lr: float, size: int = 16) -> tuple[gl.data.Batch, gl.Observation]:
    """What one client holds, and what its server sees."""
    batch = gl.data.sample("photos", size=size, count=4, seed=seed, device="cpu")
    model = gl.models.build("convnet", batch, hidden=None, seed=seed)
    client = gl.protocols.FedAvg(epochs=2, batch_size=2, lr=lr, shuffle=seed)
    payload = client.transmit(model, batch.images, batch.labels)
    return batch, gl.observe(model, client, payload, batch, knows={"labels"})


def rows_of(seed: int, lr: float, iterations: int) -> list[dict]:
    """One row for each simulator, the last of them on a tampered payload."""
    batch, seen = observe(seed, lr)
    wrong = gl.tamper(seen, "wrong_gradient", seed=seed)
    runs = [(name, seen, "none") for name in SIMULATORS] + [("full_many", wrong, "wrong gradient")]
    rows = []
    for simulator, view, tampered in runs:
        result = gl.attack("dlf", view, simulator=simulator, iterations=iterations, seed=seed, progress=False)
        score = gl.score(result, batch)
        row = {"lr": lr, "seed": seed, "simulator": simulator, "tampered": tampered, "PSNR": score.mean_psnr}
        row |= {"mean colour": float(score.controls["mean_colour"].mean()), "SSIM": float(score.ssim.mean())}
        rows.append(row | {"loss": result.loss, "seconds": result.seconds})
    return rows


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=200)
    options = arguments(parser)
    rows, begin = [], time.perf_counter()
    for seed in range(options.seeds):
        for lr in RATES:
            rows += rows_of(seed, lr, options.iterations)
            shown = {f"{row['simulator']} {row['tampered']}": round(row["PSNR"], 2) for row in rows[-5:]}
            print(seed, lr, shown, "mean colour", round(rows[-1]["mean colour"], 2), flush=True)
    for lr in RATES:
        for name in SIMULATORS:
            found = [r["PSNR"] for r in rows if (r["lr"], r["simulator"], r["tampered"]) == (lr, name, "none")]
            print(f"lr {lr}, {name}: median {statistics.median(found):.2f} dB, least {min(found):.2f} dB")
    gl.runs.record(
        "dlf_cpu",
        parameters=vars(options) | {"threads": torch.get_num_threads()},
        rows=rows,
        seeds=range(options.seeds),
        seconds=time.perf_counter() - begin,
        folder=RESULTS,
    )


if __name__ == "__main__":
    main()
