"""Three columns apart: attacks as published, tuned alike, and with surrogate kinks for each that can use them.

The searches by Adam among the leaderboard's attacks, on its photographs with content (a blank card below 18 dB), in two
of its arenas, with its budget. *As published*: the settings of the source, with the leaderboard's number of steps.
*Tuned alike*: for each attack the best of six settings (``glutils.experiments.forms.GRID``), by mean PSNR on two public
photographs behind networks of their own. *Extended*: these settings, and surrogate kinks, which are this book's own.
DLG and iDLG have no settings to tune and are left out; so are attacks with generators.

    python benchmarks/columns.py [--seeds 4] [--only "ReLU network"]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    columns_cpu: python benchmarks/columns.py --seeds 8

It goes on where it was stopped; more photographs are more seeds.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from typing import Any

import torch
from common import arguments, measure

import glutils as gl
from glutils.experiments import forms, leaderboard

SIZE, EVALUATIONS, CONTENT = 16, 300, 18.0
PUBLIC, FIRST = 2, 1000
"""Public photographs that attacks are tuned on, and the first seed of their networks."""
ARENAS = ("ReLU network", "fully connected network")
FORMS = (forms.AS_PUBLISHED, "tuned alike", forms.EXTENDED)
RECORD = "columns_cpu"


def card(images: torch.Tensor) -> torch.Tensor:
    """PSNR (dB) of each image's mean colour, (B,)."""
    return gl.metrics.psnr(images.mean((2, 3), keepdim=True).expand_as(images), images)


@functools.cache
def public() -> gl.data.Batch:
    """The first public photographs whose blank card lies below the limit."""
    pool = gl.data.public("photos", count=64, size=SIZE, seed=0, device="cpu")
    return pool[(card(pool.images) < CONTENT).nonzero()[:PUBLIC, 0].tolist()]


def attacked(attack: str, arena: str, batch: gl.data.Batch, seed: int, options: dict[str, Any], kinks: bool) -> float:
    """PSNR (dB) of one attack on one image."""
    seen = leaderboard.observed(leaderboard.ARENAS[arena], batch, seed=seed)
    seen = forms.extend(seen) if kinks else seen
    result = gl.attack(attack, seen, seed=seed, iterations=EVALUATIONS, restarts=1, progress=False, **options)
    return float(gl.metrics.psnr(result.images, batch.images)[0])


def trial(arena: str, attack: str, setting: int, seed: int) -> dict:
    """One setting on the public photographs."""
    options = forms.settings(attack)[setting]
    found = [attacked(attack, arena, public()[[i]], FIRST + i, options, False) for i in range(PUBLIC)]
    return {"options": options, "psnr": statistics.fmean(found)}


def main() -> None:
    """Tune, then race."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=list(ARENAS), choices=ARENAS)
    options = arguments(parser)
    about = {"size": SIZE, "evaluations": EVALUATIONS, "content": CONTENT, "public": PUBLIC, "kinks": forms.KINKS}
    tuning = [
        {"arena": arena, "attack": attack, "setting": setting, "seed": FIRST}
        for arena in options.only
        for attack in forms.GRID
        for setting in range(len(forms.settings(attack)))
    ]
    rows = measure(RECORD, tuning, trial, about, seeds=range(options.seeds))
    best = {}
    for row in rows:
        if "setting" in row:
            best[row["arena"], row["attack"]] = max(row["psnr"], best.get((row["arena"], row["attack"]), -100.0))
    chosen = {(r["arena"], r["attack"]): r["options"] for r in reversed(rows)
              if "setting" in r and r["psnr"] == best[r["arena"], r["attack"]]}  # fmt: skip

    def race(arena: str, attack: str, form: str, seed: int) -> dict:
        batch = leaderboard.private(leaderboard.ARENAS[arena], seed=seed, size=SIZE, content=CONTENT, device="cpu")
        own = forms.PUBLISHED[attack] if form == forms.AS_PUBLISHED else chosen[arena, attack]
        psnr = attacked(attack, arena, batch, seed, own, form == forms.EXTENDED)
        return {"options": own, "psnr": psnr, "mean colour": float(card(batch.images)[0])}

    cells = [
        {"arena": arena, "attack": attack, "form": form, "seed": seed}
        for seed in range(options.seeds)
        for arena in options.only
        for attack in forms.GRID
        for form in FORMS
    ]
    measure(RECORD, cells, race, about, seeds=range(options.seeds))


if __name__ == "__main__":
    main()
