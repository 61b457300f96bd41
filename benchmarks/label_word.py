"""A sentence from the scalars of one label word: how long it may be, and how many scalars it takes.

The first T pieces of a made-up private message and a label word behind them, which alone has a loss; one message of K
scalars, in float32. Untrained gpt of width 32 unless said, its table of vectors frozen unless said. Ours.

    python benchmarks/label_word.py [--seeds 3]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    label_word_cpu: python benchmarks/label_word.py
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch
from common import arguments, measure

import glutils as gl

CASES = {
    "4 pieces": {},
    "8 pieces": {"pieces": 8},
    "4 pieces, 0.7 scalars a number": {"ratio": 0.7},
    "4 pieces, wrong directions": {"tampered": "wrong_seed"},
    "4 pieces, table trained too": {"frozen": False},
    "4 pieces, trained gpt of width 64": {"width": 64},
    "12 pieces": {"pieces": 12},
}
"""1.3 scalars for each of T d numbers, where nothing else is said."""


def read(case: str, seed: int) -> dict:
    """One sentence."""
    how = {"pieces": 4, "ratio": 1.3, "frozen": True, "width": 32, "tampered": None} | CASES[case]
    message = gl.data.sample("messages", seed=seed, device="cpu")
    words = [message.vocabulary.encode(word)[0] for word in ("yes", "no")]
    tokens = torch.cat([message.images[:, : how["pieces"] + 1], torch.tensor([words[:1]])], 1)
    labels = torch.full_like(tokens, -100)
    labels[:, -1] = words[0]
    batch = gl.data.Batch(tokens, labels, message.classes, vocabulary=message.vocabulary)
    weights = "trained" if how["width"] == 64 else None
    model = gl.models.build("gpt", batch, width=how["width"], weights=weights, seed=seed)
    model.get_submodule("piece").requires_grad_(not how["frozen"])
    unknowns = how["pieces"] * how["width"]
    protocol = gl.protocols.ZerothOrder(directions=round(how["ratio"] * unknowns), mu=1e-3, law="gaussian", seed=seed)
    seen = gl.observe(model, protocol, protocol.transmit(model, tokens, labels), batch)
    seen = gl.tamper(seen, how["tampered"]) if how["tampered"] else seen
    began = time.process_time()
    result = gl.attack("zerogla_label_word", seen, words=words, restarts=1, seed=seed, progress=False)
    right = (result.records == tokens)[0, 1:-1]
    about = {name: result.diagnostics[name] for name in ("misfit", "certified", "continuous")}
    return {"unknowns": unknowns, "scalars": protocol.directions, "exact": bool(right.all()),
            "tokens": float(right.double().mean()), "cpu": time.process_time() - began} | about  # fmt: skip


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(500, 500 + arguments(parser).seeds)
    cells = [{"case": case, "seed": seed} for case, seed in itertools.product(CASES, seeds)]
    measure("label_word_cpu", cells, read, {"mu": 1e-3})


if __name__ == "__main__":
    main()
