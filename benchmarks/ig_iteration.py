"""An IG iteration on convnet against a bare loop of the same arithmetic, and the PSNR of both, image by image.

Both run the same arithmetic in another order, so they differ by round-off, which can turn the sign of a pixel's
gradient. What that alone does to the PSNR is shown by the bare loop again, from starts that are moved by 1e-7.

    python benchmarks/ig_iteration.py [--iterations 200] [--images 8] [--moved 2]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    ig_iteration_cpu: python benchmarks/ig_iteration.py --iterations 160
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common import RESULTS, arguments

import glutils as gl


def bare(model, target, labels, start, iterations: int, lr: float = 0.1, tv_weight: float = 1e-2) -> torch.Tensor:
    """The textbook loop: autograd cosine, Adam on signs, step decay, box. Nothing noted, nothing checked."""
    weights = list(model.parameters())
    x = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=lr)
    milestones = [3 * iterations / 8, 5 * iterations / 8, 7 * iterations / 8]
    for step in range(iterations):
        optimiser.param_groups[0]["lr"] = lr * 0.1 ** sum(step >= m for m in milestones)
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        gradient = torch.autograd.grad(loss, weights, create_graph=True)
        dot = sum((a * b).sum() for a, b in zip(gradient, target, strict=True))
        norms = [sum((a * a).sum() for a in tensors).sqrt() for tensors in (gradient, target)]
        cost = 1 - dot / (norms[0] * norms[1])
        cost = cost + tv_weight * ((x[:, :, 1:] - x[:, :, :-1]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean())
        x.grad = torch.autograd.grad(cost, x)[0].sign()
        optimiser.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return x.detach()


def case(seed: int, iterations: int, moved: int) -> dict:
    """One image: both from the same start, in turn."""
    batch = gl.data.sample("photos", size=32, seed=seed, device="cpu")
    model = gl.models.build("convnet", batch, seed=seed)
    protocol = gl.protocols.FedSGD()
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
    target = list(payload.values())
    generator = torch.Generator().manual_seed(seed * 1_000_003)
    start = (0.5 + 0.25 * torch.randn(batch.images.shape, generator=generator)).clamp(0, 1)
    seconds = {"ours": [], "bare": []}
    for part in range(4):  # the first pass warms up, the last one is scored
        steps = iterations if part == 3 else iterations // 8
        begin = time.perf_counter()
        theirs = bare(model, target, batch.labels, start, steps)
        middle = time.perf_counter()
        ours = gl.attack("ig", seen, iterations=steps, seed=seed, progress=False)
        if part:
            seconds["bare"].append((middle - begin) / steps)
            seconds["ours"].append((time.perf_counter() - middle) / (steps + 1))
    psnr = {"ours": gl.score(ours, batch).mean_psnr, "bare": float(gl.metrics.psnr(theirs, batch.images)[0])}
    others = []
    for _ in range(moved):
        near = (start + 1e-7 * torch.randn(start.shape, generator=generator)).clamp(0, 1)
        again = bare(model, target, batch.labels, near, iterations)
        others.append(float(gl.metrics.psnr(again, batch.images)[0]) - psnr["bare"])
    ms = {name: 1e3 * statistics.median(runs) for name, runs in seconds.items()}
    row = {"image": seed, "PSNR ours": psnr["ours"], "PSNR bare": psnr["bare"], "apart": psnr["ours"] - psnr["bare"]}
    row |= {"apart, start moved": others, "ours (ms)": ms["ours"], "bare (ms)": ms["bare"]}
    return row | {"ours / bare": ms["ours"] / ms["bare"], "bar": 1.1}


def main() -> None:
    """Run both on the same images and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--moved", type=int, default=2)
    options = arguments(parser)
    rows, begin = [], time.perf_counter()
    for seed in range(options.images):
        rows.append(case(seed, options.iterations, options.moved))
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    apart = torch.tensor([row["apart"] for row in rows])
    print(f"ours - bare: {apart.mean():.4f} dB, standard error {apart.std() / len(apart) ** 0.5:.4f} dB")
    print(f"ours / bare: {statistics.median(row['ours / bare'] for row in rows):.3f}, median of images")
    parameters = vars(options) | {"threads": torch.get_num_threads()}
    seconds = time.perf_counter() - begin
    gl.runs.record(
        "ig_iteration_cpu",
        parameters=parameters,
        rows=rows,
        seeds=range(options.images),
        seconds=seconds,
        folder=RESULTS,
    )


if __name__ == "__main__":
    main()
