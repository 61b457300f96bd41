"""A defence that works, and its price: sums of 100 clients with noise for a stated epsilon, against who knows the rest.

100 clients hold ten records each. Each cuts every record's slope (or clips its gradient), adds a share of noise, and
only the sum of all is seen, in every round. Such a sum is what one client with all records would send, so the training
is run as that one client, with a sum divided by a public 1,000; the noise is what the accountant asks for at delta
1e-4, for a record that is there or not.

The attacker is stronger than the server: it knows the records of 99 clients, subtracts what they add, and attacks what
is left, with labels known: the ten records of client 0 behind scalars, one record behind gradients. Attacks: "search",
Gauss-Newton on all rounds (zerogla), and IG on the first gradient; and "posterior", ours: the mean of a Gaussian
posterior over all rounds (of gradients 25), linearised at the mean public record of each class, with the noise that
was declared.
"collude": the 99 also tell their shares of the noise, which leaves a tenth of it. Controls of each record: the best of
the mean colour and the mean public record of its class; and the same attacks on permuted payloads. Positive control:
"none", no defence, where the same attacks read client 0.

    python benchmarks/frontier.py [--seeds 3] [--only "digits, scalars" ...]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    frontier_cpu: python benchmarks/frontier.py

Of epsilon 2 and of collusion it has the first seed of scalars, of epsilon 128 nothing yet. In strong noise the search
hardly moves from its start; the posterior is the attack that counts.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from types import SimpleNamespace

import torch
from common import arguments, measure

import glutils as gl
from glutils import defenses

CLIENTS, PER_CLIENT, DELTA = 100, 10, 1e-4
WHOLE = CLIENTS * PER_CLIENT
SCALARS = {"directions": 10, "mu": 1e-4, "dtype": "float64", "seed": 7}
CASES = {
    "digits, scalars": {"data": "digits", "clip": 0.05, "rounds": 200, "lr": 0.1},
    "digits, gradients": {"data": "digits", "clip": 1.0, "rounds": 100, "lr": 1.0},
    "table, scalars": {"data": "adult_like", "clip": 0.05, "rounds": 100, "lr": 0.1},
}
STRENGTHS = (8.0, "none", 2.0, "8, collude", 128.0)
"""Epsilons."""
MESSAGES = 25
"""Of gradients, the first so many are attacked."""


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


def run(case: str, strength, seed: int) -> dict:
    """Train behind the sum, attack what is left of client 0, and score."""
    how = CASES[case]
    batch = gl.data.sample(how["data"], count=WHOLE, seed=seed, device="cpu")
    public = gl.data.public(how["data"], device="cpu")
    protocol, sigma = defended(case, strength)
    model = gl.models.build("mlp", batch, activation="tanh", seed=0)
    protocol = replace(protocol, private=seed) if isinstance(protocol, defenses.Defended) else protocol
    trained = gl.federation.train(
        protocol, model, [batch], rounds=how["rounds"], lr=how["lr"], seed=seed, progress=False
    )
    row = {"accuracy": float(trained.accuracy[-1]), "sigma": sigma, "bytes": int(trained.uplink[-1])}
    gradients = "gradients" in case
    targets = [batch[[k]] for k in range(4)] if gradients else [batch[list(range(PER_CLIENT))]]
    seen = gl.observe(trained, client=0, knows={"labels"})
    seen = replace(seen, rounds=seen.rounds[:MESSAGES]) if gradients else seen
    noise = None if strength == "none" else noises(seen, model, batch)
    for target in targets:
        view = left(seen, model, target, strength, noise, public)
        views = {"": view} | ({", permuted": gl.tamper(view, "permuted", seed=seed)} if strength == 8.0 else {})
        for what, told in views.items():
            if gradients:
                first = replace(told, rounds=told.rounds[:1])
                result = gl.attack("ig", first, seed=seed, iterations=80, progress=False)
            else:
                result = gl.attack("zerogla", told, seed=seed, restarts=1, check=False, progress=False)
            row.setdefault("search" + what, []).append(scored(result, target, public))
            row.setdefault("posterior" + what, []).append(scored(posterior(told, model), target, public))
    return row


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    options = arguments(parser)
    parameters = {"clients": CLIENTS, "per_client": PER_CLIENT, "delta": DELTA, "scalars": SCALARS, "cases": CASES}
    parameters |= {"messages": MESSAGES}
    cells = [
        {"case": case, "strength": strength, "seed": seed}
        for strength, seed, case in itertools.product(STRENGTHS, range(options.seeds), options.only)
    ]
    measure("frontier_cpu", cells, run, parameters)


if __name__ == "__main__":
    main()
