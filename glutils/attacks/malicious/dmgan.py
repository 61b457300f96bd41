"""DMGAN: Deep Models Under the GAN (Hitaj, Ateniese, Perez-Cruz, CCS 2017): a client that attacks the other clients.

The other attacks read what a client sends. This one sends: the adversary is a client who takes part in every round, so
it needs the clients and not an observation. It holds no image of the tracked class, and trains a generator of it::

    clients = gl.data.partition("digits", clients=5, seed=0)
    clients[0] = gl.attacks.without_class(clients[0], 3)                # the attacker has never seen a three
    result = gl.attacks.dmgan(clients, tracked=3, rounds=5, seed=0)
    result.images, result.history.frames                                # samples at the end, and after each round
    result.diagnostics["tracked, round 5"]                              # share that the global model calls a three

    # controls: no client has the class; the same federation with an honest client in the attacker's place
    nobody = gl.attacks.dmgan([gl.attacks.without_class(c, 3) for c in clients], tracked=3, rounds=5, seed=0)
    model = gl.models.build("convnet", gl.attacks.with_extra_class(clients[0]), seed=0)
    honest = gl.federation.train(gl.attacks.dmgan_protocol(), model, clients, rounds=5).accuracy
    result.diagnostics["accuracy, round 5"], float(honest[-1])          # what the attack costs the federation
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ... import _validate, data, federation, models
from ...data.batch import Batch
from ...observation.transcripts import Round, move
from ...protocols import FedAvg
from ...solvers import Trace, search
from ..base import Card, Reconstruction, reconstruction, register
from .dmgan_client import DmganClient

OPTIMISERS = ("adam", "sgd")


def with_extra_class(batch: Batch) -> Batch:
    """The same images, with one more class of which there are none: a model built from it has C + 1 outputs.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> len(gl.attacks.with_extra_class(batch).classes) - len(batch.classes)
        1
    """
    return Batch(batch.images, batch.labels, (*batch.classes, "extra"), batch.source)


def without_class(batch: Batch, label: int) -> Batch:
    """The images that are not of class ``label``; ``ValueError`` if there are no others.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> label = int(batch.labels[0])
        >>> len(gl.attacks.without_class(batch, label))
        1
    """
    _validate.instance("batch", batch, Batch)
    label = _validate.integer("label", label, at_least=0, at_most=len(batch.classes) - 1)
    kept = (batch.labels != label).nonzero()[:, 0].tolist()
    if not kept:
        raise ValueError(f"batch must hold an image of another class than {label}, got {len(batch)} of class {label}")
    return batch[kept]


def dmgan_protocol() -> FedAvg:
    """What the clients run unless told: two local epochs, batches of ten, step size 0.1 (the survey's).

    Example:
        >>> import glutils as gl
        >>> gl.attacks.dmgan_protocol().epochs
        2
    """
    return FedAvg(epochs=2, batch_size=10, lr=0.1)


@register(
    "dmgan",
    Card(
        title="DMGAN",
        kinds=(),
        takes="clients",
        simulates="nothing: takes part in FedAvg",
        variable="generator weights",
        distance="cross entropy to the tracked class",
        prior="generator, judged by old models too (ours)",
        solver="Adam (GAN)",
        labels="chosen",
        source="hitaj2017dmgan",
        adversary="malicious client",
    ),
)
def dmgan(
    clients: Sequence[Batch],
    *,
    tracked: int,
    attacker: int = 0,
    rounds: int = 5,
    model: str | nn.Module = "convnet",
    protocol: FedAvg | None = None,
    fakes: str | int = "extra",
    epochs: int = 5,
    lr: float | int = 1e-3,
    optimiser: str = "adam",
    discriminator_lr: float | int = 1e-3,
    memory: int = 5,
    anchor: float | int = 2.0,
    variation: float | int = 1.0,
    diversity: float | int = 0.5,
    samples: int = 16,
    test: Batch | None = None,
    seed: int = 0,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Train a generator of the tracked class inside a federation, against the global model as discriminator.

    In every round the attacker receives the global model, whose knowledge of the tracked class comes from the others.
    ``epochs`` times over its own data, batch by batch: one step of the generator towards the tracked class, then one
    step of its copy of the global model on the batch and as many generated images, labelled ``fakes``. Then it trains
    on its own data and uploads the difference like everyone (Hitaj et al. 2017, section 5; survey, algorithm 3). The
    model that comes back in the next round contains the fakes' label, and what the others do against it.

    That alone ends in one pattern that the global model takes for the class and hardly anybody else does. Against it
    stand four things that the attacker has: older global models, and its own images, of other classes
    (``anchor``, ``variation``, ``diversity``). ``memory=anchor=variation=diversity=0`` takes them away.
    They need a federation that has learned the class: after five rounds with 100 digits a client instead of 200 the
    global model is right in 0.5 to 0.8 of cases, and most runs fail. The attacker's own rate does
    not always show it.

    Args:
        clients: their data, as for ``gl.federation.train``. The attacker's must hold no image of the tracked class,
            otherwise the result proves nothing (:func:`without_class`); the others' are read by the others only.
        tracked: the class to steal.
        attacker: which of the clients attacks.
        rounds: 0 or more; 0 shows the untrained generator.
        model: name of a network, or a network: with one output more than there are classes for ``fakes="extra"``
            (``gl.models.build(name, gl.attacks.with_extra_class(batch))``). It is not changed.
        protocol: what the clients run; default :func:`dmgan_protocol`.
        fakes: ``"extra"``: generated images are labelled as a class that nobody has (the survey's variant; it changes
            the architecture). A class number: as that class, of which the attacker has images (the paper's own).
        epochs: of the game between generator and discriminator in a round, 1 or more.
        lr: step size of the generator. optimiser: its own, ``"adam"`` (betas 0.5 and 0.999) or ``"sgd"``.
        discriminator_lr: step size of the discriminator's steps on images and fakes, plain SGD.
        memory: so many of the latest global models, as received, judge the generated images beside the discriminator.
        anchor: weight of the generated images' mean squared Mahalanobis distance from the attacker's images, in units
            of what these have themselves; against patterns that no image shows.
        variation: share of the deviation of a random own image from its class mean that is added to each generated
            image before it is judged; against patterns that hold for one image only.
        diversity: weight of how far the distance of two generated images falls short of the distance of two own images
            of one class; against a generator of one image.
        samples: how many images to report, 1 or more.
        test: held-out data for the global model's accuracy; default: public data of the clients' set.
        seed: of the network built from a name, the generator, its latents, and the order of the attacker's images.
        seconds: time budget; the game ends with the round in which it runs out.
        progress: as everywhere.

    Returns:
        images (samples, C, H, W) in [0, 1], all labelled ``tracked``: class representatives, not anybody's images.
        history: before the first round and after each, the cross entropy of the samples to the tracked class under the
        global model of that moment (which the attacker receives next), and the samples. diagnostics:
        "tracked, round t": share of the samples that this model assigns to the tracked class; "accuracy, round t": its
        test accuracy;
        "spread": mean standard deviation of a pixel over the samples (0: the generator makes one image only). That the
        global model takes the samples for the class does not mean that another classifier does: measure with one that
        the federation never saw.

    Raises:
        TypeError, ValueError: before the first round.

    Deviations: ``memory``, ``anchor``, ``variation`` and ``diversity`` are this book's. Adam for the generator (the
    survey's SGD at 1e-4 moves too slowly for five rounds), 32 latents in each of its steps, 5 epochs of the game
    instead of 10, no weight decay. No generator step in the first round, in which the global model knows nothing; for
    that, ``epochs`` more, without the discriminator's, on the model that comes back from the last. The last generator
    is reported.
    """
    clients = _validate_clients(clients, attacker)
    own, network = clients[attacker], _initial_model(model, clients[attacker], fakes, seed)
    tracked = _validate.integer("tracked", tracked, at_least=0, at_most=len(own.classes) - 1)
    label = _fake_label(own, tracked, fakes, attacker)
    protocol = _validate.instance("protocol", dmgan_protocol() if protocol is None else protocol, FedAvg)
    rounds, epochs = _validate.integer("rounds", rounds, at_least=0), _validate.integer("epochs", epochs, at_least=1)
    samples = _validate.integer("samples", samples, at_least=1)
    _validate.choice("optimiser", optimiser, OPTIMISERS)
    rates = _validate.number("lr", lr, above=0), _validate.number("discriminator_lr", discriminator_lr, above=0)
    priors = {"anchor": anchor, "variation": variation, "diversity": diversity}
    priors = {name: _validate.number(name, value, at_least=0) for name, value in priors.items()}
    priors["memory"] = _validate.integer("memory", memory, at_least=0)
    for client in clients:
        protocol.check(network, client.images, client.labels)
    if test is None:
        test = data.holdout.default_test(clients[0])
    _validate.instance("test", test, Batch)
    sizes, rows = [len(client) for client in clients], {}

    def solve(trace: Trace, generator: torch.Generator) -> None:
        player = DmganClient(own, tracked, label, protocol, epochs, optimiser, rates, priors, generator)
        latents = player.draw(samples)
        working, state = copy.deepcopy(network), models.parameters(copy.deepcopy(network))
        for turn in range(rounds + 1):
            if turn == rounds:
                player.finish(working)
            images = player.sample(latents)
            rows.update(_round_rates(working, images, tracked, test, turn))
            if trace.report(turn, player.loss(working, images), (images,)) or turn == rounds:
                break
            said = []
            for k, client in enumerate(clients):
                send = player.upload if k == attacker else protocol.transmit
                said.append(Round(protocol, send(working, client.images, client.labels), state, turn, k))
                federation.load(working, state)
            state = move(state, said, sizes, None, None, True)
            federation.load(working, state)

    how = {"iterations": rounds, "seed": seed, "seconds": seconds, "keep": "last"}
    begin = time.perf_counter()
    found = search(solve, **how, progress=progress, label="dmgan")
    images, notes = found.variables[0], []
    if not any((client.labels == tracked).any() for client in clients):
        notes.append("no client holds the tracked class: a control")
    labels = torch.full((samples,), tracked)
    spread = float(images.std(0).mean()) if samples > 1 else 0.0
    result = reconstruction(found, images, labels, *notes, spread=spread, **rows)
    return dataclasses.replace(result, attack="dmgan", seconds=time.perf_counter() - begin)


@torch.no_grad()
def _round_rates(model: nn.Module, images: torch.Tensor, tracked: int, test: Batch, turn: int) -> dict[str, float]:
    """Two rates under the global model of a round: samples taken for the tracked class, and accuracy on ``test``."""
    rate = (model(images).argmax(1) == tracked).float().mean()
    right = (model(test.images).argmax(1) == test.labels).float().mean()
    return {f"tracked, round {turn}": float(rate), f"accuracy, round {turn}": float(right)}


def _validate_clients(clients: Any, attacker: Any) -> tuple[Batch, ...]:
    _validate.instance("clients", clients, Sequence)
    clients = tuple(_validate.instance("clients", client, Batch) for client in clients)
    if len(clients) < 2:
        raise ValueError(f"clients must hold the attacker and at least one other Batch, got {len(clients)}")
    _validate.integer("attacker", attacker, at_least=0, at_most=len(clients) - 1)
    for k, client in enumerate(clients):
        if client.classes != clients[0].classes or client.shape != clients[0].shape:
            raise ValueError(f"clients must have the same classes and image shape, client {k} differs from client 0")
    return clients


def _initial_model(model: Any, own: Batch, fakes: Any, seed: Any) -> nn.Module:
    """The global model at the start, with as many outputs as the variant needs."""
    _validate.instance("model", model, (str, nn.Module))
    wanted = with_extra_class(own) if fakes == "extra" else own
    network = models.build(model, wanted, seed=seed) if isinstance(model, str) else copy.deepcopy(model)
    outputs = getattr(network, "classes", None)
    if outputs != len(wanted.classes):
        raise ValueError(f"model must have {len(wanted.classes)} classes for fakes={fakes!r}, got {outputs}")
    if models.batchnorm_mode(network) is not None:
        raise ValueError(f"model must have no batch norm layers (FedAvg does not send their statistics), got {model!r}")
    return network


def _fake_label(own: Batch, tracked: int, fakes: Any, attacker: int) -> int:
    """The label of generated images; ``ValueError`` for an attacker that has what it wants to steal."""
    held = int((own.labels == tracked).sum())
    if held:
        raise ValueError(
            f"clients[{attacker}], the attacker, must hold no image of the tracked class {tracked}, got {held}: "
            "the result would prove nothing; gl.attacks.without_class takes them out"
        )
    if isinstance(fakes, str):
        _validate.choice("fakes", fakes, ("extra",))
        return len(own.classes)
    label = _validate.integer("fakes", fakes, at_least=0, at_most=len(own.classes) - 1)
    if not bool((own.labels == label).any()):
        raise ValueError(f"fakes must be a class of which the attacker has images, or 'extra'; got {fakes}")
    return label
