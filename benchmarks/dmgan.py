"""DMGAN on every class of digits: what two classifiers that took no part make of its samples, beside its controls.

Five clients, five rounds, 8x8 digits; the attacker holds no image of the tracked class. The judges are trained on
public digits; one is built like the global model. Settings were chosen on classes 3 and 7 with other seeds (1000 to
1006), so the other eight classes are the test. A row is written after each run, and a second start goes on from there.

    python benchmarks/dmgan.py [--classes 0 1 2 3 4 5 6 7 8 9] [--seed 2000] [--rounds 5] [--per-client 100]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    dmgan_cpu: python benchmarks/dmgan.py
    dmgan_100_cpu: python benchmarks/dmgan.py --seed 3000 --per-client 100 --classes 0 2 5 8 9 \\
        --cases DMGAN 'the game alone'
"""

from __future__ import annotations

import argparse
import itertools

import torch
from common import Rows, arguments
from common.judges import JUDGES, judge, verdicts
from common.resume import say

import glutils as gl

DEVELOPED = (3, 7)
BARE = {"memory": 0, "anchor": 0, "variation": 0, "diversity": 0, "lr": 2e-4}
CASES = {"DMGAN": {}, "nobody has the class": {}, "the game alone": BARE}


def play(case: str, label: int, seed: int, rounds: int, per_client: int | None) -> gl.attacks.Reconstruction:
    """One federation with its attacker."""
    clients = gl.data.partition("digits", clients=5, per_client=per_client, seed=seed, device="cpu")
    robbed = [gl.attacks.without_class(client, label) for client in clients]
    clients = robbed if case.startswith("nobody") else [robbed[0], *clients[1:]]
    how = {"tracked": label, "rounds": rounds, "samples": 50, "seed": seed, "progress": False}
    return gl.attacks.dmgan(clients, **how, **CASES[case])


def main() -> None:
    """Run what is not in the record yet, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seed", type=int, default=2000, help="of class 0; class c has this plus c")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-client", type=int, help="images of each, in a record of its own; default: all, 200")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    options = arguments(parser)
    public = gl.data.public("digits", device="cpu")
    judges = {kind: judge(kind, public) for kind in JUDGES}
    private = gl.data.load("digits", device="cpu")
    with torch.no_grad():
        right = {k: float((m(private.images).argmax(1) == private.labels).float().mean()) for k, m in judges.items()}
    settings = {"rounds": options.rounds, "clients": 5, "data": "digits", "seed": options.seed, "judges": right}
    record = "dmgan_cpu"
    if options.per_client:
        record, settings = f"dmgan_{options.per_client}_cpu", settings | {"per_client": options.per_client}
    settings["threads"] = torch.get_num_threads()
    with Rows(record, settings, same=("rounds", "seed")) as rows:
        for case, label in itertools.product(options.cases, options.classes):
            seed = options.seed + label
            if {"case": case, "class": label, "seed": seed} in rows:
                continue
            found = play(case, label, seed, options.rounds, options.per_client)
            row = {"case": case, "class": label, "seed": seed, "developed on": label in DEVELOPED}
            row |= verdicts(judges, found.images, label, public) | {"seconds": found.seconds}
            row |= {"global model": found.diagnostics[f"tracked, round {options.rounds}"]}
            row |= {"accuracy": found.diagnostics[f"accuracy, round {options.rounds}"]}
            row |= {"spread": found.diagnostics["spread"]}
            if case == "DMGAN":
                row["untrained"] = verdicts(judges, found.history.frames[0], label, public)
                mean = public.images[public.labels == label].mean(0, keepdim=True)
                row["class mean"] = verdicts(judges, mean, label, public)
            rows.add(row)
            say(row)
    for case in CASES:
        for name in (*JUDGES, "lower"):
            values = [row[name] for row in rows.rows if row["case"] == case and not row["developed on"]]
            if values:
                good = sum(value >= 0.8 for value in values)
                print(f"{case}, {name}, eight classes: {gl.metrics.summary(values)}, {good} of {len(values)} reach 0.8")


if __name__ == "__main__":
    main()
