"""Every attack of the book that reads a gradient, behind the sums of benchmarks/frontier.py: does any find a digit?

The setting is that of "digits, gradients" there at epsilon 8: 100 clients, ten digits each, 200 rounds, noise in the
sum, and an attacker who knows 999 of the 1,000 records, subtracts them, and attacks the one that is left, its label
told. Four digits a seed. Each attack reads the first message ("first"); one, which stands for all searches, also reads
all 200 together ("all"), which averages the noise and takes some forty CPU seconds a digit. Positive control: the same
attack on the same messages with the noise removed (of "all" the first ten). Controls of each digit: its mean colour,
and the mean public digit of its class (or of all).

Attacks have the budget and the learned parts of the leaderboard (glutils/experiments/conditions.py), learned from the
book's public digits. An attack that refuses this network, or noise, has a row with its reason, which is no evidence.
Those of a malicious server are left out: it would have to change the network, which bound masks forbid.

    python benchmarks/frontier_attacks.py [--seeds 3] [--attacks ig ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    frontier_attacks_cpu: python benchmarks/frontier_attacks.py
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace

import torch
from common import Rows, arguments
from common.resume import say
from common.sums import CLIENTS, DELTA, at, left, noises, prepared, scored

import glutils as gl
from glutils.attacks.base import ATTACKS
from glutils.experiments import conditions

CASE, STRENGTH, DIGITS, OPEN = "digits, gradients", 8.0, 4, 10
EVALUATIONS = {"first": 300, "all": 80}
"""Of the gradient that a search may take."""
TOGETHER = ("ig",)
"""Attacks that also read all messages."""
REMOVED = ", noise removed"
CARDS = {name: ATTACKS.get(name) for name in ATTACKS.names()}
READERS = [
    name for name, card in CARDS.items()
    if "gradient" in card.kinds and "images" in card.records and conditions.of(name).change is None
]  # fmt: skip


def options_of(name: str, what: str, view, seed: int, learned: dict) -> dict:
    """What an attack is given: its budget, and what it learned; generators, which know no network, once a seed."""
    own, evaluations = conditions.of(name), EVALUATIONS[what.split(",")[0]]
    key = own.learn if own.fits_any else (name, REMOVED in what, int(view.labels[0]))
    if own.learn is not None and key not in learned:
        learned[key] = own.learn(view, seed)
    options = learned.get(key, {}) | ({} if own.budget is None else own.budget(evaluations))
    return options | ({"progress": False} if "progress" in conditions.options_of(name) else {})


def views_of(name: str, seen, model, target, noise, public) -> dict:
    """What is left for one record: first or all messages, as sent or with the noise removed."""
    found = {}
    for what, known in (("", 1.0), (REMOVED, math.inf)):
        together = name in TOGETHER
        few = replace(seen, rounds=seen.rounds[: (OPEN if what else None) if together else 1])
        whole = left(few, model, target, known, noise, public)
        found["first" + what] = replace(whole, rounds=whole.rounds[:1])
        if together:
            found["all" + what] = whole
    return found


def work(name: str, seed: int, run: tuple, learned: dict) -> dict:
    """One attack on the digits of one run."""
    row, batch, public, model, seen, noise = run
    found = {"accuracy": row["accuracy"]}
    for number in range(DIGITS):
        target = batch[[number]]
        for what, view in views_of(name, seen, model, target, noise, public).items():
            at(model, view.rounds[0])
            try:
                result = gl.attack(name, view, seed=seed, **options_of(name, what, view, seed, learned))
            except ValueError as error:
                found.setdefault("refused", {})[what] = str(error)
                continue
            found.setdefault(what, []).append(scored(result, target, public))
    return found


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--attacks", nargs="*", default=READERS, choices=READERS)
    options = arguments(parser)
    parameters = {"clients": CLIENTS, "delta": DELTA, "case": CASE, "epsilon": STRENGTH, "digits": DIGITS}
    parameters |= {"evaluations": EVALUATIONS, "threads": torch.get_num_threads()}
    with Rows("frontier_attacks_cpu", parameters) as rows:
        for seed in range(options.seeds):
            missing = [name for name in options.attacks if {"attack": name, "seed": seed} not in rows]
            run, learned = (), {}
            if missing:
                run = prepared(CASE, STRENGTH, seed)
                run += (noises(run[-1], run[-2], run[1]),)
            for name in missing:
                begin = time.process_time()
                found = work(name, seed, run, learned)
                rows.add({"attack": name, "seed": seed} | found | {"cpu_seconds": time.process_time() - begin})
                say(rows.rows[-1])


if __name__ == "__main__":
    main()
