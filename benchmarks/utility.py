"""What the federation is for: test accuracy over rounds, by protocol, by model, and with what attackers add to models.

Part "protocols": 100 clients, digits dealt by a Dirichlet law, of which each trains on four fifths; FedAvg, FedSGD and
ZO-FL on one network, per round and per byte that the clients send. Part "models": 10 clients, FedAvg, for each network
as it is ("plain"), behind the imprint of Robbing the Fed ("imprint": this book's gain and strength; "imprint,
reference": those of the authors' code, the block in the image's place), and with DMGAN's extra class ("extra class",
which no client has). Step sizes were chosen for the plain mlp on seed 100; that another network does not learn with
them is a finding about them too.

A row is one run: "part", "label", "protocol", "model", "variant", "clients", "beta", "seed", "rounds", "accuracy" (one
number a round, on 797 held-out digits), "uplink" (bytes that all clients together have sent by the end of each round),
"seconds". Rows are written every now and then, and a second start goes on from there.

    python benchmarks/utility.py [--seeds 3] [--parts protocols models] [--models mlp convnet cnn]
    python benchmarks/utility.py --parts models --models resnet18 --size 32 --name utility_resnet18_cpu

(torchvision networks want 32x32 pixels; their batch norm layers use running statistics that FedAvg does not move.)

Record in benchmarks/results (OMP_NUM_THREADS=1):

    utility_cpu: python benchmarks/utility.py

Of the reference's imprint on cnn it has the first seed only.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from common import Rows, arguments

import glutils as gl

BETA = 0.5
AVERAGE = gl.protocols.FedAvg(epochs=5, batch_size=10, lr=0.1, momentum=0.5, weight_decay=1e-5, decay=0.99, shuffle=0)
SLOPES = gl.protocols.ZerothOrder(directions=64, mu=1e-3, scheme="central", law="unit", dtype="float32")
PROTOCOLS = {
    "FedAvg, 5 epochs": (AVERAGE, {"rounds": 100}),
    "FedAvg, 1 epoch": (gl.protocols.FedAvg(epochs=1, batch_size=10, lr=0.1, shuffle=0), {"rounds": 100}),
    "FedSGD": (gl.protocols.FedSGD(), {"rounds": 200, "lr": 0.5}),
    "ZO-FL, 64 scalars": (SLOPES, {"rounds": 250, "lr": 0.06}),
}
LOCAL = gl.protocols.FedAvg(epochs=2, batch_size=10, lr=0.1, weight_decay=1e-5, decay=0.95, shuffle=0)
ROUNDS = {"mlp": 20, "convnet": 12, "cnn": 5}
VARIANTS = ("plain", "extra class", "imprint", "imprint, reference")
RTF = {"imprint": {}, "imprint, reference": {"gain": 1e-3, "strength": 1e3, "connection": "replace"}}


def deal(clients: int, seed: int, size: int | None) -> list[gl.data.Batch]:
    """Every client's training images."""
    how = {"law": "dirichlet", "beta": BETA, "min_samples": 2, "seed": seed, "size": size, "device": "cpu"}
    return gl.data.hold_out(gl.data.partition("digits", clients=clients, **how), seed=seed)[0]


def by_protocol(label: str, seed: int, size: int | None) -> dict:
    """One row of the first part."""
    protocol, how = PROTOCOLS[label]
    clients = deal(100, seed, size)
    model = gl.models.build("mlp", clients[0], seed=seed)
    begin = time.perf_counter()
    run = gl.federation.train(protocol, model, clients, seed=seed, record=[], progress=False, **how)
    about = {"part": "protocols", "label": label, "model": "mlp", "variant": "plain", "clients": 100}
    return row_of(run, about | {"protocol": type(protocol).__name__, "seed": seed}, begin)


def by_model(name: str, variant: str, seed: int, size: int | None) -> dict:
    """One row of the second part."""
    clients, public = deal(10, seed, size), gl.data.public("digits", size=size, device="cpu")
    if variant == "extra class":
        clients = [gl.attacks.with_extra_class(client) for client in clients]
    model = gl.models.build(name, clients[0], seed=seed)
    if variant in RTF:
        model = gl.imprint.imprint(model, public, seed=seed, **RTF[variant])
    begin = time.perf_counter()
    how = {"rounds": ROUNDS.get(name, 30), "seed": seed, "record": [], "test": public, "progress": False}
    run = gl.federation.train(LOCAL, model, clients, **how)
    about = {"part": "models", "label": f"{name}, {variant}", "model": name, "variant": variant, "clients": 10}
    return row_of(run, about | {"protocol": "FedAvg", "seed": seed}, begin)


def row_of(run: gl.transcripts.Transcript, about: dict, begin: float) -> dict:
    """A run as a row of the record."""
    found = {"beta": BETA, "rounds": run.rounds, "accuracy": [round(float(a), 4) for a in run.accuracy]}
    return about | found | {"uplink": run.uplink.cumsum(0).tolist(), "seconds": time.perf_counter() - begin}


def main() -> None:
    """Run what is not in the record yet, and print the last rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["protocols", "models"], choices=["protocols", "models"])
    parser.add_argument("--models", nargs="+", default=["mlp", "convnet", "cnn"], choices=gl.models.names())
    parser.add_argument("--size", type=int, help="side of the images; default: 8")
    parser.add_argument("--name", default="utility_cpu", help="of the record")
    options = arguments(parser)
    torch.set_num_threads(1)
    work = []
    if "protocols" in options.parts:
        work += [(label, by_protocol, (label,)) for label in PROTOCOLS]
    if "models" in options.parts:
        work += [(f"{name}, {variant}", by_model, (name, variant)) for name in options.models for variant in VARIANTS]
    parameters = {"size": options.size, "beta": BETA, "threads": 1, "test": "797 held-out digits"}
    with Rows(options.name, parameters) as record:
        for (label, measure, how), seed in itertools.product(work, range(options.seeds)):
            if {"label": label, "seed": seed} in record:
                continue
            record.add(measure(*how, seed, options.size))
            row = record.rows[-1]
            print(seed, label, row["accuracy"][-1], f"{row['seconds']:.1f} s", flush=True)
    rows = record.rows
    for label in dict.fromkeys(row["label"] for row in rows):
        last = [row["accuracy"][-1] for row in rows if row["label"] == label]
        print(f"{label}: median {statistics.median(last):.3f}, {min(last):.3f} to {max(last):.3f}, {len(last)} seeds")


if __name__ == "__main__":
    main()
