"""IG, GIAS and IGIMS on the same gradients with the same number of gradients, ten images, beside their controls.

Photographs, a small residual network with random weights in evaluation mode, one image, label known. The settings of
each attack were fixed beforehand on three other images (seeds 100 to 102), a handful of trials for each.

    python benchmarks/generative.py [--seeds 10] [--iterations 300] [--size 16]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    generative_cpu: python benchmarks/generative.py
"""

from __future__ import annotations

import argparse
import time

import torch
from common import RESULTS, arguments

import glutils as gl
from glutils.priors.latent import GLO, untrained

PLAIN = {"tv_weight": 0.1}  # IG's own weight; 1e-2 and 1e-3 were worse on the other images
WAYS = {
    "IG": ("ig", None, PLAIN),
    "GIAS": ("gias", "GLO", {}),
    "IGIMS, Adam": ("igims", "GLO", {"latent_solver": "adam"}),
    "IGIMS, CMA": ("igims", "GLO", {"latent_solver": "cma"}),
    "GIAS, untrained": ("gias", "untrained", {}),
    "GIAS, permuted gradient": ("gias", "GLO", {}),
}


def of_the_class(prior: GLO, public, label: int, seed: int) -> torch.Tensor:
    """The label-only control: an image from a random z, normal like those of the public images with this label."""
    codes = prior.encode(public.images[public.labels == label].double())
    draw = torch.randn(prior.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spread = codes.T.cov() + 1e-6 * torch.eye(prior.size, dtype=torch.float64)
    return prior.decode((codes.mean(0) + torch.linalg.cholesky(spread) @ draw)[None])


def measure(seed: int, size: int, iterations: int, public, priors: dict) -> list[dict]:
    """One row for each attack on one image."""
    batch = gl.data.sample("photos", size=size, seed=seed, device="cpu")
    model, protocol = gl.models.build("resnet8", batch, seed=seed), gl.protocols.FedSGD()
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"})
    blind = of_the_class(priors["GLO"], public, int(batch.labels), seed)
    nearest = float(gl.metrics.psnr(priors["GLO"].project(batch.images)[1], batch.images)[0])
    rows = []
    for name, (attack, prior, options) in WAYS.items():
        view = gl.tamper(seen, "permuted", seed=seed) if "permuted" in name else seen
        how = options if prior is None else options | {"prior": priors[prior]}
        result = gl.attack(attack, view, iterations=iterations, seed=seed, progress=False, **how)
        score = gl.score(result, batch, public=public, controls={"label_only": blind})
        spent = {"evaluations": result.evaluations, "projection": nearest}
        rows += gl.runs.rows_from(result, score, variant=name, seed=seed, **spent)
    return rows


def main() -> None:
    """Run all and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=300, help="gradients for each attack, less one")
    parser.add_argument("--size", type=int, default=16, help="side of the images")
    parser.add_argument("--components", type=int, default=32, help="numbers in z")
    parser.add_argument("--training", type=int, default=1000, help="steps of training the generator")
    options = arguments(parser)
    begin = time.perf_counter()
    public = gl.data.public("photos", size=options.size, device="cpu")
    trained = GLO.fit(public, options.components, steps=options.training, progress=False)
    priors = {"GLO": trained, "untrained": untrained(public.shape, options.components)}
    rows = []
    for seed in range(options.seeds):
        rows += measure(seed, options.size, options.iterations, public, priors)
        print(seed, {row["variant"]: round(row["psnr"], 1) for row in rows[-len(WAYS) :]}, flush=True)
    gl.runs.record(
        "generative_cpu",
        parameters=vars(options) | {"model": "resnet8", "data": "photos", "threads": torch.get_num_threads()},
        rows=rows,
        seeds=range(options.seeds),
        seconds=time.perf_counter() - begin,
        folder=RESULTS,
        image_is=("seed", "image"),
    )


if __name__ == "__main__":
    main()
