"""How recovery from scalars falls as a network learns: one private image, before and after steps of training.

Networks learn to tell public digits of 8 x 8 pixels apart (Adam, batches of 64, 600 digits; accuracy on the other
public ones), or crops of nine photographs, 12 x 12 in colour: of which photograph is this a part? (600 crops of the
public parts; accuracy on 600 other crops of the same parts, so windows may overlap, but no pixel is private.) After so
many steps the client answers with 1.25 scalars for each pixel value from one state, in float64 (mu 1e-4) or float32 (mu
1e-3); the label is told. A private photograph has something in it: a blank card has less than 18 dB. Attacks:
Gauss-Newton from grey, once (not through ReLU, where a single guess sticks before any training); the same with 400
guesses carried together (``ensemble=400``), and with guesses drawn like the public images that the network was trained
on (``prior="gaussian"``). The controls are the blank card, and permuted scalars for the last attack.

    python benchmarks/learnt.py [--dataset digits] [--seeds 6]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    learnt_cpu: python benchmarks/learnt.py
    learnt_photos_cpu: python benchmarks/learnt.py --dataset photos --seeds 12

It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from common import arguments, measure

import glutils as gl
from glutils.experiments import leaderboard

RATIO, PART, TRAIN, TEST = 1.25, 64, 600, 600
PRIVATE = {"digits": {}, "photos": {"size": 12, "content": 18.0}}
"""Options of a private image."""
STEPS = (0, 10, 100, 1000)
MU = {"float64": 1e-4, "float32": 1e-3}
NETWORKS = {
    "lenet, sigmoid": ("lenet", {}),
    "convnet, GELU": ("convnet", {"hidden": None, "activation": "gelu"}),
    "convnet, ReLU": ("convnet", {"hidden": None, "activation": "relu"}),
}


def attacks(dataset: str) -> dict[str, dict]:
    """Names of attacks, and their options."""
    alone = {"iterations": 40}
    many = alone | {"ensemble": 400}
    return {"one guess": alone, "many guesses": many, f"many guesses, public {dataset}": many | {"prior": "gaussian"}}


@functools.cache
def public(dataset: str) -> tuple[gl.data.Batch, gl.data.Batch]:
    """Public images to train on, and others to test with."""
    if dataset == "photos":
        drawn = gl.data.public("photos", count=TRAIN + TEST, size=PRIVATE["photos"]["size"], device="cpu")
        return drawn[:TRAIN], drawn[TRAIN:]
    every = gl.data.sample("digits", count="all", split="public", device="cpu")
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    return every[order[:TRAIN]], every[order[TRAIN:]]


@functools.cache
def trained(dataset: str, network: str, steps: int, seed: int) -> torch.nn.Module:
    """The network after so many steps."""
    name, options = NETWORKS[network]
    model = gl.models.build(name, public(dataset)[0], seed=seed, **options)
    leaderboard.train(model, public(dataset)[0], steps=steps, seed=seed, part=PART)
    return model


def judged(model: torch.nn.Module, batch: gl.data.Batch) -> tuple[float, float]:
    """Loss, and share of images that it takes for their class."""
    with torch.no_grad():
        logits = model(batch.images)
    return float(F.cross_entropy(logits, batch.labels)), float((logits.argmax(1) == batch.labels).double().mean())


def recover(dataset: str, network: str, steps: int, dtype: str, attack: str, told: str, seed: int) -> dict:
    """One private image from the scalars of a network that has learnt so much."""
    batch = gl.data.sample(dataset, seed=seed, device="cpu", **PRIVATE[dataset])
    model, (learnt, others) = trained(dataset, network, steps, seed), public(dataset)
    client = gl.protocols.ZerothOrder(
        directions=int(RATIO * batch.images.numel()), mu=MU[dtype], dtype=dtype, seed=seed
    )
    with torch.no_grad():
        scalars = client.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, client, scalars, batch, knows={"labels", "public"}, public=learnt)
    values = gl.attacks.singular_values(seen, batch.images)
    size = float(seen.payload.std())
    if told != "honest":
        seen = gl.tamper(seen, told, seed=seed)
    result = gl.attack("zerogla", seen, seed=seed, restarts=1, progress=False, **attacks(dataset)[attack])
    score, (loss, accuracy) = gl.score(result, batch), judged(model, others)
    return {
        "psnr": score.mean_psnr, "mean colour": float(score.controls["mean_colour"].mean()), "loss": result.loss,
        "noise": result.diagnostics["noise"], "steps taken": result.history.steps[-1], "test loss": loss,
        "accuracy": accuracy, "private loss": judged(model, batch)[0], "size of a scalar": size,
        "condition number": float(values[0] / values[-1]), "scalars": len(seen.payload),
        "unknowns": batch.images.numel(),
    }  # fmt: skip


def cells(dataset: str, seeds: int) -> Iterator[dict]:
    """What is measured, seed by seed."""
    for seed in range(seeds):
        for network in NETWORKS:
            for steps in STEPS:
                plain = {"network": network, "steps": steps, "dtype": "float64", "told": "honest", "seed": seed}
                first, *others, last = attacks(dataset)
                ways = [*others, last] if "ReLU" in network else [first, *others, last]
                yield from (plain | {"attack": attack} for attack in ways)
                yield plain | {"attack": last, "dtype": "float32"}
                if steps == STEPS[-1]:
                    yield plain | {"attack": last, "told": "permuted"}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=PRIVATE, default="digits")
    parser.add_argument("--seeds", type=int, default=6)
    options = arguments(parser)
    about = {"scalars per pixel": RATIO, "lr": leaderboard.LR, "batch": PART, "trained on": TRAIN, "mu": MU}
    name = "learnt_cpu" if options.dataset == "digits" else f"learnt_{options.dataset}_cpu"
    work = functools.partial(recover, options.dataset)
    measure(name, cells(options.dataset, options.seeds), work, about | PRIVATE[options.dataset])


if __name__ == "__main__":
    main()
