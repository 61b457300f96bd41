"""Adam, L-BFGS and Gauss-Newton on the same scalars, without total variation for any: PSNR against seconds.

One photograph, its label told, the classic lenet, 1.2 float64 scalars for each pixel value, mu 1e-4. Adam has the
published number of steps (5,000), with the step size and schedule of ``first_order.adam_attack``; L-BFGS
with a line search goes on for as many seconds as Adam took; Gauss-Newton ends by itself. Above 16 pixels Adam and
L-BFGS get the number of steps that takes about twice Gauss-Newton's processor seconds, Adam with a schedule of that
length. Total variation is off for all three (``tv_weight=0``, ``prior="none"``). Of every kept iterate: processor
seconds since the start of the attack, loss, PSNR. Two further rows show what the terms of the defaults do: Adam with
total variation, Gauss-Newton with it.

    python benchmarks/solvers.py [--sizes 12 32] [--seeds 3] [--large 1]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    solvers_cpu: python benchmarks/solvers.py --sizes 12 32 --seeds 2

It goes on where it was stopped. A photograph of 32 pixels takes some five minutes of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections.abc import Iterator

import torch
from common import arguments, measure

import glutils as gl
from glutils.solvers.engine import Trace

STEPS = 5000
"""Of Adam, as published."""
RATIO, MU = 1.2, 1e-4
SOLVERS = {
    "Gauss-Newton": {"solver": "gauss-newton", "prior": "none"},
    "Adam": {"solver": "adam", "iterations": STEPS, "tv_weight": 0.0},
    "L-BFGS": {"solver": "lbfgs", "iterations": 400, "tv_weight": 0.0},
    "Gauss-Newton, total variation": {"solver": "gauss-newton"},
    "Adam, total variation": {"solver": "adam", "iterations": STEPS},
}


@functools.cache
def client(size: int, seed: int) -> tuple[gl.data.Batch, gl.Observation]:
    """A photograph, and what the server sees of it."""
    batch = gl.data.sample("photos", size=size, count=1, seed=seed, device="cpu")
    model = gl.models.build("lenet", batch, seed=seed)
    directions = int(RATIO * batch.images.numel())
    protocol = gl.protocols.ZerothOrder(directions=directions, mu=MU, dtype="float64", seed=seed)
    scalars = protocol.transmit(model, batch.images, batch.labels)
    return batch, gl.observe(model, protocol, scalars, batch, knows={"labels"})


@contextlib.contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Processor seconds at which iterates are kept."""
    times, kept, begin = [], Trace._frame, time.process_time()

    def frame(self: Trace, step: int, variables: tuple[torch.Tensor, ...]) -> None:
        times.append(time.process_time() - begin)
        kept(self, step, variables)

    Trace._frame = frame
    try:
        yield times
    finally:
        Trace._frame = kept


SECONDS: dict[tuple[int, int], float] = {}
"""Of Adam, wall clock, by size and seed: what L-BFGS is given."""
PROCESSOR: dict[tuple[int, int], float] = {}
"""Processor seconds of Gauss-Newton, by size and seed."""
LARGE, TIMES = 16, 2.0
"""Above so many pixels a side, first-order solvers are given so many times Gauss-Newton's processor seconds."""


def steps_within(seconds: float, seen: gl.Observation, how: dict) -> int:
    """How many steps of a first-order solver take about so many processor seconds, by two short runs of it."""
    took = []
    for steps in (2, 6):
        begin = time.process_time()
        gl.attack("zerogla", seen, progress=False, **how | {"iterations": steps})
        took.append(time.process_time() - begin)
    return max(1, int(seconds / (took[1] - took[0]) * 4))


def solve(size: int, seed: int, solver: str) -> dict:
    """One solver on one client's scalars."""
    batch, seen = client(size, seed)
    how = dict(SOLVERS[solver])
    if size > LARGE and solver in ("Adam", "L-BFGS"):
        if (size, seed) not in PROCESSOR:
            solve(size, seed, "Gauss-Newton")
        how["iterations"] = steps_within(TIMES * PROCESSOR[size, seed], seen, how)
    elif solver == "L-BFGS":
        if (size, seed) not in SECONDS:
            solve(size, seed, "Adam")
        how["seconds"] = SECONDS[size, seed]
    begin, used = time.perf_counter(), time.process_time()
    with stopwatch() as times:
        result = gl.attack("zerogla", seen, seed=seed, progress=False, **how)
    if solver == "Gauss-Newton":
        PROCESSOR[size, seed] = time.process_time() - used
    if solver == "Adam":
        SECONDS[size, seed] = time.perf_counter() - begin
    score, frames = gl.score(result, batch), result.history.frames
    losses = dict(zip(result.history.steps, result.history.loss, strict=True))
    values = gl.attacks.singular_values(seen, batch.images) if size <= 16 else None
    return {
        "psnr": score.mean_psnr, "mean colour": float(score.controls["mean_colour"].mean()), "loss": result.loss,
        "steps": result.history.steps[-1], "given": how.get("iterations"), "seconds of": times[: len(frames)],
        "psnr of": [float(gl.metrics.psnr(frame, batch.images)[0]) for frame in frames],
        "step of": list(result.history.frame_steps), "loss of": [losses.get(s) for s in result.history.frame_steps],
        "condition number": None if values is None else float(values[0] / values[-1]),
    }  # fmt: skip


def main() -> None:
    """Measure what is missing, small photographs first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[12, 32])
    parser.add_argument("--seeds", type=int, default=3, help="photographs of 12 pixels")
    parser.add_argument("--large", type=int, default=1, help="photographs of more")
    options = arguments(parser)
    cells = [
        {"size": size, "seed": seed, "solver": solver}
        for size in options.sizes
        for seed in range(options.seeds if size <= 16 else options.large)
        for solver in list(SOLVERS)[: len(SOLVERS) if size <= 16 else 3]
    ]
    measure("solvers_cpu", cells, solve, {"ratio": RATIO, "mu": MU, "adam steps": STEPS})


if __name__ == "__main__":
    main()
