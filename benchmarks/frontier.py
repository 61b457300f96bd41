"""A defence that works, and its price: sums of 100 clients with noise for a stated epsilon, against who knows the rest.

100 clients hold ten records each. Each cuts every record's slope (or clips its gradient), adds a share of noise, and
only the sum of all is seen, in every round. Such a sum is what one client with all records would send, so the training
is run as that one client, with a sum divided by a public 1,000; the noise is what the accountant asks for at delta
1e-4, for a record that is there or not.

The attacker is stronger than the server: it knows the records of 99 clients, subtracts what they add, and attacks what
is left, with labels known: the ten records of client 0 behind scalars, one record behind gradients. Attacks: "search",
Gauss-Newton on all rounds (zerogla), and IG on the first gradient; and "posterior", ours: the mean of a Gaussian
posterior over all rounds, linearised at the mean public record of each class, with the noise that was declared.
"names" asks less: which ten of 100 candidates are client 0's, the other 90 being public records? By gl.identify, and by
least squares on all that is left with every candidate at once (ours; as gl.audit.canaries does), in areas under the
curve, where 0.5 is guessing.
"collude": the 99 also tell their shares of the noise, which leaves a tenth of it. Controls of each record: the best of
the mean colour and the mean public record of its class; and the same attacks on permuted payloads. Positive control:
"none", no defence, where the same attacks read client 0.

    python benchmarks/frontier.py [--seeds 3] [--only "digits, scalars" ...] [--names] [--again]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    frontier_cpu: python benchmarks/frontier.py
    frontier_names_cpu: python benchmarks/frontier.py --names

Of epsilon 2 and of collusion it has the first seed of scalars, of epsilon 4 and 128 nothing yet. In strong noise the search hardly moves from its start; the posterior is the attack that
counts. Rounds and step size of gradients were chosen on seeds 100 to 103, by accuracy alone, among 50 to 400 rounds,
steps of 0.5 to 4 and bounds of 0.2 to 2; on the same test digits, which flatters the defence a little.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import torch
from common import Rows, arguments
from common.resume import say

import glutils as gl
from glutils import defenses

CLIENTS, PER_CLIENT, DELTA = 100, 10, 1e-4
WHOLE = CLIENTS * PER_CLIENT
SCALARS = {"directions": 10, "mu": 1e-4, "dtype": "float64", "seed": 7}
CASES = {
    "digits, scalars": {"data": "digits", "clip": 0.05, "rounds": 200, "lr": 0.1},
    "digits, gradients": {"data": "digits", "clip": 1.0, "rounds": 200, "lr": 2.0, "free lr": 1.0},
    "table, scalars": {"data": "adult_like", "clip": 0.05, "rounds": 100, "lr": 0.1},
}
STRENGTHS = (8.0, "none", 4.0, 2.0, "8, collude", 128.0)
"""Epsilons."""
CANDIDATES, OPEN, READ = 100, 10, 40
"""Among whom client 0's ten are looked for; messages of an undefended client that are read for that, and those that
gl.identify reads at most."""
SAME = ("clients", "per_client", "delta", "scalars", "threads")


def defended(case: str, strength) -> tuple[gl.protocols.Protocol, float | None]:
    """The protocol of the sum, and the noise multiplier."""
    how = CASES[case]
    plain = gl.protocols.ZerothOrder(**SCALARS) if "scalars" in case else gl.protocols.FedSGD()
    if strength == "none":
        return plain, None
    releases = how["rounds"] * (SCALARS["directions"] if "scalars" in case else 1)
    sigma = defenses.noise_multiplier(8.0 if strength == "8, collude" else strength, 1.0, releases, DELTA)
    name = "dp_scalars" if "scalars" in case else "dpsgd"
    return defenses.Defended(plain, defenses.get(name, clip=how["clip"], sigma=sigma, expected=WHOLE)), sigma


def at(model, entry):
    """The model in the state of a message."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(entry.parameters[name])
    return model


def drawn(plain, model) -> dict:
    """The directions, where there are any."""
    return {"directions": plain.draw(model)} if plain.kind == "scalars" else {}


def total(entry, model, part) -> torch.Tensor:
    """What records add to the sum of a message, before noise."""
    plain, defense = entry.protocol.protocol, entry.protocol.defenses[0]
    return defense.shares(plain, model, part.images, part.labels, **drawn(plain, model)).double().sum(0)


def noises(seen, model, batch) -> list[torch.Tensor]:
    """The noise in the sum of each message: what an attacker who knows all but some records has, beside theirs."""
    return [e.payload.flat.double() * WHOLE - total(e, at(model, e), batch) for e in seen.rounds]


def left(seen, model, target, strength, noise, public):
    """What the messages say about the target, once all that is known is subtracted."""
    rounds = []
    for number, entry in enumerate(seen.rounds):
        plain = entry.protocol if strength == "none" else entry.protocol.protocol
        if strength == "none":
            payload = plain.transmit(at(model, entry), target.images, target.labels, **drawn(plain, model))
            rounds.append(replace(entry, payload=payload, client=None))
            continue
        known = CLIENTS**0.5 if strength == "8, collude" else 1.0  # all shares of the noise but client 0's own
        defense = entry.protocol.defenses[0]
        rest = total(entry, at(model, entry), target) + noise[number] / known
        alone = replace(defense, sigma=defense.sigma / known, expected=len(target))
        numbers = (rest / len(target)).to(entry.payload.flat.dtype)
        named = numbers if plain.kind == "scalars" else gl.models.unflatten(numbers, entry.parameters)
        protocol = replace(entry.protocol, defense=alone)
        rounds.append(replace(entry, protocol=protocol, payload=plain.payload(named, model), client=None))
    told = {"rounds": tuple(rounds), "shape": tuple(target.images.shape), "labels": target.labels, "public": public}
    return replace(seen, **told, notes=())


def means(public, labels) -> torch.Tensor:
    """(B, D) the mean public record of each class."""
    flat = public.images.flatten(1).double()
    return torch.stack([flat[public.labels == label].mean(0) for label in labels])


def share_of_one(entry, model):
    """What one record adds to a message, as a function of its numbers and label; its derivative is the attacker's."""
    plain = getattr(entry.protocol, "protocol", entry.protocol)
    bound = float(entry.protocol.defenses[0].clip) if entry.protocol.defenses else None
    state = {name: p.double() for name, p in entry.parameters.items()}
    rows = drawn(plain, at(model, entry))["directions"].rows(dtype=torch.float64) if plain.kind == "scalars" else None

    def share(x, y):
        whole = torch.func.grad(lambda p: gl.models.loss(model, p, x[None], y[None]))(state)
        gradient = gl.models.flatten(whole)
        if rows is not None:
            return (rows @ gradient).clamp(-bound, bound) if bound else rows @ gradient
        return gradient * (bound / gradient.norm()).clamp(max=1.0) if bound else gradient

    return share, torch.func.jacrev if plain.kind == "scalars" else torch.func.jacfwd


def posterior(seen, model) -> torch.Tensor:
    """Records: the mean of the posterior, linearised at the mean record of each class."""
    public, prior = seen.public, means(seen.public, seen.labels)
    within = public.images.flatten(1).double() - means(public, public.labels)
    precision = torch.linalg.inv(within.T @ within / len(within) + 1e-4 * torch.eye(within.shape[1]).double())
    count, shaped = len(prior), prior.view(seen.shape)
    normal = torch.block_diag(*[precision] * count)
    pulled = torch.zeros(prior.numel(), dtype=torch.float64)
    for entry in seen.rounds:
        share, jacobian = share_of_one(entry, model)
        slope = torch.vmap(jacobian(share))(shaped, seen.labels).detach().flatten(2) / count  # (B, numbers, D)
        slope = slope.movedim(0, 1).flatten(1)
        numbers = entry.payload.flat.double()
        rest = numbers - torch.vmap(share)(shaped, seen.labels).detach().sum(0) / count
        scale = max(float(entry.protocol.noise(entry.payload, count)), 1e-3 * float(numbers.std()))
        normal += slope.T @ slope / scale**2
        pulled += slope.T @ rest / scale**2
    found = prior + torch.linalg.solve(normal, pulled).view_as(prior)
    found = found.clamp(0, 1) if len(seen.shape) == 4 else found
    return found.view(seen.shape).float()


def scored(result, target, public) -> dict:
    """PSNR, or cells right, of each record, and of the best control without a message."""
    prior = means(public, target.labels).view(target.images.shape).float()
    if isinstance(result, torch.Tensor):
        result = SimpleNamespace(images=result, labels=target.labels)
    score = gl.score(result, target, public=public, controls={"class": prior})
    what = "psnr" if target.images.ndim == 4 else "cells"
    blank = torch.stack([getattr(c, what) for c in score.controls.values() if getattr(c, what) is not None])
    return {"found": getattr(score, what).tolist(), "blank": blank.nan_to_num(-1.0).max(0).values.tolist()}


def prepared(case: str, strength, seed: int):
    """Train behind the sum: what is known of the run, the records, public ones, the model, what the server sees."""
    how = CASES[case]
    batch = gl.data.sample(how["data"], count=WHOLE, seed=seed, device="cpu")
    public = gl.data.public(how["data"], device="cpu")
    protocol, sigma = defended(case, strength)
    model = gl.models.build("mlp", batch, activation="tanh", seed=0)
    protocol = replace(protocol, private=seed) if isinstance(protocol, defenses.Defended) else protocol
    lr = how.get("free lr", how["lr"]) if strength == "none" else how["lr"]
    trained = gl.federation.train(protocol, model, [batch], rounds=how["rounds"], lr=lr, seed=seed, progress=False)
    row = {"accuracy": float(trained.accuracy[-1]), "sigma": sigma, "bytes": int(trained.uplink[-1])}
    return row, batch, public, model, gl.observe(trained, client=0, knows={"labels"})


def run(case: str, strength, seed: int) -> dict:
    """Attack what is left of client 0, and score."""
    row, batch, public, model, seen = prepared(case, strength, seed)
    gradients = "gradients" in case
    targets = [batch[[k]] for k in range(4)] if gradients else [batch[list(range(PER_CLIENT))]]
    noise = None if strength == "none" else noises(seen, model, batch)
    for number, target in enumerate(targets):
        view = left(seen, model, target, strength, noise, public)
        shuffled = strength == 8.0 and number == 0
        views = {"": view} | ({", permuted": gl.tamper(view, "permuted", seed=seed)} if shuffled else {})
        for what, told in views.items():
            if gradients:
                first = replace(told, rounds=told.rounds[:1])
                result = gl.attack("ig", first, seed=seed, iterations=80, progress=False)
            else:
                result = gl.attack("zerogla", told, seed=seed, restarts=1, check=False, progress=False)
            row.setdefault("search" + what, []).append(scored(result, target, public))
            row.setdefault("posterior" + what, []).append(scored(posterior(told, model), target, public))
    return row


def shares_of(entry, model, pool, count: int) -> torch.Tensor:
    """(N, numbers) what each record alone adds to a message that is a mean over ``count``."""
    if entry.protocol.defenses:
        plain, defense = entry.protocol.protocol, entry.protocol.defenses[0]
        return defense.shares(plain, model, pool.images, pool.labels, **drawn(plain, model)).double() / count
    if entry.protocol.kind == "scalars":
        return entry.protocol.of_each(model, pool.images, pool.labels, None).detach().T.double() / count
    each = (
        entry.protocol.transmit(model, x[None], y[None]).flat for x, y in zip(pool.images, pool.labels, strict=True)
    )
    return torch.stack([one.double() for one in each]) / count


def least_squares(view, model, pool, count: int) -> torch.Tensor:
    """(N,) how much of each candidate is in the messages: about 1 for members, about 0 for others."""
    gram, seen = torch.zeros(len(pool), len(pool)).double(), torch.zeros(len(pool)).double()
    for entry in view.rounds:
        shares, numbers = shares_of(entry, at(model, entry), pool, count), entry.payload.flat.double()
        noise = max(float(entry.protocol.noise(entry.payload, count)), 1e-3 * float(numbers.std()))
        gram += shares @ shares.T / noise**2
        seen += shares @ (numbers - count / len(pool) * shares.sum(0)) / noise**2
    rate = count / len(pool)
    return rate + torch.linalg.solve(gram + torch.eye(len(pool)).double() / (rate * (1 - rate)), seen)


def area(scores: torch.Tensor, members: int) -> float:
    """Chance that a member, of those that come first, has a higher score than another; ties count half."""
    above = scores[:members, None] - scores[None, members:]
    return float((above > 0).double().mean() + 0.5 * (above == 0).double().mean())


def names(case: str, strength, seed: int) -> dict:
    """Look for client 0's records among candidates."""
    row, batch, public, model, seen = prepared(case, strength, seed)
    target = batch[list(range(PER_CLIENT))]
    others = torch.randperm(len(public), generator=torch.Generator().manual_seed(seed))
    pool = gl.data.concatenate([target, public[others[: CANDIDATES - PER_CLIENT].tolist()]])
    noise = None if strength == "none" else noises(seen, model, batch)
    view = replace(left(seen, model, target, strength, noise, public), labels=None)
    view = replace(view, rounds=view.rounds[:OPEN]) if strength == "none" else view
    found = gl.identify(replace(view, rounds=view.rounds[:READ]), pool, seed=seed, progress=False)
    row |= {"right": int(found.members[:PER_CLIENT].sum()), "wrong": int(found.members[PER_CLIENT:].sum())}
    row |= {"area": area(found.scores, PER_CLIENT)}
    for what, told in {"": view, ", permuted": gl.tamper(view, "permuted", seed=seed)}.items():
        fitted = least_squares(told, model, pool, PER_CLIENT)
        row |= {
            "area, fitted" + what: area(fitted, PER_CLIENT),
            "first" + what: int((fitted.argsort(descending=True)[:PER_CLIENT] < PER_CLIENT).sum()),
        }
    return row


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--strengths", nargs="*", default=[str(s) for s in STRENGTHS])
    parser.add_argument("--names", action="store_true", help="name records instead of finding them")
    parser.add_argument("--again", action="store_true", help="replace the rows of the cases that are asked for")
    options = arguments(parser)
    parameters = {"clients": CLIENTS, "per_client": PER_CLIENT, "delta": DELTA, "scalars": SCALARS, "cases": CASES}
    parameters |= {"threads": torch.get_num_threads()}
    strengths = [s for s in STRENGTHS if str(s) in options.strengths]
    record, work = ("frontier_names_cpu", names) if options.names else ("frontier_cpu", run)
    old = (lambda row: row["case"] in options.only) if options.again else (lambda row: False)
    with Rows(record, parameters, same=SAME, drop=old) as rows:
        for strength, seed, case in itertools.product(strengths, range(options.seeds), options.only):
            if (cell := {"case": case, "strength": strength, "seed": seed}) not in rows:
                begin = time.process_time()
                rows.add(cell | work(**cell) | {"cpu_seconds": time.process_time() - begin})
                say(rows.rows[-1])


if __name__ == "__main__":
    main()
