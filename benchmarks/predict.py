"""The expected error of an attack, foretold by ``gl.audit.predict``, beside attacks that were run.

Three smooth networks, two 8x8 digits and a photograph of the same size, K of 1.25, 2 and 4 scalars a number, a float32
client. Each cell is attacked with ten draws of the directions: the prediction is of a mean over them. A single attack
is far from it where one weak direction holds most of the error, and how far is in the record, too.

    python benchmarks/predict.py [--draws 10]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    predict_cpu: python benchmarks/predict.py
"""

from __future__ import annotations

import argparse
import itertools

import torch
from common import arguments, measure

import glutils as gl

NETWORKS = {
    "mlp": {"name": "mlp", "activation": "tanh", "hidden": [64]},
    "lenet": {"name": "lenet"},
    "softplus": {"name": "mlp", "activation": "softplus", "hidden": [48, 32]},
}
RECORDS = {"digit 3": ("digits", 3), "digit 8": ("digits", 8), "photo": ("photos", 0)}
RATIOS = (1.25, 2.0, 4.0)


def run(network: str, record: str, ratio: float, draw: int, seed: int) -> dict[str, float]:
    """One message, what it was expected to give away, and what the attack without a prior found."""
    data, which = RECORDS[record]
    batch = gl.data.sample(data, size=8, seed=which, device="cpu")
    how = dict(NETWORKS[network])
    model = gl.models.build(how.pop("name"), batch, seed=seed, **how)
    count = int(ratio * batch.images.numel())
    protocol = gl.protocols.ZerothOrder(directions=count, mu=1e-3, dtype="float32", law="gaussian", seed=draw)
    expected = gl.audit.predict(model, protocol, batch)
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"})
    found = gl.attack("zerogla", seen, seed=0, prior="none", progress=False)
    reached = gl.score(found, batch)
    return {
        "scalars": count, "predicted": float(expected.psnr), "bound": float(expected.bound),
        "reached": reached.mean_psnr, "mse": float(reached.mse), "noise": expected.noise,
    }  # fmt: skip


def summary(rows: list[dict]) -> list[dict]:
    """One line a cell: the mean error of its attacks in dB beside the mean of what was foretold."""
    lines = []
    for key in dict.fromkeys((row["network"], row["record"], row["ratio"]) for row in rows):
        cell = [row for row in rows if (row["network"], row["record"], row["ratio"]) == key]
        mse = torch.tensor([row["mse"] for row in cell], dtype=torch.float64)
        foretold = torch.tensor([10 ** (-row["predicted"] / 10) for row in cell], dtype=torch.float64)
        off = 10 * float(torch.log10(mse.mean() / foretold.mean()))
        lines.append(dict(zip(("network", "record", "ratio"), key, strict=True)) | {"off": off, "n": len(cell)})
    return lines


def main() -> None:
    """Run what is missing, and print how far the prediction is off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10, help="of the directions, in each cell")
    options = arguments(parser)
    cells = [
        {"network": network, "record": record, "ratio": ratio, "draw": draw, "seed": 0}
        for network, record, ratio, draw in itertools.product(NETWORKS, RECORDS, RATIOS, range(options.draws))
    ]
    rows = measure("predict_cpu", cells, run, {"mu": 1e-3, "size": 8, "prior": "none"})
    off = sorted(abs(line["off"]) for line in summary(rows))
    single = sorted(abs(row["reached"] - row["predicted"]) for row in rows)
    print(f"mean of {len(off)} cells: {off[len(off) // 2]:.2f} dB (median), {off[-1]:.2f} dB (worst)")
    print(f"single attacks: {single[len(single) // 2]:.2f} dB (median), {single[-1]:.2f} dB (worst), n = {len(single)}")


if __name__ == "__main__":
    main()
