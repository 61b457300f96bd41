"""Small measurements for the claims page: how one is filed and repeated, and the attack that most of them make."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator

import glutils as gl

from .options import arguments
from .resume import Rows, say

FED = gl.protocols.FedSGD()
DLG = {"iterations": 40, "restarts": 2, "progress": False}
FOUND = 25.0
"""PSNR (dB) from which an image counts as found."""
Measures = dict[str, Callable[[int], Iterator[dict]]]


def collector(measures: Measures) -> Callable:
    """A decorator that files a measurement under its name."""

    def measure(function: Callable[[int], Iterator[dict]]) -> Callable[[int], Iterator[dict]]:
        measures[function.__name__] = function
        return function

    return measure


def attack(name, model, batch, protocol=FED, knows=("labels",), public=None, seed=0, transform=None, **options) -> dict:
    """PSNR, SSIM, labels, mean colour of one attack on one message."""
    if public is not None:
        knows = (*knows, "public")
    seen = gl.observe(
        model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows, public=public
    )
    result = gl.attack(name, seen if transform is None else transform(seen), seed=seed, **options)
    score = gl.score(result, batch)
    row = {"psnr": score.mean_psnr, "ssim": float(score.ssim.mean()), "mse": float(score.mse.mean())}
    row |= {"worst": float(score.psnr.min()), "labels": score.label_accuracy, "found": float(score.psnr.min() > FOUND)}
    steps = result.history.steps
    row |= {"steps": steps[-1] if steps else 0, "loss": result.loss}
    return row | {"mean colour": float(score.controls["mean_colour"].mean())}


def digits(count: int, seed: int, **how):
    """Private digits, all of different classes unless there are too many."""
    return gl.data.sample("digits", count=count, seed=seed, distinct=True, device="cpu", **how)


def main(measures: Measures, name: str, about: str) -> None:
    """Make what is missing, seed by seed, and write the record every now and then."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(measures), choices=list(measures))
    parser.add_argument("--again", nargs="*", default=[], choices=list(measures), help="drop these rows first")
    parser.add_argument("--seeds", type=int, default=3)
    options = arguments(parser)
    drop = options.again
    parameters = {"found (dB)": FOUND, "dlg": DLG}
    with Rows(name, parameters, drop=lambda row: row["measure"] in drop) as rows:
        for seed, one in itertools.product(range(options.seeds), options.only):
            if {"measure": one, "seed": seed} in rows:
                continue
            new = [{"measure": one, "seed": seed} | row for row in measures[one](seed)]
            rows.add(*new)
            for row in new:
                say(row)
