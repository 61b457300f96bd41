"""One client's image out of a secure sum: fishing, LOKI, and a model that silences all clients but one.

Ten clients hold one photograph of 16x16 pixels each. The masks are real, and come off in the sum alone. Fishing tries
class after class; LOKI reads every client; the silencing model reads the first. Cases: masks that are bound to nothing,
masks that are bound to the model a client received, and, as controls, the sum with its entries permuted and the same
reading of the model that an honest server sends. Rows that are in the record already are kept.

    python benchmarks/malicious_sums.py [--seeds 20]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    malicious_sums_cpu: python benchmarks/malicious_sums.py
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from common import measure, seeds

import glutils as gl
from glutils.attacks.malicious import inconsistency

CLIENTS, SIZE, BINS = 10, 16, 8
FED = gl.protocols.FedSGD()
RING = gl.defenses.FixedPoint(step=2.0**-36, bits=64)
ATTACKS = ("fishing", "LOKI", "silenced clients")
CASES = ("bound to nothing", "bound to the model", "permuted", "honest model")


@functools.cache
def cohort(seed: int) -> tuple[gl.data.Batch, gl.data.Batch]:
    """The clients' photographs, and public ones."""
    photos = gl.data.sample("photos", size=SIZE, count=CLIENTS, seed=seed, distinct=False, device="cpu")
    return photos, gl.data.public(photos, count=128, seed=seed)


def network(name: str, photos: gl.data.Batch, seed: int) -> torch.nn.Module:
    """What an honest server would send."""
    return gl.models.build(name, photos, seed=seed, **({"activation": "relu"} if name == "mlp" else {}))


def summed(sent: Sequence[torch.nn.Module], photos: gl.data.Batch, seed: int, bound: bool) -> dict[str, torch.Tensor]:
    """The sum of all gradients, as the masks leave it."""
    parts = [dict(FED.transmit(model, one.images, one.labels)) for model, one in zip(sent, photos, strict=True)]
    received = [inconsistency.digest(model) for model in sent] if bound else None
    flat = [gl.models.flatten(part) for part in parts]
    total = gl.defenses.secure_sum(flat, coding=RING, received=received, seed=seed).total
    return gl.models.unflatten(total.float(), parts[0])


def look(seen: gl.Observation, case: str, seed: int) -> gl.Observation:
    """The observation, spoiled where the case asks for it."""
    return gl.tamper(seen, "permuted", seed=seed) if case == "permuted" else seen


def fished(seed: int, case: str) -> dict:
    """One round for each class that somebody has: the image that spoke, beside the nearest of its class."""
    photos = cohort(seed)[0]
    plain, labels = network("mlp", photos, seed), photos.labels.tolist()
    psnr, alone, noted = [], [], []
    for target in sorted(set(labels)):
        bait = plain if case == "honest model" else gl.attacks.fish(plain, target)
        total = summed([bait] * CLIENTS, photos, seed, case == "bound to the model")
        total = {name: part / CLIENTS for name, part in total.items()}
        if case == "honest model":  # fishing refuses it, so the division that it ends with stands in
            image, noted_here = gl.attack("fc_inversion", gl.observe(bait, FED, total, photos)).images[:1], True
        else:
            found = gl.attack("fishing", look(gl.observe(bait, FED, total, photos), case, seed))
            image, noted_here = found.images[:1], any("mixture" in note for note in found.notes)
        own = photos.images[[i for i, label in enumerate(labels) if label == target]]
        psnr.append(float(gl.metrics.psnr(image.float().expand_as(own), own).max()))
        alone.append(len(own) == 1)
        noted.append(noted_here)
    return {"psnr": psnr, "alone": alone, "noted": noted}


def loki(seed: int, case: str) -> dict:
    """All clients' images, in the order of clients, as the attack says whose they are."""
    photos, public = cohort(seed)
    plain = network("convnet", photos, seed)
    sent = gl.attacks.loki_models(plain, public, CLIENTS, bins=BINS, seed=seed)
    if case == "honest model":  # the block of all clients alike, which RTF reads
        sent = [gl.imprint.imprint(plain, public, bins=BINS, seed=seed)] * CLIENTS
    total = summed(sent, photos, seed, case == "bound to the model")
    seen = gl.observe(sent[0], FED, {name: part / CLIENTS for name, part in total.items()}, photos)
    images = gl.attack("rtf" if case == "honest model" else "loki", look(seen, case, seed), seed=seed).images.float()
    if case == "honest model":
        images = gl.metrics.pixels.nearest(images, photos.images)
    found = torch.zeros_like(photos.images)
    found[: len(images)] = images[:CLIENTS]
    return {"psnr": gl.metrics.psnr(found, photos.images).tolist()}


def silenced(seed: int, case: str) -> dict:
    """The first client's image, by one division of what is left of the first layer."""
    photos, public = cohort(seed)
    plain = network("mlp", photos, seed)
    quiet = plain if case == "honest model" else inconsistency.silenced(plain, public)
    total = summed([plain] + [quiet] * (CLIENTS - 1), photos, seed, case == "bound to the model")
    mean = {name: part / CLIENTS for name, part in total.items()}
    left = look(gl.observe(plain, FED, mean, photos), case, seed).payload
    name = gl.models.layers_with_parameters(plain, photos.images.shape)[0][0]
    weight, bias = left[f"{name}.weight"], left[f"{name}.bias"]
    row = int(bias.abs().argmax())
    image = (weight[row] / bias[row]).view(1, *photos.images.shape[1:])
    return {"psnr": gl.metrics.psnr(image.float(), photos.images[:1]).tolist()}


def read(attack: str, case: str, seed: int) -> dict:
    """One sum, one attack."""
    photos = cohort(seed)[0]
    flat = photos.images.mean((2, 3), keepdim=True).expand_as(photos.images)
    row = {"fishing": fished, "LOKI": loki, "silenced clients": silenced}[attack](seed, case)
    row["psnr"] = [min(300.0, value) for value in row["psnr"]]
    return row | {"best": max(row["psnr"]), "mean colour": gl.metrics.psnr(flat, photos.images).tolist()}


def main() -> None:
    """Measure what is missing."""
    cells = [
        {"attack": attack, "case": case, "seed": seed}
        for seed in seeds(__doc__, 20)
        for attack in ATTACKS
        for case in CASES
    ]
    measure("malicious_sums_cpu", cells, read, {"clients": CLIENTS, "size": SIZE, "bins": BINS})


if __name__ == "__main__":
    main()
