"""One training run: who takes part in a round, what they send, where the model goes, and what is kept of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .. import models, zo
from ..data.batch import Batch
from ..observation.transcripts import Round, Transcript, advance
from ..protocols import Payload, Protocol
from . import together
from .checkpoint import fingerprint


@dataclass
class Run:
    """A training run: what was asked, and how far it is."""

    protocols: list[Protocol]
    model: nn.Module
    clients: tuple[Batch, ...]
    rounds: int
    lr: float | None
    decay: float
    local_steps: int
    local_batch: int | None
    sampling: str
    sampled: int
    unbiased: bool
    recorded: tuple[int, ...] | None
    batched: bool = True
    generator: torch.Generator = field(default_factory=torch.Generator)
    states: list[models.Parameters | None] = field(default_factory=list)
    messages: list[tuple[tuple[Round, ...], ...]] = field(default_factory=list)
    drawn: list[tuple[tuple[torch.Tensor, ...], ...]] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    uplink: list[int] = field(default_factory=list)
    took_part: list[tuple[int, ...]] = field(default_factory=list)
    memory: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.working = copy.deepcopy(self.model)
        self.states.append({name: p.clone() for name, p in models.parameters(self.working).items()})

    def steps(self, turn: int) -> list[Protocol]:
        """The protocol of every local step of a round."""
        return [self.protocols[turn].for_round(turn * self.local_steps + j) for j in range(self.local_steps)]

    def about(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        names = ("lr", "decay", "local_steps", "local_batch", "sampling", "sampled", "unbiased", "recorded", "batched")
        found = {name: getattr(self, name) for name in names}
        return found | {"model": fingerprint(self.model), "clients": fingerprint(*self.clients)}

    def advance(self, turn: int) -> None:
        """One round: the next global state, and what is recorded on the way to it."""
        state = self.states[turn]
        assert state is not None, "the latest state is always kept"
        chosen = torch.randperm(len(self.clients), generator=self.generator)[: self.sampled].tolist()
        active = sorted(chosen)
        used = {k: self._mini_batches(self.clients[k]) for k in active}
        told = active if self.recorded is None else [k for k in active if k in self.recorded]
        others = sorted(set(active) - set(told))
        start, own = state, dict.fromkeys(active, state)
        sent: dict[int, list[Round]] = {k: [] for k in told}
        lr, sizes = self.rate(turn), {k: len(self.clients[k]) for k in active}
        everybody, count = sum(sizes.values()), 0
        # indices of classes may become soft labels; the stack is in the records' precision, and tokens have none
        indices = all(client.labels.ndim == 1 and client.images.is_floating_point() for client in self.clients)
        alone = self.local_steps > 1 or not (self.batched and indices and together.possible(
            self.protocols[turn], self.working, len(others)))  # fmt: skip
        for j, now in enumerate(self.steps(turn)):
            directions = now.draw(self.working) if now.kind == "scalars" else None
            mean: Any = 0  # of all payloads so far, as one sum, so that memory does not grow with the clients
            for k in told + (others if alone else []):
                payload = self._transmit(now, k, used[k][j], own[k], directions)
                mean = mean + sizes[k] / everybody * payload
                if k in sent:
                    sent[k].append(Round(now.public_view(payload), payload, own[k], turn, k))
                if directions is not None and lr is not None and j + 1 < self.local_steps:
                    left = now.left_behind(own[k], directions)
                    own[k] = zo.replay(left, payload.scalars, directions, lr, unbiased=self.unbiased)
            if others and not alone:
                shares = [sizes[k] / everybody for k in others]
                mean = mean + self._together(now, others, used, start, directions, shares)
            count += len(active) * mean.nbytes
            state = advance(state, mean, now, directions, lr, self.unbiased)
        self.messages.append(tuple(tuple(sent.get(k, ())) for k in range(len(self.clients))))
        self.drawn.append(tuple(used[k] if k in sent else () for k in range(len(self.clients))))
        self.took_part.append(tuple(active))
        self.uplink.append(count)
        if turn and not told:
            self.states[turn] = None
        self.states.append(state)

    def rate(self, turn: int) -> float | None:
        """The server's step size in a round."""
        return self.lr if self.lr is None or self.decay == 1 else self.lr * self.decay**turn

    def _mini_batches(self, client: Batch) -> tuple[torch.Tensor, ...]:
        """The indices of the images behind each of a client's messages."""
        if self.local_batch is None:
            return (torch.arange(len(client)),) * self.local_steps
        if self.sampling == "poisson":
            rate = self.local_batch / len(client)
            chosen = [torch.rand(len(client), generator=self.generator) < rate for _ in range(self.local_steps)]
            return tuple(one.nonzero()[:, 0] for one in chosen)
        draw = lambda: torch.randperm(len(client), generator=self.generator)[: self.local_batch]  # noqa: E731
        return tuple(draw().sort().values for _ in range(self.local_steps))

    def _transmit(self, now, k, chosen, state, directions) -> Payload:
        load(self.working, state)
        images, labels = self._data(k, chosen)
        mine = now.for_client(k)
        if not mine.keeps_memory:
            return mine.transmit(self.working, images, labels, directions=directions)
        mine = mine.with_memory(self.memory.get(k))
        payload, self.memory[k] = mine.transmit_with_memory(self.working, images, labels, directions=directions)
        return payload

    def _together(self, now, others, used, state, directions, shares) -> Payload:
        load(self.working, state)
        how = {} if directions is None else {"directions": directions}
        batches = [self._data(k, used[k][0]) for k in others]
        return together.mean([now.for_client(k) for k in others], self.working, state, batches, shares, **how)

    def _data(self, k: int, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        client = self.clients[k]
        if self.local_batch is None:
            return client.images, client.labels
        return client.images[chosen.to(client.images.device)], client.labels[chosen.to(client.images.device)]

    def transcript(self) -> Transcript:
        """What is kept of the run."""
        return Transcript(
            model=copy.deepcopy(self.model),
            messages=tuple(self.messages),
            states=tuple(self.states),
            accuracy=torch.tensor(self.accuracy),
            clients=self.clients,
            lr=self.lr,
            unbiased=self.unbiased,
            local_batch=self.local_batch,
            sampling=self.sampling,
            drawn=tuple(self.drawn),
            decay=self.decay,
            recorded=self.recorded,
            took_part=tuple(self.took_part),
            uplink=torch.tensor(self.uplink),
        )


def load(model: nn.Module, state: models.Parameters) -> None:
    """Write a state into a model's parameters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state:
                parameter.copy_(state[name])
