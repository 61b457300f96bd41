"""Label rules on larger batches and on many classes: 16, 64 and 256 images, nine classes and a hundred.

Photographs behind an untrained convolutional network, and behind one that was trained on half of the public images.
*Nine classes*: which photograph a crop is from. *A hundred classes*: labels that say nothing about an image, public
ones included; nothing is trained on these. Half of a batch is in one class, so labels repeat. Beside every rule the
same rule on a gradient with its entries permuted, and a random guess. Count accuracy is the share of images whose label
is accounted for. A rule that refuses, refuses; rows that are in the record already are kept.

    python benchmarks/label_batches.py [--seeds 5]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    label_batches_cpu: python benchmarks/label_batches.py
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from common import measure, seeds

import glutils as gl

SIZES, SIZE, MANY, STEPS, RATE = (16, 64, 256), 16, 100, 60, 0.2
FED = gl.protocols.FedSGD()
RULES = ("zero_shot", "ilrg", "alr", "rlu", "geng", "llg_plus", "llg_star", "llg", "bias_corrected")
CASES = (("untrained", 9), ("trained", 9), ("untrained", MANY))


def labelled(batch: gl.data.Batch, labels: torch.Tensor, classes: int) -> gl.data.Batch:
    """The same images under other labels."""
    return dataclasses.replace(batch, labels=labels, classes=tuple(map(str, range(classes))))


def uneven(classes: int, images: int, seed: int) -> gl.data.Batch:
    """Half of the images in one class, the others in any of the rest."""
    generator = torch.Generator().manual_seed(seed)
    main = int(torch.randint(classes, (1,), generator=generator))
    rest = torch.randint(classes - 1, (images - images // 2,), generator=generator)
    labels = torch.cat((torch.full((images // 2,), main), rest + (rest >= main)))
    where = {"size": SIZE, "seed": seed, "device": "cpu"}
    if classes == MANY:
        return labelled(gl.data.sample("photos", count=images, distinct=False, **where), labels, classes)
    counts = torch.bincount(labels).tolist()
    parts = [gl.data.sample("photos", count=n, classes=[c], **where) for c, n in enumerate(counts) if n]
    pixels, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return dataclasses.replace(parts[0], images=pixels, labels=labels)


@functools.cache
def client(state: str, classes: int, images: int, seed: int) -> tuple[gl.data.Batch, gl.Observation, float]:
    """A batch, what the server sees of it, and how often its network is right about public images."""
    batch = uneven(classes, images, seed)
    public = gl.data.public("photos", count=800, size=SIZE, seed=seed, device="cpu")
    if classes == MANY:
        public = labelled(public, torch.arange(len(public)) % classes, classes)
    model = gl.models.build("convnet", batch, seed=seed)
    if state == "trained":
        pool, params = public[:400], gl.models.parameters(model)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(STEPS):
            part = pool[torch.randperm(len(pool), generator=generator)[:64].tolist()]
            slope = gl.models.gradient(model, params, part.images, part.labels)
            params = {name: p - RATE * slope[name] for name, p in params.items()}
        gl.federation.load(model, params)
    known = public[400:]
    with torch.no_grad():
        right = float((model(known.images).argmax(1) == known.labels).float().mean())
    sent = FED.transmit(model, batch.images, batch.labels)
    return batch, gl.observe(model, FED, sent, batch, knows={"public"}, public=known), right


def count(state: str, classes: int, images: int, rule: str, seed: int) -> dict:
    """One rule on one gradient, as it is and permuted."""
    batch, seen, right = client(state, classes, images, seed)
    truth = torch.bincount(batch.labels, minlength=classes)
    guess = torch.randint(classes, (images,), generator=torch.Generator().manual_seed(seed + 1))
    about = {"accuracy": right, "repeated": int((truth - 1).clamp_min(0).sum())}
    about["random guess"] = gl.metrics.count_accuracy(torch.bincount(guess, minlength=classes), batch)
    for name, view in {"count": seen, "permuted": gl.tamper(seen, "permuted", seed=seed)}.items():
        found = gl.labels.infer(rule, view)
        about[name] = gl.metrics.count_accuracy(found, batch)
        if name == "count":
            about["set"] = gl.metrics.existence_f1(found, batch)
    return about


def main() -> None:
    """Measure what is missing."""
    cells = [
        {"state": state, "classes": classes, "images": images, "rule": rule, "seed": seed}
        for seed in seeds(__doc__, 5)
        for state, classes in CASES
        for images in SIZES
        for rule in RULES
    ]
    measure("label_batches_cpu", cells, count, {"size": SIZE, "steps": STEPS, "rate": RATE, "public": 400})


if __name__ == "__main__":
    main()
