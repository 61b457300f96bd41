"""A client's message from the scalars of zeroth-order fine-tuning: how many scalars, and what the controls say.

A MeZO client fine-tunes the trained gpt on its message: one direction a step, mu 1e-3, float32, and the model moves at
every step. Templates and people of private messages are none of the public ones. Settings were chosen on seeds 0
to 5, 100 to 109 and 200 to 209; these seeds are others. A row is written after each run, and a second start goes on.

    python benchmarks/text.py [--cases one ...] [--scalars 256 ...] [--seeds 10] [--first 300] [--restarts 1]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    text_cpu: python benchmarks/text.py
"""

from __future__ import annotations

import argparse
import itertools
import time
from functools import lru_cache

import torch
from common import Rows, arguments
from common.resume import say
from scipy.stats import binomtest

import glutils as gl

CASES = {"one": {}, "wrong directions": {"tamper": "wrong_seed"}}
SCALARS = {"one": (256, 192, 128, 64)}
"""Where nothing else is asked; of the other case: 256."""
FEW = 3
"""Seeds of the case beside the first."""


@lru_cache(maxsize=12)
def transcript(seed: int, rounds: int, count: int, dtype: str, loss_dtype: str | None, trained: tuple[str, ...]):
    """A client's messages, and the training run that everybody saw."""
    batch = gl.data.sample("messages", count=count, seed=seed, device="cpu")
    model = gl.models.build("gpt", batch, weights="trained")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not trained or any(part in name for part in trained))
    protocol = gl.protocols.ZerothOrder(
        directions=1, mu=1e-3, law="mezo", dtype=dtype, loss_dtype=loss_dtype, seed=seed
    )
    how = {"rounds": rounds, "lr": 1e-4, "seed": 0, "progress": False}
    return batch, gl.federation.train(protocol, model, [batch], **how)


def run(case: str, scalars: int, seed: int, restarts: int) -> dict:
    """One attack on one client; the row of it."""
    asked = {"count": 1, "dtype": "float32", "loss_dtype": None, "trained": (), **CASES[case]}
    spoil = asked.pop("tamper", None)
    rounds = max(scalars, 256) if case in ("one", "wrong directions") else scalars
    batch, log = transcript(seed, rounds, **asked)
    seen = gl.observe(log, client=0, rounds=range(scalars))
    seen = gl.tamper(seen, spoil) if spoil else seen
    begin = time.process_time()
    result = gl.attack("zerogla_text", seen, seed=0, restarts=restarts, progress=False)
    spent = time.process_time() - begin
    score = gl.score(result, batch)
    guess = score.controls["model_guess"]
    return {
        "exact": bool(score.exact.all()), "tokens": float(score.token_accuracy.mean()),
        "secrets": float(score.secrets.mean()), "guess tokens": float(guess.token_accuracy.mean()),
        "guess secrets": float(guess.secrets.mean()), "cpu seconds": spent, "targets": seen.targets,
        **{name: result.diagnostics[name] for name in ("misfit", "certified", "surprise")},
    }  # fmt: skip


def main() -> None:
    """Run what is not in the record yet, and print shares with Wilson's intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--scalars", type=int, nargs="+", help="default: by case")
    parser.add_argument("--seeds", type=int, default=10, help="of the first case; others have three")
    parser.add_argument("--first", type=int, default=300, help="the first seed")
    parser.add_argument("--restarts", type=int, default=1, help="of each attack")
    options = arguments(parser)
    settings = {"first": options.first, "seeds": options.seeds, "restarts": options.restarts}
    settings |= {"mu": 1e-3, "lr": 1e-4}
    settings["threads"] = torch.get_num_threads()
    with Rows("text_cpu", settings, same=("first", "restarts")) as rows:
        for case in options.cases:
            seeds = range(options.first, options.first + (options.seeds if case == "one" else FEW))
            for scalars, seed in itertools.product(options.scalars or SCALARS.get(case, (256,)), seeds):
                key = {"case": case, "scalars": scalars, "seed": seed}
                if key in rows:
                    continue
                row = key | run(case, scalars, seed, options.restarts)
                rows.add(row)
                say(row)
    for key in dict.fromkeys((row["case"], row["scalars"]) for row in rows.rows):
        found = [row for row in rows.rows if (row["case"], row["scalars"]) == key]
        exact = sum(row["exact"] for row in found)
        low, high = binomtest(exact, len(found)).proportion_ci(method="wilson")
        print(f"{key[0]}, {key[1]} scalars: {exact} of {len(found)} exact ({low:.2f} to {high:.2f})")
        for name in ("tokens", "secrets", "guess tokens", "cpu seconds"):
            print(f"  {name}: {gl.metrics.summary([row[name] for row in found])}")


if __name__ == "__main__":
    main()
