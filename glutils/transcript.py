"""The transcript of a training run: every message, and the model states that everybody can compute from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from . import _check, models, zo
from .data.batch import Batch
from .protocols import Payload, Protocol


@dataclass(frozen=True, eq=False)
class Round:
    """One message: the protocol (with its public seed), the payload, and the model state it was computed from.

    ``parameters`` is None where the state is the observation's model as it stands. ``number`` is the training round.
    """

    protocol: Protocol
    payload: Payload
    parameters: models.Parameters | None = None
    number: int = 0


@dataclass(frozen=True, eq=False)
class Transcript:
    """All that a server sees of a training run, and (for scoring only) what it does not see.

    Attributes:
        model: the global model before the first round; its parameters are never moved.
        messages: ``messages[t][k]`` are client k's messages in round t, one for each local step; none if the client was
            not sampled.
        states: global model state before each round and after the last, rounds + 1 of them.
        accuracy: test accuracy after each round, shape (rounds,), on held-out public data.
        clients: the private data. Attacks never read it; an observation takes a client's shapes from it, and its labels
            if they are told.
        lr, unbiased: how everybody replays scalars, see :func:`glutils.federation.train`.
        local_batch: images that a client draws anew for each message; None: all of them.
        drawn: ``drawn[t][k]``: indices of the images behind each message, for scoring only.
    """

    model: nn.Module
    messages: tuple[tuple[tuple[Round, ...], ...], ...]
    states: tuple[models.Parameters, ...]
    accuracy: torch.Tensor
    clients: tuple[Batch, ...]
    lr: float | None = None
    unbiased: bool = True
    local_batch: int | None = None
    drawn: tuple[tuple[tuple[torch.Tensor, ...], ...], ...] = ()

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self.messages)

    def sent(self, client: int) -> int:
        """How many numbers this client has sent in all."""
        return sum(_count(message.payload) for entry in self.messages for message in entry[client])

    def of(self, client: int) -> tuple[Round, ...]:
        """All messages of one client, in order, after :meth:`check`; ``ValueError`` if it sent none."""
        _check.integer("client", client, at_least=0, at_most=len(self.clients) - 1)
        self.check()
        found = tuple(message for entry in self.messages for message in entry[client])
        if not found:
            raise ValueError(f"client {client} took part in none of the {self.rounds} rounds")
        return found

    def check(self) -> None:
        """Replay the run from its messages; ``ValueError`` naming the first round that does not follow.

        Everybody can do that: the state after a round is a function of the state before it, the public seeds and the
        clients' payloads. A missing round, a seed of another round, or a wrong model state breaks the chain.
        """
        if len(self.states) != self.rounds + 1:
            raise ValueError(f"states must hold one state more than the {self.rounds} rounds, got {len(self.states)}")
        numbers = [{m.number for said in entry for m in said} for entry in self.messages]
        for turn, (entry, number) in enumerate(zip(self.messages, numbers, strict=True)):
            if len(entry) != len(self.clients):
                raise ValueError(f"round {turn} holds messages of {len(entry)} clients, expected {len(self.clients)}")
            if number != {turn}:
                raise ValueError(f"round {turn} is missing or out of order: its messages say round {sorted(number)}")
            for step in range(max(map(len, entry))):
                seeds = {getattr(said[step].protocol, "seed", None) for said in entry if said}
                if len(seeds) > 1:
                    raise ValueError(f"round {turn} mixes public seeds {sorted(seeds)}")
            for k, said in enumerate(entry):
                for message in said:
                    check_payload(f"payload of client {k} in round {turn}", self.model, message)
                if said and not _same(said[0].parameters, self.states[turn]):
                    raise ValueError(f"round {turn}: the model state of client {k} is not the global one")
            following = advance(self.model, self.states[turn], entry, self.clients, self.lr, self.unbiased)
            if not _same(following, self.states[turn + 1], 1e-5):
                raise ValueError(
                    f"round {turn}: its messages do not lead to the next model state; "
                    "a wrong state, a wrong seed or a payload of another run"
                )


def advance(model, state, entry, clients, lr, unbiased) -> models.Parameters:
    """The next global state from all clients' messages, weighted by their numbers of images (McMahan et al. 2017)."""
    active = [k for k, said in enumerate(entry) if said]
    total = sum(len(clients[k]) for k in active)
    weights = [len(clients[k]) / total for k in active]
    for step in range(len(entry[active[0]])):
        messages = [entry[k][step] for k in active]
        protocol = messages[0].protocol
        if protocol.kind == "scalars":
            mean = sum(w * m.payload for w, m in zip(weights, messages, strict=True))
            state = zo.replay(state, mean, protocol.draw(model), lr, unbiased=unbiased)
        else:
            factor = 1.0 if protocol.kind == "delta" else lr
            mean = {n: sum(w * m.payload[n] for w, m in zip(weights, messages, strict=True)) for n in state}
            state = {name: p - factor * mean[name] for name, p in state.items()}
    return state


def check_payload(name: str, model: nn.Module, message: Round) -> None:
    """Refuse a payload of the wrong kind, shape, or with entries that are not finite."""
    protocol, payload = message.protocol, message.payload
    if protocol.kind == "scalars":
        _check.instance(name, payload, torch.Tensor)
        if payload.shape != (protocol.directions,):
            raise ValueError(f"{name} must hold {protocol.directions} scalars, got shape {tuple(payload.shape)}")
        _check.finite(name, payload)
        return
    _check.instance(name, payload, Mapping)
    wanted = models.parameters(model)
    if set(payload) != set(wanted):
        raise ValueError(f"{name} must name the model's parameters, differs in {sorted(set(payload) ^ set(wanted))}")
    for key, tensor in payload.items():
        if tensor.shape != wanted[key].shape:
            expected, got = tuple(wanted[key].shape), tuple(tensor.shape)
            raise ValueError(f"{name}[{key!r}] must have shape {expected}, got {got}")
        _check.finite(f"{name}[{key!r}]", tensor)


def _same(one: models.Parameters, other: models.Parameters, tolerance: float = 0.0) -> bool:
    return all(torch.allclose(one[n], other[n], rtol=tolerance, atol=tolerance) for n in other)


def _count(payload: Payload) -> int:
    return payload.numel() if isinstance(payload, torch.Tensor) else sum(t.numel() for t in payload.values())
