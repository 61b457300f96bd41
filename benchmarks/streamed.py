"""Gauss-Newton ZeroGLA where neither the directions nor the Jacobian fit: a large photograph, rows streamed.

    python benchmarks/streamed.py [--size 64] [--grey] [--width 12] [--rounds 1] [--lr 0.003] [--ratio 1.2] [--seed 0]
                                  [--minutes 15] [--goal 60] [--device cpu]

Width and rounds matter. Scalars say no more than the gradient does, and with lenet's 12 channels the gradient of one
image of 3x64x64 holds 7,596 independent numbers at most (the weights of two convolutions, and what enters the third),
for 12,288 pixel values: no number of scalars gives the image away, and the misfit vanishes far from it. From 17
channels on the bound is no obstacle. Neither is it over several rounds: as many scalars, sent while the client's model
moves. It is the record's "gradient rank bound" (of one round), see :func:`glutils.attacks.gradient_rank_bound`.

A line is printed, and the record written again, after every step: time, PSNR, attacker's loss, peak memory of the
process. It ends with the attack, the minutes, or at the goal (a stopwatch that knows the truth; the attack does not).

Records in benchmarks/results (OMP_NUM_THREADS=2):

    streamed_64_cpu: python benchmarks/streamed.py --minutes 12
    streamed_64_r4_cpu: python benchmarks/streamed.py --rounds 4
    streamed_128_grey_r4_cpu: python benchmarks/streamed.py --size 128 --grey --rounds 4 --minutes 75
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import time

import torch
from common import RESULTS, arguments

import glutils as gl

LENET = 12  # channels of the published network, which file names leave out


def main() -> None:
    """Run the attack within the budget and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--grey", action="store_true", help="one channel, the mean of three")
    parser.add_argument("--width", type=int, default=LENET, help="channels of lenet")
    parser.add_argument("--rounds", type=int, default=1, help="that the scalars are divided among")
    parser.add_argument("--lr", type=float, default=0.003, help="step size of the client between rounds")
    parser.add_argument("--ratio", type=float, default=1.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--goal", type=float, default=60, help="PSNR at which the clock is stopped")
    parser.add_argument("--coarse", type=int, help="halvings to begin with; default: as many as the attack takes")
    parser.add_argument("--memory", type=int, default=0, help="bytes of directions that may be kept")
    parser.add_argument("--device", default="cpu")
    options = arguments(parser)
    batch = gl.data.sample("photos", size=options.size, seed=options.seed, device=options.device)
    public = gl.data.public(batch, count=16)
    if options.grey:
        batch, public = grey(batch), grey(public)
    model = gl.models.build("lenet", batch, seed=options.seed, width=options.width)
    unknowns = batch.images[0].numel()
    each = -(-int(options.ratio * unknowns) // options.rounds)
    count = each * options.rounds
    protocol = gl.protocols.ZerothOrder(
        directions=each, mu=1e-4, dtype="float64", seed=options.seed, memory=options.memory
    )
    how = {"rounds": options.rounds, "lr": options.lr, "seed": options.seed, "test": public}
    seen = gl.observe(gl.federation.train(protocol, model, [batch], **how), client=0, knows={"labels"})
    row = {"unknowns": unknowns, "scalars": count, "parameters": protocol.draw(model).dim, "goal": options.goal}
    row |= {"width": options.width, "gradient rank bound": gl.attacks.gradient_rank_bound(model, batch.shape)}
    first, last = (gl.models.flatten(seen.rounds[i].parameters or gl.models.parameters(model)) for i in (0, -1))
    row |= {"rounds": options.rounds, "moved": float((last - first).norm() / first.norm())}
    print(row, flush=True)
    watch = Stopwatch(batch, row, options)
    with watch:
        result = gl.attack("zerogla", seen, seconds=60 * options.minutes, seed=options.seed, coarse=options.coarse)
    score = gl.score(result, batch)
    row |= {"PSNR": float(score.psnr[0]), "mean colour": float(score.controls["mean_colour"][0])}
    watch.write("; ".join(result.notes))


def grey(batch: gl.data.Batch) -> gl.data.Batch:
    """The same photographs in one channel."""
    return dataclasses.replace(batch, images=batch.images.mean(1, keepdim=True))


class Stopwatch:
    """Looks on as the attack notes its steps: prints and records each, and stops it at the goal."""

    def __init__(self, batch: gl.data.Batch, row: dict, options: argparse.Namespace):
        self.batch, self.row, self.options, self.steps = batch, row, options, []
        self.report = gl.solvers.Trace.report

    def __enter__(self) -> None:
        self.begin = time.perf_counter(), time.process_time()
        gl.solvers.Trace.report = lambda *step: self.noted(*step)

    def __exit__(self, *error) -> None:
        gl.solvers.Trace.report = self.report

    def noted(self, trace: gl.solvers.Trace, step: int, loss: float, variables: tuple[torch.Tensor, ...]):
        """After the trace's own report."""
        ending = self.report(trace, step, loss, variables)
        images = self.batch.images
        psnr = float(gl.metrics.psnr(variables[0].view(images.shape).to(images), images)[0])
        now = {"step": step, "PSNR": psnr, "loss": float(loss), "seconds": time.perf_counter() - self.begin[0]}
        now |= {"CPU seconds": time.process_time() - self.begin[1], "peak memory (GiB)": peak(images)}
        print({key: round(value, 10 if key == "loss" else 2) for key, value in now.items()}, flush=True)
        self.steps.append(now)
        self.row |= now
        self.write("not finished")
        if psnr >= self.options.goal:
            raise KeyboardInterrupt  # the attack ends with what it has
        return ending

    def write(self, notes: str) -> None:
        """The record, as far as it goes: the outcome, and a row for every step."""
        wide = "_grey" if self.options.grey else ""
        wide += "" if self.options.width == LENET else f"_w{self.options.width}"
        many = "" if self.options.rounds == 1 else f"_r{self.options.rounds}"
        gl.runs.record(
            f"streamed_{self.options.size}{wide}{many}_{self.options.device}",
            parameters=vars(self.options) | {"threads": torch.get_num_threads()},
            rows=[self.row | {"notes": notes}, *self.steps],
            seeds=self.options.seed,
            device=self.options.device,
            folder=RESULTS,
        )


def peak(images: torch.Tensor) -> float:
    """Most memory used so far, in GiB: of the process, or of the GPU's tensors."""
    if images.is_cuda:
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


if __name__ == "__main__":
    main()
