"""Three columns apart: attacks as published, tuned alike, and with surrogate kinks for each that can use them.

The leaderboard's attacks that search and have settings, on its photographs with content (a blank card below 18 dB), in
two of its arenas, with its budget. *As published*: the settings of the source, with the leaderboard's number of steps.
*Tuned alike*: for each attack the best of six settings (``glutils.experiments.forms.GRID``), by mean PSNR on two public
photographs behind networks of their own. What learns from public images does not see other crops of the photograph
then. *Extended*: these settings, and surrogate kinks, which are this book's own. An attack without one of the forms has
no rows of it (``forms.raced``).

    python benchmarks/columns.py [--seeds 4] [--only "ReLU network"]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    columns_cpu: python benchmarks/columns.py --seeds 12

It goes on where it was stopped; more photographs are more seeds. An hour of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
from typing import Any

import torch
from common import arguments, measure

import glutils as gl
from glutils.experiments import conditions, forms, leaderboard
from glutils.metrics.pixels import CAP

SIZE, EVALUATIONS, CONTENT = 16, 300, 18.0
PUBLIC, FIRST = 2, 1000
"""Public photographs that attacks are tuned on, and the first seed of their networks."""
ARENAS = ("ReLU network", "fully connected network")
RECORD = "columns_cpu"
LEARNED: dict[Any, dict[str, Any]] = {}
"""What attacks learned from public images, by seed and number of them."""


def card(images: torch.Tensor) -> torch.Tensor:
    """PSNR (dB) of each image's mean colour, (B,)."""
    return gl.metrics.psnr(images.mean((2, 3), keepdim=True).expand_as(images), images)


@functools.cache
def public() -> gl.data.Batch:
    """The first public photographs whose blank card lies below the limit."""
    pool = gl.data.public("photos", count=64, size=SIZE, seed=0, device="cpu")
    return pool[(card(pool.images) < CONTENT).nonzero()[:PUBLIC, 0].tolist()]


def attacked(
    attack: str, arena: str, batch: gl.data.Batch, seed: int, options: dict[str, Any], *, kinks=False, apart=False
) -> float:
    """PSNR (dB) of one attack on one image; ``apart``: without public crops of the same photograph."""
    place, own = leaderboard.ARENAS[arena], conditions.of(attack)
    seen = leaderboard.observed(place, batch, seed=seed)
    if apart:
        others = (seen.public.labels != batch.labels).nonzero()[:, 0].tolist()
        seen = dataclasses.replace(seen, public=seen.public[others])
    key = (own.learn, None if own.fits_any else arena, seed, len(seen.public))
    if own.learn is not None and key not in LEARNED:
        LEARNED[key] = own.learn(seen, seed)
    how = LEARNED.get(key, {}) | own.budget(EVALUATIONS) | options
    result = gl.attack(attack, forms.extend(seen) if kinks else seen, seed=seed, progress=False, **how)
    return float(gl.metrics.psnr(result.images, batch.images)[0])


def trial(arena: str, attack: str, setting: int, seed: int) -> dict:
    """One setting on the public photographs."""
    options = forms.settings(attack)[setting]
    found = [attacked(attack, arena, public()[[i]], FIRST + i, options, apart=True) for i in range(PUBLIC)]
    return {"options": options, "psnr": statistics.fmean(min(psnr, CAP) for psnr in found)}


def best(rows: list[dict]) -> dict[tuple[str, str], dict[str, Any]]:
    """Arena and attack to the options of the highest PSNR on public photographs, the first of them in a tie."""
    tried: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if "setting" in row and "refused" not in row:
            tried.setdefault((row["arena"], row["attack"]), []).append(row)
    return {key: max(own, key=lambda row: (row["psnr"], -row["setting"]))["options"] for key, own in tried.items()}


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
    chosen = best(measure(RECORD, tuning, trial, about, seeds=range(options.seeds)))

    def race(arena: str, attack: str, form: str, seed: int) -> dict:
        batch = leaderboard.private(leaderboard.ARENAS[arena], seed=seed, size=SIZE, content=CONTENT, device="cpu")
        own = forms.PUBLISHED[attack] if form == forms.AS_PUBLISHED else chosen[arena, attack]
        psnr = attacked(attack, arena, batch, seed, own, kinks=form == forms.EXTENDED)
        return {"options": own, "psnr": psnr, "mean colour": float(card(batch.images)[0])}

    cells = [
        {"arena": arena, "attack": attack, "form": form, "seed": seed}
        for seed in range(options.seeds)
        for arena in options.only
        for attack in forms.GRID
        if (arena, attack) in chosen
        for form in forms.raced(attack)
    ]
    measure(RECORD, cells, race, about, seeds=range(options.seeds))


if __name__ == "__main__":
    main()
