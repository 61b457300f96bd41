"""Records of the same kind that the auditor plants: what they send is known, and so is what an attack should find."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .. import _validate, models
from ..data import kinds
from ..data.batch import Batch
from ..observation import Observation
from ..protocols import Payload

COARSE = 4
"""Side of the random grids that made pictures are enlarged from."""


def stand_ins(seen: Observation, given: Batch | None, count: int, seed: int) -> tuple[list[Batch], str]:
    """``count`` batches of the shape of the private one, and in words where they are from.

    From the records ``given``, where there are enough for it: all different within a batch, the second batch without
    those of the first as long as they last. Else made: smooth random pictures (a coarse random grid, enlarged), normal
    random records of a table, or texts drawn from the model itself. Labels are drawn at random, or as told.

    Raises:
        TypeError, ValueError: records of another shape or with other classes; too few for one batch.
    """
    generator = torch.Generator().manual_seed(seed)
    size = seen.shape[0]
    if given is None:
        return [_made(seen, generator) for _ in range(count)], "made at random, because no stand_in was given"
    _validate.instance("stand_in", given, Batch)
    if given.shape != tuple(seen.shape[1:]) or (not seen.whole and len(given.classes) != seen.classes):
        raise ValueError(
            f"stand_in must hold records of shape {tuple(seen.shape[1:])} in {seen.classes} classes, got {given.shape} "
            f"in {len(given.classes)}"
        )
    if len(given) < size:
        raise ValueError(f"stand_in must hold at least the {size} records of one message, got {len(given)}")
    order = torch.randperm(len(given), generator=generator).tolist()
    chosen = [[order[(k * size + i) % len(order)] for i in range(size)] for k in range(count)]
    found = [given[rows].to(next(seen.model.parameters()).device) for rows in chosen]
    if seen.labels is not None and not seen.whole:
        found = [replace(batch, labels=seen.labels.clone()) for batch in found]
    return found, f"{len(given)} given by the auditor"


def _made(seen: Observation, generator: torch.Generator) -> Batch:
    device, names = next(seen.model.parameters()).device, tuple(map(str, range(seen.classes)))
    if seen.whole:
        return _texts(seen, generator, names)
    shape = tuple(seen.shape)
    if seen.record is kinds.TABLES:
        images = _table(seen, generator)
    else:
        coarse = [min(COARSE, side) for side in shape[2:]]
        grid = torch.rand(*shape[:2], *coarse, generator=generator)
        images = F.interpolate(grid, size=shape[2:], mode="bilinear", align_corners=True).clamp(0, 1)
    labels = seen.labels
    if labels is None:
        labels = torch.randint(seen.classes, shape[:1], generator=generator)
    batch = Batch(images.to(device), labels.to(device), names, "made at random", seen.columns)
    return batch


def _table(seen: Observation, generator: torch.Generator) -> torch.Tensor:
    """Normal numbers, and for every variable with levels one of them at random."""
    images = torch.randn(seen.shape, generator=generator)
    for group in () if seen.columns is None else seen.columns.groups:
        images[:, group] = F.one_hot(torch.randint(len(group), (len(images),), generator=generator), len(group)).float()
    return images


def _texts(seen: Observation, generator: torch.Generator, names: tuple[str, ...]) -> Batch:
    """Texts that the model itself would say, piece by piece, each drawn from its own probabilities."""
    count, length = seen.shape
    vocabulary = seen.vocabulary
    first = 0 if vocabulary is None or vocabulary.bos is None else vocabulary.bos
    device = next(seen.model.parameters()).device
    tokens = torch.full((count, length), first, dtype=torch.int64, device=device)
    params = models.parameters(seen.model)
    with torch.no_grad():
        for at in range(1, length):
            outputs = models.logits(seen.model, params, tokens)
            chance = outputs[:, at - 1].softmax(-1).double().cpu()
            tokens[:, at] = torch.multinomial(chance, 1, generator=generator)[:, 0].to(device)
    labels = tokens.clone()
    labels[:, 0] = _validate.IGNORED
    return Batch(tokens, labels, names if vocabulary is None else tuple(vocabulary.pieces), "", None, vocabulary)


def apart(batches: list[Batch]) -> list[Batch]:
    """The first batch, and those after it that have no record in common with any that was taken before."""
    found: list[Batch] = []
    for batch in batches:
        if not any(shares(batch, other) for other in found):
            found.append(batch)
    return found


def shares(one: Batch, other: Batch) -> bool:
    """Whether two batches have a record in common."""
    return any(bool(torch.equal(a, b)) for a in one.images for b in other.images)


def sent(seen: Observation, batch: Batch, seed: int = 0) -> Observation:
    """What the adversary would hold had the client had this batch: the same model, protocol, states and seeds."""
    generator = torch.Generator().manual_seed(seed)
    rounds, network = [], copy.deepcopy(seen.model)
    protocol: Any
    for turn, message in enumerate(seen.rounds):
        place(network, message.parameters)
        protocol = message.protocol
        if protocol.defenses:  # what a client draws in private is drawn anew
            protocol = replace(protocol, private=seed + turn)
        images, labels = batch.images, batch.labels
        if seen.local_batch is not None and seen.local_batch < len(images):
            rows = torch.randperm(len(images), generator=generator)[: seen.local_batch].to(images.device)
            images, labels = images[rows], labels[rows]
        payload = protocol.transmit(network, images, labels).detach()
        rounds.append(replace(message, payload=Payload(payload.kind, payload.content, message.payload.mode)))
    labels = None if seen.labels is None else batch.labels
    return replace(seen, rounds=tuple(rounds), labels=labels)


def place(model: nn.Module, parameters: models.Parameters | None) -> None:
    """Give the model these parameters, if there are any."""
    if parameters is None:
        return
    with torch.no_grad():
        for name, value in models.parameters(model).items():
            value.copy_(parameters[name])
