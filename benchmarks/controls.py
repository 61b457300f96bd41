"""Negative controls: attacks that are misled must not beat a blank card in the image's mean colour.

Directions of a wrong seed, permuted payloads and a random gradient of the right norm hold nothing about the image. What
an attack scores on them, it scores for nothing. The bar: never more than 2 dB above the mean colour.

    python benchmarks/controls.py [--size 32] [--seeds 2] [--gauss-newton 15]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    controls_cpu: python benchmarks/controls.py
"""

from __future__ import annotations

import argparse
import time

import torch
from common import RESULTS, arguments

import glutils as gl

BAR = 2.0
SCALARS = ("wrong_seed", "permuted", "wrong_gradient")
GRADIENT = ("permuted", "wrong_gradient")


def cases(newton: int) -> list[tuple]:
    """Name, network, protocol, attack with its options, and how the observation is spoiled; the longest last."""
    zeroth, exact = gl.protocols.ZerothOrder, {"mu": 1e-4, "dtype": "float64"}
    full, few = zeroth(directions=3072, **exact), zeroth(directions=1024, **exact)
    sgd = gl.protocols.FedSGD()
    return [
        ("ig", "convnet", sgd, {"iterations": 200}, GRADIENT),
        ("zerogla adam", "lenet", few, {"solver": "adam", "iterations": 200}, SCALARS),
        ("zerogla lbfgs", "lenet", few, {"solver": "lbfgs", "iterations": 10}, SCALARS),
        ("dlg", "lenet", sgd, {"iterations": 10}, GRADIENT),
        ("idlg", "lenet", sgd, {"iterations": 10}, GRADIENT),
        ("zerogla gauss-newton", "lenet", full, {"iterations": newton}, SCALARS),
    ]


def rows_of(case: tuple, size: int, seed: int) -> list[dict]:
    """One attack on one photograph, misled in every way."""
    name, network, protocol, how, spoiled = case
    batch = gl.data.sample("photos", size=size, seed=seed, device="cpu")
    model = gl.models.build(network, batch, seed=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    knows = set() if "dlg" in name else {"labels"}
    seen = gl.observe(model, protocol, payload, batch, knows=knows)
    rows = []
    for kind in spoiled:
        result = gl.attack(name.split()[0], gl.tamper(seen, kind, seed=seed), seed=seed, progress=False, **how)
        score = gl.score(result, batch)
        found, blank = float(score.psnr[0]), float(score.controls["mean_colour"].psnr[0])
        row = {"case": name, "control": kind, "seed": seed, "network": network, "iterations": how["iterations"]}
        row |= {"scalars": getattr(protocol, "directions", None), "PSNR": found, "mean colour": blank}
        rows.append(row | {"above": found - blank, "bar": BAR, "loss": result.loss, "seconds": result.seconds})
        print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    return rows


def main() -> None:
    """Run everything, say which controls break the bar, and write the record after every photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--gauss-newton", type=int, default=15, help="iterations of Gauss-Newton")
    options = arguments(parser)
    rows, begin = [], time.perf_counter()
    for case in cases(options.gauss_newton):
        for seed in range(options.seeds):
            rows += rows_of(case, options.size, seed)
            gl.runs.record(
                "controls_cpu", parameters=vars(options) | {"threads": torch.get_num_threads()}, rows=rows,
                seeds=range(options.seeds), seconds=time.perf_counter() - begin, folder=RESULTS,
            )  # fmt: skip
    broken = [row for row in rows if not row["above"] <= BAR]
    print(f"{len(broken)} of {len(rows)} runs are more than {BAR:g} dB above the mean colour", *broken, sep="\n")


if __name__ == "__main__":
    main()
