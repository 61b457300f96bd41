"""PSNR against the number of scalars, by prior: pixels alone, total variation, and priors learned from public images.

Two tables in one record. "sweep": digits and photos, scalars from D/16 to 2 D, with the mean colour and permuted
scalars as controls. "bar": digits, 32 scalars, and how far each prior's result is from the nearest image that it can
make.

    python benchmarks/priors.py [--digits 5] [--photos 2] [--size 16]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    priors_cpu: python benchmarks/priors.py --photos 1
"""

from __future__ import annotations

import argparse
import time

import torch
from common import RESULTS, arguments

import glutils as gl
from glutils.priors.latent import PCA, Gaussian, Generator, ResidualLatent

RATIOS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1, 2)
PIXELS = {"no prior": "none", "total variation": "tv"}


def observe(data: str, size: int, hidden: int, count: int, seed: int, public) -> tuple:
    """One private image, and what an attacker with public images sees of it."""
    batch = gl.data.sample(data, size=size, seed=seed, device="cpu")
    model = gl.models.build("mlp", batch, hidden=(hidden,), activation="tanh", seed=seed)
    protocol = gl.protocols.ZerothOrder(directions=count, mu=1e-4, dtype="float64", seed=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    return batch, gl.observe(model, protocol, payload, batch, knows={"labels", "public"}, public=public)


def psnr(images: torch.Tensor, batch) -> float:
    """Of the first image, in dB."""
    return float(gl.metrics.psnr(images, batch.images)[0])


def sweep(data: str, size: int, hidden: int, seeds: int, latent: int) -> list[dict]:
    """One row for each number of scalars, prior and seed."""
    public = gl.data.public(data, size=size, device="cpu")
    generator = Generator.fit(public, latent, progress=False)
    learned = {
        "Gaussian": Gaussian.fit(public),
        "generator": ResidualLatent(generator, public, report_residual=False),
        "generator + rest": ResidualLatent(generator, public),
    }
    rows = []
    for seed in range(seeds):
        for ratio in RATIOS:
            batch, seen = observe(data, size, hidden, max(1, round(ratio * public.images[0].numel())), seed, public)
            runs = {name: (prior, seen) for name, prior in ({**PIXELS, "PCA": "pca"} | learned).items()}
            misled = gl.tamper(seen, "permuted")
            runs |= {f"{name}, permuted": (learned[name], misled) for name in ("Gaussian", "generator + rest")}
            for name, (prior, view) in runs.items():
                result = gl.attack("zerogla", view, prior=prior, restarts=None if data == "digits" else 1, seed=seed)
                colour = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
                row = {"table": "sweep", "data": data, "size": size, "seed": seed, "prior": name, "ratio": ratio}
                row |= {"scalars": int(result.diagnostics["scalars"]), "PSNR": psnr(result.images, batch)}
                row |= {"mean colour": psnr(colour, batch), "seconds": result.seconds}
                rows.append(row | {"public mean": psnr(public.images.mean(0, keepdim=True), batch)})
            print(data, seed, ratio, {row["prior"]: round(row["PSNR"], 1) for row in rows[-len(runs) :]}, flush=True)
    return rows


def bar(seeds: int, count: int = 32) -> list[dict]:
    """One row for each latent, way of solving and seed: PSNR, and that of the nearest image in the latent's range."""
    public = gl.data.public("digits", device="cpu")
    latents = {f"PCA, {m} = K/{count // m}": PCA.fit(public, m) for m in (2, 4, 8, 16, 32)}
    latents |= {f"generator, {m} = K/{count // m}": Generator.fit(public, m, progress=False) for m in (4, 8)}
    rows = []
    for name, latent in latents.items():
        ways = {"least squares": latent, "rest as noise": ResidualLatent(latent, public, False)}
        ways["with rest"] = ResidualLatent(latent, public)
        for seed in range(seeds):
            batch, seen = observe("digits", 8, 64, count, seed, public)
            nearest = psnr(latent.project(batch.images)[1], batch)
            for way, prior in ways.items():
                result = gl.attack("zerogla", seen, prior=prior, seed=seed)
                row = {"table": "bar", "latent": name, "solved": way, "seed": seed, "scalars": count}
                row |= {"nearest": nearest, "PSNR": psnr(result.images, batch), "seconds": result.seconds}
                rows.append(row)
        for way in ways:
            gaps = torch.tensor([r["PSNR"] - r["nearest"] for r in rows if (r["latent"], r["solved"]) == (name, way)])
            print(name, way, f"median {gaps.median():+.1f} dB, worst {gaps.min():+.1f} dB", flush=True)
    return rows


def main() -> None:
    """Run both and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=5, help="seeds")
    parser.add_argument("--photos", type=int, default=2, help="seeds")
    parser.add_argument("--size", type=int, default=16, help="side of the photos")
    options = arguments(parser)
    begin = time.perf_counter()
    rows = bar(2 * options.digits)
    rows += sweep("digits", 8, 64, options.digits, 8)
    rows += sweep("photos", options.size, 16, options.photos, 8)
    gl.runs.record(
        "priors_cpu",
        parameters=vars(options) | {"threads": torch.get_num_threads()},
        rows=rows,
        seeds=range(2 * options.digits),
        seconds=time.perf_counter() - begin,
        folder=RESULTS,
    )


if __name__ == "__main__":
    main()
