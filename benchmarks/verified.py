"""Leaked, or imagined? How often a certificate is given to what was not leaked, and how often to what was.

A client sends zeroth-order scalars, in float64 or float32, of one digit of 8x8 pixels or one record of a table. A fifth
of them is held out, the attack fits the others, and the held-out ones are predicted. Spoiled runs: directions of
another seed, scalars in another order, fewer scalars than unknowns, noise of a hundredth of the scalars' spread that
nobody owned up to, a wrong label. Whether a reconstruction is exact, within 0.01 root mean square, is known here and
not to the attacker. Rows that are in the record already are kept.

    python benchmarks/verified.py [--spoiled 200] [--exact 95]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    verified_cpu: python benchmarks/verified.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch
from common import arguments, measure

import glutils as gl

SPOILED = ("wrong seed", "permuted", "too few scalars", "noise", "wrong label")
SETS = {"wine": 13, "digits": 64}
"""And the numbers in one record."""
RATIO, TOO_FEW = 2.0, 0.7
"""Scalars for every unknown, held-out ones included."""


def read(case: str, data: str, dtype: str, seed: int) -> dict:
    """One client, one attack, one certificate."""
    batch = gl.data.sample(data, count=1, seed=seed, device="cpu")
    unknowns = SETS[data]
    model = gl.models.build("mlp", batch, hidden=(32,), seed=seed)
    ratio = TOO_FEW if case == "too few scalars" else RATIO
    protocol = gl.protocols.ZerothOrder(directions=int(ratio * unknowns), dtype=dtype, seed=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    if case == "noise":
        scalars = payload.scalars
        drawn = torch.randn(len(scalars), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        payload = (scalars.double() + 0.01 * scalars.double().std() * drawn).to(scalars.dtype)
    seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
    if case in ("wrong seed", "permuted"):
        seen = gl.tamper(seen, case.replace(" ", "_"), seed=seed)
    if case == "wrong label":
        seen = replace(seen, labels=(seen.labels + 1) % len(batch.classes))
    fit, held = gl.attacks.hold_out(seen, seed=seed)
    limits = {"restarts": 2} if case == "exact" else {"restarts": 1, "iterations": 20}
    result = gl.attack("zerogla", fit, seed=seed, progress=False, **limits)
    leak = gl.attacks.certify(result, fit, held)
    error = float((result.records.double() - batch.images.double()).square().mean().sqrt())
    return {
        "certified": leak.certified, "exact": error <= leak.within, "error": error, "foretold": min(leak.error, 1e300),
        "misfit": leak.misfit, "tolerance": leak.tolerance, "rank": leak.rank, "unknowns": unknowns,
    }  # fmt: skip


def cells(spoiled: int, exact: int) -> Iterator[dict]:
    """So many runs of every kind, seven eighths of them of the table."""
    runs = {"exact": exact} | dict.fromkeys(SPOILED, spoiled)
    for seed in range(max(runs.values())):
        for case in [name for name, most in runs.items() if seed < most]:
            data = "digits" if seed % 8 == 7 else "wine"
            yield {"case": case, "data": data, "dtype": "float32" if seed // 2 % 2 else "float64", "seed": seed}


def main() -> None:
    """Measure what is missing."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spoiled", type=int, default=200, help="runs of each of the five kinds")
    parser.add_argument("--exact", type=int, default=95)
    measure("verified_cpu", cells(**vars(arguments(parser))), read, {"scalars for every unknown": RATIO})


if __name__ == "__main__":
    main()
