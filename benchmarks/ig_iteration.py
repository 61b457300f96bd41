"""An IG iteration on convnet against a bare loop of the same arithmetic, and the PSNR of both.

    python benchmarks/ig_iteration.py [--iterations 400] [--images 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from timing import RESULTS

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


def main() -> None:
    """Run both on the same images from the same starts, in turn, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--images", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for seed in range(options.images):
        batch = gl.data.sample("photos", size=32, seed=seed, device="cpu")
        model = gl.models.build("convnet", batch, seed=seed)
        protocol = gl.protocols.FedSGD()
        payload = protocol.transmit(model, batch.images, batch.labels)
        seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
        generator = torch.Generator().manual_seed(seed * 1_000_003)
        start = (0.5 + 0.25 * torch.randn(batch.images.shape, generator=generator)).clamp(0, 1)
        seconds = {"ours": [], "bare": []}
        for part in range(3):  # the first pass warms up
            iterations = options.iterations if part == 2 else options.iterations // 4
            begin = time.perf_counter()
            theirs = bare(model, list(payload.values()), batch.labels, start, iterations)
            middle = time.perf_counter()
            ours = gl.attack("ig", seen, iterations=iterations, seed=seed, progress=False)
            if part:
                seconds["bare"].append((middle - begin) / iterations)
                seconds["ours"].append((time.perf_counter() - middle) / (iterations + 1))
        psnr = {"ours": gl.score(ours, batch).mean_psnr, "bare": float(gl.metrics.psnr(theirs, batch.images)[0])}
        ms = {name: 1e3 * statistics.median(runs) for name, runs in seconds.items()}
        rows.append({"image": seed, "PSNR ours": psnr["ours"], "PSNR bare": psnr["bare"]})
        rows[-1] |= {"ours (ms)": ms["ours"], "bare (ms)": ms["bare"], "ours / bare": ms["ours"] / ms["bare"], "bar": 1.1}
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    parameters = {"iterations": options.iterations, "threads": torch.get_num_threads()}
    gl.runs.record("ig_iteration_cpu", parameters=parameters, rows=rows, seeds=range(options.images), folder=RESULTS)


if __name__ == "__main__":
    main()
