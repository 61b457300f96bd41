"""One point of a privacy-utility plot: a defence at one strength, what two attackers find, and what training keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import _device, _validate, attacks, data, defenses, federation, metrics, observation, protocols
from ..data.batch import Batch
from ..defenses import Defended, Defense
from ..defenses.base import DEFENSES
from ..observation import Observation
from ..runs import records
from . import conditions
from .strengths import STRENGTHS

LR = {"gradient": 0.3, "delta": 0.1, "scalars": 0.1}
"""Step sizes with which the small networks of the conditions learn the small sets; of FedAvg, the clients' own."""
MODEL = {"zerogla": "mlp"}
"""Networks in place of the conditions' own, where that one hardly learns from what is sent."""
EFFORT = {"zerogla": {"restarts": 1, "check": False}}
"""Options that keep an attack short where it is run on many strengths: one start, no test of its own derivatives."""
TESTED = 1000
"""Most public images of an external set on which accuracy is measured; of an embedded one, all."""
WEIGHTS = (0.001, 0.01, 0.03, 0.1)
"""Weights of total variation among which an attacker chooses by practice."""


@dataclass(frozen=True)
class Scene:
    """Who trains what, and how many images of client 0 are attacked; the same for every strength.

    Attributes:
        attack: one of :func:`glutils.attacks.names`. It decides what is sent: the first kind on its card.
        data: one of :func:`glutils.data.names`; ``root`` is the folder of an external one, ``size`` the images' side.
        model: the network; default: the one of the attack's conditions (an ``mlp`` for ZeroGLA, which must learn).
        clients, per_client: the federation. ``images`` of client 0's are attacked, each in a message of its own,
            with the weights at their start; of scalars, all of them through the whole transcript.
        rounds, lr: of the training that tells the accuracy. ``lr`` defaults to :data:`LR`. Gradients are those of
            one image a client and round, as in the message that is attacked.
        directions: scalars a round.
        evaluations: gradient evaluations that the attacker may spend on an image; default: the attack's own number.
        practice: public images on which an attack that has a weight of total variation chooses it (0: it keeps its
            default): the adaptive attacker under the same defence, the naive one without any.
        misled: a way of :func:`glutils.tamper`; the adaptive attack runs again on the spoiled message, as a control.
        delta: of the privacy budget.
        device: default: a GPU where there is one.
    """

    attack: str = "ig"
    data: str = "digits"
    root: str | None = None
    size: int | None = None
    model: str | None = None
    clients: int = 10
    per_client: int = 10
    images: int = 2
    rounds: int = 100
    lr: float | None = None
    directions: int = 10
    evaluations: int | None = None
    practice: int = 1
    misled: str | None = "permuted"
    delta: float = 0.01
    device: str | None = None

    def __post_init__(self) -> None:
        own = conditions.of(self.attack)
        _validate.choice("data", self.data, data.names())
        for name in ("clients", "per_client", "images", "rounds", "directions"):
            _validate.integer(name, getattr(self, name), at_least=1)
        if self.images > self.per_client:
            raise ValueError(f"images must be at most per_client ({self.per_client}), got {self.images}")
        _validate.integer("practice", self.practice, at_least=0)
        if self.evaluations is not None:
            _validate.integer("evaluations", self.evaluations, at_least=1)
            if own.budget is None or not own.budget(1):
                raise ValueError(f"evaluations must be None for {self.attack!r}, whose steps are not counted in them")
        if self.misled is not None:
            _validate.choice("misled", self.misled, ("permuted", "wrong_gradient", "zero"))
        if self.lr is not None:
            _validate.number("lr", self.lr, above=0)
        if _validate.number("delta", self.delta, above=0) >= 1:
            raise ValueError(f"delta must be less than 1, got {self.delta}")

    @property
    def kind(self) -> str:
        """What clients send: gradient, delta or scalars."""
        return conditions.update_of(self.attack)

    @property
    def rate(self) -> float:
        """Step size: ``lr``, or what :data:`LR` holds."""
        return LR[self.kind] if self.lr is None else self.lr

    def protocol(self, defense: Defense | None, private: int = 0) -> protocols.Protocol:
        """What clients do, with or without a defence; ``private`` is the seed of their own randomness."""
        plain = {
            "gradient": lambda: protocols.FedSGD(),
            "delta": lambda: protocols.FedAvg(epochs=1, batch_size=1, lr=self.rate),
            "scalars": lambda: protocols.ZerothOrder(directions=self.directions, mu=1e-4, dtype="float64", seed=7),
        }[self.kind]()
        return plain if defense is None else Defended(plain, defense, private=private)


def defense_of(name: str | None, strength: float | int | None, **options: Any) -> Defense | None:
    """The defence called ``name`` at a strength; None for no defence.

    Raises:
        ValueError, TypeError: a defence without a strength in :data:`~glutils.experiments.strengths.STRENGTHS`, a
            strength out of its range.
    """
    if name is None:
        if strength is not None or options:
            raise ValueError(f"strength and options must be left out without a defence, got {strength} and {options}")
        return None
    DEFENSES.get(name)
    entry = STRENGTHS[_validate.choice("defense", name, STRENGTHS)]
    value = _validate.number("strength", strength)
    if entry.option in ("bits", "levels"):
        if value != int(value):
            raise ValueError(f"strength must be a whole number of {entry.option} for {name!r}, got {value:g}")
        value = int(value)
    return defenses.get(name, **{**entry.fixed, **options, entry.option: value})


def measure(
    scene: Scene,
    defense: str | None = None,
    strength: float | int | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Attack a defended client as somebody who knows the defence and as somebody who does not, and train with it.

    Args:
        scene: who trains what.
        defence, strength: a name and a number of :data:`~glutils.experiments.strengths.STRENGTHS`; None for both:
            undefended.
        options: further options of the defence.
        seed: of images, weights, noise and starting points.

    Returns:
        One row for each attacked image and attacker (``"adaptive"``, ``"naive"``), as in
        :func:`glutils.runs.rows_from`, with the control ``permuted`` (or how the scene says) on adaptive rows, with
        ``accuracy`` (held-out, after the last round), ``epsilon`` where the defence has a privacy budget, and the
        image that was ``found``: a PNG in base64, which :func:`glutils.experiments.pictures.picture` reads.

    Raises:
        ValueError, TypeError: a defence that cannot protect what is sent; a strength out of range.
    """
    from .pictures import encode  # here, because it loads what draws figures

    shield = defense_of(defense, strength, **(options or {}))
    protocol = scene.protocol(shield, seed)
    device = _device.resolve(scene.device)
    deal = _deal(scene, seed, device)
    public = _public(scene, deal[0], seed, device)
    network = conditions.network_of(
        scene.attack, deal[0], model=scene.model or MODEL.get(scene.attack), public=public, seed=seed
    )
    run = _train(scene, protocol, network, deal, _test(scene, deal[0], seed), seed)
    extra = {"defence": defense, "strength": strength, "seed": seed, "accuracy": float(run.accuracy[-1])}
    if (spent := budget(scene, shield)) is not None:
        extra["epsilon"] = spent
    if scene.kind == "scalars":
        views = [(observation.observe(run, client=0, **_told(scene, public)), deal[0], 0)]
    else:
        views = [(_view(scene, protocol, network, one, public), one, n) for n, one in _singles(scene, deal[0])]
    rows, learned = [], _learned(scene, views[0][0], seed)
    best = _practised(scene, shield, network, public, learned, seed)
    plain = best if shield is None else _practised(scene, None, network, public, learned, seed)
    for seen, batch, first in views:
        for who, view, more in (("adaptive", seen, best), ("naive", observation.naive(seen), plain)):
            result = _attack(scene, view, learned | more, seed)
            controls = {}
            if scene.misled and who == "adaptive":
                spoiled = observation.tamper(view, scene.misled, seed=seed)
                controls[scene.misled] = _attack(scene, spoiled, learned | more, seed)
            score = metrics.score(result, batch, controls=controls)
            found = result.images[score.matching]
            for k, row in enumerate(records.rows_from(result, score, attacker=who, **extra, **more)):
                rows.append(row | {"image": first + k, "found": encode(found[k])})
    return rows


def truth(scene: Scene, seed: int = 0) -> Batch:
    """The private images that :func:`measure` attacks with this seed, in the order of its rows."""
    first = _deal(scene, seed, "cpu")[0]
    return first if scene.kind == "scalars" else first[slice(0, scene.images)]


def _deal(scene: Scene, seed: int, device: Any) -> list[Batch]:
    """The clients' private data."""
    return data.partition(
        scene.data, clients=scene.clients, per_client=scene.per_client, seed=seed, size=scene.size, root=scene.root,
        device=device,
    )  # fmt: skip


def _public(scene: Scene, client: Batch, seed: int, device: Any) -> Batch:
    """Public images to practise on, and for attacks that learn from them: 64, or what there is."""
    there = data.available(client, root=scene.root)
    if there is not None and there < scene.practice:
        raise ValueError(f"practice must be at most {there}, the public images of {scene.data!r}; got {scene.practice}")
    count = max(64, scene.practice) if there is None else max(scene.practice, min(64, there))
    return data.public(client, count=count, seed=seed + 1, root=scene.root, device=device)


def _test(scene: Scene, client: Batch, seed: int) -> Batch | None:
    """Images that accuracy is measured on; None: all public ones, of a set that is small enough."""
    if scene.root is None:
        return None
    there = data.available(client, root=scene.root)
    return data.public(client, count=TESTED if there is None else min(TESTED, there), seed=seed + 2, root=scene.root)


def _singles(scene: Scene, client: Batch) -> list[tuple[int, Batch]]:
    return [(n, client[[n]]) for n in range(scene.images)]


def _train(
    scene: Scene, protocol: Any, network: torch.nn.Module, deal: Sequence[Batch], test: Batch | None, seed: int
) -> Any:
    how: dict[str, Any] = {} if scene.kind == "delta" else {"lr": scene.rate}
    if scene.kind == "gradient":
        how["local_batch"] = 1
    return federation.train(protocol, network, deal, rounds=scene.rounds, test=test, seed=seed, progress=False, **how)


def _told(scene: Scene, public: Batch) -> dict[str, Any]:
    knows = set(conditions.of(scene.attack).knows) | {"labels"}
    return {"knows": knows} | ({"public": public} if "public" in knows else {})


def _view(scene: Scene, protocol: Any, network: torch.nn.Module, one: Batch, public: Batch) -> Observation:
    payload = protocol.transmit(network, one.images, one.labels)
    return observation.observe(network, protocol, payload, one, **_told(scene, public))


def _learned(scene: Scene, seen: Observation, seed: int) -> dict[str, Any]:
    """What the attack learns from public data before it sees any message."""
    learn = conditions.of(scene.attack).learn
    return {} if learn is None else learn(seen, seed)


def _attack(scene: Scene, seen: Observation, options: Mapping[str, Any], seed: int) -> attacks.Reconstruction:
    allowed = conditions.of(scene.attack).budget
    spend = dict(EFFORT.get(scene.attack, {}))
    if allowed is not None and scene.evaluations is not None:
        spend |= allowed(scene.evaluations)
    if "progress" in conditions.options_of(scene.attack):
        spend["progress"] = False
    return attacks.attack(scene.attack, seen, seed=seed, **(spend | dict(options)))


def _practised(scene, shield, network, public, learned, seed) -> dict[str, Any]:
    """The weight of total variation that served best on public images under the same defence, or nothing."""
    if not scene.practice or scene.kind == "scalars" or "tv_weight" not in conditions.options_of(scene.attack):
        return {}
    mine = [public[[n]] for n in range(scene.practice)]
    views = [_view(scene, scene.protocol(shield, seed + 1000 + n), network, one, public) for n, one in enumerate(mine)]

    def tried(weight: float) -> float:
        found = [_attack(scene, view, learned | {"tv_weight": weight}, seed) for view in views]
        scores = [float(metrics.score(r, one).psnr) for r, one in zip(found, mine, strict=True)]
        return sum(-math.inf if math.isnan(value) else value for value in scores)

    return {"tv_weight": max(WEIGHTS, key=tried)}


def budget(scene: Scene, shield: Defense | None) -> float | None:
    """Epsilon of the whole training, with delta of the scene (Laplace noise: 0); None for a defence that promises none.

    Neighbours are data sets in which one record is exchanged for another: clients draw batches of a fixed size, and
    take means over it.
    """
    if not isinstance(shield, defenses.DPSGD | defenses.DPScalars) or not shield.sigma:
        return None
    protected = defenses.Defended(scene.protocol(None, 0), shield)
    how: dict[str, Any] = {"batch": 1} if scene.kind == "gradient" else {}
    how["delta"] = None if getattr(shield, "law", "gaussian") == "laplace" else scene.delta
    return defenses.privacy_statement(
        protected, records=scene.per_client, rounds=scene.rounds, relation="replace_one", **how
    ).epsilon
