"""Through ReLU and max-pooling with an ensemble of images: how many photographs and digits does Gauss-Newton find?

Colour photographs of 12 x 12 pixels with something in them (a blank card below 18 dB) through ``convnet`` with ReLU,
in three sizes: convolutions of 8 and 16 or of 16 and 32 channels and one linear layer, and the network as it comes
(154,000 parameters). Label told, float64 scalars, one start. Controls: the mean colour, and permuted scalars.

Digits of 28 x 28 pixels (8 x 8, enlarged) through the convolutional network of the DeComFL program: two 5 x 5
convolutions of 16 and 32 channels, each with ReLU and 2 x 2 max-pooling, one linear layer (28,938 parameters); 60
rounds of 20 float32 scalars, lr 1e-4, mu 1e-3, Gaussian directions. Without public data, and with 797 public digits
(the private one is not among them), of which the attacker takes all directions in which they differ: 61, since what is
enlarged from 8 x 8 pixels has no more than 64.

    python benchmarks/kinks_ensemble.py [--seeds 10] [--digits 5] [--seconds 300] [--only narrow wide full digits]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    kinks_ensemble_cpu: python benchmarks/kinks_ensemble.py

It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools

import torch
from common import arguments, measure
from torch import nn

import glutils as gl

SIZE, CONTENT = 12, 18.0
NETWORKS = {
    "narrow": {"channels": (8, 16), "hidden": None},
    "wide": {"channels": (16, 32), "hidden": None},
    "full": {},
}
RATIOS = {"narrow": (4.0, 1.2), "wide": (4.0, 1.2), "full": (4.0, 1.2)}
ROUNDS, SCALARS, LR, MU = 60, 20, 1e-4, 1e-3


def photograph(network: str, ratio: float, seed: int) -> tuple:
    """A photograph, and what an attacker sees of it."""
    batch = gl.data.sample("photos", size=SIZE, seed=seed, content=CONTENT, device="cpu")
    model = gl.models.build("convnet", batch, activation="relu", seed=seed, **NETWORKS[network])
    count = round(ratio * batch.images.numel())
    client = gl.protocols.ZerothOrder(directions=count, mu=1e-4, scheme="central", dtype="float64", seed=seed)
    with torch.no_grad():
        scalars = client.transmit(model, batch.images, batch.labels)
    return batch, gl.observe(model, client, scalars, batch, knows={"labels"})


def digit(seed: int) -> tuple:
    """A digit, and what the server has seen of it after all rounds."""
    batch = gl.data.sample("digits", size=28, seed=seed, device="cpu")
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 10),
    )  # fmt: skip
    client = gl.protocols.ZerothOrder(directions=SCALARS, mu=MU, dtype="float32", law="gaussian", seed=7)
    transcript = gl.federation.train(client, model, [batch], rounds=ROUNDS, lr=LR, seed=seed, progress=False)
    return batch, gl.observe(transcript, client=0, knows={"labels"})


def directions_of(public: gl.data.Batch) -> gl.latent.Latent:
    """All that public images differ in, as a normal distribution."""
    flat = public.images.flatten(1).double()
    rank = int(torch.linalg.matrix_rank(flat - flat.mean(0), rtol=1e-5))
    return gl.latent.fit("pca", public, components=rank)


def search(network: str, way: str, ratio: float, seed: int, seconds: float) -> dict:
    """One attack from one start."""
    batch, seen = digit(seed) if network == "digits" else photograph(network, ratio, seed)
    if way == "permuted scalars":
        seen = gl.tamper(seen, "permuted", seed=seed)
    how = {"soften": True} if way == "smooth networks" else {}
    if way == "public digits":
        how = {"prior": directions_of(gl.data.public("digits", size=28, device="cpu"))}
    result = gl.attack("zerogla", seen, seed=seed, restarts=1, seconds=seconds, check=False, progress=False, **how)
    score = gl.score(result, batch)
    return {
        "psnr": score.mean_psnr, "mean colour": float(score.controls["mean_colour"].mean()), "misfit": result.loss**0.5,
        "noise": result.diagnostics["noise"], "steps": result.history.steps[-1], "scalars": seen.scalars,
        "unknowns": result.diagnostics["unknowns"], "seconds": result.seconds,
    }  # fmt: skip


def main() -> None:
    """Measure what is missing, image by image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--digits", type=int, default=5, help="seeds")
    parser.add_argument("--seconds", type=float, default=300, help="most for one attack")
    parser.add_argument("--only", nargs="+", default=[*NETWORKS, "digits"], choices=[*NETWORKS, "digits"])
    options = arguments(parser)
    cells = [
        {"network": network, "way": way, "ratio": ratio, "seed": seed}
        for network in NETWORKS
        for ratio in RATIOS[network]
        for seed in range(options.seeds)
        for way in ("ensemble", "smooth networks", "permuted scalars")
        if way == "ensemble" or ((network, ratio) == ("narrow", 4.0) and seed < 3)
    ]
    common = {"network": "digits", "ratio": ROUNDS * SCALARS / 784}
    for way in ("public digits", "ensemble"):
        cells += [common | {"way": way, "seed": seed} for seed in range(options.digits)]
    cells = [cell for cell in cells if cell["network"] in options.only]
    setting = {"size": SIZE, "content": CONTENT, "rounds": ROUNDS, "lr": LR, "mu": MU}
    measure("kinks_ensemble_cpu", cells, functools.partial(search, seconds=options.seconds), setting)


if __name__ == "__main__":
    main()
