"""How many scalars a text needs: with its length, the vocabulary and the parameters of an untrained model; a trained
model of a million parameters; and texts of which nobody said how long they are.

Random tokens of an untrained gpt, first token not known, one message of K scalars in float32. The scalars of a draw are
nested: K is cut down from the largest number. The least K at which the text comes back exactly is sought among
multiples of n ln V, the surprise of n random tokens of V, by bisection; so it is known up to one step of this ladder.
Where even the largest does not do, the row says so. One start of the search with its width at 64.

The trained model has three blocks of width 160, reads the same public messages as the small one, and is not kept: this
script trains it, the same weights from the same seed on the same kind of processor. Its clients are those of
``benchmarks/text.py``, and so are those whose messages may have any of 21 lengths, with the small trained model.

    python benchmarks/text_law.py [--only grid lengths larger]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    text_law_cpu: python benchmarks/text_law.py
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from functools import lru_cache

import torch
from common import Rows, arguments
from common.resume import say

import glutils as gl
from glutils.data import messages

LADDER = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Scalars over n ln V."""
MODELS = {"20 k": (32, 1), "170 k": (64, 3), "1 M": (160, 3)}
"""About so many parameters: width and blocks."""
GRID = (
    (8, 64, "20 k", 4), (8, 256, "20 k", 4), (16, 64, "20 k", 4), (8, 64, "170 k", 3), (16, 256, "20 k", 2),
    (8, 64, "1 M", 2), (16, 64, "170 k", 2), (32, 64, "20 k", 2), (32, 256, "20 k", 1),
)  # fmt: skip
"""Tokens, vocabulary, model and how many draws; cheap cells first."""
FIRST = 500
WIDTH, MEMORY = 64, 2**32
LARGE = {"width": 160, "depth": 3, "steps": 800, "batch": 32, "texts": 12_000, "peak": 3e-3, "scalars": 256, "seeds": 3}
UNKNOWN = {"targets": (12, 33), "scalars": 128, "seeds": 3}
PARTS = ("grid", "lengths", "larger")


def observed(tokens: int, pieces: int, size: str, seed: int, scalars: int):
    """A text of random tokens, and what a server sees of it."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randint(pieces, (1, tokens), generator=draw)
    labels = text.clone()
    labels[:, 0] = -100
    batch = gl.data.Batch(text, labels, tuple(f"w{i}" for i in range(pieces)))
    width, depth = MODELS[size]
    model = gl.models.build("gpt", batch, width=width, depth=depth, context=tokens, seed=seed)
    protocol = gl.protocols.ZerothOrder(directions=1, mu=1e-3, law="gaussian", seed=seed)
    log = gl.federation.train(protocol, model, [batch], rounds=scalars, lr=1e-12, seed=seed, test=batch, progress=False)
    return batch, gl.observe(log, client=0)


def least(tokens: int, pieces: int, size: str, seed: int) -> dict:
    """The least multiple of n ln V at which the text comes back."""
    surprise = (tokens - 1) * math.log(pieces)
    counts = [math.ceil(part * surprise) for part in LADDER]
    batch, whole = observed(tokens, pieces, size, seed, counts[-1])
    tried: dict[int, bool] = {}

    def works(step: int) -> bool:
        if step not in tried:
            seen = replace(whole, rounds=whole.rounds[: counts[step]])
            how = {"width": WIDTH, "restarts": 1, "seed": seed, "budget": MEMORY, "progress": False}
            tried[step] = bool((gl.attack("zerogla_text", seen, **how).tokens == batch.images).all())
        return tried[step]

    low, high = 0, len(counts)  # below low it fails, at high it works
    at = LADDER.index(2.0)
    while low < high:
        low, high = (low, at) if works(at) else (at + 1, high)
        at = (low + high) // 2
    found = low < len(counts)
    return {
        "targets": tokens - 1, "surprise": surprise, "parameters": sum(p.numel() for p in whole.model.parameters()),
        "found": found, "scalars": counts[low] if found else counts[-1], "ratio": LADDER[min(low, len(counts) - 1)],
        "runs": len(tried), "lowest": low == 0,
    }  # fmt: skip


@lru_cache(maxsize=1)
def larger() -> tuple[torch.nn.Module, dict]:
    """The gpt of a million parameters, trained on public messages; and how it went."""
    first = messages.COUNTS["public"]
    train = gl.data.from_texts([messages.text("public", first + i) for i in range(LARGE["texts"])])
    model = gl.models.build("gpt", train, width=LARGE["width"], depth=LARGE["depth"], seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    steps = LARGE["steps"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LARGE["peak"], total_steps=steps, pct_start=0.1)
    draw, begin = torch.Generator().manual_seed(0), time.process_time()
    for _ in range(steps):
        chosen = torch.randint(len(train), (LARGE["batch"],), generator=draw)
        length = int((train.labels[chosen] != -100).nonzero()[:, 1].max()) + 1
        tokens, labels = train.images[chosen, :length], train.labels[chosen, :length]
        loss = torch.nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    about = {"training seconds": time.process_time() - begin, "nats a piece": float(loss.detach())}
    return model, about | {"parameters": sum(p.numel() for p in model.parameters())}


def read(seed: int, model: torch.nn.Module, scalars: int, among: range | None = None) -> dict:
    """A MeZO client with one private message; ``among``: the numbers of targets that it may have."""
    batch = gl.data.sample("messages", count=1, seed=seed, device="cpu")
    protocol = gl.protocols.ZerothOrder(directions=1, mu=1e-3, law="mezo", seed=seed)
    test = gl.data.sample("messages", count=1, split="public", device="cpu")
    how = {"rounds": scalars, "lr": 1e-4, "seed": 0, "test": test, "progress": False}
    seen = gl.observe(gl.federation.train(protocol, model, [batch], **how), client=0)
    own = seen.targets
    if among is not None:
        seen = replace(seen, targets=None, shape=(1, among.stop))
    begin = time.process_time()
    how = {"width": WIDTH, "restarts": 1, "seed": 0, "budget": MEMORY, "progress": False, "targets": among}
    result = gl.attack("zerogla_text", seen, **how)
    spent, score = time.process_time() - begin, gl.score(result, batch)
    return {
        "scalars": scalars, "exact": bool(score.exact.all()), "tokens": float(score.token_accuracy.mean()),
        "secrets": float(score.secrets.mean()), "targets": own, "cpu seconds": spent,
        "targets found": int(result.diagnostics["targets"]),
        **{name: result.diagnostics[name] for name in ("misfit", "certified", "surprise")},
    }  # fmt: skip


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--draws", type=int, default=99, help="of each cell of the grid at most")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="of the grid")
    parser.add_argument("--tokens", nargs="+", type=int, default=[8, 16, 32], help="of the grid")
    options = arguments(parser)
    settings = {"ladder": LADDER, "width": WIDTH, "first": FIRST, "larger": LARGE}
    settings |= {"unknown": UNKNOWN, "threads": torch.get_num_threads()}
    with Rows("text_law_cpu", settings, same=("ladder", "width", "first")) as rows:
        for tokens, pieces, size, draws in GRID if "grid" in options.only else ():
            asked = tokens in options.tokens and size in options.models
            for seed in range(FIRST, FIRST + min(draws, options.draws) if asked else FIRST):
                key = {"measure": "grid", "tokens": tokens, "pieces": pieces, "model": size, "seed": seed}
                if key not in rows:
                    begin = time.process_time()
                    row = key | least(tokens, pieces, size, seed)
                    rows.add(row | {"cpu seconds": time.process_time() - begin})
                    say(rows.rows[-1])
        for seed in range(FIRST, FIRST + UNKNOWN["seeds"]) if "lengths" in options.only else ():
            if (key := {"measure": "lengths", "seed": seed}) not in rows:
                held = gl.data.sample("messages", count=1, seed=seed, device="cpu")
                small = gl.models.build("gpt", held, weights="trained")
                rows.add(key | read(seed, small, UNKNOWN["scalars"], range(*UNKNOWN["targets"])))
                say(rows.rows[-1])
        for seed in range(FIRST, FIRST + LARGE["seeds"]) if "larger" in options.only else ():
            if (key := {"measure": "larger", "seed": seed}) not in rows:
                model, about = larger()
                rows.add(key | about | read(seed, model, LARGE["scalars"]))
                say(rows.rows[-1])


if __name__ == "__main__":
    main()
