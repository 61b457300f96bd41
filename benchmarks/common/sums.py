"""Sums of 100 clients with noise for a stated epsilon, and what is left of them for who knows all records but some.

The clients hold ten records each; only the sum of all is seen. It is what one client with all records would send, so
the training is run as that one client, with a sum divided by a public 1,000.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch

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
CONTROLS = ("mean_colour", "public_means", "class_mean")


def defended(case: str, strength) -> tuple[gl.protocols.Protocol, float | None]:
    """The protocol of the sum, and the noise multiplier."""
    how = CASES[case]
    plain = gl.protocols.ZerothOrder(**SCALARS) if "scalars" in case else gl.protocols.FedSGD()
    if strength == "none":
        return plain, None
    releases = how["rounds"] * (SCALARS["directions"] if "scalars" in case else 1)
    sigma = defenses.noise_multiplier(strength, 1.0, releases, DELTA)
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


def left(seen, model, target, known, noise, public):
    """What the messages say about the target, once all that is known is subtracted, with noise ``known`` times less."""
    rounds = []
    for number, entry in enumerate(seen.rounds):
        if noise is None:
            payload = entry.protocol.transmit(
                at(model, entry), target.images, target.labels, **drawn(entry.protocol, model)
            )
            rounds.append(replace(entry, payload=payload, client=None))
            continue
        plain, defense = entry.protocol.protocol, entry.protocol.defenses[0]
        rest = total(entry, at(model, entry), target) + noise[number] / known
        alone = replace(defense, sigma=defense.sigma / known, expected=len(target))
        numbers = (rest / len(target)).to(entry.payload.flat.dtype)
        named = numbers if plain.kind == "scalars" else gl.models.unflatten(numbers, entry.parameters)
        protocol = replace(entry.protocol, defense=alone)
        rounds.append(replace(entry, protocol=protocol, payload=plain.payload(named, model), client=None))
    told = {"rounds": tuple(rounds), "shape": tuple(target.images.shape), "labels": target.labels, "public": public}
    return replace(seen, **told, notes=())


def scored(result, target, public) -> dict:
    """PSNR of each record (of a table cells right, too), and of the best control: no message, no truth but a colour."""
    if isinstance(result, torch.Tensor):
        result = SimpleNamespace(images=result, labels=target.labels)
    score, row = gl.score(result, target, public=public), {}
    for name, blank in (("psnr", ""), ("cells", "cells ")):
        if (found := getattr(score, name)) is not None:
            cards = [getattr(score.controls[c], name) for c in CONTROLS if c in score.controls]
            row |= {
                blank + "found": found.tolist(),
                blank + "blank": torch.stack(cards).nan_to_num(-99.0).amax(0).tolist(),
            }
    return row


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
