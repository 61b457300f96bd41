"""Private zeroth-order learning (DPZero, DP-ZO): what a stated epsilon costs on digits and on a language model.

Each record's slope is cut, noise is added to the sum, and the sum is divided by a public number; a record is there or
not. Digits: a tanh MLP learns from 1,000 records, 2,000 scalars in all: ten of all records in each of 200 rounds, as
this book's clients send them, or one a step from a Poisson tenth of them, as in DP-ZO. Laplace noise has delta 0. Step
sizes are chosen on a seed that is not in the record, for each row by itself. Texts: the trained gpt goes on to learn
from 256 made-up messages, MeZO in float32, one scalar a step, cut at three units (root mean square of public messages'
slopes), at the step size at which benchmarks/text_defences.py learns best. Accuracy is that of the next token on 48
held-out messages.

"attacked": one message (the shortest of eight) in such a sum, as it looks to somebody who knows the 255 others and
subtracts what they add: all of the sum's noise on it alone. It is decoded (zerogla_text), and named among 64; beside
it stand the same attack with wrong directions ("misled") and the model's own guess.

    python benchmarks/dp_zo.py [--seeds 8] [--only digits texts attacked]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    dp_zo_cpu: python benchmarks/dp_zo.py

Its texts have three seeds.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace

import torch
from common import arguments, measure

import glutils as gl
from glutils import defenses

DIGITS, TEXTS, HELD, STEPS, DELTA, CLIP, CUT = 1000, 256, 48, 128, 1e-4, 0.05, 3.0
TUNED = 100
"""The seed on which step sizes are chosen."""
WAYS = {"all, ten a round": (10, 200, 1.0), "all, one a step": (1, STEPS, 1.0), "a tenth, one a step": (1, 2000, 0.1)}
"""Scalars of a message, messages, share of the records in each."""
RATES = {"digits": (0.1, 0.3), "texts": (1e-3,)}
CASES = [
    ("digits", "all, ten a round", "gaussian", None), ("digits", "all, ten a round", "gaussian", 8.0),
    ("digits", "all, ten a round", "gaussian", 2.0), ("digits", "all, ten a round", "laplace", 8.0),
    ("digits", "a tenth, one a step", "gaussian", 8.0), ("digits", "a tenth, one a step", "laplace", 8.0),
    ("texts", "all, one a step", "gaussian", None), ("texts", "all, one a step", "gaussian", 8.0),
    ("texts", "all, one a step", "gaussian", 4.0), ("texts", "all, one a step", "gaussian", 2.0),
    ("attacked", "all, one a step", "gaussian", 8.0), ("attacked", "all, one a step", "gaussian", None),
    ("attacked", "all, one a step", "gaussian", 4.0), ("attacked", "all, one a step", "gaussian", 2.0),
]  # fmt: skip
"""Data, way, law of the noise, epsilon; None: slopes are neither cut nor noisy."""


def multiplier(law: str, epsilon: float | None, numbers: int, messages: int, rate: float) -> float | None:
    """The noise that the accountant asks for."""
    if epsilon is None:
        return None
    if law == "gaussian":
        return defenses.noise_multiplier(epsilon, rate, messages, DELTA) * numbers**0.5
    low, high = 1e-3, 1e6
    for _ in range(80):
        middle = (low * high) ** 0.5
        enough = defenses.pure_epsilon(middle, rate, messages, scalars=numbers) <= epsilon
        low, high = (low, middle) if enough else (middle, high)
    return high


@functools.cache
def unit() -> float:
    """Root mean square of the scalars of 32 public messages, each by itself."""
    public = gl.data.sample("messages", count=32, split="public", seed=0, device="cpu")
    protocol = gl.protocols.ZerothOrder(directions=64, mu=1e-3, law="mezo", seed=0)
    with torch.no_grad():
        model = gl.models.build("gpt", public, weights="trained")
        return float(protocol.of_each(model, public.images, public.labels, None).square().mean().sqrt())


def protocol_of(data: str, way: str, law: str, epsilon: float | None, seed: int):
    """The client, and its noise multiplier."""
    numbers, messages, rate = WAYS[way]
    if data == "digits":
        plain, records, clip = (
            gl.protocols.ZerothOrder(directions=numbers, mu=1e-4, dtype="float64", seed=7),
            DIGITS,
            CLIP,
        )
    else:
        plain, records, clip = (
            gl.protocols.ZerothOrder(directions=1, mu=1e-3, law="mezo", seed=seed),
            TEXTS,
            CUT * unit(),
        )
    sigma = multiplier(law, epsilon, numbers, messages, rate)
    if sigma is None:
        return plain, None
    noise = defenses.get("dp_scalars", clip=clip, sigma=sigma, expected=records * rate, law=law)
    return defenses.Defended(plain, noise, private=seed), sigma


@functools.cache
def trained(data: str, way: str, law: str, epsilon: float | None, seed: int, lr: float) -> dict:
    """What is learned at one step size; ``good`` is what step sizes are chosen by."""
    _, messages, rate = WAYS[way]
    protocol, sigma = protocol_of(data, way, law, epsilon, seed)
    how = {"lr": lr, "seed": seed, "progress": False}
    if rate < 1:
        how |= {"local_batch": round(DIGITS * rate), "sampling": "poisson"}
    if data == "digits":
        batch = gl.data.sample("digits", count=DIGITS, seed=seed, device="cpu")
        model = gl.models.build("mlp", batch, activation="tanh", seed=seed)
        log = gl.federation.train(protocol, model, [batch], rounds=messages, **how)
        accuracy = float(log.accuracy[-1])
        return {"sigma": sigma, "accuracy": accuracy, "good": accuracy}
    batch = gl.data.sample("messages", count=TEXTS, seed=seed, device="cpu")
    held = gl.data.sample("messages", count=HELD, seed=seed + 20_000, device="cpu")
    test = gl.data.sample("messages", count=1, split="public", device="cpu")
    model = gl.models.build("gpt", held, weights="trained")
    log = gl.federation.train(protocol, model, [batch], rounds=STEPS, test=test, **how)
    row = {"sigma": sigma}
    for name, state in (("before", log.states[0]), ("", log.states[STEPS])):
        with torch.no_grad():
            loss = float(gl.models.loss(model, state, held.images, held.labels))
            said = torch.func.functional_call(model, state, (held.images,)).argmax(-1)
        right = (said[:, :-1] == held.labels[:, 1:])[held.labels[:, 1:] >= 0]
        row |= {f"accuracy {name}".strip(): float(right.double().mean()), f"loss {name}".strip(): loss}
    return row | {"good": -row["loss"]}


def attacked(way: str, law: str, epsilon: float | None, seed: int) -> dict:
    """One message behind the noise of the sum, decoded and named."""
    drawn = gl.data.sample("messages", count=8, seed=seed, device="cpu")
    batch = gl.data.from_texts(sorted(drawn.texts, key=lambda text: len(drawn.vocabulary.encode(text)))[:1])
    model = gl.models.build("gpt", batch, weights="trained")
    protocol, sigma = protocol_of("texts", way, law, epsilon, seed)
    if sigma is not None:  # what is left is not divided; so the model's steps are
        protocol = replace(protocol, defense=replace(protocol.defense, expected=1))
    test = gl.data.sample("messages", count=1, split="public", device="cpu")
    how = {"rounds": STEPS, "lr": RATES["texts"][0] / TEXTS, "test": test, "progress": False}
    seen = gl.observe(gl.federation.train(protocol, model, [batch], seed=seed, **how), client=0)
    wrong = gl.tamper(seen, "wrong_seed")
    how = {"seed": 0, "restarts": 1, "progress": False}
    controls = {"misled": gl.attack("zerogla_text", wrong, **how)}
    score = gl.score(gl.attack("zerogla_text", seen, **how), batch, controls=controls)
    found = {name: float(score.controls[name].token_accuracy[0]) for name in ("model_guess", "misled")}
    others = gl.data.sample("messages", count=63, seed=seed + 10_000, device="cpu")
    pool = gl.data.from_texts([*batch.texts, *(text for text in others.texts if text not in batch.texts)])
    named, misled = (
        gl.identify(replace(s, rounds=s.rounds[:64]), pool.images, pool.labels, seed=0, progress=False)
        for s in (seen, wrong)
    )
    rank, misled = (int((answer.ranking == 0).nonzero()) for answer in (named, misled))
    return {
        "sigma": sigma, "exact": bool(score.exact[0]), "tokens": float(score.token_accuracy[0]),
        "guess": found["model_guess"], "misled": found["misled"], "rank": rank, "misled rank": misled,
        "right": bool(named.members[0]), "wrong": int(named.members[1:].sum()), "candidates": len(pool),
    }  # fmt: skip


def run(data: str, way: str, law: str, epsilon: float | None, seed: int) -> dict:
    """One row, at the step size that served the tuning seed best."""
    if data == "attacked":
        return attacked(way, law, epsilon, seed)
    case = (data, way, law, epsilon)
    rates = RATES[data]
    best = rates[0] if len(rates) == 1 else max(rates, key=lambda lr: trained(*case, TUNED, lr)["good"])
    found = dict(trained(*case, seed, best))
    del found["good"]
    return found | {"lr": best}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8, help="of messages attacked; of all else at most three")
    parser.add_argument("--only", nargs="*", default=[*RATES, "attacked"], choices=[*RATES, "attacked"])
    options = arguments(parser)
    parameters = {"digits": DIGITS, "texts": TEXTS, "held": HELD, "steps": STEPS, "delta": DELTA, "clip": CLIP}
    parameters |= {"cut": CUT, "unit": unit(), "ways": WAYS, "rates": RATES, "tuned": TUNED}
    cells = [
        {"data": data, "way": way, "law": law, "epsilon": epsilon, "seed": seed}
        for data, way, law, epsilon in CASES if data in options.only
        for seed in range(options.seeds if data == "attacked" else min(3, options.seeds))
    ]  # fmt: skip
    measure("dp_zo_cpu", cells, run, parameters)


if __name__ == "__main__":
    main()
