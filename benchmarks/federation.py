"""A federation at scale: 1,000 clients of which 100 take part in each of 20 rounds, and clients together against alone.

Part "scale": time and peak memory of whole trainings of an mlp, nobody recorded but client 0. The data are the 1,000
private digits in ten places each (moved by up to two pixels), dealt by a Dirichlet law. A case runs in a process of its
own, whose peak memory includes that of the libraries.

Part "together": one round of 100 clients, run together and one by one in turns; the ratio of medians.

Rows are written every now and then, and a second start goes on from there.

    python benchmarks/federation.py [--parts scale together] [--repeats 3]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    federation_cpu: python benchmarks/federation.py
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import time

import torch
from common import Rows, arguments
from common.resume import say
from common.timing import alternate, medians

import glutils as gl

SHIFTS = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 2)]
CASES = {
    "FedAvg, 1 epoch": (gl.protocols.FedAvg(epochs=1, batch_size=10, lr=0.1, shuffle=0), {}),
    "FedAvg, 5 epochs": (gl.protocols.FedAvg(epochs=5, batch_size=10, lr=0.1, momentum=0.5, shuffle=0), {}),
    "FedSGD": (gl.protocols.FedSGD(), {"lr": 0.5}),
    "ZO-FL, 64 scalars": (gl.protocols.ZerothOrder(directions=64), {"lr": 0.06}),
}
NETWORKS = {"mlp": {}, "convnet": {}, "convnet, small": {"channels": (4, 8), "hidden": None}}


def shift_digits() -> gl.data.Batch:
    """The private digits, each in ten places."""
    batch = gl.data.load("digits", device="cpu")
    images = torch.cat([torch.roll(batch.images, place, (2, 3)) for place in SHIFTS])
    return gl.data.Batch(images, batch.labels.repeat(len(SHIFTS)), batch.classes, batch.source)


def scale(name: str, clients: int = 1000, sampled: int = 100, rounds: int = 20) -> dict:
    """One row of the first part."""
    torch.set_num_threads(1)
    protocol, how = CASES[name]
    begin, spent = time.perf_counter(), time.process_time()
    deal = gl.data.partition(shift_digits(), clients=clients, law="dirichlet", beta=0.5, min_samples=2, seed=0)
    model = gl.models.build("mlp", deal[0], seed=0)
    how = how | {"rounds": rounds, "sampled": sampled, "record": [0], "seed": 0, "progress": False}
    run = gl.federation.train(protocol, model, deal, **how)
    row = {"part": "scale", "label": name, "clients": clients, "sampled": sampled, "rounds": rounds}
    row |= {"images": sum(map(len, deal)), "fewest": min(map(len, deal)), "accuracy": float(run.accuracy[-1])}
    row |= {"seconds": time.perf_counter() - begin, "CPU seconds": time.process_time() - spent}
    return row | {"peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def together(network: str, name: str, repeats: int) -> dict:
    """One row of the second part."""
    protocol, how = CASES[name]
    deal = gl.data.partition("digits", clients=100, law="dirichlet", beta=0.5, min_samples=2, seed=0, device="cpu")
    model = gl.models.build(network.partition(",")[0], deal[0], seed=0, **NETWORKS[network])
    how = how | {"rounds": 1, "record": [], "progress": False}
    work = {str(b): lambda b=b: gl.federation.train(protocol, model, deal, batched=b, **how) for b in (True, False)}
    found = medians(alternate(work, repeats))
    parameters = sum(p.numel() for p in model.parameters())
    row = {"part": "together", "label": name, "network": network, "parameters": parameters, "clients": 100}
    return row | {"together ms": found["True"], "alone ms": found["False"], "ratio": found["False"] / found["True"]}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["scale", "together"], choices=["scale", "together"])
    parser.add_argument("--repeats", type=int, default=3)
    options = arguments(parser)
    torch.set_num_threads(1)
    parameters = {"repeats": options.repeats, "threads": 1, "test": "797 held-out digits"}
    with Rows("federation_cpu", parameters, same=("repeats",), seeds=[0]) as rows:
        if "scale" in options.parts:
            left = [name for name in CASES if {"part": "scale", "label": name} not in rows]
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                for row in pool.imap(scale, left):
                    rows.add(row)
                    say(row)
        if "together" in options.parts:
            for network, name in itertools.product(NETWORKS, CASES):
                if {"part": "together", "label": name, "network": network} not in rows:
                    rows.add(together(network, name, options.repeats))
                    say(rows.rows[-1])


if __name__ == "__main__":
    main()
