"""More small measurements for the claims page: sentences that chapters 7 to 11 deal with, several seeds each.

Each function makes the rows of one measurement with one seed. Rows that are in the record already are kept.

    python benchmarks/claims_chapters.py [--only features depth ...] [--again depth] [--seeds 3]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    claims_chapters_cpu: python benchmarks/claims_chapters.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from common.sentences import FED, Measures, attack, collector, digits, main

import glutils as gl
from glutils.attacks.closed_form.fgla import separate_features
from glutils.priors.latent import untrained

CLASSES = 1000
"""Of the network whose features are separated: its last layer has to have more entries than top-k leaves."""
MEASURES: Measures = {}
measure = collector(MEASURES)


def photos(count: int, seed: int, size: int = 12):
    """Private photographs of different classes."""
    return gl.data.sample("photos", count=count, size=size, seed=seed, distinct=True, device="cpu")


def small(batch, seed: int, **how):
    """A small ReLU network."""
    return gl.models.build("convnet", batch, seed=seed, **{"channels": (8, 16), "hidden": 64} | how)


@measure
def features(seed: int) -> Iterator[dict]:
    """FGLA's separation: cosine with the true features, of the whole gradient and of its 0.8 % largest entries."""
    batch = gl.data.sample("photos", count=8, size=16, seed=seed, device="cpu")
    labels = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(seed))[: len(batch)]
    batch = dataclasses.replace(batch, labels=labels, classes=tuple(map(str, range(CLASSES))))
    model = gl.models.build("convnet", batch, seed=seed)
    name, _ = gl.models.last_linear(model)
    truth = gl.decoder.features(model, batch.images)
    ways = {"whole": FED} | {
        f"top-k, {scope}": gl.defenses.Defended(FED, gl.defenses.get("topk", keep=0.008, scope=scope))
        for scope in ("global", "tensor")
    }
    for case, protocol in ways.items():
        payload = protocol.transmit(model, batch.images, batch.labels)
        found = separate_features(payload[f"{name}.weight"], payload[f"{name}.bias"], batch.labels)
        cosine = torch.nn.functional.cosine_similarity(found - found.mean(0), (truth - truth.mean(0)).to(found))
        yield {"case": case, "cosine": float(cosine.mean())}
    twice = dataclasses.replace(batch, labels=torch.cat([labels[:1], labels[:-1]]))
    payload = FED.transmit(model, twice.images, twice.labels)
    try:
        separate_features(payload[f"{name}.weight"], payload[f"{name}.bias"], twice.labels)
        yield {"case": "a repeated label", "refusals": 0.0}
    except ValueError:
        yield {"case": "a repeated label", "refusals": 1.0}


@measure
def unpooled(seed: int) -> Iterator[dict]:
    """FGLA and IG on four photographs, behind a last layer that reads 128 numbers, or the whole feature map."""
    batch = photos(4, seed, 16)
    public = gl.data.public("photos", count=256, size=16, seed=seed, device="cpu")
    for case, hidden in (("128 numbers", 128), ("whole map", None)):
        model = gl.models.build("convnet", batch, seed=seed, hidden=hidden)
        decoder = gl.decoder.train(model, public, seed=seed, progress=False).decoder
        row = attack("fgla", model, batch, seed=seed, decoder=decoder)
        yield {"case": case, "attack": "fgla"} | row
        row = attack("ig", model, batch, seed=seed, iterations=300, progress=False)
        yield {"case": case, "attack": "ig"} | row


@measure
def magnitude(seed: int) -> Iterator[dict]:
    """DLG with the cosine, without and with a penalty on the gradient's length."""
    batch = digits(1, seed)
    model = gl.models.build("lenet", batch, seed=seed)
    for weight in (0.0, 0.01, 0.1, 1.0):
        how = {"iterations": 600, "progress": False, "magnitude": weight}
        yield {"case": weight} | attack("dlg_cosine", model, batch, knows=(), seed=seed, **how)


@measure
def depth(seed: int) -> Iterator[dict]:
    """IG through more and more layers of the same width, on the same photograph."""
    batch = photos(1, seed)
    for layers in (1, 2, 4, 8):
        model = gl.models.build("mlp", batch, seed=seed, hidden=(128,) * layers, activation="relu")
        yield {"case": layers} | attack("ig", model, batch, seed=seed, iterations=200, progress=False)


@measure
def batches(seed: int) -> Iterator[dict]:
    """IG, GIAS and IGIMS on four photographs at once: labels told, and two of the four told wrongly."""
    batch = photos(4, seed)
    model, public = small(batch, seed), gl.data.public("photos", count=200, size=12, seed=seed, device="cpu")
    prior = gl.latent.GLO.fit(public, 32, steps=400, seed=seed, progress=False)
    wrong = batch.labels.clone()
    wrong[:2] = wrong[:2].flip(0)
    mislead = {"labels told": None, "two labels exchanged": lambda seen: dataclasses.replace(seen, labels=wrong)}
    for case, transform in mislead.items():
        for name in ("ig", "gias", "igims"):
            how = {"iterations": 150, "progress": False} | ({} if name == "ig" else {"prior": prior})
            row = attack(name, model, batch, seed=seed, transform=transform, **how)
            yield {"case": case, "attack": name} | row


@measure
def raw_generator(seed: int) -> Iterator[dict]:
    """GGL and GIAS with a generator of random weights, on one photograph."""
    batch = photos(1, seed)
    model, prior = small(batch, seed), untrained(tuple(batch.shape), 32, seed=seed)
    for name, iterations in (("ggl", 600), ("gias", 200)):
        how = {"iterations": iterations, "progress": False, "prior": prior}
        yield {"case": name} | attack(name, model, batch, seed=seed, **how)


@measure
def starts(seed: int) -> Iterator[dict]:
    """DLG's L-BFGS from the paper's normal start and from a uniform one, one try each, on one digit."""
    from glutils.attacks.matching import dlg

    batch, original = digits(1, seed), dlg.normal_start
    model = gl.models.build("lenet", batch, seed=seed)

    def uniform(seen, generator, dtype=torch.float32):
        return (4 * (torch.rand(seen.shape, generator=generator) - 0.5)).to(dtype)  # the attack scales by 1/4 about 1/2

    for case, start in (("normal", original), ("uniform", uniform)):
        dlg.normal_start = start
        try:
            how = {"iterations": 40, "restarts": 1, "progress": False}
            yield {"case": case} | attack("dlg", model, batch, knows=(), seed=seed, **how)
        finally:
            dlg.normal_start = original


@measure
def small_client(seed: int) -> Iterator[dict]:
    """DLF on four photographs of a client with an MLP: two epochs of batches of two."""
    batch = photos(4, seed)
    model = gl.models.build("mlp", batch, seed=seed, hidden=(128,), activation="relu")
    for lr in (0.004, 0.1):
        protocol = gl.protocols.FedAvg(epochs=2, batch_size=2, lr=lr)
        yield {"case": lr} | attack("dlf", model, batch, protocol, seed=seed, iterations=150, progress=False)


@measure
def uneven(seed: int) -> Iterator[dict]:
    """IG on the gradient of four photographs: one class, as of a client with uneven data, or four classes."""
    one = gl.data.sample("photos", count=4, size=12, seed=seed, classes=[seed % 7], device="cpu")
    for case, batch in (("one class", one), ("four classes", photos(4, seed))):
        model = gl.models.build("convnet", batch, seed=seed)
        yield {"case": case} | attack("ig", model, batch, seed=seed, iterations=200, progress=False)


if __name__ == "__main__":
    main(MEASURES, "claims_chapters_cpu", __doc__)
