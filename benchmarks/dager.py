"""DAGER: texts from one gradient, exactly, and where that ends: with as many positions as the model is wide.

Ten batches of every kind, of made-up private messages, cut to 12 tokens or whole. Control: what the language model says
by itself, and a gradient whose entries are permuted. An attack that refuses counts as nothing found. Seconds are those
of one core. Rows that are in the record already are kept.

    python benchmarks/dager.py [--seeds 10]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    dager_cpu: python benchmarks/dager.py
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import torch
from common import arguments, measure

import glutils as gl

CASES = {
    "4 of 12 tokens": {"count": 4, "length": 12},
    "4 of 12 tokens, untrained": {"count": 4, "length": 12, "weights": None},
    "4 of 12 tokens, permuted": {"count": 4, "length": 12, "tampered": "permuted"},
    "1 message": {"count": 1},
    "2 messages": {"count": 2},
    "3 messages": {"count": 3},
    "4 messages": {"count": 4},
    "8 messages, width 256, untrained": {"count": 8, "weights": None, "width": 256},
}
FEWER = {"8 messages, width 256, untrained": 3}
"""Batches of what takes long."""


def read(case: str, seed: int) -> dict:
    """One batch, one gradient."""
    how = {"length": None, "weights": "trained", "tampered": None, "width": 64} | CASES[case]
    batch = gl.data.sample("messages", count=how["count"], seed=100 + seed, device="cpu")
    if how["length"]:
        pieces, labels = batch.images[:, : how["length"]], batch.labels[:, : how["length"]]
        batch = gl.data.Batch(pieces, labels, batch.classes, batch.source, vocabulary=batch.vocabulary)
    model = gl.models.build("gpt", batch, weights=how["weights"], width=how["width"], seed=seed)
    protocol = gl.protocols.FedSGD()
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch)
    seen = gl.tamper(seen, how["tampered"], seed=seed) if how["tampered"] else seen
    guess = gl.models.likeliest(model, torch.tensor([batch.vocabulary.bos]), batch.shape[0]).expand(len(batch), -1)
    alone = gl.metrics.token_accuracy(guess, batch.images, batch.vocabulary)
    about = {"texts": len(batch), "positions": int((batch.labels != -100).sum()), "model alone": float(alone.mean())}
    began = time.process_time()
    try:
        score = gl.score(gl.attack("dager", seen), batch)
    except ValueError as error:
        about |= {"refused": str(error), "exact": 0, "tokens": 0.0, "secrets": 0.0}
    else:
        secrets = float(score.secrets.nanmean())
        about |= {"refused": "", "exact": int(score.exact.sum()), "tokens": float(score.token_accuracy.mean())}
        about |= {"secrets": None if math.isnan(secrets) else secrets}
    return about | {"seconds": time.process_time() - began}


def cells(seeds: int) -> Iterator[dict]:
    """Every case, as often as asked."""
    for case in CASES:
        for seed in range(min(seeds, FEWER.get(case, seeds))):
            yield {"case": case, "seed": seed}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    measure("dager_cpu", cells(**vars(arguments(parser))), read, {})


if __name__ == "__main__":
    main()
