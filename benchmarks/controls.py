"""Negative controls: attacks that are misled must not beat a blank card in the image's mean colour.

Directions of a wrong seed, permuted payloads and a random gradient of the right norm hold nothing about the image. What
an attack scores on them, it scores for nothing. The bar: never more than 2 dB above the mean colour.

    python benchmarks/controls.py [--size 32] [--seeds 2] [--gauss-newton 15]
"""

from __future__ import annotations

import argparse
import time

import torch
from timing import RESULTS

import glutils as gl

BAR = 2.0
SCALARS = ("wrong_seed", "permuted", "wrong_gradient")
GRADIENT = ("permuted", "wrong_gradient")


def cases(newton: int) -> list[tuple]:
    """Name, network, protocol, attack with its options, and how the observation is spoiled."""
    zeroth, exact = gl.protocols.ZerothOrder, {"mu": 1e-4, "dtype": "float64"}
    full, few = zeroth(directions=3072, **exact), zeroth(directions=1024, **exact)
    sgd = gl.protocols.FedSGD()
    return [
        ("zerogla gauss-newton", "lenet", full, "zerogla", {"iterations": newton}, SCALARS),
        ("zerogla lbfgs", "lenet", few, "zerogla", {"solver": "lbfgs", "iterations": 10}, SCALARS),
        ("zerogla adam", "lenet", few, "zerogla", {"solver": "adam", "iterations": 200}, SCALARS),
        ("dlg", "lenet", sgd, "dlg", {"iterations": 30}, GRADIENT),
        ("idlg", "lenet", sgd, "idlg", {"iterations": 30}, GRADIENT),
        ("ig", "convnet", sgd, "ig", {"iterations": 200}, GRADIENT),
    ]


def main() -> None:
    """Run everything, say which controls break the bar, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--gauss-newton", type=int, default=15, help="iterations of Gauss-Newton")
    parser.add_argument("--only", default="", help="cases whose name contains this; nothing is recorded then")
    options = parser.parse_args()
    rows, begin = [], time.perf_counter()
    for seed in range(options.seeds):
        batch = gl.data.sample("photos", size=options.size, seed=seed, device="cpu")
        for name, network, protocol, attack, how, spoiled in cases(options.gauss_newton):
            if options.only not in name:
                continue
            model = gl.models.build(network, batch, seed=seed)
            payload = protocol.transmit(model, batch.images, batch.labels)
            knows = set() if attack in ("dlg", "idlg") else {"labels"}
            seen = gl.observe(model, protocol, payload, batch, knows=knows)
            for kind in spoiled:
                held = gl.tamper(seen, kind, seed=seed)
                result = gl.attack(attack, held, seed=seed, progress=False, **how)
                score = gl.score(result, batch)
                blank = float(score.controls["mean_colour"].psnr[0])
                row = {"case": name, "control": kind, "seed": seed, "network": network}
                row |= {"scalars": getattr(protocol, "directions", None), "iterations": how["iterations"]}
                row |= {"PSNR": float(score.psnr[0]), "mean colour": blank, "above": float(score.psnr[0]) - blank}
                rows.append(row | {"bar": BAR, "loss": result.loss, "seconds": result.seconds})
                print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    for row in rows:
        if not row["above"] <= BAR:
            print(f"above the bar: {row}")
    if not options.only:
        parameters = vars(options) | {"threads": torch.get_num_threads()}
        del parameters["only"]
        seconds = time.perf_counter() - begin
        gl.runs.record(
            "controls_cpu",
            parameters=parameters,
            rows=rows,
            seeds=range(options.seeds),
            seconds=seconds,
            folder=RESULTS,
        )


if __name__ == "__main__":
    main()
