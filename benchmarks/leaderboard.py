"""Every attack in every arena: the record behind chapter 13. Adds what is missing to the record, so it may be stopped.

An attack that is new, or an arena, a seed: only those rows are made. Rows of an attack that has changed are made again
after ``--again NAME``. Other sizes or budgets belong into a record of another ``--name``.

    python benchmarks/leaderboard.py [--only "smooth network" ...] [--attacks ig ...] [--seeds 3] [--device cuda]
"""

from __future__ import annotations

import argparse
import time

import torch
from timing import RESULTS

import glutils as gl
from glutils.experiments import leaderboard


def main() -> None:
    """Run what is missing, cheap seeds first over all arenas, and write the record after every trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(leaderboard.ARENAS), choices=list(leaderboard.ARENAS))
    parser.add_argument("--attacks", nargs="*", default=gl.attacks.names(), choices=gl.attacks.names())
    parser.add_argument("--again", nargs="*", default=[], choices=gl.attacks.names(), help="drop these rows first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--misled", type=int, default=1, help="seeds with a negative control (not for estimates)")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after that long")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default=None)
    options = parser.parse_args()
    name = options.name or f"leaderboard_{options.device.split(':')[0]}"
    parameters = {"size": options.size, "evaluations": options.evaluations, "dataset": "photos"}
    parameters |= {"misled seeds": options.misled, "arenas": {n: vars(a) for n, a in leaderboard.ARENAS.items()}}
    rows, spent = stored(name, parameters)
    rows = [row for row in rows if row["attack"] not in options.again]
    done = {(row["arena"], row["attack"], row["seed"]) for row in rows}
    begin, learned = time.perf_counter(), {}
    for seed in range(options.seeds):
        for title in options.only:
            arena = leaderboard.ARENAS[title]
            for attack in [n for n in leaderboard.able(arena) if n in options.attacks]:
                if (title, attack, seed) in done or time.perf_counter() - begin > 60 * options.minutes:
                    continue
                control = seed < options.misled and "estimate" not in arena.update
                new = leaderboard.trial(
                    attack, arena, seed=seed, evaluations=options.evaluations, size=options.size,
                    misled="wrong_gradient" if control else None, device=options.device, learned=learned,
                )  # fmt: skip
                rows += [{"arena": title} | row for row in new]
                first = new[0]
                told = first.get("refused") or f"{first['psnr']:.1f} dB, {first['ratio']:.0f} evaluations' time"
                print(f"{seed} {title:40}{attack:14}{told:.90}", flush=True)
                gl.runs.record(
                    name, parameters=parameters, rows=rows, seeds=sorted({row["seed"] for row in rows}),
                    seconds=spent + time.perf_counter() - begin, device=torch.device(options.device), folder=RESULTS,
                )  # fmt: skip


def stored(name: str, parameters: dict) -> tuple[list[dict], float]:
    """Rows and seconds of the record there is; an error if it was made with another size or budget."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return [], 0.0
    book = gl.runs.load(path)
    for key in ("size", "evaluations", "dataset"):
        if book.parameters[key] != parameters[key]:
            raise SystemExit(
                f"{name}: {key} was {book.parameters[key]!r}, now {parameters[key]!r}; choose another --name"
            )
    if "note" in book.parameters:
        parameters["note"] = book.parameters["note"]  # on the rows that are there
    return book.rows, book.seconds


if __name__ == "__main__":
    main()
