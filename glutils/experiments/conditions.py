"""Under which conditions an attack runs where nothing else is said: the one table that every attack joins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from .. import _validate, data, models, observation, protocols
from ..attacks.base import ATTACKS
from ..attacks.closed_form import decoder
from ..attacks.closed_form.inverse_map import train_inverter
from ..attacks.malicious import fishing, imprint, loki
from ..data import tables, texts
from ..observation import Observation
from ..priors import latent

UPDATES = ("gradient", "delta", "scalars", "average", "estimate", "short estimate")
"""What the attack is given, one of the three payload kinds or something that stands for a gradient, as the average of a
parameter difference over its steps, or the estimate from scalars, with the factor d that makes it unbiased or, like the
reference code of ZeroGLA, without it. See :func:`glutils.observation.as_gradient`."""
SENT = {"average": "delta", "estimate": "scalars", "short estimate": "scalars"}
"""What the client sends where the attack is given a stand-in for the gradient."""
SCALARS_PER_PIXEL = 1.25
"""Directions per unknown pixel where nothing else is said, enough for ZeroGLA's equations to have one solution."""
SCALARS_PER_PIECE = 16
"""Directions per piece of a text: a search from left to right needs more than the unknowns hold."""


@dataclass(frozen=True)
class Conditions:
    """What one attack needs.

    Attributes:
        model: the network's name, see :func:`glutils.models.build`.
        network: its options.
        knows: what the adversary is told beyond the protocol.
        budget: number of gradient evaluations that the attacker may spend, to the attack's options; ``None`` for an
            attack that searches nothing.
        largest: images in a batch at most; ``None`` for no limit.
        change: network, public data and seed to the network that a malicious server sends out instead.
        learn: observation and seed to options, where something is learned from public data before the attack.
        fits_any: whether what is learned is about images alone, and not about the network.
        load: path of trained weights and observation to the same options.
        task: private or public batch to what clients of this attack's kind train on; None: the batch as it is.
    """

    model: str
    network: Mapping[str, Any] = field(default_factory=dict)
    knows: tuple[str, ...] = ("labels",)
    budget: Callable[[int], dict[str, Any]] | None = None
    largest: int | None = None
    change: Callable[[nn.Module, data.Batch, int], nn.Module] | None = None
    learn: Callable[[Observation, int], dict[str, Any]] | None = None
    fits_any: bool = False
    load: Callable[[str, Observation], dict[str, Any]] | None = None
    task: Callable[[data.Batch], data.Batch] | None = None


def _every(evaluations: int) -> dict[str, Any]:
    return {"iterations": evaluations, "restarts": 1}


def _steps(evaluations: int) -> dict[str, Any]:
    return {"iterations": evaluations}


def _lbfgs(evaluations: int) -> dict[str, Any]:
    """One start; an outer step is 20 inner ones, each with about 1.25 evaluations of its line search."""
    return {"iterations": max(1, evaluations // 25), "restarts": 1}


def _own(evaluations: int) -> dict[str, Any]:
    """The attack's own settings: its steps do not evaluate gradients, or cost something else entirely."""
    return {}


def _decoder(seen: Observation, seed: int) -> dict[str, Any]:
    """FGLA's decoder, trained for the observed network on the public images."""
    return {"decoder": decoder.train(seen.model, seen.public, seed=seed, progress=False).decoder}


def _inverter(seen: Observation, seed: int) -> dict[str, Any]:
    """The map of Learning to Invert, for the observed network and these labels."""
    return {"trained": train_inverter(seen, seed=seed)}


def _generator(seen: Observation, seed: int) -> dict[str, Any]:
    """A convolutional generator, trained together with the latent numbers of the public images."""
    return {"prior": latent.GLO.fit(seen.public, LATENT, seed=seed, progress=False)}


def _loaded(path: str, seen: Observation) -> dict[str, Any]:
    return {"prior": latent.load(path, tuple(seen.shape[1:]), LATENT)}


def _imprint(model: nn.Module, public: data.Batch, seed: int) -> nn.Module:
    """The network behind RTF's malicious block."""
    return imprint.imprint(model, public, seed=seed)


def _bait(model: nn.Module, public: data.Batch, seed: int) -> nn.Module:
    """The network with fishing's head, for a class that the seed draws."""
    count = len(public.classes)
    return fishing.fish(model, int(torch.randint(count, (1,), generator=torch.Generator().manual_seed(seed))))


def _own_block(model: nn.Module, public: data.Batch, seed: int) -> nn.Module:
    """The network behind LOKI's block, as the only client receives it."""
    return loki.loki_models(model, public, 1, seed=seed)[0]


def _label_word(batch: data.Batch) -> data.Batch:
    """The first pieces of each text and a word behind them, which alone has a loss: a classifier's prompt."""
    word = _words(batch.vocabulary)[0]
    tokens = torch.cat([batch.images[:, : PROMPT + 1], torch.full_like(batch.images[:, :1], word)], 1)
    labels = torch.full_like(tokens, -100)
    labels[:, -1] = word
    return replace(batch, images=tokens, labels=labels)


def _words(vocabulary: Any) -> list[int]:
    """Two pieces that stand for classes."""
    return [vocabulary.encode(word)[0] for word in ("yes", "no")]


PROMPT = 4
"""Pieces of a text in front of a label word."""
LATENT = 32
"""Numbers in z of a generator."""
PLAYERS = {"dmgan": "it takes part in the training as a client and reads no client's update (chapter 12)"}
"""Attacks that no observation can be given to, and why."""
PUBLIC = ("labels", "public")
GENERATIVE: dict[str, Any] = {"learn": _generator, "fits_any": True, "load": _loaded}
SMOOTH: dict[str, Any] = {"model": "lenet"}
KINKED: dict[str, Any] = {"model": "convnet"}
LINEAR: dict[str, Any] = {"model": "mlp", "network": {"activation": "relu"}}
LANGUAGE: dict[str, Any] = {"model": "gpt", "network": {"weights": "trained"}}

CONDITIONS: dict[str, Conditions] = {
    "dlg": Conditions(**SMOOTH, knows=(), budget=_lbfgs),
    "idlg": Conditions(**SMOOTH, knows=(), budget=_lbfgs, largest=1),
    "dlg_adam": Conditions(**SMOOTH, knows=(), budget=_every),
    "dlg_cosine": Conditions(**SMOOTH, knows=(), budget=_every),
    "grnn": Conditions(**SMOOTH, knows=(), budget=_every),
    "rgap": Conditions("convnet", {"activation": "leaky_relu", "hidden": None}, knows=(), largest=1),
    "zerogla": Conditions(**SMOOTH, budget=_own),
    "ig": Conditions(**KINKED, budget=_every),
    "stg": Conditions("resnet8", knows=("labels", "batch_stats"), budget=_every),
    "fgla": Conditions(**KINKED, knows=PUBLIC, learn=_decoder, load=lambda path, seen: {"decoder": path}),
    "inverter": Conditions(**KINKED, knows=PUBLIC, learn=_inverter),
    "ggl": Conditions(**KINKED, knows=PUBLIC, budget=_every, **GENERATIVE),
    "gias": Conditions(**KINKED, knows=PUBLIC, budget=_every, **GENERATIVE),
    "gifd": Conditions(**KINKED, knows=PUBLIC, budget=_every, **GENERATIVE),
    "igims": Conditions(**KINKED, knows=PUBLIC, budget=_steps, **GENERATIVE),
    "rog": Conditions(**LINEAR, knows=PUBLIC, budget=_every),
    "tableak": Conditions(**LINEAR, budget=lambda n: {"iterations": max(1, n // 3), "polish": 0}),
    "dlf": Conditions(**KINKED, budget=_every),
    "fedleak": Conditions(**KINKED, budget=lambda evaluations: {"iterations": max(1, evaluations // 2), "restarts": 1}),
    "sme": Conditions(**KINKED, budget=_every),
    "april": Conditions("vit", knows=(), largest=1),
    "fc_inversion": Conditions(**LINEAR, knows=(), largest=1),
    "dager": Conditions(**LANGUAGE, knows=()),
    "tag": Conditions(**LANGUAGE, knows=(), budget=_every, largest=1),
    "lamp": Conditions(**LANGUAGE, knows=(), largest=1, budget=lambda n: {"rounds": max(1, n // 50)}),
    "zerogla_text": Conditions(**LANGUAGE, knows=(), budget=_own),
    "zerogla_label_word": Conditions(
        **LANGUAGE, knows=(), budget=_own, largest=1, task=_label_word,
        learn=lambda seen, seed: {"words": _words(seen.vocabulary)},
    ),
    "cpa": Conditions(**LINEAR, budget=_own),
    "spear": Conditions(**LINEAR, knows=(), budget=_own),
    "cpa_fi": Conditions(**KINKED, budget=lambda evaluations: {"inversion": evaluations}),
    "loki": Conditions(**KINKED, knows=PUBLIC, change=_own_block),
    "fishing": Conditions(**LINEAR, knows=("public",), change=_bait),
    "rtf": Conditions(**KINKED, knows=PUBLIC, change=_imprint),
}


def of(attack: str) -> Conditions:
    """The conditions of an attack; for one that has no entry yet, a ReLU network and the attack's own defaults."""
    ATTACKS.get(attack)
    if attack in PLAYERS:
        raise ValueError(f"attack {attack!r} cannot be run on an update: {PLAYERS[attack]}")
    return CONDITIONS.get(attack, Conditions("convnet", knows=PUBLIC, budget=_own))


def options_of(attack: str) -> list[str]:
    """Names of the options that an attack takes."""
    return [name for name in inspect.signature(ATTACKS.get(attack).run).parameters if name not in ("seen", "seed")]


def update_of(attack: str, update: str | None = None) -> str:
    """What the attack is given: as asked, else the first kind on its card; ``ValueError`` if it cannot read that."""
    kinds = ATTACKS.get(attack).kinds
    if update is None:
        return kinds[0]
    _validate.choice("update", update, UPDATES)
    needed = "gradient" if update in SENT else update
    if needed not in kinds:
        can = [name for name in ATTACKS.names() if needed in ATTACKS.get(name).kinds]
        raise ValueError(
            f"update must be one that attack {attack!r} reads ({', '.join(kinds)}), got {update!r}; "
            f"attacks that read it: {', '.join(can)}"
        )
    return update


def check_records(attack: str, dataset: str, size: int | None) -> None:
    """Refuse records of a kind that the attack does not reconstruct, and name sets that it does and attacks on them."""
    sets = {"tables": tuple(tables.TABLES), "tokens": tuple(texts.names())}
    kind = next((name for name, known in sets.items() if dataset in known), "images")
    able = ATTACKS.get(attack).records
    if kind not in able:
        fit = [known for name in able for known in sets.get(name, ("digits", "photos", "..."))]
        others = [name for name in CONDITIONS if kind in ATTACKS.get(name).records]
        raise ValueError(
            f"dataset must be one of {' and '.join(able)} for {attack!r} ({', '.join(fit)}), got {dataset!r}; its "
            f"{kind} are reconstructed by {', '.join(others)}"
        )
    if kind != "images" and size is not None:
        raise ValueError(f"size must be None for {dataset!r}, which holds no images, got {size}")


def protocol_of(
    update: str, batch: data.Batch, *, directions: int | None = None, epochs: int = 1, seed: int = 0
) -> protocols.Protocol:
    """The protocol that sends an update of this kind; local training of several epochs is shuffled anew in each."""
    update = SENT.get(update, update)
    if update == "gradient":
        return protocols.FedSGD()
    if update == "delta":
        how = {"epochs": epochs, "batch_size": max(1, len(batch) // 2), "shuffle": seed if epochs > 1 else None}
        return protocols.FedAvg(**how, lr=0.01)
    if directions is None:
        each = SCALARS_PER_PIXEL if batch.images.is_floating_point() else SCALARS_PER_PIECE
        directions = int(each * batch.images.numel())
    return protocols.ZerothOrder(directions=directions, mu=1e-4, dtype="float64", seed=seed)


def network_of(
    attack: str, batch: data.Batch, *, model: str | None = None, public: data.Batch | None = None, seed: int = 0
) -> nn.Module:
    """The network that is attacked: the one of the conditions, or another by name; changed where the attack does so."""
    conditions = of(attack)
    own = model is None or model == conditions.model
    options: dict[str, Any] = dict(conditions.network) if own else {}
    network = models.build(model or conditions.model, batch, seed=seed, **options)
    if conditions.change is None:
        return network
    if public is None:
        raise ValueError(f"public must be given for {attack!r}, which changes the network with its help")
    return conditions.change(network, public, seed)


def observe(
    attack: str,
    batch: data.Batch,
    *,
    update: str | None = None,
    model: str | None = None,
    directions: int | None = None,
    public: data.Batch | None = None,
    seed: int = 0,
) -> Observation:
    """What the adversary holds after the client has sent its update, with the knowledge that this attack needs.

    Args:
        attack: name of the attack.
        batch: the private batch.
        update: one of :data:`UPDATES`; default: the first kind that the attack reads.
        model: name of a network, in place of the conditions' own.
        directions: number of scalars; default: :data:`SCALARS_PER_PIXEL` per unknown pixel.
        public: public data; passed on, and used to change the network, if the conditions say so.
        seed: of the network's weights and of the directions.

    Raises:
        ValueError: an update that the attack cannot read; more images than it can.
    """
    conditions, update = of(attack), update_of(attack, update)
    if conditions.largest is not None and len(batch) > conditions.largest:
        raise ValueError(f"batch must hold at most {conditions.largest} image(s) for {attack!r}, got {len(batch)}")
    network = network_of(attack, batch, model=model, public=public, seed=seed)
    protocol = protocol_of(update, batch, directions=directions, seed=seed)
    shown = public if "public" in conditions.knows else None
    with torch.no_grad():
        payload = protocol.transmit(network, batch.images, batch.labels)
    seen = observation.observe(network, protocol, payload, batch, knows=conditions.knows, public=shown)
    return observation.as_gradient(seen, unbiased=update != "short estimate") if update in SENT else seen
