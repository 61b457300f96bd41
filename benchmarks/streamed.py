"""Gauss-Newton ZeroGLA where neither the directions nor the Jacobian fit: a large photograph, rows streamed.

    python benchmarks/streamed.py [--size 64] [--ratio 1.2] [--seed 0] [--minutes 15] [--device cpu]

Writes PSNR and attacker's loss at the kept iterates, seconds, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource

import torch
from timing import RESULTS

import glutils as gl


def main() -> None:
    """Run the attack within the budget and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--ratio", type=float, default=1.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--memory", type=int, default=0, help="bytes of directions that may be kept")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    batch = gl.data.sample("photos", size=options.size, seed=options.seed, device=options.device)
    model = gl.models.build("lenet", batch, seed=options.seed)
    unknowns = batch.images[0].numel()
    count = int(options.ratio * unknowns)
    protocol = gl.protocols.ZerothOrder(
        directions=count, mu=1e-4, dtype="float64", seed=options.seed, memory=options.memory
    )
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
    result = gl.attack("zerogla", seen, seconds=60 * options.minutes, seed=options.seed)
    score = gl.score(result, batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if batch.images.is_cuda:
        peak = torch.cuda.max_memory_allocated() / 2**30
    row = {
        "unknowns": unknowns,
        "scalars": count,
        "parameters": protocol.draw(model).dim,
        "steps": result.history.steps[-1],
    }
    row |= {"PSNR": float(score.psnr[0]), "mean colour": float(score.controls["mean_colour"][0]), "bar": 60.0}
    row |= {"seconds": result.seconds, "peak memory (GiB)": peak, "notes": "; ".join(result.notes)}
    frames = [float(gl.metrics.psnr(frame.to(batch.images), batch.images)[0]) for frame in result.history.frames]
    row["PSNR by step"] = ", ".join(
        f"{step}: {psnr:.1f}" for step, psnr in zip(result.history.frame_steps, frames, strict=True)
    )
    print(row)
    gl.runs.record(
        f"streamed_{options.size}_{options.device}",
        parameters=vars(options) | {"threads": torch.get_num_threads()},
        rows=[row],
        seeds=options.seed,
        device=options.device,
        folder=RESULTS,
    )


if __name__ == "__main__":
    main()
