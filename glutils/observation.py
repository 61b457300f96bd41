"""What the adversary holds: everything it saw, everything it was told, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from . import _check, models, priors, zo
from .data.batch import Batch
from .defenses import Defended
from .protocols import FedSGD, Payload, Protocol, mapped
from .transcript import Round, Transcript, check_payload

KNOWLEDGE = ("labels", "batch_stats", "public")
"""What ``knows`` may name: the private labels, the batch norm statistics of the private batch, public data."""


@dataclass(frozen=True, eq=False)
class Observation:
    """All that the adversary holds. Made by :func:`glutils.observe`; attacks read nothing else.

    Attributes:
        model: the attacker's own copy of the global model.
        rounds: the messages, in order.
        shape: (B, C, H, W) of the private batch; the batch size is known in every threat model of this book.
        classes: number of classes.
        knows: what was told beyond the protocol; see :data:`KNOWLEDGE`.
        labels: (B,) int64 if told, else None.
        statistics: exact batch norm statistics of the private batch if told, else None.
        public: public data if told, else None.
        batchnorm: mode of the model's batch norm layers when the client ran it: "train", "eval", or None.
        beyond_protocol: of ``knows``, what this protocol never sends; results that use it are marked.
        local_batch: images behind each message if the client drew mini-batches (which ones is not known), else None.
    """

    model: nn.Module
    rounds: tuple[Round, ...]
    shape: tuple[int, int, int, int]
    classes: int
    knows: frozenset[str] = frozenset()
    labels: torch.Tensor | None = None
    statistics: Any = None
    public: Batch | None = None
    batchnorm: str | None = None
    beyond_protocol: frozenset[str] = field(default_factory=frozenset)
    local_batch: int | None = None

    def to(self, device: torch.device | str) -> Observation:
        """The same observation on ``device``."""
        move = lambda value: mapped(value, lambda tensor: tensor.to(device))  # noqa: E731
        rounds = tuple(replace(r, payload=move(r.payload), parameters=move(r.parameters)) for r in self.rounds)
        return replace(
            self,
            model=copy.deepcopy(self.model).to(device),
            rounds=rounds,
            labels=move(self.labels),
            statistics=move(self.statistics),
            public=None if self.public is None else self.public.to(device),
        )

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
    model: Any,
    protocol: Any = None,
    payload: Any = None,
    batch: Any = None,
    *,
    client: Any = None,
    rounds: Any = None,
    knows: Iterable[str] = (),
    public: Any = None,
) -> Observation:
    """What an honest-but-curious server holds: after one message, or of one client after a whole training run.

    ``observe(model, protocol, payload, batch, knows=...)`` or ``observe(transcript, client=k, knows=...)``.

    Args:
        model: the global model in the state and mode in which the client ran it (it is copied), or a
            :class:`~glutils.transcript.Transcript`.
        protocol: how the payload was made; its seed is public.
        payload: what ``protocol.transmit`` returned.
        batch: the private batch. Only its size and shape, and what ``knows`` names, are passed on.
        client: which client of the transcript; its messages alone are passed on.
        rounds: of a transcript, the rounds that the adversary saw (indices); default: all.
        knows: any of ``"labels"``, ``"batch_stats"``, ``"public"``.
        public: public data of the same kind; needed if and only if ``knows`` names ``"public"``.

    Raises:
        TypeError, ValueError: a payload of the wrong kind, shape or with non-finite entries; unknown knowledge; batch
            statistics of a model without batch norm; a batch norm mode other than the client's; a transcript whose
            messages do not lead from one state to the next (the message names the round).
    """
    knows = _knowledge(knows)
    if ("public" in knows) != (public is not None):
        raise ValueError("public must be given if and only if knows names 'public'")
    if isinstance(model, Transcript):
        transcript, model = model, model.model
        if client is None or protocol is not None or payload is not None or batch is not None:
            raise TypeError("of a transcript, observe takes client=... and neither protocol, payload nor batch")
        seen = transcript.of(client)
        if rounds is not None:
            chosen = {_check.integer("rounds", r, at_least=0, at_most=transcript.rounds - 1) for r in rounds}
            seen = tuple(message for message in seen if message.number in chosen)
            if not seen:
                raise ValueError(f"client {client} sent nothing in rounds {sorted(chosen)}")
        batch, size = transcript.clients[client], transcript.local_batch
        if "batch_stats" in knows:
            raise ValueError("knows must not name 'batch_stats' for a transcript: they would change with every round")
    else:
        if client is not None or rounds is not None:
            raise TypeError("client and rounds belong to a transcript; got a model")
        _check.instance("protocol", protocol, Protocol)
        _check.instance("batch", batch, Batch)
        models.check_deterministic(model)
        check_payload("payload", model, Round(protocol, payload))
        protocol.check(model, batch.images, batch.labels)
        seen, size = (Round(protocol.observed(payload), payload),), None
    mode = models.batchnorm_mode(model)
    for message in seen:
        sent = getattr(message.payload, "batchnorm", mode)
        if sent != mode:
            raise ValueError(f"model has batch norm in {mode!r} mode, but the payload was computed in {sent!r} mode")
    statistics = None
    if "batch_stats" in knows:
        statistics = priors.batchnorm_statistics(model, batch.images)
        if not statistics:
            raise ValueError("knows names 'batch_stats', but the model has no batch norm layers")
        statistics = {name: (mean.detach(), var.detach()) for name, (mean, var) in statistics.items()}
    return Observation(
        model=copy.deepcopy(model),
        rounds=tuple(replace(message, payload=_received(model, message.payload)) for message in seen),
        shape=tuple(batch.images.shape),
        classes=len(batch.classes),
        knows=knows,
        labels=batch.labels.clone() if "labels" in knows else None,
        statistics=statistics,
        public=public,
        batchnorm=mode,
        beyond_protocol=knows & {"batch_stats"},
        local_batch=size,
    )


def _knowledge(knows: Iterable[str]) -> frozenset[str]:
    if isinstance(knows, str):
        raise TypeError(f"knows must be a collection of names, got the string {knows!r}")
    for name in (found := frozenset(knows)):
        _check.choice("knows", name, KNOWLEDGE)
    return found


def tamper(seen: Observation, how: str, *, seed: int = 0) -> Observation:
    """The observation of an attacker who was misled: a negative control, on which an attack must fail.

    Args:
        how: ``"wrong_seed"``: scalars as sent, directions from another public seed; ``"permuted"``: the entries of
            every payload tensor in random order; ``"wrong_gradient"``: a payload of the same norm in a random
            direction; ``"zero"``: a payload of zeros, so that only the priors speak.
        seed: of the permutation or the random direction.

    Raises:
        ValueError: an unknown ``how``, or ``"wrong_seed"`` for a protocol without directions.
    """
    _check.choice("how", how, ("wrong_seed", "permuted", "wrong_gradient", "zero"))
    if how == "wrong_seed":
        if seen.kind != "scalars":
            raise ValueError(f"how='wrong_seed' needs a protocol with directions, got {seen.protocol}")
        return replace(seen, rounds=tuple(replace(r, protocol=r.protocol.turn(1_000_003 + seed)) for r in seen.rounds))
    generator = torch.Generator().manual_seed(seed)

    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        if how == "permuted":
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            return tensor.flatten()[order].view(tensor.shape)
        if how == "zero":
            return torch.zeros_like(tensor)
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        return noise * (tensor.norm() / noise.norm())

    return replace(seen, rounds=tuple(replace(r, payload=mapped(r.payload, spoil)) for r in seen.rounds))


def naive(seen: Observation) -> Observation:
    """The observation of an attacker who does not know of any defence: it simulates the protocol within.

    For comparison with the one who knows. An observation of an undefended protocol stays as it is.
    """
    _check.instance("seen", seen, Observation)
    bare = lambda protocol: bare(protocol.protocol) if isinstance(protocol, Defended) else protocol  # noqa: E731
    return replace(seen, rounds=tuple(replace(r, protocol=bare(r.protocol)) for r in seen.rounds))


def as_gradient(seen: Observation, *, unbiased: bool = True, scaled: bool = True) -> Observation:
    """The observation in which scalars, or a parameter difference, stand for a gradient, as if of FedSGD.

    What attacks on gradients (``"dlg"``, ``"idlg"``, ``"ig"``, ``"stg"``) can be fed after one message of another kind.

    - Scalars: the mean of the directions, each times its scalar, see :func:`glutils.zo.estimate`. Its cosine with the
      gradient is about sqrt(K / d), with K scalars and d parameters.
    - A difference: (theta_0 - theta_U) / (lr U), the mean of the gradients at the U = epochs x ceil(B / batch_size)
      states that local training went through: the average gradient approximation of IGIMS (Fang et al. 2024). Exact
      for U = 1, and the worse the further local training drifts. Momentum and weight decay are allowed for, see
      :meth:`glutils.protocols.FedAvg.average_gradient`.

    Args:
        seen: one message; of a transcript, observe one round. Messages of several rounds are about different models,
            and their estimates must not be averaged.
        unbiased: of scalars: multiply by d for unit directions. The reference code of ZeroGLA does not (False), and its
            baselines look for a gradient that is sqrt(1 / (K d)) as long as the true one.
        scaled: of a difference: divide by lr U. The code of a survey (Zhu, Huang, Xie 2024) does not (False): it takes
            the bare difference for a gradient, which is then lr U times as long as the mean gradient. Attacks that look
            at directions only do not mind.

    Raises:
        ValueError: a payload that is neither scalars nor a difference, more than one message, ``unbiased=False`` for a
            difference, ``scaled=False`` for scalars.
    """
    _check.instance("seen", seen, Observation)
    for name, value in (("unbiased", unbiased), ("scaled", scaled)):
        _check.instance(name, value, bool)
    if seen.kind not in ("scalars", "delta"):
        raise ValueError(f"seen must hold scalars or a parameter difference, got a payload of kind {seen.kind!r}")
    if len(seen.rounds) != 1:
        raise ValueError(f"seen must hold one message, got {len(seen.rounds)}; observe(..., rounds=[t]) picks one")
    if seen.kind == "delta" and not unbiased:
        raise ValueError("unbiased=False is for scalars, got a parameter difference")
    if seen.kind == "scalars" and not scaled:
        raise ValueError("scaled=False is for a parameter difference, got scalars")
    message, named = seen.rounds[0], models.parameters(seen.model)
    if seen.kind == "delta":
        start, payload = message.parameters or named, dict(message.payload)
        if scaled:
            payload = message.protocol.average_gradient(start, payload, local_steps(seen))
    else:
        found = zo.estimate(message.payload, message.protocol.draw(seen.model), unbiased=unbiased)
        payload = {name: part.to(named[name].dtype) for name, part in models.unflatten(found, named).items()}
    return replace(seen, rounds=(replace(message, protocol=FedSGD(), payload=payload),))


def local_steps(seen: Observation) -> int:
    """Steps of local training behind one parameter difference: epochs x ceil(images / batch_size)."""
    images = seen.shape[0] if seen.local_batch is None else seen.local_batch
    return seen.protocol.epochs * -(-images // seen.protocol.batch_size)


def _received(model: nn.Module, payload: Payload) -> Payload:
    """A copy without a graph; named tensors in the order of the model's parameters, which simulation follows."""
    if isinstance(payload, Mapping):
        payload = {name: payload[name] for name in models.parameters(model)}
    return mapped(payload, lambda tensor: tensor.detach().clone())
