"""How recovery from scalars falls as a network learns: one private image, before and after steps of training.

Networks learn to tell public digits of 8 x 8 pixels apart (Adam, batches of 64, 600 digits; accuracy on the other
public ones), or crops of nine photographs, 12 x 12 in colour: of which photograph is this a part? They learn 600 public
crops, or 600 crops of the private parts, as a federation of such clients would; accuracy is on 600 other crops of the
same parts, so windows overlap. The public parts look unlike the private ones: a network that learnt these alone is
wrong about most clients, and says so in large scalars.

After so many steps the client answers with 1.25 scalars for each pixel value from one state, in float64 (mu 1e-4) or
float32 (mu 1e-3); the label is told. A private photograph has something in it: a blank card has less than 18 dB.
Attacks on digits: Gauss-Newton from grey, once (not through ReLU, where a single guess sticks before any training); the
same with 400 guesses carried together (``ensemble=400``), and with guesses drawn like public images
(``prior="gaussian"``); on photographs the last alone, and from five starts through sigmoids that learnt private parts
for long, where one sticks. Controls: the blank card, and permuted scalars for the last.

    python benchmarks/learnt.py [--dataset digits] [--seeds 6]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    learnt_cpu: python benchmarks/learnt.py
    learnt_photos_cpu: python benchmarks/learnt.py --dataset photos

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
DRAWN = 1000
"""Seed of the photographs to learn, of which no private one is among the first."""
STEPS = (0, 10, 100, 1000)
MU = {"float64": 1e-4, "float32": 1e-3}
NETWORKS = {
    "lenet, sigmoid": ("lenet", {}),
    "convnet, GELU": ("convnet", {"hidden": None, "activation": "gelu"}),
    "convnet, ReLU": ("convnet", {"hidden": None, "activation": "relu"}),
}


def lessons(dataset: str, network: str) -> list[tuple[str, int]]:
    """Which split the network learns, and for how many steps. Sigmoids are slow, and alone go on with private parts."""
    private = [] if dataset == "digits" else [100, 1000] if "sigmoid" in network else [100]
    return [*(("public", steps) for steps in STEPS), *(("private", steps) for steps in private)]


def attacks(dataset: str) -> dict[str, dict]:
    """Names of attacks, and their options."""
    alone = {"iterations": 40, "restarts": 1}
    many = alone | {"ensemble": 400}
    drawn, name = many | {"prior": "gaussian"}, f"many guesses, public {dataset}"
    again = {} if dataset == "digits" else {f"{name}, five starts": drawn | {"restarts": 5}}
    return {"one guess": alone, "many guesses": many, name: drawn} | again


@functools.cache
def lesson(dataset: str, split: str) -> tuple[gl.data.Batch, gl.data.Batch]:
    """Images to train on, and others to test with."""
    if dataset == "photos":
        how = {"size": PRIVATE["photos"]["size"], "split": split, "seed": DRAWN, "device": "cpu"}
        drawn = gl.data.sample("photos", count=TRAIN + TEST, **how)
        return drawn[:TRAIN], drawn[TRAIN:]
    every = gl.data.sample("digits", count="all", split=split, device="cpu")
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    return every[order[:TRAIN]], every[order[TRAIN:]]


@functools.cache
def trained(dataset: str, split: str, network: str, steps: int, seed: int) -> torch.nn.Module:
    """The network after so many steps."""
    name, options = NETWORKS[network]
    images = lesson(dataset, split)[0]
    model = gl.models.build(name, images, seed=seed, **options)
    leaderboard.train(model, images, steps=steps, seed=seed, part=PART)
    return model


def judged(model: torch.nn.Module, batch: gl.data.Batch) -> tuple[float, float]:
    """Loss, and share of images that it takes for their class."""
    with torch.no_grad():
        logits = model(batch.images)
    return float(F.cross_entropy(logits, batch.labels)), float((logits.argmax(1) == batch.labels).double().mean())


def recover(
    dataset: str, network: str, steps: int, dtype: str, attack: str, told: str, seed: int, learns: str = "public"
) -> dict:
    """One private image from the scalars of a network that has learnt so much, of public or of private images."""
    batch = gl.data.sample(dataset, seed=seed, device="cpu", **PRIVATE[dataset])
    model, others = trained(dataset, learns, network, steps, seed), lesson(dataset, learns)[1]
    client = gl.protocols.ZerothOrder(
        directions=int(RATIO * batch.images.numel()), mu=MU[dtype], dtype=dtype, seed=seed
    )
    with torch.no_grad():
        scalars = client.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, client, scalars, batch, knows={"labels", "public"}, public=lesson(dataset, "public")[0])
    values = gl.attacks.singular_values(seen, batch.images)
    size = float(seen.payload.std())
    if told != "honest":
        seen = gl.tamper(seen, told, seed=seed)
    result = gl.attack("zerogla", seen, seed=seed, progress=False, **attacks(dataset)[attack])
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
    first, second, last, *more = attacks(dataset)
    for seed in range(seeds):
        for network in NETWORKS:
            ways = [last] if dataset == "photos" else [second, last] if "ReLU" in network else [first, second, last]
            for learns, steps in lessons(dataset, network):
                plain = {"network": network, "steps": steps, "dtype": "float64", "told": "honest", "seed": seed}
                if dataset == "photos":
                    plain["learns"] = learns
                yield from (plain | {"attack": attack} for attack in ways)
                yield plain | {"attack": last, "dtype": "float32"}
                if steps == STEPS[-1] and learns == "public":
                    yield plain | {"attack": last, "told": "permuted"}
                if steps == STEPS[-1] and learns == "private":
                    yield from (plain | {"attack": attack} for attack in more)


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
