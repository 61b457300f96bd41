"""A client's messages from scalars, beside the plain case: fewer weights, other arithmetic, more messages, no training.

As ``text.py``: a MeZO client fine-tunes the trained gpt on its messages, one direction a step, mu 1e-3, and the model
moves at every step; here one thing is different in each case. Settings of the attack were chosen on other seeds. A row
is written after each run, and a second start goes on, with more seeds or cases if asked for.

    python benchmarks/text_cases.py [--cases LoRA ...] [--seeds 10] [--first 400]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    text_cases_cpu: python benchmarks/text_cases.py
"""

from __future__ import annotations

import argparse
import time

import torch
from common import Rows, arguments
from common.resume import say
from scipy.stats import binomtest

import glutils as gl

CASES = {
    "head only": {"trained": ("head", "norm."), "scalars": (256,)},
    "LoRA": {"adapters": 4, "scalars": (256,)},
    "two messages": {"count": 2, "scalars": (448,), "attack": {"width": 32, "examples": 16}},
    "bfloat16": {"dtype": "bfloat16", "loss_dtype": "float32", "scalars": (128, 256, 512)},
    "eight messages, one a step": {"count": 8, "size": 1, "scalars": (256, 512, 1024), "attack": {"width": 32}},
    "float64": {"dtype": "float64", "scalars": (64,)},
    "float16": {"dtype": "float16", "loss_dtype": "float32", "scalars": (128,)},
    "untrained": {"weights": None, "scalars": (256,)},
    "norms only": {"trained": ("norm",), "scalars": (256,)},
    "four messages": {"count": 4, "scalars": (896, 1792), "attack": {"width": 32, "examples": 16}},
}
"""By name: what is different, the scalars, one a step, and how the attack is called."""
PLAIN = {
    "count": 1, "size": None, "dtype": "float32", "loss_dtype": None, "trained": (), "adapters": 0,
    "weights": "trained",
}  # fmt: skip
"""A case's client, where nothing else is said; ``size``: messages behind each scalar, if not all."""


def transcript(
    seed: int, rounds: int, *, count: int, size: int | None, dtype: str, loss_dtype: str | None,
    trained: tuple[str, ...], adapters: int, weights: str | None,
) -> tuple[gl.data.Batch, gl.transcripts.Transcript]:  # fmt: skip
    """A client's messages, and the training run that everybody saw."""
    batch = gl.data.sample("messages", count=count, seed=seed, device="cpu")
    model = gl.models.build("gpt", batch, weights=weights, seed=seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not trained or any(part in name for part in trained))
    model = gl.models.adapted(model, rank=adapters, seed=seed) if adapters else model
    protocol = gl.protocols.ZerothOrder(
        directions=1, mu=1e-3, law="mezo", dtype=dtype, loss_dtype=loss_dtype, seed=seed
    )
    how = {"rounds": rounds, "lr": 1e-4, "seed": 0, "local_batch": size, "progress": False}
    return batch, gl.federation.train(protocol, model, [batch], **how)


def members(rounds: int, count: int, size: int) -> list[list[int]]:
    """Who is behind each message, as ``gl.federation.train`` draws it from its public seed 0."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randperm(count, generator=draw)[:size].tolist() for _ in range(rounds)]


def attacked(seen: gl.Observation, batch: gl.data.Batch, **options) -> dict:
    """One attack on one client; the row of it."""
    begin = time.process_time()
    result = gl.attack("zerogla_text", seen, seed=0, progress=False, **{"restarts": 1} | options)
    spent = time.process_time() - begin
    score = gl.score(result, batch)
    guess = score.controls["model_guess"]
    return {
        "exact": bool(score.exact.all()), "messages": float(score.exact.float().mean()),
        "tokens": float(score.token_accuracy.mean()), "secrets": float(score.secrets.mean()),
        "guess tokens": float(guess.token_accuracy.mean()), "cpu seconds": spent,
        "targets": int((batch.labels >= 0).sum()),
        **{name: result.diagnostics[name] for name in ("misfit", "certified", "surprise")},
    }  # fmt: skip


def run(case: str, scalars: int, seed: int) -> dict:
    """One client of a case."""
    asked = {name: value for name, value in CASES[case].items() if name not in ("scalars", "attack")}
    asked = PLAIN | asked
    batch, log = transcript(seed, scalars, **asked)
    options = dict(CASES[case].get("attack", {}))
    if asked["size"] is not None:
        options["batches"] = members(scalars, asked["count"], asked["size"])
        options["lengths"] = (batch.labels >= 0).sum(1).tolist()
    return attacked(gl.observe(log, client=0), batch, **options)


def shown(rows: list[dict], *names: str) -> None:
    """Shares with Wilson's intervals."""
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        found = [row for row in rows if tuple(row[name] for name in names) == key]
        exact = sum(row["exact"] for row in found)
        low, high = binomtest(exact, len(found)).proportion_ci(method="wilson")
        print(f"{', '.join(map(str, key))}: {exact} of {len(found)} exact ({low:.2f} to {high:.2f})")
        for name in ("messages", "tokens", "secrets", "cpu seconds"):
            print(f"  {name}: {gl.metrics.summary([row[name] for row in found])}")


def main() -> None:
    """Run what is not in the record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--seeds", type=int, default=10, help="of each case")
    parser.add_argument("--first", type=int, default=400, help="the first seed")
    options = arguments(parser)
    settings = {"first": options.first, "mu": 1e-3, "lr": 1e-4, "threads": torch.get_num_threads()}
    with Rows("text_cases_cpu", settings) as rows:
        for case in options.cases:
            for seed in range(options.first, options.first + options.seeds):
                for scalars in CASES[case]["scalars"]:
                    key = {"case": case, "scalars": scalars, "seed": seed}
                    if key in rows:
                        continue
                    row = key | run(case, scalars, seed)
                    rows.add(row)
                    say(row)
    shown(rows.rows, "case", "scalars")


if __name__ == "__main__":
    main()
