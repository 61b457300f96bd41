"""The level that each attack reaches in its own small case, through the public surface, on images it was not tuned on.

One row for each case and seed, with the mean-colour control and the same attack on a permuted payload. Finished rows
are kept, so that the benchmark can be stopped and started again.

    python benchmarks/levels.py [--seeds 3] [--first 40] [--only dlg_adam grnn ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    levels_cpu: python benchmarks/levels.py

Of dlg, idlg and ig it has the first seed only.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from dataclasses import dataclass, field

import torch
from common import Rows, arguments

import glutils as gl


@dataclass(frozen=True)
class Case:
    """An attack, what it is given, and the level that the project has set itself."""

    attack: str
    model: str
    bar: float
    size: int = 32
    count: int = 1
    data: str = "photos"
    network: dict = field(default_factory=dict)
    knows: tuple[str, ...] = ("labels",)
    options: dict = field(default_factory=dict)
    reached: str = "psnr"
    distinct: bool = False


CASES = {
    "dlg": Case("dlg", "lenet", 38, knows=()),
    "idlg": Case("idlg", "lenet", 38, knows=()),
    "dlg_adam": Case("dlg_adam", "lenet", 14, knows=(), options={"iterations": 2000}),
    "dlg_cosine": Case("dlg_cosine", "lenet", 14, knows=(), options={"iterations": 2000}),
    "ig": Case("ig", "convnet", 30, options={"iterations": 400}),
    "ig, 4 images": Case("ig", "convnet", 22, count=4, options={"iterations": 600}, distinct=True),
    "grnn": Case("grnn", "lenet", 18, knows=()),
    "grnn, 16 pixels": Case("grnn", "lenet", 18, size=16, knows=()),
    "rgap": Case("rgap", "convnet", 40, size=16, knows=(),
                 network={"activation": "leaky_relu", "hidden": None, "channels": (16, 32)}),
    "stg, exact": Case("stg", "resnet8", 3, size=16, knows=("labels", "batch_stats"),
                       options={"bn": "exact", "iterations": 600}, reached="above mean colour"),
    "stg, running": Case("stg", "resnet8", 0, size=16, options={"bn": "running", "iterations": 600},
                         reached="above mean colour"),
    "stg, none": Case("stg", "resnet8", 0, size=16, options={"bn": "none", "iterations": 600},
                      reached="above mean colour"),
    "cpa, 4 images": Case("cpa", "mlp", 0.8, count=4, network={"hidden": (256,)}, options={"iterations": 4000},
                          reached="correlation"),
    "cpa, 8 images": Case("cpa", "mlp", 0.65, count=8, network={"hidden": (256,)}, options={"iterations": 4000},
                          reached="correlation"),
    "fc_inversion": Case("fc_inversion", "mlp", 100, knows=()),
}  # fmt: skip
"""The bars are medians over seeds."""


def measure(case: Case, seed: int, permuted: bool) -> dict:
    """One attack on one batch."""
    batch = gl.data.sample(case.data, size=case.size, count=case.count, seed=seed, distinct=case.distinct, device="cpu")
    model = gl.models.build(case.model, batch, seed=seed, **case.network)
    protocol = gl.protocols.FedSGD()
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch, knows=set(case.knows))
    seen = gl.tamper(seen, "permuted", seed=seed) if permuted else seen
    begin = time.perf_counter()
    result = gl.attack(case.attack, seen, seed=seed, **case.options)
    seconds = time.perf_counter() - begin
    score = gl.score(result, batch)
    colour = score.controls["mean_colour"]
    found = {"psnr": float(score.psnr.median()), "above mean colour": float((score.psnr - colour).median())}
    if case.reached == "correlation":
        found["correlation"] = float(gl.metrics.correlation(result.images, batch.images).mean())
    return found | {
        "psnr of each": score.psnr.tolist(),
        "mean colour": colour.tolist(),
        "labels right": int(score.label_hits.sum()),
        "images": len(batch),
        "seconds": seconds,
        "notes": list(result.notes),
    }


def main() -> None:
    """Run what is missing, and write the record every now and then."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=40, help="first seed")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--name", default="levels_cpu")
    options = arguments(parser)
    os.environ.setdefault("TQDM_DISABLE", "1")
    with Rows(options.name, {"threads": torch.get_num_threads()}, same=()) as rows:
        for seed, name in itertools.product(range(options.first, options.first + options.seeds), options.only):
            case = CASES[name]
            for payload in ("as sent", "permuted") if seed == options.first else ("as sent",):
                if {"case": name, "seed": seed, "payload": payload} in rows:
                    continue
                found = measure(case, seed, payload == "permuted")
                about = {"case": name, "attack": case.attack, "model": case.model, "size": case.size, "seed": seed}
                rows.add(about | {"payload": payload, "bar": case.bar, "reached": case.reached} | found)
                print(name, seed, payload, f"{found[case.reached]:.2f} (bar {case.bar})", flush=True)


if __name__ == "__main__":
    main()
