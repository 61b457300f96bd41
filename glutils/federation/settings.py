"""What training can be asked for: every argument checked before the first round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from .. import _validate
from ..data.batch import Batch
from ..protocols import Protocol

SAMPLINGS = ("fixed", "poisson")
"""How a mini-batch is drawn."""


def run_settings(
    protocol: Any,
    model: nn.Module,
    clients: Any,
    *,
    rounds: Any,
    lr: Any,
    decay: Any,
    local_steps: Any,
    local_batch: Any,
    sampling: Any,
    sampled: Any,
    unbiased: Any,
    record: Any,
    batched: Any,
) -> dict[str, Any]:
    """What :class:`~glutils.federation.run.Run` is made from; ``TypeError`` or ``ValueError`` naming the argument."""
    rounds = _validate.integer("rounds", rounds, at_least=1)
    protocols = _each_round(protocol, rounds)
    first = protocols[0]
    local_steps = _validate.integer("local_steps", local_steps, at_least=1)
    clients = tuple(_validate.instance("clients", client, Batch) for client in clients)
    if not clients:
        raise ValueError("clients must hold at least one Batch, got none")
    if local_batch is not None:
        local_batch = _validate.integer("local_batch", local_batch, at_least=1, at_most=min(map(len, clients)))
    if _validate.choice("sampling", sampling, SAMPLINGS) == "poisson":
        if local_batch is None:
            raise ValueError("local_batch must be given with sampling='poisson': the expected number of images")
        if any(entry.public_count is None for entry in protocols):
            raise ValueError(
                "protocol must divide by a public number with sampling='poisson', since a batch may be empty: "
                f"gl.defenses.get('dpsgd', ..., expected={local_batch}), say; got {first}"
            )
    decay = _validate.number("decay", decay, above=0, at_most=1)
    if first.kind == "delta":
        for name, value, default in (("lr", lr, None), ("decay", decay, 1.0)):
            if value != default:
                own = first.step_size if name == "lr" else first.undefended
                raise ValueError(f"{name} must not be given for FedAvg, which has its own ({own}); got {value}")
    elif lr is None:
        raise ValueError("lr must be given for gradient and scalar protocols, got None")
    else:
        lr = _validate.number("lr", lr, above=0)
    if local_steps > 1 and first.kind != "scalars":
        raise ValueError(f"local_steps must be 1 for {type(first).__name__}, got {local_steps}")
    for client in clients:
        first.check(model, client.images, client.labels)
    return {
        "protocols": protocols,
        "model": model,
        "clients": clients,
        "rounds": rounds,
        "lr": lr,
        "decay": decay,
        "local_steps": local_steps,
        "local_batch": local_batch,
        "sampling": sampling,
        "sampled": _sampled(sampled, len(clients)),
        "unbiased": _validate.instance("unbiased", unbiased, bool),
        "recorded": _recorded(record, len(clients)),
        "batched": _validate.instance("batched", batched, bool),
    }


def _sampled(sampled: Any, clients: int) -> int:
    """How many clients take part in a round."""
    if sampled is None:
        return clients
    if isinstance(sampled, float):
        return math.ceil(_validate.number("sampled", sampled, above=0, at_most=1) * clients - 1e-9)
    return _validate.integer("sampled", sampled, at_least=1, at_most=clients)


def _recorded(record: Any, clients: int) -> tuple[int, ...] | None:
    if record is None:
        return None
    if isinstance(record, (str, Mapping)) or not isinstance(record, Iterable):
        raise TypeError(f"record must be a list of client indices, or None for all, got {record!r}")
    return tuple(sorted({_validate.integer("record", k, at_least=0, at_most=clients - 1) for k in record}))


def _each_round(protocol: Any, rounds: int) -> list[Protocol]:
    """One protocol for each round, all of one kind and step size."""
    if isinstance(protocol, Protocol):
        return [protocol] * rounds
    if isinstance(protocol, (str, Mapping)) or not isinstance(protocol, Sequence):
        raise TypeError(f"protocol must be a Protocol or a list of them, got {type(protocol).__name__}")
    if len(protocol) != rounds:
        raise ValueError(f"protocol must hold one protocol for each of {rounds} rounds, got {len(protocol)}")
    for turn, entry in enumerate(protocol):
        _validate.instance(f"protocol of round {turn}", entry, Protocol)
        if (entry.kind, entry.step_size) != (protocol[0].kind, protocol[0].step_size):
            raise ValueError(f"protocol of round {turn} must be of the first one's kind and lr, got {entry}")
    return list(protocol)
