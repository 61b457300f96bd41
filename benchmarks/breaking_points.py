"""Breaking points: the smallest strength of each defence at which an attack is no better than its control.

For every defence, attack and attacker: strengths on a stated grid, from weak to strong, are tried by bisection. An
attack is broken where the median over seeds and images of PSNR less control is at most 1 dB; the control of an image is
the higher of its mean colour and what the same attack makes of a permuted, undefended payload (median over seeds).
Bisection finds a strength that breaks the attack while the next weaker one does not; it takes for granted that stronger
is not weaker. Then the accuracy left: a training run in which every client defends itself like that, step size tuned by
tens and threes for the defender's benefit (on the same test digits, which flatters the defence a little).

Gradient attacks: one 8x8 digit (FGLA: four of different classes), a small smooth convnet. ZeroGLA: the transcript of a
client with five digits. Naive attackers take the payload at its word. Adaptive ones simulate the defence, and choose
among a few settings by practising on a public digit that they defend themselves.

    python benchmarks/breaking_points.py [--only topk ...] [--attacks dlg ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    breaking_points_cpu: python benchmarks/breaking_points.py
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time

import torch
from common import Rows, arguments
from common.breaking import (
    BUDGETS,
    GRIDS,
    SEEDS,
    SETTINGS,
    TRAINING,
    TRANSCRIPT,
    accuracy,
    can_simulate,
    client,
    front,
    run,
    transcript,
    view,
)

import glutils as gl

MARGIN = 1.0


def best_setting(attack: str, name: str, value) -> dict:
    """The setting with the best result on a public digit, which the attacker defends itself."""
    choices = SETTINGS.get(attack, [{}])
    if len(choices) == 1:
        return choices[0]
    batch, seen = view(attack, name, value, 1000, "public")
    seen = front(seen) if name == "precode" and attack != "fgla" else seen
    return max(choices, key=lambda how: statistics.mean(run(attack, seen, batch, 1000, name, value, **how)))


@functools.cache
def gradient(attack: str, name: str, value, attacker: str) -> dict:
    """PSNR of an attack on a gradient, by image."""
    if attacker == "adaptive" and not can_simulate(name, value) and attack not in SETTINGS:
        return gradient(attack, name, value, "naive")
    how = best_setting(attack, name, value) if attacker == "adaptive" else {}
    psnr, colour = [], []
    for seed in SEEDS:
        batch, seen = view(attack, name, value, seed)
        if attacker == "naive":
            seen = gl.observation.naive(seen)
        elif name == "precode" and value is not None and attack != "fgla":
            seen = front(seen)
        psnr += run(attack, seen, batch, seed, name, value, **how)
        flat = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
        colour += gl.metrics.psnr(flat, batch.images).tolist()
    return {"psnr": psnr, "mean colour": colour, "setting": how}


@functools.cache
def level_of_permuted(attack: str, name: str) -> float:
    """Median PSNR from a permuted, undefended payload of as many images."""
    found = []
    for seed in SEEDS:
        batch, seen = view(attack, "mixup" if name == "mixup" else "", None, seed)
        found += run(attack, gl.tamper(seen, "permuted", seed=seed), batch, seed, "", None)
    return statistics.median(found)


@functools.cache
def scalars(attack: str, name: str, value, attacker: str) -> dict:
    """PSNR of Gauss-Newton on a transcript, by image; signs, which it refuses, go to L-BFGS on a soft sign."""
    psnr, colour, kept = [], [], []
    soft = (name, attacker) == ("sign", "adaptive")
    for seed in SEEDS:
        batch, seen, left = transcript(name, value, seed)
        how = {"solver": "lbfgs", "iterations": 6, "restarts": 1, "tv_weight": 0.0} if soft else BUDGETS[attack]
        seen = gl.observation.naive(seen) if attacker == "naive" else seen
        result = gl.attack(attack, seen, seed=seed, progress=False, **how)
        score = gl.score(result, batch)
        psnr += score.psnr.tolist()
        colour += score.controls["mean_colour"].tolist()
        kept.append(left)
    return {"psnr": psnr, "mean colour": colour, "accuracy": kept}


@functools.cache
def level_of_permuted_scalars() -> float:
    """Median PSNR from permuted scalars."""
    found = []
    for seed in SEEDS:
        batch, seen, _ = transcript("none", None, seed)
        seen = gl.tamper(seen, "permuted", seed=seed)
        result = gl.attack("zerogla", seen, seed=seed, progress=False, **BUDGETS["zerogla"])
        found += gl.score(result, batch).psnr.tolist()
    return statistics.median(found)


def point(name: str, attack: str, attacker: str) -> dict:
    """One row: where the attack breaks, and what is left there."""
    key, grid = GRIDS[name]
    if (name, attack) == ("batch", "fgla"):
        grid = tuple(count for count in grid if count < 10)  # it refuses a batch without an absent class
    measure = scalars if attack == "zerogla" else gradient
    control = level_of_permuted_scalars() if attack == "zerogla" else level_of_permuted(attack, name)
    tried = {}

    def broken(index: int) -> bool:
        found = measure(attack, name, grid[index], attacker)
        tried[str(grid[index])] = statistics.median(found["psnr"])
        over = [p - max(c, control) for p, c in zip(found["psnr"], found["mean colour"], strict=True)]
        return statistics.median(over) <= MARGIN

    free = measure(attack, name if name == "mixup" and attack != "zerogla" else "none", None, "naive")
    row = {"strength": key, "grid": list(grid), "permuted": control, "undefended": statistics.median(free["psnr"])}
    low, high = -1, len(grid) - 1
    if broken(high):
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if broken(middle) else (middle, high)
    else:
        high = None
    row |= {"breaks at": None if high is None else grid[high], "median psnr": tried}
    row["mean colour"] = statistics.median(measure(attack, name, grid[-1], attacker)["mean colour"])
    value = grid[-1] if high is None else grid[high]
    batch = len(client(attack, name, value, 0)) if attack != "zerogla" else None
    left = measure(attack, name, value, attacker) if attack == "zerogla" else accuracy(name, value, batch)
    clean = free if attack == "zerogla" else accuracy("none", None, batch)
    row |= {"at": value, "accuracy": left["accuracy"], "lr": left.get("lr", TRANSCRIPT["lr"])}
    row["undefended accuracy"] = clean["accuracy"]
    if name in ("dpsgd", "dp_scalars") and high is not None:
        many = TRANSCRIPT["rounds"] * TRANSCRIPT["directions"] if attack == "zerogla" else TRAINING["rounds"]
        rate = 1.0 if attack == "zerogla" else batch / TRAINING["per_client"]
        how = {"relation": "replace_one", "sampling": "fixed"}  # means over batches of a fixed size
        row["epsilon"] = gl.defenses.epsilon(value, rate, many, 1e-2, **how)
    return row


GRADIENT = [n for n in GRIDS if n not in ("clip_scalars", "dp_scalars", "local_batch", "directions")]
SCALARS = [n for n in GRIDS if n != "batch"]


def main() -> None:
    """Run what is missing, and write the record after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--attacks", nargs="*", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--name", default="breaking_points_cpu")
    parser.add_argument("--again", action="store_true", help="replace the rows that are asked for")
    options = arguments(parser)
    torch.set_num_threads(1)
    asked = [
        {"defence": name, "attack": attack, "attacker": attacker}
        for name in options.only for attack in options.attacks for attacker in ("naive", "adaptive")
        if name in (SCALARS if attack == "zerogla" else GRADIENT)
    ]  # fmt: skip
    parameters = {"training": TRAINING, "transcript": TRANSCRIPT, "margin": MARGIN, "budgets": BUDGETS}
    same = ("training", "transcript", "margin")  # a budget may grow names for what used to be a default
    again = (lambda row: {k: row[k] for k in asked[0]} in asked) if options.again else (lambda row: False)
    with Rows(options.name, parameters, same=same, drop=again, seeds=SEEDS) as rows:
        for case in asked:
            if case in rows:
                continue
            begin = time.process_time()
            try:
                row = point(case["defence"], case["attack"], case["attacker"])
            except (ValueError, TypeError) as refusal:  # the attack, or the wrapper, says that it cannot
                row = {"reason": str(refusal)}
            rows.add(case | row | {"seconds": time.process_time() - begin})
            shown = {k: row.get(k) for k in ("breaks at", "median psnr", "accuracy", "reason")}
            print(*case.values(), shown, flush=True)


if __name__ == "__main__":
    main()
