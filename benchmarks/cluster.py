"""What a cluster would do for the rows of the Jacobian: one step of Gauss-Newton with 1, 2 and 4 worker processes.

The scalars of a transcript are dealt to the workers by rounds. Each worker holds its rounds, draws their directions,
and for a step computes its rows of J and their products; it sends back its part of J.T J, D x D numbers, and the
process that asked adds the parts and factors the sum. That sum and that factor are the serial share of Amdahl's law.
"alone" is the same step in one process, without a cluster. All ways take turns, so that a busy moment meets them all.

On a machine with fewer cores than processes, or with other work on it, wall seconds say little; so the row holds CPU
seconds too: of the slowest share, of all shares, of sending (what workers spend beside their rows), of the process
that asked (receiving and adding), and of the factor. What many machines would do is a projection from these, which the
page that reads the record computes and calls one.

The cluster is dask.distributed's, on this machine; an address of a scheduler elsewhere can be given. Its workers need
this package at the same version, and have one thread each.

    python benchmarks/cluster.py [--workers 1 2 4] [--repeats 3] [--size 24] [--rounds 8] [--cluster tcp://host:8786]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    cluster_cpu: python benchmarks/cluster.py
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch
from common import Rows, arguments
from common.resume import say

import glutils as gl
from glutils.attacks.zerogla.equations import ScalarEquations

RATIO = 1.2
DAMPING = 1e-3
"""Of the mean diagonal, so that the matrix has a factor."""


def equations(size: int, rounds: int, part: int = 0, of: int = 1) -> tuple[ScalarEquations, torch.Tensor]:
    """Every ``of``-th round of a client's scalars as equations, and a point near grey, (D,)."""
    torch.set_num_threads(1)
    batch = gl.data.sample("photos", size=size, seed=0, device="cpu")
    model = gl.models.build("lenet", batch, seed=0)
    each = -(-int(RATIO * batch.images.numel()) // rounds)
    protocol = gl.protocols.ZerothOrder(directions=each, mu=1e-4, dtype="float64", seed=0)
    log = gl.federation.train(protocol, model, [batch], rounds=rounds, lr=0.003, seed=0, progress=False)
    seen = gl.observe(log, client=0, knows={"labels"}, rounds=range(part, rounds, of))
    noise = torch.randn(batch.images.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unknowns = batch.images.numel()
    return ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), unknowns), 0.5 + 0.01 * noise


def share(size: int, rounds: int, part: int, of: int) -> tuple[np.ndarray, float]:
    """A worker's part of J.T J, (D, D), in the units of the scalars, and its CPU seconds; its rounds stay with it."""
    from distributed import get_worker

    held = get_worker().__dict__.setdefault("equations", {})
    if (part, of) not in held:
        held[part, of] = equations(size, rounds, part, of)
    problem, point = held[part, of]
    begin = time.thread_time()
    gram = problem.gram(point) * problem.scale**2
    return gram.numpy(), time.thread_time() - begin


def factored(gram: torch.Tensor) -> float:
    """CPU seconds of the factor of the damped sum."""
    begin = time.process_time()
    gram = gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    torch.linalg.cholesky(gram)
    return time.process_time() - begin


def alone(problem: ScalarEquations, point: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """A step in this process."""
    begin, spent = time.perf_counter(), time.process_time()
    gram = problem.gram(point) * problem.scale**2
    own = time.process_time() - spent
    row = {"slowest share (CPU s)": own, "all shares (CPU s)": own, "sending (CPU s)": 0.0, "adding (CPU s)": 0.0}
    return gram, row | {"factor (CPU s)": factored(gram), "seconds": time.perf_counter() - begin}


def together(client, addresses: list[str], size: int, rounds: int) -> tuple[torch.Tensor, dict]:
    """A step with a share for each worker."""
    of = len(addresses)

    def clocks() -> float:
        return sum(client.run(time.process_time, workers=addresses).values())

    before, begin, spent = clocks(), time.perf_counter(), time.process_time()
    work = [
        client.submit(share, size, rounds, part, of, workers=[address], pure=False)
        for part, address in enumerate(addresses)
    ]
    parts = client.gather(work)
    gram = sum(torch.as_tensor(np.array(part)) for part, _ in parts)
    adding = time.process_time() - spent
    row = {"adding (CPU s)": adding, "factor (CPU s)": factored(gram), "seconds": time.perf_counter() - begin}
    shares = [own for _, own in parts]
    row |= {"slowest share (CPU s)": max(shares), "all shares (CPU s)": sum(shares)}
    return gram, row | {"sending (CPU s)": clocks() - before - sum(shares)}


def main() -> None:
    """Measure in turn and write the record."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=24, help="side of the photograph")
    parser.add_argument("--rounds", type=int, default=8, help="of the transcript, dealt to the workers")
    parser.add_argument("--cluster", help="address of a dask scheduler; default: processes on this machine")
    options = arguments(parser)
    if bad := [count for count in options.workers if not 1 <= count <= options.rounds]:
        parser.error(f"--workers must be between 1 and --rounds ({options.rounds}), got {bad}")
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        parser.exit(2, f"{parser.prog}: needs the package 'distributed' (dask), which is not installed\n")
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        os.environ.setdefault(name, str(2**25))  # dask's own gives every large matrix back, to be mapped again
    most, settings = max(options.workers), {"size": options.size, "rounds": options.rounds, "ratio": RATIO}
    how = {"n_workers": most, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    problem, point = equations(options.size, options.rounds)
    settings |= {"unknowns": problem.unknowns, "scalars": problem.count, "cluster": options.cluster, "threads": 1}
    with Client(options.cluster or LocalCluster(**how)) as client, Rows("cluster_cpu", settings, seeds=[0]) as rows:
        client.wait_for_workers(most)
        addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
        whole, _ = alone(problem, point)
        for count in options.workers:  # a worker makes its rounds, and loads the code, before anything is timed
            gram, _ = together(client, addresses[:count], options.size, options.rounds)
            off = float((gram - whole).norm() / whole.norm())
            if off > 1e-4:
                raise ArithmeticError(f"{count} workers give another matrix: {off:.1e} away")
        for repeat in range(options.repeats):
            for count in (0, *options.workers):
                if {"workers": count, "repeat": repeat} in rows:
                    continue
                step = together(client, addresses[:count], options.size, options.rounds) if count else None
                _, row = step or alone(problem, point)
                rows.add({"workers": count, "repeat": repeat} | row)
                say(rows.rows[-1])


if __name__ == "__main__":
    main()
