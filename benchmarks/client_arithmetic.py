"""What a client's arithmetic leaves of its images: precision, perturbation in place, and the law of the directions.

First table: clients written as MeZO's paper has it, one scalar a step along its own law, the parameters perturbed in
place, the model moving all the while. By precision, and by the precision of the loss; the attacker replays the client's
rounding, or takes the directions as they were drawn. Bar, in float32: 60 dB for each digit.

Second table: the laws of this book, and of DeComFL, in float32 with one mu for all. A unit direction is shorter by the
root of d, and so is the difference that round-off has to spare.

    python benchmarks/client_arithmetic.py [--seeds 3] [--steps 400] [--mu 1e-3]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    client_arithmetic_cpu: python benchmarks/client_arithmetic.py --seeds 3
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from common import RESULTS, arguments

import glutils as gl

BAR = 60.0
MEZO = [
    ("float32", None, 1e-6), ("float32", None, 1e-5), ("float32", None, 1e-4),
    ("float16", "float32", 1e-5), ("float16", None, 1e-5), ("bfloat16", "float32", 1e-5), ("bfloat16", None, 1e-5),
]  # fmt: skip
"""Precision, that of the loss, and step size."""
LAWS = ("unit", "decomfl_unit", "gaussian", "decomfl")


def drawn_in(name: str):
    """MeZO's law as clients of that precision draw it, for an attacker who leaves it at that."""

    def law(seed: int, count: int, shapes: list[torch.Size]) -> torch.Tensor:
        dim = sum(shape.numel() for shape in shapes)
        return gl.zo.Directions(seed, count, dim, "mezo", shapes=shapes, dtype=gl.zo.DTYPES[name]).rows()

    return law


def unaware(seen: gl.Observation) -> gl.Observation:
    """The observation of an attacker who takes the client for one in float32 that perturbs copies."""
    law, rounds = drawn_in(seen.protocol.dtype), []
    for message in seen.rounds:
        protocol = replace(message.protocol, dtype="float32", in_place=False, loss_dtype=None, law=law)
        rounds.append(replace(message, protocol=protocol))
    return replace(seen, rounds=tuple(rounds))


def cases(options: argparse.Namespace) -> Iterator[tuple[dict, gl.protocols.Protocol, dict, dict]]:
    """What the row says, the protocol, how it trains, and the observations that are attacked, by name of attacker."""
    mezo = gl.protocols.ZerothOrder(directions=1, mu=options.mu, law="mezo", in_place=True)
    for dtype, loss, lr in MEZO:
        about = {"table": "arithmetic", "law": "mezo", "dtype": dtype, "loss dtype": loss or dtype, "lr": lr}
        attackers = {"same arithmetic": lambda seen: seen, "directions as drawn": unaware}
        if (dtype, lr) == ("float32", 1e-6):
            attackers["wrong seed"] = lambda seen: gl.tamper(seen, "wrong_seed")
        how = {"rounds": options.steps, "lr": lr}
        yield about, replace(mezo, dtype=dtype, loss_dtype=loss), how, attackers
    for law in LAWS:
        about = {"table": "laws", "law": law, "dtype": "float32", "loss dtype": "float32", "lr": 1e-6}
        protocol = gl.protocols.ZerothOrder(directions=10, mu=options.mu, law=law)
        how = {"rounds": options.steps // 10, "lr": 1e-6}
        yield about, protocol, how, {"same arithmetic": lambda seen: seen}


def rows_of(about: dict, protocol: gl.protocols.Protocol, how: dict, attackers: dict, seed: int) -> Iterator[dict]:
    """One client's run, and what each attacker makes of it."""
    batch = gl.data.sample("digits", count=2, seed=seed, device="cpu")
    model = gl.models.build("mlp", batch, hidden=(64,), activation="tanh", seed=seed)
    transcript = gl.federation.train(replace(protocol, seed=seed), model, [batch], seed=seed, **how)
    seen = gl.observe(transcript, client=0, knows={"labels"})
    scalars = torch.cat([message.payload.scalars for message in seen.rounds])
    for attacker, view in attackers.items():
        result = gl.attack("zerogla", view(seen), solver="gauss-newton", seed=seed, check=False, progress=False)
        score = gl.score(result, batch)
        row = about | {"attacker": attacker, "seed": seed, "scalars": seen.scalars}
        row |= {"different scalars": len(scalars.unique()), "PSNR": [round(float(p), 2) for p in score.psnr]}
        row |= {"worst PSNR": float(score.psnr.min())}
        row |= {"mean colour": float(score.controls["mean_colour"].psnr.max())}
        yield row | {"noise": result.diagnostics["noise"], "loss": result.loss, "seconds": result.seconds}


def main() -> None:
    """Run everything and write the record after every seed of every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="scalars of each client")
    parser.add_argument("--mu", type=float, default=1e-3)
    options = arguments(parser)
    rows, begin = [], time.perf_counter()
    for case in cases(options):
        for seed in range(options.seeds):
            for row in rows_of(*case, seed):
                rows.append(row)
                print({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            gl.runs.record(
                "client_arithmetic_cpu", parameters=vars(options) | {"threads": torch.get_num_threads()}, rows=rows,
                seeds=range(options.seeds), seconds=time.perf_counter() - begin, folder=RESULTS,
            )  # fmt: skip
    float32 = [row for row in rows if row["table"] == "arithmetic" and row["dtype"] == "float32"]
    asked = [row["worst PSNR"] for row in float32 if row["attacker"] == "same arithmetic"]
    print(f"{sum(psnr < BAR for psnr in asked)} of {len(asked)} runs in float32 stay below {BAR:g} dB")


if __name__ == "__main__":
    main()
