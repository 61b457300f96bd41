"""Rounds of federated training.

For scalar protocols this is DeComFL's loop (Li et al. 2024): every round has public seeds, every client answers with
scalars, and the averaged scalars are replayed by everyone, so that nobody ever sends a model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from . import _check, data, models, zo
from .data.batch import Batch
from .protocols import Protocol
from .solvers.engine import wanted
from .transcript import Round, Transcript, move


def train(
    protocol: Any,
    model: nn.Module,
    clients: Sequence[Batch],
    *,
    rounds: int,
    lr: float | None = None,
    local_steps: int = 1,
    local_batch: int | None = None,
    sampled: int | None = None,
    unbiased: bool = True,
    test: Batch | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Transcript:
    """Train for some rounds and keep the transcript.

    Args:
        protocol: what clients send. The public seed of a :class:`ZerothOrder` protocol is the first step's; later steps
            use seeds derived from it. A list holds one for each round, which may differ in their number of directions.
        model: the initial global model; it is not changed.
        clients: their private data.
        rounds: 1 or more.
        lr: step size of the server (and of the clients' own local steps) for gradients and scalars; FedAvg has its own.
        local_steps: steps that a client takes by itself between two messages to the server, scalar protocols only. In
            step j it moves along its own scalars of step j - 1, as in DeComFL, and goes back before it replays the
            aggregate.
        local_batch: draw this many of a client's images anew in each local step; default: all of them.
        sampled: clients that take part in a round, drawn at random; default: all.
        unbiased: scalar updates use the unbiased estimate (the unit law carries its factor d), so that ``lr`` means
            what it means in SGD. False is the reference code's estimate without d.
        test: held-out data for the accuracy; default: public data of the clients' set.
        seed: of client sampling and mini-batches; not of the directions, which are public.
        progress: as everywhere.

    Raises:
        TypeError, ValueError: before the first round.
    """
    rounds = _check.integer("rounds", rounds, at_least=1)
    protocols = _each_round(protocol, rounds)
    protocol = protocols[0]
    local_steps = _check.integer("local_steps", local_steps, at_least=1)
    clients = tuple(_check.instance("clients", client, Batch) for client in clients)
    if not clients:
        raise ValueError("clients must hold at least one Batch, got none")
    fewest = min(map(len, clients))
    if local_batch is not None:
        local_batch = _check.integer("local_batch", local_batch, at_least=1, at_most=fewest)
    sampled = len(clients) if sampled is None else _check.integer("sampled", sampled, at_least=1, at_most=len(clients))
    if protocol.kind == "delta":
        if lr is not None:
            raise ValueError(f"lr must not be given for FedAvg, which has its own ({protocol.lr}); got {lr}")
    elif lr is None:
        raise ValueError("lr must be given for gradient and scalar protocols, got None")
    else:
        lr = _check.number("lr", lr, above=0)
    if local_steps > 1 and protocol.kind != "scalars":
        raise ValueError(f"local_steps must be 1 for {type(protocol).__name__}, got {local_steps}")
    for client in clients:
        protocol.check(model, client.images, client.labels)
    generator = torch.Generator().manual_seed(_check.integer("seed", seed, at_least=0))
    test = data.public(clients[0]) if test is None else test

    working = copy.deepcopy(model)
    state = {name: p.clone() for name, p in models.parameters(working).items()}
    messages, states, drawn, accuracy = [], [state], [], []
    for turn in tqdm(range(rounds), desc="rounds", disable=not wanted(progress), leave=False):
        chosen = torch.randperm(len(clients), generator=generator)[:sampled].tolist()
        count = [local_steps if k in chosen else 0 for k in range(len(clients))]
        used = [_mini_batches(c, n, local_batch, generator) for c, n in zip(clients, count, strict=True)]
        steps = [protocols[turn].turn(turn * local_steps + j) for j in range(local_steps)]
        sent, state = _round(steps, working, state, clients, used, turn, lr, unbiased)
        messages.append(sent)
        drawn.append(tuple(used))
        states.append(state)
        accuracy.append(_accuracy(working, state, test))
    return Transcript(
        model=copy.deepcopy(model),
        messages=tuple(messages),
        states=tuple(states),
        accuracy=torch.tensor(accuracy),
        clients=clients,
        lr=lr,
        unbiased=unbiased,
        local_batch=local_batch,
        drawn=tuple(drawn),
    )


def _each_round(protocol: Any, rounds: int) -> list[Protocol]:
    """One protocol for each round, all of one type."""
    if isinstance(protocol, Protocol):
        return [protocol] * rounds
    if isinstance(protocol, (str, Mapping)) or not isinstance(protocol, Sequence):
        raise TypeError(f"protocol must be a Protocol or a list of them, got {type(protocol).__name__}")
    if len(protocol) != rounds:
        raise ValueError(f"protocol must hold one protocol for each of {rounds} rounds, got {len(protocol)}")
    for turn, entry in enumerate(protocol):
        _check.instance(f"protocol of round {turn}", entry, Protocol)
        if type(entry) is not type(protocol[0]) or getattr(entry, "lr", None) != getattr(protocol[0], "lr", None):
            raise ValueError(f"protocol of round {turn} must be of the first one's kind and lr, got {entry}")
    return list(protocol)


def _mini_batches(client: Batch, steps: int, size: int | None, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """The indices of the images behind each of a client's messages."""
    if size is None:
        return (torch.arange(len(client)),) * steps
    return tuple(torch.randperm(len(client), generator=generator)[:size].sort().values for _ in range(steps))


def _round(steps, model, state, clients, used, turn, lr, unbiased):
    """One round: every client's messages, and the next global state. The directions of a step are drawn once."""
    own = {k: state for k, which in enumerate(used) if which}
    sent = [[] for _ in clients]
    for j, now in enumerate(steps):
        directions = now.draw(model) if now.kind == "scalars" else None
        for k in own:
            batch = clients[k][used[k][j].tolist()]
            load(model, own[k])
            payload = now.own(k).transmit(model, batch.images, batch.labels, directions=directions)
            sent[k].append(Round(now.observed(payload), payload, own[k], turn, k))
            if j + 1 < len(steps):
                own[k] = zo.replay(own[k], payload, directions, lr, unbiased=unbiased)
        said = [sent[k][j] for k in own]
        state = move(state, said, [len(clients[k]) for k in own], directions, lr, unbiased)
    return tuple(map(tuple, sent)), state


def load(model: nn.Module, state: models.Parameters) -> None:
    """Write a state into a model's parameters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state:
                parameter.copy_(state[name])


@torch.no_grad()
def _accuracy(model: nn.Module, state: models.Parameters, test: Batch) -> float:
    guess = models.logits(model, state, test.images.to(next(iter(state.values())).device)).argmax(1).cpu()
    return float((guess == test.labels.cpu()).float().mean())
