"""What attacks cost as their work grows: CPU seconds and peak memory against one size at a time.

Sizes: pixel values, scalars, parameters, images of a client, rounds, tokens, clients. Every point is measured in a
process of its own, whose peak memory is therefore its own: there the same attack runs once on a small case, which
loads the code; then the memory in use is read, the client sends, and the attack runs, after which the peak is read. So
"own memory" is that of client and attack together. What takes less than a second runs up to five times, and the lowest
CPU time counts: other work on the machine can only add.

What is measured is a fixed amount of work, never a search until something is found: a few steps of Gauss-Newton, some
iterations of IG, the decoding of a text by one search, some rounds of a federation. "whole" says how many such pieces
make up an attack (20 steps, 400 iterations, one search, 100 rounds).

    python benchmarks/growth.py [--only pixels clients ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    growth_cpu: python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import Rows, arguments
from common.resume import say

import glutils as gl

NEWTON, IG, TEXT, FEDERATION = "ZeroGLA, Gauss-Newton", "IG", "decoding of a text", "federation of scalars"
SIZES = {
    ("pixels", NEWTON): (8, 12, 16, 24, 32),  # side of the photograph
    ("scalars", NEWTON): (512, 1024, 2048, 4096, 8192),
    ("parameters", NEWTON): (16, 32, 64, 128, 256),  # hidden units
    ("images", NEWTON): (1, 2, 4, 8),
    ("rounds", NEWTON): (1, 2, 4, 8, 16),
    ("pixels", IG): (16, 32, 64, 96, 128),
    ("parameters", IG): (256, 1024, 4096, 16384),
    ("images", IG): (4, 16, 64, 256),
    ("tokens", TEXT): (3, 5, 8, 12, 18),  # words
    ("clients", FEDERATION): (8, 32, 128, 500),
}
STEPS, ITERATIONS, ROUNDS = 4, 20, 3
WHOLE = {NEWTON: 20 / STEPS, IG: 400 / ITERATIONS, TEXT: 1.0, FEDERATION: 100 / ROUNDS}
SENTENCE = "The code of my phone is 4821 and my card was lost on the train to the city"
SIDE, RATIO = 12, 1.2
SHORT, MOST = 1.0, 5  # seconds below which a piece is repeated; how often it runs at most
Work = tuple[Callable[[], object], float, dict]
"""What is run, its size, and what else the row should hold."""


def photographs(side: int, count: int, network: str, **how):
    """Photographs and a network."""
    batch = gl.data.sample("photos", size=side, count=count, seed=0, device="cpu")
    return batch, gl.models.build(network, batch, seed=0, **how)


def newton(batch, model, scalars: int, rounds: int = 1) -> Callable[[], object]:
    """Some steps of Gauss-Newton on so many scalars in all, spread over rounds."""
    protocol = gl.protocols.ZerothOrder(directions=scalars // rounds, mu=1e-4, dtype="float64", seed=0)
    log = gl.federation.train(protocol, model, [batch], rounds=rounds, lr=0.003, seed=0, progress=False)
    seen = gl.observe(log, client=0, knows={"labels"})
    how = {"solver": "gauss-newton", "iterations": STEPS, "restarts": 1, "coarse": 0, "check": False}
    return lambda: gl.attack("zerogla", seen, seed=0, progress=False, **how)


def inverting(batch, model) -> Callable[[], object]:
    """Some iterations of IG on a gradient."""
    protocol = gl.protocols.FedSGD()
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
    return lambda: gl.attack("ig", seen, iterations=ITERATIONS, seed=0, progress=False)


def decoding(words: int) -> Work:
    """One search for a text of so many words."""
    batch = gl.data.from_texts([" ".join(SENTENCE.split()[:words])])
    model = gl.models.build("gpt", batch, weights="trained")
    protocol = gl.protocols.ZerothOrder(directions=1, mu=1e-3, law="mezo", dtype="float32", seed=0)
    how = {"rounds": 128, "lr": 1e-4, "test": gl.data.sample("messages", count=1, split="public", device="cpu")}
    seen = gl.observe(gl.federation.train(protocol, model, [batch], seed=0, progress=False, **how), client=0)
    return lambda: gl.attack("zerogla_text", seen, width=32, restarts=1, seed=0, progress=False), seen.targets, {}


def training(clients: int) -> Work:
    """Some rounds of a federation whose clients send 64 scalars each, with every message kept."""
    deal = gl.data.partition("digits", clients=clients, per_client=2, seed=0, device="cpu")
    protocol = gl.protocols.ZerothOrder(directions=64, seed=0)
    model = gl.models.build("mlp", deal[0], seed=0)
    how = {"rounds": ROUNDS, "lr": 0.06, "seed": 0, "progress": False}
    return lambda: gl.federation.train(protocol, model, deal, **how), clients, {}


def work(axis: str, attack: str, step: int) -> Work:
    """The piece of work at one point of an axis; all other sizes stay as they are."""
    if axis == "tokens":
        return decoding(step)
    if axis == "clients":
        return training(step)
    count, side = step if axis == "images" else 1, step if axis == "pixels" else 8 if axis == "images" else SIDE
    network = "mlp" if axis == "parameters" else "lenet" if attack == NEWTON else "convnet"
    how = {"hidden": (step,)} if axis == "parameters" else {}
    batch, model = photographs(side, count, network, **how)
    pixels, parameters = batch.images.numel(), sum(p.numel() for p in model.parameters())
    rounds = step if axis == "rounds" else 1
    scalars = step if axis == "scalars" else int(RATIO * pixels) // 16 * 16
    size = {"pixels": pixels, "parameters": parameters}.get(axis, step)
    about = {"network": network, "pixel values": pixels, "parameters": parameters}
    if attack == IG:
        return inverting(batch, model), size, about
    return newton(batch, model, scalars, rounds), size, about | {"scalars": scalars, "rounds": rounds}


def case(axis: str, attack: str, step: int) -> dict:
    """One row, measured in this process."""
    work(axis, attack, SIZES[axis, attack][0])[0]()  # loads the code
    before = in_use()
    run, size, about = work(axis, attack, step)
    spent = [seconds(run)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB
    while sum(spent) < SHORT and len(spent) < MOST:
        spent.append(seconds(run))
    row = {"size": size, "CPU seconds": min(spent), "runs": len(spent), "whole": WHOLE[attack]}
    return row | {"peak memory (MiB)": peak, "own memory (MiB)": peak - before} | about


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one run."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def in_use() -> float:
    """Memory of the process now, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Measure what is not in the record yet, each point in a fresh process."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    axes = list(dict.fromkeys(axis for axis, _ in SIZES))
    parser.add_argument("--only", nargs="+", choices=axes, default=axes, help="sizes that grow")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = arguments(parser)
    if options.case:
        print(json.dumps(case(*json.loads(options.case))))
        return
    settings = {"steps": STEPS, "iterations": ITERATIONS, "rounds": ROUNDS, "ratio": RATIO, "side": SIDE}
    with Rows("growth_cpu", settings | {"threads": 1}, seeds=[0]) as rows:
        for (axis, attack), steps in SIZES.items():
            for step in steps if axis in options.only else ():
                key = {"axis": axis, "attack": attack, "step": step}
                if key in rows:
                    continue
                command = [sys.executable, str(Path(__file__)), "--dirty", "--case", json.dumps(list(key.values()))]
                alone = os.environ | {"OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=alone)
                rows.add(key | json.loads(done.stdout.splitlines()[-1]))
                say(rows.rows[-1])


if __name__ == "__main__":
    main()
