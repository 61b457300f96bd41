"""What all attacks have in common: the registry with each attack's place in the threat model, and what comes back."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import _device, _validate, models
from .._registry import Registry
from ..data.vocabulary import Vocabulary
from ..observation import Observation
from ..solvers import Found, History, Tally

ATTACKS = Registry("attack")
KINDS = ("gradient", "delta", "scalars")
OBSERVATION = "an observation"
PLAIN = "cross entropy"
ANY_LOSS = "any"


@dataclass(frozen=True)
class Card:
    """One row of the book's table of attacks, which is printed from these cards.

    Attributes:
        title: name in print.
        adversary: who attacks (attacks' threat-model vocabulary: honest-but-curious server, malicious server, client).
        kinds: payload kinds that the attack reads: any of "gradient", "delta", "scalars"; none if it takes clients.
        simulates: what the attack computes as a client would, on its guess.
        variable: what it searches.
        distance: how it compares messages.
        prior: what it believes about images before it sees a message.
        solver: how it searches.
        labels: where it has them from.
        source: key in the bibliography.
        several: of ``kinds``, those of which several messages are put together; of others several are refused.
        takes: what ``run`` is called with: "an observation", or "clients" for an adversary that takes part in
            the rounds, whose attack is called by its own name and not through :func:`attack`.
        records: kinds of records that it reconstructs.
        losses: ``"cross entropy"``, of classes as it stands; or ``"any"`` that the client's protocol names, if the
            attack only simulates it.
        run: what it takes, and options, to reconstruction.
    """

    title: str
    kinds: tuple[str, ...]
    simulates: str
    variable: str
    distance: str
    prior: str
    solver: str
    labels: str
    source: str
    several: tuple[str, ...] = ()
    adversary: str = "honest-but-curious server"
    takes: str = OBSERVATION
    records: tuple[str, ...] = ("images",)
    losses: str = PLAIN
    run: Callable[..., Reconstruction] | None = None


ANY = ("images", "tables")
"""Records of an attack that asks nothing of them but that the message is differentiable in them."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an attack believes the private batch to be.

    Attributes:
        images: (B, C, H, W); may leave [0, 1], metrics clamp. Or (B, columns), records of a table: a level is a real
            number there, the largest of a variable counts. float64 where the attack works in float64. Or (B, L) int64,
            the pieces of texts.
        labels: (B,) int64: told, inferred or optimised. Of texts (B, L), their next pieces.
        loss: the attacker's own loss of the reported iterate; what restarts are ranked by.
        history: how the reported restart went.
        seconds: wall-clock time of the attack.
        attack: its name.
        notes: what a reader of the result must know: an under-determined system, an interrupted search, knowledge that
            the protocol does not give away.
        diagnostics: numbers by name, for example the noise that the attacker estimated.
        evaluations: how often the attack computed what the client sent for a guess, over all its restarts; 0 for a
            closed form, None where they are not counted: the attack searches for something else than such a guess, or
            plays inside the rounds. See :class:`glutils.solvers.Tally`.
        pullbacks: how many vectors were pulled back to the unknowns; above the evaluations where the attack computes
            Jacobians. None where evaluations are not counted.
        vocabulary: which pieces the tokens of texts stand for, if the adversary knows.
        controls: of texts, by name, what the same adversary would have said without the message: "model_guess", the
            likeliest text of its own model, piece by piece.
    """

    images: torch.Tensor
    labels: torch.Tensor
    loss: float
    history: History = field(default_factory=History)
    seconds: float = 0.0
    attack: str = ""
    notes: tuple[str, ...] = ()
    diagnostics: dict[str, float] = field(default_factory=dict)
    evaluations: int | None = None
    pullbacks: int | None = None
    vocabulary: Vocabulary | None = None
    controls: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def records(self) -> torch.Tensor:
        """``images`` by the name that fits every kind of record."""
        return self.images

    @property
    def tokens(self) -> torch.Tensor:
        """``images`` of texts, (B, L) int64; ``TypeError`` for records of another kind."""
        if self.images.is_floating_point():
            raise TypeError(f"result must be of texts for that, got records of {self.images.dtype}")
        return self.images

    @property
    def texts(self) -> tuple[str, ...]:
        """What the tokens say, (B,); ``TypeError`` for records of another kind, or without a vocabulary."""
        if self.vocabulary is None:
            raise TypeError("result must be of texts whose vocabulary is known for that")
        return tuple(map(self.vocabulary.decode, self.tokens.cpu()))


def register(name: str, card: Card) -> Callable:
    """Decorator: file ``run`` under ``name`` with its card."""

    def add(run: Callable[..., Reconstruction]) -> Callable[..., Reconstruction]:
        ATTACKS.register(name)(dataclasses.replace(card, run=run))
        return run

    return add


def names() -> list[str]:
    """Names that :func:`attack` accepts.

    Example:
        >>> import glutils as gl
        >>> "zerogla" in gl.attacks.names()
        True
    """
    return ATTACKS.names()


def table() -> list[dict[str, str]]:
    """The attacks side by side, one row each, generated from their cards.

    Example:
        >>> import glutils as gl
        >>> gl.attacks.table()[0]["adversary"]
        'honest-but-curious server'
    """
    rows = []
    for name in names():
        card = ATTACKS.get(name)
        columns = ("adversary", "simulates", "variable", "distance", "prior", "solver", "labels")
        rows.append({"attack": card.title, "name": name} | {key: getattr(card, key) for key in columns})
    return rows


def attack(name: str, seen: Observation, *, device=None, seed: int = 0, **options) -> Reconstruction:
    """Run an attack on an observation.

    Args:
        name: one of :func:`names`.
        seen: what the adversary holds; nothing else is read.
        device: where to compute; default: where the observed model is.
        seed: of the attack's own randomness (starting points, noise); 0 or more.
        options: the attack's own; see its docstring. Common to those that iterate: ``iterations``, ``restarts``,
            ``seconds`` (time budget), ``progress``.

    Returns:
        The reconstruction. Ctrl-C during the search returns what was found so far.

    Raises:
        ValueError, TypeError: unknown attack or option, an observation of a kind that this attack cannot read, labels
            needed but not known. All before any long work.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", seed=0)
        >>> model, protocol = gl.models.build("mlp", batch, seed=0), gl.protocols.FedSGD()
        >>> payload = protocol.transmit(model, batch.images, batch.labels)
        >>> result = gl.attack("fc_inversion", gl.observe(model, protocol, payload, batch), seed=0)
        >>> result.attack, result.images.shape, bool((result.labels == batch.labels.cpu()).all())
        ('fc_inversion', torch.Size([1, 1, 8, 8]), True)
    """
    card = ATTACKS.get(name)
    if card.takes != OBSERVATION:
        raise ValueError(
            f"attack {name!r} takes {card.takes}, not an observation, because its adversary takes part in the rounds: "
            f"call gl.attacks.{name}({card.takes}, ...)"
        )
    _validate.instance("seen", seen, Observation)
    _validate.integer("seed", seed, at_least=0)
    if seen.kind not in card.kinds:
        raise ValueError(
            f"attack {name!r} reads payloads of kind {' or '.join(card.kinds)}, got {seen.kind!r}; {_others(seen)}"
        )
    if seen.record.name not in card.records:
        raise ValueError(
            f"attack {name!r} reconstructs {' and '.join(card.records)}, got {seen.record.name}; {_others(seen)}"
        )
    if len(seen.rounds) > 1 and seen.kind not in card.several:
        raise ValueError(
            f"attack {name!r} reads one {seen.kind}, got {len(seen.rounds)}: observe(..., rounds=[t]) picks one; "
            + _others(seen, "several")
        )
    _check_clients(name, card, seen)
    mode = models.batchnorm_mode(seen.model)
    if mode != seen.batchnorm:
        raise ValueError(
            f"the client ran batch norm in {seen.batchnorm!r} mode, the observed model is in {mode!r} mode"
        )
    allowed = [option for option in inspect.signature(card.run).parameters if option not in ("seen", "seed")]
    for option in options:
        if option not in allowed:
            known = ", ".join(allowed) or "none"
            raise TypeError(f"attack {name!r} has no option {option!r}; its options: {known}")
    if device is not None:
        seen = seen.to(_device.resolve(device))
    begin = time.perf_counter()
    result = card.run(seen, seed=seed, **options)
    notes = result.notes + seen.notes
    if seen.kind != "scalars" and seen.local_batch not in (None, seen.shape[0]):  # who reads scalars sees to it
        notes += (f"each message is about {seen.local_batch} of {seen.shape[0]}, and was read as one about all",)
    if seen.beyond_protocol:
        notes += (f"uses {', '.join(sorted(seen.beyond_protocol))}, which this protocol never sends",)
    how: dict[str, Any] = {"attack": name, "seconds": time.perf_counter() - begin, "notes": notes}
    if seen.whole:
        how |= {"vocabulary": seen.vocabulary, "controls": {**_model_guess(seen), **result.controls}}
    return dataclasses.replace(result, **how)


def _others(seen: Observation, field: str = "kinds") -> str:
    """Who reads such a message, or several of them, for an attack that does not."""
    cards = {name: ATTACKS.get(name) for name in names()}
    fit = [n for n, card in cards.items() if seen.kind in getattr(card, field) and seen.record.name in card.records]
    what, none = ("it is", "such a message") if field == "kinds" else ("several are", "several of these")
    return f"{what} read by " + ", ".join(map(repr, fit)) if fit else f"no attack reads {none}"


def _model_guess(seen: Observation) -> dict[str, torch.Tensor]:
    """What a language model says by itself, for every text of the batch; nothing for a model of another kind."""
    begin = None if seen.vocabulary is None else seen.vocabulary.bos
    if begin is None or seen.targets is None:
        return {}
    text = models.likeliest(seen.model, torch.tensor([begin]), seen.shape[1])
    return {"model_guess": text.expand(seen.shape[0], -1)}


def _check_clients(name: str, card: Card, seen: Observation) -> None:
    """Refuse clients whose local steps or loss no attack of that name uses, or whose targets it would have to guess."""
    for entry in seen.rounds:
        if not entry.protocol.sums_gradients:
            raise ValueError(
                f"attack {name!r} cannot use steps that do not sum up gradients, got {entry.protocol.undefended}: this "
                "is no evidence that they protect"
            )
        criterion = entry.protocol.criterion
        if criterion.plain or (seen.whole and criterion == models.losses.find("next_token")):
            continue
        if card.losses == PLAIN:
            others = [other for other in names() if ATTACKS.get(other).losses == ANY_LOSS]
            could = ", ".join(repr(other) for other in others if seen.record.name in ATTACKS.get(other).records)
            raise ValueError(
                f"attack {name!r} is derived for the cross entropy of class indices, got clients with the loss "
                f"{criterion}" + (f"; for that there are {could}" if could else "")
            )
        if seen.labels is None and not criterion.solvable:
            raise ValueError(
                f"attack {name!r} needs the labels of clients with the loss {criterion}: they are no classes that it "
                "could solve for; observe(..., knows={'labels'}), or labels=..."
            )


def need_labels(seen: Observation, attack: str, instead: str = "") -> torch.Tensor:
    """The labels that the adversary was told; ``ValueError`` if it was not, which says what to do ``instead``."""
    if seen.labels is None:
        raise ValueError(f"attack {attack!r} needs the labels: observe(..., knows={{'labels'}}){instead}")
    return seen.labels


def reconstruction(
    found: Found, images: torch.Tensor, labels: torch.Tensor, *notes: str, tally: Tally | None = None, **extra: float
) -> Reconstruction:
    """Wrap what a search found; ``tally`` counted what its objective computed, ``extra`` are diagnostics."""
    stopped = () if found.stopped is None else (found.stopped,)
    return Reconstruction(
        images.detach(), labels.detach(), found.loss, found.history, notes=tuple(notes) + stopped, diagnostics=extra,
        evaluations=None if tally is None else tally.evaluations, pullbacks=None if tally is None else tally.pullbacks,
    )  # fmt: skip
