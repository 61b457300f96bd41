"""Texts from one gradient: TAG and LAMP, which search, against DAGER, which asks what lies in the gradient's span.

Made-up private messages cut to 12 tokens, one or four of them behind a gradient, of the gpt as drawn and of the trained
one. Settings of TAG and LAMP were chosen on seed 0, and these seeds are others. Controls: what the language model says
by itself, and a gradient whose entries are permuted. Seconds are those of one core. Rows that are in the record already
are kept.

    python benchmarks/text_gradients.py [--seeds 5] [--attacks tag ...] [--cases "1 message" ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    text_gradients_cpu: python benchmarks/text_gradients.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from common import arguments, measure

import glutils as gl

LENGTH, FIRST = 12, 1
CASES = {
    "1 message": ("dager", "tag", "lamp"), "4 messages": ("dager", "lamp"), "permuted": ("lamp",),
    "four times the steps": ("lamp",),
}  # fmt: skip
FEWER = {"4 messages": 2, "permuted": 2, "four times the steps": 2}
"""Seeds of what takes long, or is a control."""


def read(attack: str, case: str, weights: str, seed: int) -> dict:
    """One gradient, one attack."""
    count = 4 if case == "4 messages" else 1
    batch = gl.data.sample("messages", count=count, seed=100 + seed, device="cpu")
    pieces, labels = batch.images[:, :LENGTH], batch.labels[:, :LENGTH]
    batch = gl.data.Batch(pieces, labels, batch.classes, batch.source, vocabulary=batch.vocabulary)
    model = gl.models.build("gpt", batch, weights="trained" if weights == "trained" else None, seed=seed)
    protocol = gl.protocols.FedSGD()
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
    seen = gl.tamper(seen, "permuted", seed=seed) if case == "permuted" else seen
    how = {"rounds": 48} if case == "four times the steps" else {}
    how |= {} if attack == "dager" else {"progress": False}
    guess = gl.models.likeliest(model, torch.tensor([batch.vocabulary.bos]), LENGTH).expand(count, -1)
    alone = float(gl.metrics.token_accuracy(guess, batch.images, batch.vocabulary).mean())
    row = {"texts": count, "model alone": alone}
    begin = time.process_time()
    try:
        result = gl.attack(attack, seen, seed=seed, **how)
    except ValueError as error:
        row |= {"refused": str(error), "exact": 0, "tokens": 0.0}
    else:
        score = gl.score(result, batch)
        row |= {"refused": "", "exact": int(score.exact.sum()), "tokens": float(score.token_accuracy.mean())}
        row |= {"misfit": result.diagnostics.get("misfit")}
    return row | {"seconds": time.process_time() - begin}


def cells(seeds: int, attacks: list[str], cases: list[str]) -> Iterator[dict]:
    """Every attack and case, as often as asked."""
    for weights in ("as drawn", "trained"):
        for case in cases if weights == "trained" else [case for case in cases if case != "four times the steps"]:
            for attack in (attack for attack in attacks if attack in CASES[case]):
                for seed in range(FIRST, FIRST + min(seeds, FEWER.get(case, seeds))):
                    yield {"attack": attack, "case": case, "weights": weights, "seed": seed}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--attacks", nargs="+", default=list(CASES["1 message"]), choices=CASES["1 message"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    measure("text_gradients_cpu", cells(**vars(arguments(parser))), read, {"length": LENGTH})


if __name__ == "__main__":
    main()
