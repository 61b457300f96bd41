"""What else a handful of scalars says: classes, near copies, unknown numbers, many candidates, defences, seed pools.

Each row is one draw, with networks, directions and records of its own.

- ``classes``: counts of the classes of a batch, by :func:`glutils.membership.class_counts`, from public digits that
  hold none of the batch; ``right``: share of records whose class is counted; ``prior``: the same of equal counts.
- ``person``: none of the members is a candidate, only a changed copy of each is, which counts as a member here.
- ``unknown``: how many members there are is not known, from 1 to twice as many.
- ``defended``: clipping, noise with its epsilon, fewer scalars, secure sums.
- ``pool``: FedKSeed's schedule: of 1,024 seeds a client draws 200 with replacement, each step on one record.
- ``texts``: 16 of 998 messages from 96 scalars of a small GPT, each candidate's from one gradient.
- ``half``: one of 256 messages from 8 scalars in bfloat16, by an attacker with the same arithmetic.
- ``parts``: mini-batches of five scalars each that are solved one by one, as many strangers as members.
- ``many``: 100,000 candidates, digits moved, turned and mirrored, in chunks: time and memory.

    python benchmarks/membership_limits.py [--only classes person ...] [--draws 6]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    membership_limits_cpu: python benchmarks/membership_limits.py
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from common import arguments, measure

import glutils as gl

FIRST = 5000
"""The first seed; none was used while the methods were made."""
COPIES = ("moved by a pixel", "mirrored", "5 % noise")
SEEDS, STEPS = 1024, 200
"""FedKSeed's pool, and a client's steps in a round."""
VOTES = 4
"""Accounts to which a record has to come nearest to be named."""


def cells(only: list[str], draws: int) -> Iterator[dict]:
    """One for each draw."""
    few = max(1, draws // 3)
    cases = {
        "classes": [({"B": b, "K": k}, 2 * draws)
                    for b, ks in ((1, (2, 4)), (5, (4, 8, 16)), (20, (16, 32))) for k in ks],
        "pool": [({"n": n, "lr": lr}, few) for n in (10, 50) for lr in (1e-4, 1e-2, 1.0)],
        "half": [({"K": 8, "N": 256}, few)],
        "person": [({"B": 5, "K": 64, "how": how}, draws) for how in COPIES],
        "unknown": [({"B": b, "K": k}, few) for b, k in ((1, 16), (5, 64), (10, 128))],
        "defended": [({"B": 5, "K": k, "how": how, "strength": s}, few)
                     for k, how, s in ((64, "clipping", 2.0), (64, "dp_scalars", 0.1), (64, "dp_scalars", 1.0),
                                       (64, "dp_scalars", 10.0), (64, "noise", 0.1), (64, "noise", 1.0),
                                       (8, "fewer", 0), (16, "fewer", 0), (64, "sum", 2), (64, "sum", 4))],
        "texts": [({"B": 16, "K": 96, "N": 998}, few)],
        "parts": [({"n": 20, "b": 4, "K": 5, "T": 30}, few), ({"n": 50, "b": 8, "K": 5, "T": 50}, few)],
        "many": [({"B": 5, "K": 64, "N": 100_000}, 1)],
    }  # fmt: skip
    for name in only:
        for case, count in cases[name]:
            yield from ({"measure": name} | case | {"seed": seed} for seed in range(FIRST, FIRST + count))


def digits() -> gl.data.Batch:
    """All 1,797 digits of scikit-learn."""
    return gl.data.concatenate([gl.data.load("digits", split=part, device="cpu") for part in ("private", "public")])


def setting(batch: gl.data.Batch, K: int, seed: int) -> tuple:
    """A network for such records, and a client that sends K scalars."""
    client = gl.protocols.ZerothOrder(directions=K, mu=1e-3, law="gaussian", seed=seed)
    return gl.models.build("mlp", batch, hidden=(32,), seed=seed), client


def observed(model, client, batch: gl.data.Batch) -> gl.observation.Observation:
    """What the server holds after one message."""
    return gl.observe(model, client, client.transmit(model, batch.images, batch.labels), batch)


def drawn(seed: int, count: int, everybody: gl.data.Batch) -> list[int]:
    """Numbers of so many records."""
    return np.random.default_rng(seed).choice(len(everybody), count, replace=False).tolist()


def judged(named: gl.membership.Named, truth: np.ndarray) -> dict:
    """Members that are named, and others."""
    said, scores = named.members.numpy(), named.scores.numpy()
    others = scores[~truth]
    auc = float(np.mean([(others < s).mean() + (others == s).mean() / 2 for s in scores[truth]]))
    return {"named": float(said[truth].mean()), "false": int((said & ~truth).sum()), "complete": named.complete,
            "clean": float((scores[truth] > others.max()).mean()), "AUC": auc}  # fmt: skip


def classes(seed: int, B: int, K: int) -> dict:
    """Classes of private digits from public ones."""
    public, private = (gl.data.load("digits", split=part, device="cpu") for part in ("public", "private"))
    batch = private[drawn(seed, B, private)]
    model, client = setting(public, K, seed)
    found = gl.membership.class_counts(observed(model, client, batch), public, progress=False)
    truth = torch.bincount(batch.labels, minlength=10)
    alike = torch.bincount(torch.arange(B) % 10, minlength=10)
    right, prior = (float(torch.minimum(counts, truth).sum()) / B for counts in (found.counts, alike))
    return {"right": right, "exact": right == 1, "prior": prior, "margin": found.margin}


def person(seed: int, B: int, K: int, how: str) -> dict:
    """Changed copies of the members among strangers."""
    everybody = digits()
    order = drawn(seed, len(everybody), everybody)
    members, rest = everybody[order[:B]], everybody[order[B:]]
    noise = torch.randn(members.images.shape, generator=torch.Generator().manual_seed(seed))
    changed = {"moved by a pixel": members.images.roll(1, -1), "mirrored": members.images.flip(-1),
               "5 % noise": (members.images + 0.05 * noise).clamp(0, 1)}[how]  # fmt: skip
    pool = gl.data.Batch(torch.cat([changed, rest.images]), torch.cat([members.labels, rest.labels]), members.classes)
    model, client = setting(pool, K, seed)
    named = gl.identify(observed(model, client, members), pool, progress=False, seed=seed)
    return judged(named, np.arange(len(pool)) < B)


def unknown(seed: int, B: int, K: int) -> dict:
    """Members whose number is not known."""
    everybody = digits()
    truth = drawn(seed, B, everybody)
    model, client = setting(everybody, K, seed)
    seen = observed(model, client, everybody[truth])
    named = gl.identify(seen, everybody, members=(1, 2 * B), progress=False, seed=seed)
    return judged(named, np.isin(np.arange(len(everybody)), truth)) | {"found": int(named.counts.sum())}


def defended(seed: int, B: int, K: int, how: str, strength: float) -> dict:
    """Names behind a defence, and the epsilon of a record that is there or not."""
    everybody = digits()
    count = B * int(strength) if how == "sum" else B
    truth = drawn(seed, count, everybody)
    model, client = setting(everybody, K, seed)
    batch, epsilon = everybody[truth], None
    if how == "clipping":
        client = gl.defenses.Defended(client, gl.defenses.get("dp_scalars", clip=strength, sigma=0.0, expected=B))
    if how == "dp_scalars":
        private = gl.defenses.get("dp_scalars", clip=2.0, sigma=strength, expected=B)
        client, epsilon = gl.defenses.Defended(client, private), gl.defenses.epsilon(strength, 1.0, K, 1e-3)
    if how == "noise":
        sigma = strength * float(client.transmit(model, batch.images, batch.labels).std())
        client = gl.defenses.Defended(client, gl.defenses.get("gaussian_noise", sigma=sigma), private=seed)
    named = gl.identify(observed(model, client, batch), everybody, progress=False, seed=seed)
    return judged(named, np.isin(np.arange(len(everybody)), truth)) | {"epsilon": epsilon}


def pool(seed: int, n: int, lr: float) -> dict:
    """FedKSeed's accounts: how many hold one step, and which of all digits that step was taken on.

    An account that one step alone has filled is one record's slope, at a state that is near the one that was sent.
    ``among``: the records are looked for among all digits by one number each; ``of the client``: among its own.
    ``named``: records that are nearest to several accounts.
    """
    everybody, generator = digits(), np.random.default_rng(seed)
    own = drawn(seed, n, everybody)
    model, client = setting(everybody, SEEDS, seed)
    directions = client.draw(model)
    start = gl.models.flatten(gl.models.parameters(model))
    state, counts, accounts, owners = start.clone(), np.zeros(SEEDS, int), np.zeros(SEEDS), np.full(SEEDS, -1)
    for _ in range(STEPS):
        k, i = int(generator.integers(SEEDS)), int(generator.choice(own))
        z = gl.zo.GivenDirections(directions.rows(k, k + 1))
        here = gl.models.unflatten(state, gl.models.parameters(model))
        slope = client.arithmetic.slopes(model, everybody.images[[i]], everybody.labels[[i]], z, params=here)
        state = state - lr / SEEDS * slope * z.rows()[0]
        counts[k], accounts[k], owners[k] = counts[k] + 1, accounts[k] + float(slope), i
    once = np.flatnonzero(counts == 1)
    z = gl.zo.GivenDirections(directions.rows()[once])
    columns = client.arithmetic.slopes(model, everybody.images, everybody.labels, z, each=True).double().numpy()
    off = np.abs(columns - accounts[once][:, None])
    right = off[np.arange(len(once)), owners[once]]
    votes = np.bincount(off.argmin(1), minlength=len(everybody))
    return {"steps": STEPS, "once": len(once), "twice or more": int((counts > 1).sum()),
            "moved": float((state - start).norm() / start.norm()),
            "off": float(np.median(right) / columns.std()), "among": float((off.argmin(1) == owners[once]).mean()),
            "named": float((votes[own] >= VOTES).mean()), "false": int((np.delete(votes, own) >= VOTES).sum()),
            "of the client": float((np.array(own)[off[:, own].argmin(1)] == owners[once]).mean())}  # fmt: skip


def texts(seed: int, B: int, K: int, N: int) -> dict:
    """Messages of a small GPT among others."""
    everybody = gl.data.sample("messages", count=N, seed=seed, device="cpu")
    truth = drawn(seed, B, everybody)
    model = gl.models.build("gpt", everybody, weights="trained")
    client = gl.protocols.ZerothOrder(directions=K, mu=1e-3, law="mezo", seed=seed)
    named = gl.identify(observed(model, client, everybody[truth]), everybody, quick=True, progress=False, seed=seed)
    return judged(named, np.isin(np.arange(N), truth))


def half(seed: int, K: int, N: int) -> dict:
    """One message each of 16, by the nearest of all candidates' scalars: computed alike, or in single precision."""
    everybody = gl.data.sample("messages", count=N, seed=seed, device="cpu")
    model = gl.models.build("gpt", everybody, weights="trained")
    how = {"directions": K, "mu": 1e-3, "law": "mezo", "seed": seed}
    client = gl.protocols.ZerothOrder(**how, dtype="bfloat16", loss_dtype="float32")
    right = {}
    sent = [client.transmit(model, everybody.images[[i]], everybody.labels[[i]]).scalars for i in range(16)]
    for name, attacker in (("same", client), ("single", gl.protocols.ZerothOrder(**how))):
        columns = attacker.of_each(model, everybody.images, everybody.labels, attacker.draw(model))
        nearest = [int((columns - s[:, None]).square().sum(0).argmin()) for s in sent]
        right[name] = float(np.mean([i == near for i, near in enumerate(nearest)]))
    return right | {"messages": len(sent)}


def parts(seed: int, n: int, b: int, K: int, T: int) -> dict:
    """A client that draws small mini-batches."""
    everybody = digits()
    listed = everybody[drawn(seed, 2 * n, everybody)]
    model, client = setting(listed, K, seed)
    how = {"rounds": T, "lr": 1e-2, "local_batch": b, "seed": seed, "test": everybody[:50], "progress": False}
    run = gl.federation.train(client, model, [listed[:n]], **how)
    named = gl.identify(gl.observe(run, client=0), listed, progress=False, seed=seed)
    solved = [note for note in named.notes if "messages are the mean" in note]
    return judged(named, np.arange(2 * n) < n) | {"solved": int(solved[0].split()[0]) if solved else 0}


def many(seed: int, B: int, K: int, N: int) -> dict:
    """A large pool of digits: moved, turned, mirrored and brightened copies of all."""
    everybody = digits()
    parts = [everybody.images]
    for a, (dx, dy), mirrored, gain in product(range(4), product((-1, 0, 1), repeat=2), (False, True), (1.0, 0.8)):
        if (a, dx, dy, mirrored, gain) != (0, 0, 0, False, 1.0):
            moved = torch.rot90(everybody.images, a, (-2, -1)).roll((dx, dy), (-2, -1))
            parts.append(gain * (moved.flip(-1) if mirrored else moved))
        if len(parts) * len(everybody) >= N:
            break
    images = torch.cat(parts)[:N]
    labels = everybody.labels.repeat(len(parts))[:N]
    listed = gl.data.Batch(images, labels, everybody.classes)
    truth = drawn(seed, B, listed)
    model, client = setting(listed, K, seed)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    named = gl.identify(observed(model, client, listed[truth]), listed, progress=False, seed=seed)
    row = {"candidates": len(listed), "seconds": time.process_time() - begin,
           "MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}  # fmt: skip
    return row | judged(named, np.isin(np.arange(len(listed)), truth))


CASES = {work.__name__: work for work in (classes, pool, half, person, unknown, defended, texts, parts, many)}


def row(measure: str, **cell) -> dict:
    """One draw."""
    return CASES[measure](**cell)


def main() -> None:
    """Make what is missing of the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--name", default="membership_limits_cpu")
    options = arguments(parser)
    asked = {key: value for key, value in vars(options).items() if key == "draws"}
    measure(options.name, cells(options.only, options.draws), row, asked)


if __name__ == "__main__":
    main()
