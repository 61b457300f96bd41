"""The transcript of a training run: every message, and the model states that everybody can compute from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .. import _validate, models, zo
from ..data.batch import Batch
from ..protocols import Payload, Protocol


@dataclass(frozen=True, eq=False, init=False)
class Round:
    """One message: the protocol (with its public seed), the payload, and the model state it was computed from.

    ``parameters`` is None where the state is the observation's model as it stands. ``number`` is the training round,
    ``client`` who sent it. A bare tensor, or bare named tensors, given for ``payload`` become one of an unknown mode.
    """

    protocol: Protocol
    payload: Payload
    parameters: models.Parameters | None = None
    number: int = 0
    client: int | None = None

    def __init__(
        self,
        protocol: Protocol,
        payload: Payload | torch.Tensor | Mapping,
        parameters: models.Parameters | None = None,
        number: int = 0,
        client: int | None = None,
    ):
        fields = {"protocol": protocol, "payload": Payload.of(protocol.kind, payload), "parameters": parameters}
        for name, value in (fields | {"number": number, "client": client}).items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class Transcript:
    """All that a server sees of a training run, and (for scoring only) what it does not see.

    Attributes:
        model: the global model before the first round; its parameters are never moved.
        messages: ``messages[t][k]`` are client k's messages in round t, one for each local step; none if the client was
            not sampled, or is not recorded.
        states: global model state before each round and after the last, rounds + 1 of them; None where it was not kept,
            before rounds in which no recorded client took part.
        accuracy: test accuracy after each round, shape (rounds,), on held-out public data.
        clients: the private data, None for a client whose data nobody here has. Attacks never read it; an observation
            takes a client's shapes from it, and its labels if they are told.
        lr: the server's step.
        unbiased: how everybody replays scalars, see :func:`glutils.federation.train`.
        local_batch: images that a client draws anew for each message; None: all of them.
        sampling: ``"fixed"``: exactly so many; ``"poisson"``: each image by itself, so that as many are expected.
        drawn: ``drawn[t][k]``: indices of the images behind each message, for scoring only.
        decay: factor of ``lr`` from round to round.
        recorded: the clients whose messages were kept; None: all.
        took_part: the clients of each round, recorded or not.
        uplink: bytes that all clients together sent in each round, shape (rounds,), int64, every number of a payload
            counted as it is held here: what a compression would save is not taken off. None if it was not counted.
        sizes: how many images each client has, where ``clients`` do not say: their weights in a round's mean. None: all
            alike.
    """

    model: nn.Module
    messages: tuple[tuple[tuple[Round, ...], ...], ...]
    states: tuple[models.Parameters | None, ...]
    accuracy: torch.Tensor
    clients: tuple[Batch | None, ...]
    lr: float | None = None
    unbiased: bool = True
    local_batch: int | None = None
    sampling: str = "fixed"
    drawn: tuple[tuple[tuple[torch.Tensor, ...], ...], ...] = ()
    decay: float = 1.0
    recorded: tuple[int, ...] | None = None
    took_part: tuple[tuple[int, ...], ...] = ()
    uplink: torch.Tensor | None = None
    sizes: tuple[int, ...] | None = None

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self.messages)

    def sent(self, client: int) -> int:
        """How many numbers this client has sent in all; ``ValueError`` for a client that was not recorded."""
        self._check_recorded(client)
        return sum(message.payload.numel() for entry in self.messages for message in entry[client])

    def of(self, client: int) -> tuple[Round, ...]:
        """All messages of one client, in order, after :meth:`check`.

        ``ValueError`` if it sent none, or was not recorded.
        """
        self._check_recorded(client)
        self.check()
        found = tuple(message for entry in self.messages for message in entry[client])
        if not found:
            raise ValueError(f"client {client} took part in none of the {self.rounds} rounds")
        return found

    def data(self, client: int) -> Batch:
        """The private data of a client; ``TypeError`` where nobody here has them."""
        self._check_recorded(client)
        found = self.clients[client]
        if found is None:
            raise TypeError(f"shape and classes must be given for client {client}: the transcript has none of its data")
        return found

    @property
    def weights(self) -> list[int]:
        """How many images each client has, its weight in a round's mean; where that is not known, 1 for each."""
        if self.sizes is not None:
            return list(self.sizes)
        held = [len(client) for client in self.clients if client is not None]
        return held if len(held) == len(self.clients) else [1] * len(self.clients)

    def check_count(self, client: int, images: int) -> None:
        """``ValueError`` unless the client may have so many images."""
        known = None if self.sizes is None else self.sizes[client]
        if known is not None and images != known:
            raise ValueError(f"shape must begin with the {known} images that client {client} has, got {images}")
        if self.local_batch is not None and images < self.local_batch:
            raise ValueError(
                f"shape must begin with at least the {self.local_batch} images of a mini-batch, got {images}"
            )

    def _check_recorded(self, client: int) -> None:
        _validate.integer("client", client, at_least=0, at_most=len(self.clients) - 1)
        if self.recorded is not None and client not in self.recorded:
            names = ", ".join(map(str, self.recorded)) or "none"
            raise ValueError(f"client must be one of the recorded ones ({names}), got {client}")

    def check(self) -> None:
        """Replay the run from its messages; ``ValueError`` naming the first round, and client, that does not follow.

        Everybody can do that: the state after a round is a function of the state before it, the public seeds and the
        clients' payloads. A missing round, a seed of another round, a wrong model state, messages of two clients
        exchanged: all break the chain. One thing does not: the bare payloads of two clients of equal size exchanged
        within a round, whose mean stays the same. Only an attack sees that, see
        :func:`glutils.attacks.inconsistent_rounds`.

        Where some of a round's clients were not recorded, what can be checked is: the recorded clients' messages, and
        the states that these were computed from. The next state is then taken as it is.
        """
        if len(self.states) != self.rounds + 1:
            raise ValueError(f"states must hold one state more than the {self.rounds} rounds, got {len(self.states)}")
        sizes = self.weights
        for turn, entry in enumerate(self.messages):
            active = self._check_headers(turn, entry)
            for k in active:
                for message in entry[k]:
                    check_payload(f"payload of client {k} in round {turn}", self.model, message)
            for at in (turn, turn + 1):
                for name, parameter in (self.states[at] or {}).items():
                    _validate.finite(f"model state before round {at}, {name},", parameter)
            if active:
                self._check_replay(turn, entry, active, sizes)

    def _check_replay(self, turn: int, entry: tuple, active: list[int], sizes: list[int]) -> None:
        """Follow one round from state to state."""
        state, after = self.states[turn : turn + 2]
        if state is None:
            raise ValueError(f"round {turn}: the model state before it is missing")
        own = dict.fromkeys(active, state)
        lr = self.lr if self.lr is None or self.decay == 1 else self.lr * self.decay**turn
        complete = not self.took_part or set(self.took_part[turn]) == set(active)
        for step in range(len(entry[active[0]])):
            said = [entry[k][step] for k in active]
            protocol = said[0].protocol
            directions = protocol.draw(self.model) if protocol.kind == "scalars" else None
            for k, message in zip(active, said, strict=True):
                if not _same(message.parameters, own[k], 1e-5 if step else 0.0):
                    expected = "the one that its own scalars lead to" if step else "the global one"
                    raise ValueError(f"round {turn}: the model state of client {k} is not {expected}")
                if directions is not None and lr is not None and step + 1 < len(entry[k]):
                    left = protocol.left_behind(own[k], directions)
                    own[k] = zo.replay(left, message.payload.scalars, directions, lr, unbiased=self.unbiased)
            if complete:
                state = move(state, said, [sizes[k] for k in active], directions, lr, self.unbiased)
        if complete and after is not None and not _same(state, after, 1e-5):
            raise ValueError(
                f"round {turn}: its messages do not lead to the next model state; "
                "a wrong state, a wrong seed or a payload of another run"
            )

    def _check_headers(self, turn: int, entry: tuple[tuple[Round, ...], ...]) -> list[int]:
        """Who took part in this round; ``ValueError`` if numbers, senders or protocols do not fit together."""
        if len(entry) != len(self.clients):
            raise ValueError(f"round {turn} holds messages of {len(entry)} clients, expected {len(self.clients)}")
        active = [k for k, said in enumerate(entry) if said]
        if self.took_part:
            wanted = [k for k in self.took_part[turn] if self.recorded is None or k in self.recorded]
            missing = sorted(set(wanted) - set(active))
            if active and missing:
                raise ValueError(f"round {turn}: the messages of client {missing[0]}, who took part, are missing")
            if not wanted and not active:
                return []
        if not active:
            raise ValueError(f"round {turn} is missing: it holds no messages")
        first = entry[active[0]]
        for k in active:
            numbers = sorted({message.number for message in entry[k]})
            if numbers != [turn]:
                raise ValueError(
                    f"round {turn} is missing or out of order: the messages of client {k} say round {numbers}"
                )
            if len(entry[k]) != len(first):
                raise ValueError(
                    f"round {turn}: client {k} sent {len(entry[k])} messages, client {active[0]} {len(first)}"
                )
            for step, (message, other) in enumerate(zip(entry[k], first, strict=True)):
                if message.client not in (None, k):
                    raise ValueError(
                        f"round {turn}: a message of client {message.client} stands in the place of client {k}'s"
                    )
                seeds = [m.protocol.public_seed for m in (other, message)]
                who = f"in step {step}, client {active[0]} against client {k}"
                if seeds[0] != seeds[1]:
                    raise ValueError(f"round {turn} mixes public seeds {seeds} {who}")
                if not message.protocol.averages_with(other.protocol):
                    raise ValueError(f"round {turn} mixes protocols {who}: {other.protocol}, {message.protocol}")
        return active


def move(
    state: models.Parameters,
    said: Sequence[Round],
    sizes: Sequence[int],
    directions: zo.Directions | None,
    lr: float | None,
    unbiased: bool,
) -> models.Parameters:
    """The next global state from all clients' messages of one step, weighted by their numbers of images.

    (McMahan et al. 2017.) ``directions`` are those of the step, drawn once for everybody.
    """
    everybody = sum(sizes)
    mean: Any = sum(size / everybody * message.payload for size, message in zip(sizes, said, strict=True))
    return advance(state, mean, said[0].protocol, directions, lr, unbiased)


def advance(
    state: models.Parameters,
    mean: Payload,
    protocol: Protocol,
    directions: zo.Directions | None,
    lr: float | None,
    unbiased: bool,
) -> models.Parameters:
    """The next global state from the weighted mean of all clients' payloads of one step."""
    if directions is not None and lr is not None:
        return zo.replay(protocol.left_behind(state, directions), mean.scalars, directions, lr, unbiased=unbiased)
    factor = 1.0 if protocol.kind == "delta" or lr is None else lr
    return {name: p - factor * mean[name] for name, p in state.items()}


def check_payload(name: str, model: nn.Module, message: Round) -> None:
    """Refuse a payload of the wrong shape, or with entries that are not finite."""
    protocol: Any = message.protocol  # where it sends scalars, it has a number of directions
    payload = message.payload
    if protocol.kind == "scalars":
        if not payload.dtype.is_floating_point:
            raise TypeError(f"{name} must be floating-point numbers, got {payload.dtype}")
        if payload.shape != (protocol.directions,):
            raise ValueError(f"{name} must hold {protocol.directions} scalars, got shape {tuple(payload.shape)}")
        _validate.finite(name, payload.scalars)
        return
    wanted = models.parameters(model)
    if set(payload) != set(wanted):
        raise ValueError(f"{name} must name the model's parameters, differs in {sorted(set(payload) ^ set(wanted))}")
    for key, tensor in payload.items():
        if tensor.shape != wanted[key].shape:
            expected, got = tuple(wanted[key].shape), tuple(tensor.shape)
            raise ValueError(f"{name}[{key!r}] must have shape {expected}, got {got}")
        _validate.finite(f"{name}[{key!r}]", tensor)


def _same(one: models.Parameters, other: models.Parameters, tolerance: float = 0.0) -> bool:
    return all(torch.allclose(one[n], other[n], rtol=tolerance, atol=tolerance) for n in other)

