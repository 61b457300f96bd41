"""What the adversary holds: everything it saw, everything it was told, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import nn

from .. import _validate, models, priors
from ..data import kinds
from ..data.batch import Batch
from ..data.columns import Columns
from ..data.kinds import Kind
from ..data.vocabulary import Vocabulary
from ..protocols import UNKNOWN, Payload, Protocol
from .contradictions import contradiction
from .facts import Facts, knowledge, stated
from .transcript import Round, Transcript, check_payload

UNSTATED = "the message does not say in which mode batch norm ran: it is taken to be the model's, {!r}"
"""The note of an observation whose messages came without their mode."""


POISSON = "each record is drawn by itself: {} are expected behind a message, and taken for their number"
"""The note on messages of clients that draw by Poisson sampling."""


@dataclass(frozen=True, eq=False)
class Observation:
    """All that the adversary holds. Made by :func:`glutils.observe`; attacks read nothing else.

    Attributes:
        model: the attacker's own copy of the global model.
        rounds: the messages, in order.
        shape: (B, C, H, W) of the private batch, (B, columns) of a table, or (B, L) of tokens; the batch size is known
            in every threat model of this book.
        classes: number of classes; of tokens, of pieces.
        knows: what was told beyond the protocol; see :data:`KNOWLEDGE`.
        labels: (B,) int64 if told, else None.
        statistics: exact batch norm statistics of the private batch if told, else None.
        public: public data if told, else None.
        batchnorm: mode of the model's batch norm layers when the client ran it: "train", "eval", or None.
        beyond_protocol: of ``knows``, what this protocol never sends; results that use it are marked.
        local_batch: images behind each message if the client drew mini-batches (which ones is not known), else None.
        notes: what the adversary takes for granted about the messages; an attack hands them on with its result.
        columns: what is public about the columns of a table; None for images, and where nobody described them.
        whole: whether records are whole numbers: tokens. vocabulary: which pieces they stand for, if anybody said so.
        targets: of tokens, how many next pieces of the batch count, known as its size is; None: not known.
        sampling: of mini-batches: ``"fixed"``: exactly ``local_batch``; ``"poisson"``: as many are expected.
    """

    model: nn.Module
    rounds: tuple[Round, ...]
    shape: tuple[int, ...]
    classes: int
    knows: frozenset[str] = frozenset()
    labels: torch.Tensor | None = None
    statistics: dict[str, tuple[torch.Tensor, torch.Tensor]] | None = None
    public: Batch | None = None
    batchnorm: str | None = None
    beyond_protocol: frozenset[str] = field(default_factory=frozenset)
    local_batch: int | None = None
    notes: tuple[str, ...] = ()
    columns: Columns | None = None
    whole: bool = False
    vocabulary: Vocabulary | None = None
    targets: int | None = None
    sampling: str = "fixed"

    def to(self, device: torch.device | str) -> Observation:
        """The same observation on ``device``."""
        own = [r.parameters and {name: p.to(device) for name, p in r.parameters.items()} for r in self.rounds]
        rounds = [replace(r, payload=r.payload.to(device), parameters=p) for r, p in zip(self.rounds, own, strict=True)]
        known = self.statistics and {n: (m.to(device), v.to(device)) for n, (m, v) in self.statistics.items()}
        return replace(
            self,
            model=copy.deepcopy(self.model).to(device),
            rounds=tuple(rounds),
            labels=None if self.labels is None else self.labels.to(device),
            statistics=known,
            public=None if self.public is None else self.public.to(device),
        )

    @property
    def record(self) -> Kind:
        """What kind of records the batch holds."""
        return kinds.of_shape("shape", self.shape, whole=self.whole)

    @property
    def blank(self) -> torch.Tensor:
        """The batch that an adversary believes in before any message: grey images, records of public means; float64."""
        like = next(self.model.parameters())
        centre = torch.tensor(self.record.centre) if self.columns is None else self.columns.centre
        return centre.to(like.device, torch.float64).expand(self.shape).contiguous()

    @property
    def protocol(self) -> Protocol:
        """The protocol of the first round."""
        return self.rounds[0].protocol

    @property
    def payload(self) -> Payload:
        """The payload of the first round."""
        return self.rounds[0].payload

    @property
    def scalars(self) -> int:
        """How many scalars all messages of a scalar protocol hold."""
        return sum(len(message.payload) for message in self.rounds)

    @property
    def kind(self) -> str:
        """What kind of payload was seen, one of ``"gradient"``, ``"delta"`` and ``"scalars"``."""
        return self.protocol.kind


def observe(
    model: nn.Module | Transcript,
    protocol: Protocol | None = None,
    payload: Payload | torch.Tensor | Mapping[str, torch.Tensor] | None = None,
    batch: Batch | None = None,
    *,
    client: int | None = None,
    rounds: Iterable[int] | None = None,
    knows: Iterable[str] = (),
    public: Batch | None = None,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
    labels: torch.Tensor | np.ndarray | Sequence[int] | None = None,
) -> Observation:
    """What an honest-but-curious server holds: after one message, or of one client after a whole training run.

    ``observe(model, protocol, payload, batch, knows=...)`` or ``observe(transcript, client=k, knows=...)``. Whoever
    holds no private batch, only messages, gives ``shape`` and ``classes`` in its place, and ``labels`` if known.

    A gradient or a parameter difference that no batch of this size gives at this sign, or with this step size, is
    refused (:func:`~glutils.observation.contradictions.contradiction`). Where either sign would do, and the message is
    one of others, a note says so.

    Args:
        model: the global model in the state and mode in which the client ran it (it is copied), or a
            :class:`~glutils.observation.transcript.Transcript`.
        protocol: how the payload was made; its seed is public.
        payload: what ``protocol.transmit`` returned. Or a message of others, as a bare tensor or mapping to tensors: it
            does not say in which mode batch norm layers ran, which is then taken to be the model's, with a note.
        batch: the private batch. Only its size and shape, and what ``knows`` names, are passed on.
        client: which client of the transcript; its messages alone are passed on.
        rounds: of a transcript, the rounds that the adversary saw (indices); default: all.
        knows: any of ``"labels"``, ``"batch_stats"``, ``"public"``.
        public: public data of the same kind; needed if and only if ``knows`` names ``"public"``.
        shape: (B, C, H, W) of the private batch, (B, columns) of a table, or (B, L) of tokens (with the pieces that
            begin and end a text), in place of ``batch`` or of the data of the transcript's clients.
        classes: number of classes; together with ``shape``. Of tokens it may be left to the model.
        labels: (B,) class indices, or what the protocol's loss takes, told to the adversary: ``knows`` then names them.
            Together with ``shape``. More than one next piece of a text would be the text itself, and is refused.

    Raises:
        TypeError, ValueError: a payload of the wrong kind, shape or with non-finite entries, or of the wrong sign or
            size where that can be seen; unknown knowledge; batch statistics of a model without batch norm; a batch norm
            mode other than the client's; a transcript whose messages do not lead from one state to the next (the
            message names the round); a shape that the model cannot take, classes other than its outputs.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", seed=0)
        >>> model, protocol = gl.models.build("mlp", batch, seed=0), gl.protocols.FedSGD()
        >>> payload = protocol.transmit(model, batch.images, batch.labels)
        >>> seen = gl.observe(model, protocol, payload, batch)
        >>> seen.kind, seen.shape, seen.classes, seen.labels
        ('gradient', (1, 1, 8, 8), 10, None)
        >>> gl.observe(model, protocol, payload, shape=(1, 1, 8, 8), classes=10, labels=batch.labels).knows
        frozenset({'labels'})
    """
    told, own = knowledge(knows), any(fact is not None for fact in (shape, classes, labels))
    if ("public" in told) != (public is not None):
        raise ValueError("public must be given if and only if knows names 'public'")
    if isinstance(model, Transcript):
        transcript, network = model, model.model
        if client is None or protocol is not None or payload is not None or batch is not None:
            raise TypeError("of a transcript, observe takes client=... and neither protocol, payload nor batch")
        seen = transcript.of(client)
        if rounds is not None:
            chosen = {_validate.integer("rounds", r, at_least=0, at_most=transcript.rounds - 1) for r in rounds}
            seen = tuple(message for message in seen if message.number in chosen)
            if not seen:
                raise ValueError(f"client {client} sent nothing in rounds {sorted(chosen)}")
        size = transcript.local_batch
        if own:
            known = stated(network, shape, classes, labels, seen[0].protocol.criterion)
            transcript.check_count(client, known.shape[0])
        else:
            known = Facts.of(transcript.data(client))
        if "batch_stats" in told:
            raise ValueError("knows must not name 'batch_stats' for a transcript: they would change with every round")
    else:
        if client is not None or rounds is not None:
            raise TypeError("client and rounds belong to a transcript; got a model")
        protocol, network = _validate.instance("protocol", protocol, Protocol), model
        models.check_deterministic(network)
        known = _facts(network, batch, shape, classes, labels, protocol.criterion) if own else Facts.of(_batch(batch))
        check_payload("payload", network, message := Round(protocol, cast(Payload, payload)))  # it refuses what is none
        protocol.check(network, *_stand_in(network, known))
        seen, size = (replace(message, protocol=protocol.public_view(message.payload)),), None
    if labels is not None:
        told |= {"labels"}
    if "labels" in told:
        known.check_telling()
    mode = models.batchnorm_mode(network)
    notes = _judged(network, seen, known, size, told)
    if isinstance(model, Transcript) and model.sampling == "poisson":
        notes += (POISSON.format(size),)
    seen = tuple(replace(message, payload=_copy(network, message.payload)) for message in seen)
    for message in seen:
        sent = message.payload.mode
        if sent not in (mode, UNKNOWN):
            raise ValueError(f"model has batch norm in {mode!r} mode, but the payload was computed in {sent!r} mode")
    statistics = None
    if "batch_stats" in told:
        if known.images is None:
            raise ValueError("knows must not name 'batch_stats' without a batch: they are statistics of its images")
        statistics = priors.batchnorm_statistics(network, known.images)
        if not statistics:
            raise ValueError("knows names 'batch_stats', but the model has no batch norm layers")
        statistics = {name: (mean.detach(), var.detach()) for name, (mean, var) in statistics.items()}
    return Observation(
        model=copy.deepcopy(network),
        rounds=seen,
        shape=known.shape,
        classes=known.classes,
        knows=told,
        labels=known.labels.clone() if known.labels is not None and "labels" in told else None,
        statistics=statistics,
        public=public,
        batchnorm=mode,
        beyond_protocol=told & {"batch_stats"},
        local_batch=size,
        notes=(*((UNSTATED.format(mode),) if any(m.payload.mode == UNKNOWN for m in seen) else ()), *notes),
        columns=known.columns,
        whole=known.whole,
        vocabulary=known.vocabulary if known.vocabulary is not None or public is None else public.vocabulary,
        targets=known.targets,
        sampling=model.sampling if isinstance(model, Transcript) else "fixed",
    )


def _facts(network, batch, shape, classes, labels, criterion) -> Facts:
    """What the caller states; ``ValueError`` if a batch says it already."""
    if batch is not None:
        raise ValueError("shape, classes and labels stand in place of a batch; got both (labels: knows={'labels'})")
    return stated(network, shape, classes, labels, criterion)


def _batch(batch: object) -> Batch:
    if batch is None:
        raise TypeError("batch must be a Batch, or shape=(B, C, H, W) and classes=... stand in its place; got neither")
    return _validate.instance("batch", batch, Batch)


def _stand_in(network: nn.Module, known: Facts) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The records, or zeros of their shape, with labels if known: what a protocol checks before any work."""
    if known.images is not None:
        return known.images, known.labels
    like = next(network.parameters())
    images = torch.zeros(known.shape, dtype=torch.int64 if known.whole else like.dtype, device=like.device)
    return images, known.labels


def _judged(
    network: nn.Module, seen: Iterable[Round], known: Facts, size: int | None, told: frozenset[str]
) -> tuple[str, ...]:
    """Notes on messages of others that could have either sign; ``ValueError`` for one that cannot be as it is."""
    if known.whole:  # what is said of classes and images there is not said of pieces and positions
        return ()
    notes: dict[str, None] = {}
    labels = known.labels if "labels" in told else None
    for m in seen:
        name = "payload" if m.client is None else f"payload of client {m.client} in round {m.number}"
        note = contradiction(name, network, m, size or known.shape[0], known.classes, labels)
        if note is not None and m.payload.mode == UNKNOWN:
            notes[note] = None
    return tuple(notes)


def _copy(model: nn.Module, payload: Payload) -> Payload:
    """A copy without a graph; named tensors in the order of the model's parameters, which simulation follows.

    Without layers that keep statistics there is no mode to be ignorant of.
    """
    if payload.kind != "scalars":
        payload = replace(payload, content={name: payload[name] for name in models.parameters(model)})
    unaffected = payload.mode == UNKNOWN and models.batchnorm_mode(model) is None
    return replace(payload.detach().clone(), mode=None if unaffected else payload.mode)
