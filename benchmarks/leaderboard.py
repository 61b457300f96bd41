"""Every attack in every arena: the record behind chapter 13. Adds what is missing to the record, so it may be stopped.

An attack that is new, or an arena, a seed: only those rows are made. Rows of an attack that has changed are made again
after ``--again NAME``, in the arenas of ``--only``. Other sizes or budgets belong into a record of another ``--name``.

    python benchmarks/leaderboard.py [--only "smooth network" ...] [--attacks ig ...] [--seeds 3] [--device cuda]

Twelve photographs that have something in them (a blank card below 18 dB), each with its negative control, and in every
row the commit it was made from; some ten hours of one core, which may be interrupted:

    python benchmarks/leaderboard.py --name leaderboard_content_cpu --content 18 --seeds 12 --misled 12

An attack of your own, in one file (see the page on adding an attack), raced alone and then shown beside the record:

    python benchmarks/leaderboard.py --submit mine.py --content 18 --seeds 3 --misled 3 [--only ...] [--folder .]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    leaderboard_content_cpu: python benchmarks/leaderboard.py --name leaderboard_content_cpu --content 18 --seeds 12 \
        --misled 12
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch
from common import RESULTS, Rows, arguments
from common.resume import plain

import glutils as gl
from glutils.attacks.base import ATTACKS
from glutils.experiments import leaderboard, submission
from glutils.runs import provenance

IMAGES = [name for name in gl.attacks.names() if "images" in ATTACKS.get(name).records]
"""Attacks that can take part."""


def main() -> None:
    """Run what is missing, cheap seeds first over all arenas, and write the record every now and then."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(leaderboard.ARENAS), choices=list(leaderboard.ARENAS))
    parser.add_argument("--attacks", nargs="*", default=IMAGES, choices=IMAGES)
    parser.add_argument("--again", nargs="*", default=[], choices=IMAGES, help="drop these rows first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--misled", type=int, default=1, help="seeds with a negative control (not for estimates)")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--content", type=float, default=None, help="a blank card has less than so many dB")
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after that long")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default=None)
    parser.add_argument("--submit", type=Path, help="a file with one attack, raced alone into its own record")
    parser.add_argument("--folder", type=Path, help="of the record; default: benchmarks/results")
    options = arguments(parser)
    name, code = options.name or f"leaderboard_{options.device.split(':')[0]}", {}
    if options.submit is not None:
        sent = submission.load(options.submit)
        options.attacks, code = [sent.name], {"code": sent.code}
        name = options.name or f"submission_{sent.name}"
    parameters = {"size": options.size, "evaluations": options.evaluations, "dataset": "photos"}
    if options.content is not None:
        parameters["content"] = options.content
    parameters |= {"misled seeds": options.misled, "arenas": {}}
    begin, learned = time.perf_counter(), {}
    with Rows(
        name, parameters, same=("size", "evaluations", "dataset", "content"),
        drop=lambda row: (row["attack"] in options.again and row["arena"] in options.only)
        or row.get("code") != code.get("code"),
        device=torch.device(options.device), image_is=("arena", "seed", "image"), folder=options.folder,
    ) as rows:  # fmt: skip
        rows.parameters["arenas"] = described(rows, options.only)
        for seed, title in itertools.product(range(options.seeds), options.only):
            arena = leaderboard.ARENAS[title]
            for attack in [n for n in leaderboard.able(arena) if n in options.attacks]:
                cell = {"arena": title, "attack": attack, "seed": seed}
                if cell in rows or time.perf_counter() - begin > 60 * options.minutes:
                    continue
                control = seed < options.misled and (options.content or "estimate" not in arena.update)
                new = leaderboard.trial(
                    attack, arena, seed=seed, evaluations=options.evaluations, size=options.size,
                    content=options.content, misled="wrong_gradient" if control else None, device=options.device,
                    learned=learned,
                )  # fmt: skip
                made = code if options.content is None else code | {"commit": provenance.tree().commit}
                rows.add(*({"arena": title} | row | made for row in new))
                first = new[0]
                told = first.get("refused") or f"{first['psnr']:.1f} dB, {first['ratio']:.0f} evaluations' time"
                print(f"{seed} {title:40}{attack:14}{told:.90}", flush=True)
    if options.submit is not None:
        show(name, options)


def described(rows: Rows, titles: list[str]) -> dict[str, dict]:
    """The arenas of the rows that are there and of those to come. Arenas may join; none may have changed meanwhile."""
    met = {row["arena"] for row in rows.rows} | set(titles)
    found = {title: plain(vars(arena)) for title, arena in leaderboard.ARENAS.items() if title in met}
    for title, was in rows.was.get("arenas", {}).items():
        then = plain(vars(leaderboard.Arena(was["model"]))) | was  # fields that came later were as they are by default
        if title in found and found[title] != then:
            raise ValueError(f"record {rows.record!r} has rows of {title!r} as {was}, which is {found[title]} now")
    return found


def show(name: str, options: argparse.Namespace) -> None:
    """Print where a submitted attack stands among those of the record, if it met the same photographs."""
    own = gl.runs.load((options.folder or RESULTS) / f"{name}.json")
    if options.content is None:
        print("the record has photographs with --content 18: nothing to stand beside")
        return
    book = RESULTS / "leaderboard_content_cpu.json"
    for title, lines in submission.beside(own, gl.runs.load(book)).items():
        gl.show.table(
            [{"attack": line["attack"], "n": line["runs"], "PSNR (dB)": line["median"], "margin": line["margin"],
              "from": line["from"], "to": line["to"]} for line in lines if line["runs"]],
            caption=title,
        )  # fmt: skip


if __name__ == "__main__":
    main()
