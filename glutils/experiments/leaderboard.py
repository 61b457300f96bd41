"""All attacks under equal conditions: the same images, the same update, the same knowledge, the same budget."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .. import _validate, attacks, data, labels, metrics, models, observation
from ..attacks.base import ATTACKS
from ..attacks.malicious import imprint
from ..attacks.matching.objective import matching, normal_start
from ..observation.transcripts import Round
from ..protocols import FedSGD
from ..runs import intervals, records
from . import conditions

TOLD = ("labels", "public")
"""What every attack is told, whether it uses it or not. Equal conditions are equal knowledge."""
PUBLIC = 256
"""Public images, of the same kind as the private ones and without a pixel in common with them."""
LR, PART = 2e-3, 32
"""Step size of Adam and images in a step, where a network is trained."""


@dataclass(frozen=True)
class Arena:
    """Where attacks meet: one network, one kind of update, one size of batch.

    Attributes:
        model: the network's name. A network decides which attacks stand a chance.
        network: its options.
        update: one of :data:`glutils.experiments.conditions.UPDATES`.
        images: in a batch.
        told: beyond the protocol, see :func:`glutils.observe`.
        imprinted: whether a malicious server put RTF's block in front.
        directions: scalars per unknown pixel (a float), or their number (an integer); only where scalars are sent.
        trained: steps that the network has learnt on the public images, see :func:`train`.
        epochs: of local training, where its outcome is sent; several are shuffled, in orders that the client alone has.
        rule: by which labels that are not told are read from the message, for every attack alike; right or wrong.
    """

    model: str
    update: str = "gradient"
    images: int = 1
    network: Mapping[str, Any] = field(default_factory=dict)
    told: tuple[str, ...] = TOLD
    imprinted: bool = False
    directions: float | int | None = None
    trained: int = 0
    epochs: int = 1
    rule: str | None = None


RELU_MLP = {"hidden": (64,), "activation": "relu"}
ARENAS: dict[str, Arena] = {
    "smooth network": Arena("lenet"),
    "ReLU network": Arena("convnet"),
    "ReLU network, 4 images": Arena("convnet", images=4),
    "fully connected network": Arena("mlp", network=RELU_MLP),
    "fully connected network, 4 images": Arena("mlp", network=RELU_MLP, images=4),
    "batch norm network": Arena("resnet8", told=(*TOLD, "batch_stats")),
    "changed network, 4 images": Arena("convnet", images=4, imprinted=True),
    "two local steps, 4 images": Arena("convnet", update="delta", images=4),
    "two local steps, averaged": Arena("convnet", update="average", images=4),
    "smooth network, scalars": Arena("lenet", update="scalars", directions=1.25),
    "smooth network, estimate": Arena("lenet", update="estimate", directions=1.25),
    "smooth network, short estimate": Arena("lenet", update="short estimate", directions=1.25),
    "ReLU network, estimate": Arena("convnet", update="estimate", directions=1.25),
    "ReLU network, short estimate": Arena("convnet", update="short estimate", directions=1.25),
    "smooth network, 12 scalars": Arena("lenet", update="scalars", directions=12),
    "smooth network, estimate from 12": Arena("lenet", update="estimate", directions=12),
    "smooth network, short estimate from 12": Arena("lenet", update="short estimate", directions=12),
    "unpooled features": Arena("convnet", network={"hidden": None}),
    "trained network": Arena("convnet", trained=100),
    "vision transformer": Arena("vit"),
    "ReLU network, 4 images, labels unknown": Arena("convnet", images=4, told=("public",), rule="alr"),
    "two shuffled epochs, 4 images": Arena("convnet", update="delta", images=4, epochs=2),
    "ReLU network, 8 images": Arena("convnet", images=8),
}
"""The arenas of the book."""


def able(arena: Arena) -> list[str]:
    """Attacks on images that read what is sent in an arena. Some refuse the network or the batch when they see it."""
    kind = "gradient" if arena.update in conditions.SENT else arena.update
    cards = {name: ATTACKS.get(name) for name in ATTACKS.names()}
    return [name for name, card in cards.items() if kind in card.kinds and "images" in card.records]


def private(
    arena: Arena,
    *,
    seed: int,
    dataset: str = "photos",
    size: int = 16,
    content: float | int | None = None,
    device: Any = None,
) -> data.Batch:
    """The private batch of an arena: the same for every attack. ``content``: see :func:`glutils.data.sample`."""
    how = {"count": arena.images, "size": size, "seed": seed, "distinct": True, "content": content, "device": device}
    return data.sample(dataset, **how)


def observed(arena: Arena, batch: data.Batch, *, seed: int) -> observation.Observation:
    """What every attack in the arena holds."""
    network = models.build(arena.model, batch, seed=seed, **arena.network)
    public = data.public(batch, count=PUBLIC, seed=seed)
    train(network, public, steps=arena.trained, seed=seed)
    if arena.imprinted:
        network = imprint.imprint(network, public, seed=seed)
    count = arena.directions
    if isinstance(count, float):
        count = int(count * batch.images.numel())
    protocol = conditions.protocol_of(arena.update, batch, directions=count, epochs=arena.epochs, seed=seed)
    with torch.no_grad():
        payload = protocol.transmit(network, batch.images, batch.labels)
    seen = observation.observe(network, protocol, payload, batch, knows=arena.told, public=public)
    if arena.update in conditions.SENT:
        seen = observation.as_gradient(seen, unbiased=arena.update != "short estimate")
    return seen if arena.rule is None else replace(seen, labels=labels.infer(arena.rule, seen).labels)


def train(network: nn.Module, public: data.Batch, *, steps: int, seed: int = 0, part: int = PART) -> None:
    """Let a network learn public images, in place: steps of Adam on cross entropy, of ``part`` images each."""
    optimiser, draw = torch.optim.Adam(network.parameters(), lr=LR), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        drawn = torch.randint(len(public), (part,), generator=draw).to(public.labels.device)
        optimiser.zero_grad()
        F.cross_entropy(network(public.images[drawn]), public.labels[drawn]).backward()
        optimiser.step()
    network.zero_grad()


def learnt(network: nn.Module, batch: data.Batch, *, seed: int = 0) -> dict[str, float]:
    """Loss and accuracy of a network on as many public images as it was trained on, none of which it saw; and the loss
    of the private batch."""
    drawn = data.public(batch, count=2 * PUBLIC, seed=seed)  # a longer draw begins like a shorter one
    with torch.no_grad():
        logits, own = network(drawn.images[PUBLIC:]), network(batch.images)
    found = {"public loss": float(F.cross_entropy(logits, drawn.labels[PUBLIC:]))}
    found |= {"public accuracy": float((logits.argmax(1) == drawn.labels[PUBLIC:]).double().mean())}
    return found | {"private loss": float(F.cross_entropy(own, batch.labels))}


def trial(
    name: str,
    arena: Arena,
    *,
    seed: int = 0,
    evaluations: int = 400,
    dataset: str = "photos",
    size: int = 16,
    content: float | int | None = None,
    misled: str | None = "wrong_gradient",
    device: Any = None,
    learned: dict[Any, dict[str, Any]] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """One attack on one batch: a row per image, as of :func:`glutils.runs.rows_from`, with what it cost.

    Args:
        name: of the attack.
        arena: see :data:`ARENAS`.
        seed: of images, weights, directions, public images and of the attack.
        evaluations: the budget: how often the attacker may compute what the client sends, for images of its own, with
            the way back to the pixels; see :class:`glutils.solvers.Tally`. Attacks that solve equations, or search for
            something else than images, have settings of their own.
        dataset, size, content: of the images, see :func:`glutils.data.sample`.
        misled: how the update is spoiled for the negative control (:func:`glutils.tamper`), or None.
        device: where to compute.
        learned: what attacks learned from public data so far; filled, and used again by later trials of the same size,
            of anything but images in the same arena only.
        options: of the attack, beyond the budget.

    Returns:
        Rows with the further columns ``seed``, ``evaluations`` and ``pullbacks`` (as the attack counted them; None
        where it does not), and ``ratio`` (the attack's seconds over those of one evaluation of a single gradient, taken
        beside it; without what was learned before); in an arena with a trained network also what :func:`learnt` says.
        One row with ``refused``, the reason, if the attack declines; a refusal is a result.
    """
    ATTACKS.get(name)
    evaluations = _validate.integer("evaluations", evaluations, at_least=1)
    batch = private(arena, seed=seed, dataset=dataset, size=size, content=content, device=device)
    seen = observed(arena, batch, seed=seed)
    own, learned = conditions.of(name), {} if learned is None else learned
    about = None if own.fits_any else repr(arena)  # of some attacks also about the batch and the protocol
    key = (own.learn, about, seed)
    before = evaluation_seconds(seen)
    try:
        if own.learn is not None and key not in learned:
            learned[key] = own.learn(seen, seed)
        options = learned.get(key, {}) | ({} if own.budget is None else own.budget(evaluations)) | options
        if "progress" in conditions.options_of(name):
            options["progress"] = False
        result = attacks.attack(name, seen, seed=seed, **options)
    except ValueError as error:
        return [{"attack": name, "seed": seed, "refused": str(error)}]
    each = statistics.median([before, evaluation_seconds(seen)])
    controls = {}
    if misled is not None:
        with contextlib.suppress(ValueError):  # a closed form may find nothing in noise that it could invert
            controls["misled"] = attacks.attack(name, observation.tamper(seen, misled, seed=seed), seed=seed, **options)
    score = metrics.score(result, batch, public=seen.public, controls=controls)
    cost = {"evaluations": result.evaluations, "pullbacks": result.pullbacks}
    cost |= {"ratio": result.seconds / each, "notes": list(result.notes)}
    cost |= learnt(seen.model, batch, seed=seed) if arena.trained else {}
    return [row | cost for row in records.rows_from(result, score, seed=seed)]


def evaluation_seconds(seen: observation.Observation, repeats: int = 7) -> float:
    """Median seconds of one evaluation: the gradient at dummy images, and the way back to the pixels."""
    zeros = torch.zeros(seen.shape[0], dtype=torch.int64, device=next(seen.model.parameters()).device)
    payload = models.gradient(seen.model, None, torch.zeros(seen.shape, device=zeros.device), zeros)
    message = Round(FedSGD(), payload)
    objective = matching(replace(seen, rounds=(message,)), lambda variables: (variables[0], zeros))
    start = normal_start(seen, torch.Generator().manual_seed(0)).requires_grad_()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        float(objective((start,))[1][0].sum())  # a GPU is waited for
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def by_attack(rows: Iterable[Mapping[str, Any]], key: str = "psnr") -> dict[str, list[float]]:
    """Attack to one number per seed: the mean over a batch's images (PSNR capped at 100 dB), refusals left out."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if "refused" not in row:
            value = min(row[key], metrics.pixels.CAP) if key == "psnr" else float(row[key])
            found.setdefault(row["attack"], {}).setdefault(row["seed"], []).append(value)
    return {name: [statistics.mean(values) for values in seeds.values()] for name, seeds in found.items()}


def margins(rows: Iterable[Mapping[str, Any]]) -> list[float]:
    """Of one attack's rows, seed by seed: mean PSNR of its images minus that of the best of their own controls."""
    seeds: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        seeds.setdefault(row["seed"], []).append(row)
    found = []
    for own in seeds.values():
        names = set.intersection(*(set(row["controls"]) for row in own))
        best = max(statistics.mean(min(row["controls"][n]["psnr"], metrics.pixels.CAP) for row in own) for n in names)
        found.append(statistics.mean(min(row["psnr"], metrics.pixels.CAP) for row in own) - best)
    return found


def standings(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One arena's rows summed up, best attack first; refusals last, with their reason.

    PSNR: median, lowest and highest over seeds of a batch's mean. ``misled``: the median of the negative control where
    it ran. ``margin``: mean over seeds of how far a batch is above the best of its own controls, with ``from`` and
    ``to``, the ends of its 95 % interval (Student's t, paired; infinite from one seed). ``beats``: whether it is above
    them for every seed. ``evaluations``: None where a row's were not counted.
    """
    rows = list(rows)
    psnr, found = by_attack(rows), []
    for name, values in psnr.items():
        own = [row for row in rows if row["attack"] == name and "refused" not in row]
        controls = {
            control: statistics.median(min(row["controls"][control]["psnr"], metrics.pixels.CAP) for row in seen)
            for control in dict.fromkeys(control for row in own for control in row["controls"])
            if (seen := [row for row in own if control in row["controls"]])
        }
        middle = statistics.median(values)
        line = {"attack": name, "runs": len(values), "median": middle, "lowest": min(values), "highest": max(values)}
        line |= {"SSIM": statistics.median(by_attack(own, "ssim")[name])}
        line |= {"labels": statistics.mean(float(row["label_right"]) for row in own)}
        line |= {"mean colour": controls["mean_colour"], "misled": controls.get("misled")}
        apart = margins(own)
        margin = intervals.mean(apart)
        line |= {"beats": min(apart) > 0, "margin": margin.value, "from": margin.low, "to": margin.high}
        made = [row["evaluations"] for row in own]
        line |= {"evaluations": None if None in made else statistics.median(made)}
        line |= {"ratio": statistics.median(row["ratio"] for row in own)}
        found.append(line)
    found.sort(key=lambda line: -line["median"])
    refused = {row["attack"]: row["refused"] for row in rows if "refused" in row and row["attack"] not in psnr}
    return found + [{"attack": name, "runs": 0, "refused": why} for name, why in refused.items()]
