"""Every attack that searches, in two arenas of the leaderboard, at budgets from 30 to 3,000 gradients.

A ranking is made at one budget. Here the same attacks meet the same photographs (those of the leaderboard, a blank card
below 18 dB) with a tenth of it and with ten times as much. Taking part: whoever reads the arena's message and is given
a budget. An attack whose schedule depends on how many steps it has, as a falling step size, is run anew at each
budget, and not stopped on the way to a larger one. Cheap runs come first (small budgets, and of one budget the attacks
that search no generator), so that a run that is stopped has whole curves as far as they go.

    python benchmarks/budgets.py [--seeds 3] [--budgets 30 100 300 1000 3000]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    leaderboard_budgets_cpu: python benchmarks/budgets.py

It goes on where it was stopped. Half an hour of one core.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from common import arguments, measure

from glutils.attacks.base import ATTACKS
from glutils.experiments import conditions, leaderboard

ARENAS = ("smooth network", "ReLU network")
SIZE, CONTENT = 16, 18.0
LEARNED: dict[Any, dict[str, Any]] = {}
"""What attacks learned from public images: at each budget the same."""


def searching(arena: leaderboard.Arena) -> list[str]:
    """Attacks that enter an arena and do more with a larger budget."""
    budgets = {name: conditions.of(name).budget for name in leaderboard.able(arena)}
    return [name for name, budget in budgets.items() if budget is not None and budget(30) != budget(3000)]


def work(arena: str, attack: str, budget: int, seed: int) -> dict[str, Any]:
    """One attack on one photograph with one budget."""
    how = {"seed": seed, "evaluations": budget, "size": SIZE, "content": CONTENT, "misled": None, "device": "cpu"}
    (row,) = leaderboard.trial(attack, leaderboard.ARENAS[arena], learned=LEARNED, **how)
    if "refused" in row:
        raise ValueError(row["refused"])
    found = {name: row[name] for name in ("psnr", "ssim", "evaluations", "pullbacks", "seconds", "ratio")}
    return found | {"mean colour": row["controls"]["mean_colour"]["psnr"]}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="*", default=[30, 100, 300, 1000, 3000])
    options = arguments(parser)
    cells = [
        {"arena": arena, "attack": attack, "budget": budget, "seed": seed}
        for budget, generator in itertools.product(options.budgets, (False, True))
        for arena in ARENAS
        for attack in searching(leaderboard.ARENAS[arena])
        if ("generator" in ATTACKS.get(attack).variable) == generator
        for seed in range(options.seeds)
    ]
    measure("leaderboard_budgets_cpu", cells, work, {"size": SIZE, "content": CONTENT, "dataset": "photos"})


if __name__ == "__main__":
    main()
