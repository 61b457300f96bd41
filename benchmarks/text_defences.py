"""What stops the decoder of texts: defences of a client that fine-tunes a language model by scalars, and their price.

The client of ``benchmarks/text.py``: one made-up message, the trained gpt, MeZO in float32, one direction a step; to
keep the price low, it is the shortest of eight messages. The attacker knows the defence, and its noise. Noise is that
of ``dp_scalars``, on slopes cut at three units; a unit is the root mean square of scalars of public messages. Messages
are also named among 64 private ones, from 64 scalars at most.

Utility is that of 64 clients with one message each: for the model they are one client with all messages, and noise on
the mean of 64 is an eighth of one client's; of a secure sum, a 64th. Loss is in nats a token, on 48 messages of the
private split that nobody trains on, at two step sizes, of which the reader may take the better one.

    python benchmarks/text_defences.py [--cases undefended ...] [--seeds 2] [--first 400]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    text_defences_cpu: python benchmarks/text_defences.py
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import lru_cache

import torch
from common import Rows, arguments
from common.resume import say

import glutils as gl
from glutils.defenses import Defended, get
from glutils.protocols.zo_variants import HiddenDirections

CUT = 3.0
"""Bound on one message's slope, in units."""
DELTA = 1e-3
NAMING = 64
"""Scalars from which messages are named, at most."""
CASES = {
    "undefended": {},
    "noise 0.3": {"noise": 0.3},
    "noise 1": {"noise": 1.0},
    "noise 3": {"noise": 3.0},
    "16 scalars": {"scalars": 16},
    "8 scalars": {"scalars": 8},
    "secret directions, 1 a step": {"hidden": 1},
    "wrong directions": {"tamper": "wrong_seed"},
    "noise 1, 256 scalars": {"scalars": 256, "noise": 1.0},
    "8 messages, 1 a step, told": {"scalars": 512, "count": 8, "local_batch": 1, "told": True},
    "8 messages, 1 a step, not told": {"scalars": 512, "count": 8, "local_batch": 1},
    "8 messages, 2 a step, told": {"scalars": 512, "count": 8, "local_batch": 2, "told": True},
}
"""Where nothing else is said: one message, 96 scalars. ``told``: who is behind each scalar of a mini-batch. Where
nobody tells, the decoder refuses, which is no evidence that anything is protected; messages are named all the same."""
OF = 8
"""A client's messages are the shortest of so many drawn ones."""
TRAINING = {"clients": 64, "rounds": 256, "held out": 48}
UTILITY = {
    "undefended": (0.0, False, (1e-3,)),
    "noise 1": (1.0, False, (1e-3,)),
    "noise 3": (3.0, False, (1e-3, 1e-4)),
    "noise 30 of a secure sum": (30.0, True, (1e-3, 1e-4)),
}
"""Noise of a client, in units; whether 64 clients share it; step sizes."""


@lru_cache(maxsize=1)
def unit() -> float:
    """Root mean square of the scalars of 32 public messages, each by itself."""
    public = gl.data.sample("messages", count=32, split="public", seed=0, device="cpu")
    model = gl.models.build("gpt", public, weights="trained")
    protocol = gl.protocols.ZerothOrder(directions=64, mu=1e-3, law="mezo", seed=0)
    with torch.no_grad():
        return float(protocol.of_each(model, public.images, public.labels, None).square().mean().sqrt())


def protocol_of(seed: int, noise: float = 0.0, hidden: int = 0, share: float = 1.0):
    """A client's protocol; ``share`` of the noise is its own."""
    if hidden:  # directions of length one: the same step along them needs mu times their usual length
        return HiddenDirections(directions=hidden, mu=0.41, law="unit", seed=seed)
    plain = gl.protocols.ZerothOrder(directions=1, mu=1e-3, law="mezo", seed=seed)
    if not noise:
        return plain
    return Defended(plain, get("dp_scalars", clip=CUT * unit(), sigma=share * noise / CUT), private=seed)


@lru_cache(maxsize=4)
def observed(seed: int, scalars: int, count: int, noise: float, hidden: int, local_batch: int | None):
    """The private messages, and what the server holds."""
    drawn = gl.data.sample("messages", count=OF, seed=seed, device="cpu")
    batch = gl.data.from_texts(sorted(drawn.texts, key=lambda text: len(drawn.vocabulary.encode(text)))[:count])
    model = gl.models.build("gpt", batch, weights="trained")
    test = gl.data.sample("messages", count=1, split="public", device="cpu")
    how = {"rounds": scalars, "lr": 1e-4, "local_batch": local_batch, "test": test, "progress": False}
    log = gl.federation.train(protocol_of(seed, noise, hidden), model, [batch], seed=0, **how)
    seen = gl.observe(log, client=0)
    return batch, gl.observation.as_slopes(seen) if hidden else seen


def attacked(case: str, seed: int) -> dict:
    """One client, decoded and named; the row of it."""
    how = {"scalars": 96, "count": 1, "noise": 0.0, "hidden": 0, "local_batch": None} | CASES[case]
    spoil, told = how.pop("tamper", None), how.pop("told", False)
    batch, seen = observed(seed, **how)
    seen = gl.tamper(seen, spoil) if spoil else seen
    options = {"seed": 0, "restarts": 1, "progress": False}
    if told:
        options |= {"batches": members(how["scalars"], len(batch), how["local_batch"]), "width": 32}
        options |= {"lengths": (batch.labels >= 0).sum(1).tolist()}
    elif how["local_batch"]:
        try:
            gl.attack("zerogla_text", seen, **options)
        except ValueError as error:
            about = {"refused": str(error), "texts": len(batch), "scalars": seen.scalars, "pieces": seen.targets}
            return about | named(batch, seen, seed)
    begin = time.process_time()
    result = gl.attack("zerogla_text", seen, **options)
    spent = time.process_time() - begin
    score = gl.score(result, batch)
    guess = score.controls["model_guess"]
    row = {"exact": int(score.exact.sum()), "texts": len(batch), "tokens": float(score.token_accuracy.mean()),
           "secrets": float(score.secrets.nanmean()), "guess tokens": float(guess.token_accuracy.mean()),
           "guess secrets": float(guess.secrets.nanmean()), "cpu seconds": spent,
           "scalars": seen.scalars, "pieces": seen.targets}  # fmt: skip
    row |= {name: result.diagnostics[name] for name in ("misfit", "certified", "surprise")}
    if how["noise"]:
        sigma = how["noise"] / CUT
        row["epsilon"] = gl.defenses.epsilon(sigma, 1.0, how["scalars"], DELTA, relation="replace_one")
    if not how["hidden"] and not spoil:
        row |= named(batch, seen, seed)
    return row


def members(rounds: int, count: int, size: int) -> list[list[int]]:
    """Who is behind each message, as ``gl.federation.train`` draws it from its public seed 0."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randperm(count, generator=draw)[:size].tolist() for _ in range(rounds)]


def named(batch, seen, seed: int) -> dict:
    """Whether the client's messages are named among 64, and how many others are."""
    others = gl.data.sample("messages", count=64 - len(batch), seed=seed + 10_000, device="cpu")
    texts = [*batch.texts, *(text for text in others.texts if text not in batch.texts)]
    pool = gl.data.from_texts(texts)
    few = replace(seen, rounds=seen.rounds[:NAMING])
    found = gl.identify(few, pool.images, pool.labels, seed=0, progress=False)
    first = int(found.ranking[: len(batch)].lt(len(batch)).sum())
    members = found.members
    return {"candidates": len(texts), "ranked first": first, "named": int(members[: len(batch)].sum()),
            "false names": int(members[len(batch) :].sum())}  # fmt: skip


def trained(case: str, seed: int, rate: float) -> dict:
    """What is learned from 64 clients: loss on held-out private messages before and after."""
    noise, shared, _ = UTILITY[case]
    clients = gl.data.sample("messages", count=TRAINING["clients"], seed=seed, device="cpu")
    held = gl.data.sample("messages", count=TRAINING["held out"], seed=seed + 20_000, device="cpu")
    test = gl.data.sample("messages", count=1, split="public", device="cpu")
    model = gl.models.build("gpt", held, weights="trained")
    how = {"rounds": TRAINING["rounds"], "lr": rate, "seed": 0, "test": test, "progress": False}
    protocol = protocol_of(seed, noise, share=1.0 if shared else TRAINING["clients"] ** 0.5)
    log = gl.federation.train(protocol, model, [clients], **how)
    with torch.no_grad():
        before, after = (
            float(gl.models.loss(model, log.states[at], held.images, held.labels)) for at in (0, TRAINING["rounds"])
        )
    row = {"before": before, "after": after}
    if noise:
        row["epsilon"] = gl.defenses.epsilon(noise / CUT, 1.0, TRAINING["rounds"], DELTA, relation="replace_one")
    return row


def main() -> None:
    """Run what is not in the record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--utility", nargs="*", default=list(UTILITY), choices=UTILITY)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=400, help="the first seed")
    options = arguments(parser)
    settings = {"first": options.first, "seeds": options.seeds, "unit": unit(), "cut": CUT, "delta": DELTA, "of": OF}
    settings |= {"training": TRAINING, "mu": 1e-3, "lr": 1e-4, "threads": torch.get_num_threads()}
    # not the unit, whose seventh digit in float32 depends on the machine
    with Rows("text_defences_cpu", settings, same=("first", "cut", "delta", "of")) as rows:
        for seed in range(options.first, options.first + options.seeds):
            for case in options.cases:
                if (key := {"measure": "attack", "case": case, "seed": seed}) not in rows:
                    rows.add(key | attacked(case, seed))
                    say(rows.rows[-1])
            for case in options.utility:
                for rate in UTILITY[case][2]:
                    if (key := {"measure": "utility", "case": case, "seed": seed, "rate": rate}) not in rows:
                        rows.add(key | trained(case, seed, rate))
                        say(rows.rows[-1])


if __name__ == "__main__":
    main()
