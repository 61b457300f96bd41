"""Gauss-Newton ZeroGLA to 100 dB against the dense float64 prototype: seconds and steps, in one run.

The prototype forms the Jacobian column by column (forward over reverse, float64), multiplies with the whole matrix of
directions, and solves the damped normal equations: lambda / 5 after a good step, x 4 after a bad one.

    python benchmarks/gauss_newton.py [--size 32] [--ratio 1.2] [--seeds 1]

Record in benchmarks/results (OMP_NUM_THREADS=2):

    gauss_newton_cpu: python benchmarks/gauss_newton.py
"""

from __future__ import annotations

import argparse
import time

import torch
from common import RESULTS, arguments
from torch.func import grad, jvp, vmap

import glutils as gl
from glutils import models

GOAL = 100.0


def prototype(seen: gl.Observation, truth: torch.Tensor, start: torch.Tensor) -> tuple[float, int, float]:
    """Seconds, steps and PSNR of the dense float64 prototype, stopped at 100 dB (by the truth: a stopwatch)."""
    model, labels, protocol = seen.model, seen.labels, seen.protocol
    params = models.parameters(model, torch.float64)
    begin = time.perf_counter()
    rows = protocol.draw(model).rows(dtype=torch.float64)
    scalars = seen.payload.double()
    scale = scalars.std()

    def gradient(x):
        return models.flatten(grad(lambda p: models.loss(model, p, x, labels))(params))

    def residual(x):
        return (rows @ gradient(x) - scalars) / scale

    basis = torch.eye(truth.numel(), dtype=torch.float64).view(-1, *truth.shape)
    x, lam, steps = start, 1e-2, 0
    r = residual(x)
    quality = 0.0
    while quality < GOAL and steps < 40:
        columns = vmap(lambda e, x=x: jvp(gradient, (x,), (e,))[1], chunk_size=64)(basis)
        jacobian = rows @ columns.T / scale
        square, slope = jacobian.T @ jacobian, jacobian.T @ r
        while lam < 1e12:
            steps += 1
            damped = square + lam * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
            new = x - torch.linalg.solve(damped, slope).view(x.shape)
            trial = residual(new)
            if trial.square().sum() < r.square().sum():
                x, r, lam = new, trial, lam / 5
                break
            lam *= 4
        quality = float(gl.metrics.psnr(x, truth)[0])
    return time.perf_counter() - begin, steps, quality


def ours(seen: gl.Observation, truth: torch.Tensor, seed: int) -> tuple[float, int, float]:
    """Seconds, steps and PSNR of ``zerogla``, stopped by the same stopwatch."""
    begin = time.perf_counter()
    reached = []
    report = gl.solvers.Trace.report

    def watched(trace, step, loss, variables):
        ending = report(trace, step, loss, variables)
        quality = float(gl.metrics.psnr(variables[0].view(truth.shape), truth)[0])
        if quality >= GOAL:
            reached.append((time.perf_counter() - begin, step, quality))
            raise KeyboardInterrupt
        return ending

    gl.solvers.Trace.report = watched
    try:
        result = gl.attack("zerogla", seen, seed=seed, progress=False)
    finally:
        gl.solvers.Trace.report = report
    if reached:
        return reached[0]
    return result.seconds, result.history.steps[-1], gl.metrics.psnr(result.images, truth)[0]


def main() -> None:
    """Run both in turn and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--ratio", type=float, default=1.2)
    parser.add_argument("--seeds", type=int, default=1)
    options = arguments(parser)
    rows = []
    for seed in range(options.seeds):
        batch = gl.data.sample("photos", size=options.size, seed=seed, device="cpu")
        model = gl.models.build("lenet", batch, seed=seed)
        count = int(options.ratio * batch.images.numel())
        protocol = gl.protocols.ZerothOrder(directions=count, mu=1e-4, dtype="float64", seed=seed)
        payload = protocol.transmit(model, batch.images, batch.labels)
        seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
        generator = torch.Generator().manual_seed(seed)
        start = 0.5 + 0.01 * torch.randn(batch.images.shape, generator=generator, dtype=torch.float64)
        mine = ours(seen, batch.images, seed)
        theirs = prototype(seen, batch.images, start)
        row = {"seed": seed, "unknowns": batch.images.numel(), "scalars": count}
        for name, (seconds, steps, quality) in (("ours", mine), ("prototype", theirs)):
            row |= {f"{name} (s)": seconds, f"{name} steps": steps, f"{name} PSNR": float(quality)}
        row |= {"faster": theirs[0] / mine[0], "bar": 2.5}
        rows.append(row)
        print({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    parameters = {"size": options.size, "ratio": options.ratio, "threads": torch.get_num_threads()}
    gl.runs.record("gauss_newton_cpu", parameters=parameters, rows=rows, seeds=range(options.seeds), folder=RESULTS)


if __name__ == "__main__":
    main()
