"""Logs of servers: what a zeroth-order server received and drew, read as a transcript; and a transcript written so."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import _validate, models, zo
from ..protocols import UNKNOWN, Payload, Protocol
from .end_weights import check_end
from .log_files import dump, load
from .transcript import Round, Transcript, move

ARRAYS = ("seeds", "scalars", "rounds", "sizes")
"""Names of a log's arrays, beside ``start/*`` and ``end/*``."""


@dataclass(frozen=True, eq=False)
class Log:
    """The arrays of a log, checked: seeds (R, J), scalars (R, N, J, K), who sent in each round, parameters by name."""

    seeds: list[list[int]]
    scalars: torch.Tensor
    present: list[list[int]]
    start: models.Parameters
    end: models.Parameters | None
    sizes: tuple[int, ...] | None


def read(
    source: str | Path | Mapping[str, Any],
    model: nn.Module,
    protocol: Protocol,
    *,
    lr: float | int,
    decay: float | int = 1.0,
    unbiased: bool = True,
    local_batch: int | None = None,
) -> Transcript:
    """The transcript of a run of other people's clients, from the log of its server.

    Everybody can follow such a run: in every round each sampled client moves along its own scalars from step to step,
    and the server along their mean. So the log needs no model states but the first. If it has the last one, the way is
    checked against it, to the round-off of so many steps.

    Args:
        source: a path to ``.npz``, ``.json`` or ``.jsonl``, or a mapping of arrays. ``seeds``: (rounds, local steps),
            integers. ``scalars``: (rounds, clients, local steps, K), NaN (``null``) where a client was not sampled.
            ``start/<name>``: parameters before the first round, by the model's names or numbered in its order; without
            them the model is taken as it stands. ``end/<name>``: those after the last, if they are known.
            ``rounds``, if given, numbers the rounds, and ``sizes`` says how many images each client has, its weight in
            the mean. JSON has ``"start": {name: lists}``. A line of ``.jsonl`` is a message, with ``round``,
            ``client``, ``step`` (0 if left out), ``seed`` and ``scalars``, or has ``start``, ``end`` or ``sizes``.
        model: the network; it is not changed.
        protocol: how clients make their scalars; its seed is replaced by those of the log.
        lr: step size of clients and server.
        decay: factor of ``lr`` from round to round.
        unbiased: see :func:`glutils.federation.train`; it matters for the unit law alone.
        local_batch: images that a client draws anew for each message, if it does not take all.

    Returns:
        The transcript. It holds no private data and no accuracy: ``gl.observe(log, client=0, shape=..., classes=...)``
        says what is known of a client.

    Raises:
        TypeError, ValueError: arrays that are missing, unknown, or of another shape or type; a round without messages,
            or one that lacks some of a client's scalars, by its number; end weights to which the messages do not lead.
            The message then says which rounds do not fit, and what would: another lr, the other sign, another law.

    Example:
        >>> import torch, glutils as gl
        >>> batch = gl.data.sample("digits", seed=0)
        >>> model, protocol = gl.models.build("mlp", batch, seed=0), gl.protocols.ZerothOrder(directions=3)
        >>> log = {"seeds": [[5], [9]], "scalars": torch.ones(2, 4, 1, 3)}
        >>> transcript = gl.transcripts.read(log, model, protocol, lr=0.1)
        >>> transcript.rounds, len(transcript.clients), transcript.messages[1][2][0].protocol.seed
        (2, 4, 9)
    """
    models.check_deterministic(model)
    _check_protocol(protocol)
    lr, decay = _validate.number("lr", lr, above=0), _validate.number("decay", decay, above=0, at_most=1)
    _validate.instance("unbiased", unbiased, bool)
    if local_batch is not None:
        local_batch = _validate.integer("local_batch", local_batch, at_least=1)
    log = _checked(load(source), model, protocol)
    network = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name in log.start:
                tensor.copy_(log.start[name])
    messages, states = _replayed(log, network, protocol, lr, decay, unbiased)
    transcript = Transcript(
        model=network,
        messages=messages,
        states=states,
        accuracy=torch.full((len(log.seeds),), torch.nan),
        clients=(None,) * log.scalars.shape[1],
        lr=lr,
        unbiased=unbiased,
        local_batch=local_batch,
        decay=decay,
        took_part=tuple(map(tuple, log.present)),
        sizes=log.sizes,
    )
    if log.end is not None:
        check_end(transcript, log.end)
    return transcript


def write(transcript: Transcript, path: str | Path) -> None:
    """Write the messages of a zeroth-order run as a log that :func:`read` reads back: ``.npz`` or ``.json``.

    What the server knows is written: seeds, scalars, first and last weights, and the clients' numbers of images. No
    private data, and neither protocol nor ``lr``, which :func:`read` is told again.

    Raises:
        TypeError, ValueError: messages that are no scalars along public directions, or that differ in their number from
            round to round; a client that took part and was not recorded.
    """
    _validate.instance("transcript", transcript, Transcript)
    transcript.check()
    spoken = [(t, k, said) for t, entry in enumerate(transcript.messages) for k, said in enumerate(entry) if said]
    for turn, active in enumerate(transcript.took_part):
        silent = sorted(set(active) - {k for t, k, _ in spoken if t == turn})
        if silent:
            raise ValueError(f"transcript must hold all messages: round {turn} lacks those of client {silent[0]}")
    counts = {(len(said), message.payload.numel()) for _, _, said in spoken for message in said}
    _check_protocol(spoken[0][2][0].protocol)
    if len(counts) != 1:
        raise ValueError(f"transcript must hold equally many scalars in each message, got {sorted(counts)} (steps, K)")
    (steps, count), clients = counts.pop(), len(transcript.clients)
    like = spoken[0][2][0].payload.scalars
    scalars = torch.full((transcript.rounds, clients, steps, count), torch.nan, dtype=like.dtype)
    seeds = np.zeros((transcript.rounds, steps), dtype=np.int64)
    for turn, k, said in spoken:
        for step, message in enumerate(said):
            scalars[turn, k, step] = message.payload.scalars.detach().cpu()
            seeds[turn, step] = message.protocol.public_seed or 0
    first, last = transcript.states[0], transcript.states[-1]
    start = dict(transcript.model.state_dict()) | (first or {})
    arrays = {"seeds": seeds, "scalars": _numpy(scalars)} | {f"start/{name}": _numpy(p) for name, p in start.items()}
    arrays |= {f"end/{name}": _numpy(p) for name, p in (last or {}).items()}
    if len(set(transcript.weights)) > 1 or transcript.sizes is not None:
        arrays["sizes"] = np.array(transcript.weights)
    dump(path, arrays)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16


def _check_protocol(protocol: Protocol) -> None:
    _validate.instance("protocol", protocol, Protocol)
    if protocol.kind != "scalars" or protocol.public_seed is None:
        raise ValueError(f"protocol must send scalars along directions of a public seed, got {protocol}")


def _checked(arrays: dict[str, Any], model: nn.Module, protocol: Any) -> Log:
    """The log that these arrays are; ``TypeError`` or ``ValueError`` naming the one that is not as it must be."""
    for name in arrays:
        if name not in ARRAYS and name.partition("/")[0] not in ("start", "end"):
            raise ValueError(f"source must hold {', '.join(ARRAYS)}, start/* and end/*; got {name!r} too")
    for name in ARRAYS[:2]:
        if name not in arrays:
            raise ValueError(f"source must hold {name!r}, got {', '.join(map(repr, arrays)) or 'nothing'}")
    seeds = _integers("seeds", arrays["seeds"], 2)
    scalars = torch.as_tensor(arrays["scalars"])
    if not scalars.is_floating_point():
        raise TypeError(f"scalars must be floating-point numbers, got {scalars.dtype}")
    wanted = (*seeds.shape, protocol.directions)
    if scalars.ndim != 4 or (scalars.shape[0], *scalars.shape[2:]) != wanted or 0 in scalars.shape:
        raise ValueError(
            f"scalars must have shape (rounds, clients, local steps, K) with {wanted[0]} rounds and {wanted[1]} local "
            f"steps, as seeds have, and K = {wanted[2]}, the protocol's directions; got {tuple(scalars.shape)}"
        )
    _check_numbers(arrays.get("rounds"), len(seeds))
    sizes = None
    if "sizes" in arrays:
        sizes = tuple(_integers("sizes", arrays["sizes"], 1).tolist())
        if len(sizes) != scalars.shape[1] or min(sizes) < 1:
            raise ValueError(f"sizes must be {scalars.shape[1]} numbers of images, 1 or more, got {list(sizes)}")
    start, end = (_parameters(group, arrays, model) for group in ("start", "end"))
    # a file of decimal numbers does not say in which precision they were; the client's holds them
    dtype = zo.DTYPES[protocol.dtype]
    narrowed = scalars.to(dtype)
    scalars = narrowed if torch.equal(narrowed.to(scalars).nan_to_num(), scalars.nan_to_num()) else scalars
    return Log(seeds.tolist(), scalars, _present(scalars), start or {}, end, sizes)


def _integers(name: str, value: Any, axes: int) -> np.ndarray:
    found = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {found.dtype}")
    if found.ndim != axes or not found.size:
        shape = "(rounds, local steps)" if axes == 2 else "one axis"
        raise ValueError(f"{name} must have {shape}, got shape {found.shape}")
    if int(found.min()) < 0:
        raise ValueError(f"{name} must be 0 or more, got {int(found.min())}")
    return found


def _check_numbers(numbers: Any, rounds: int) -> None:
    """Refuse a log whose own numbers of rounds have a gap."""
    if numbers is None:
        return
    found = _integers("rounds", numbers, 1).tolist()
    if len(found) != rounds:
        raise ValueError(f"rounds must number the {rounds} rounds of seeds, got {len(found)} numbers")
    for place, number in enumerate(found):
        if number != place:
            raise ValueError(f"round {place} is missing or out of order: rounds says {number} in its place")


def _present(scalars: torch.Tensor) -> list[list[int]]:
    """Who sent in each round; ``ValueError`` naming a round that is missing, or a message that is not whole."""
    absent = scalars.isnan()
    none, some = absent.flatten(2).all(2), absent.flatten(2).any(2)
    for turn, client in (some & ~none).nonzero().tolist():
        whole = absent[turn, client].all(1).nonzero().flatten().tolist()
        what = f"the scalars of step {whole[0]}" if whole else "some scalars"
        raise ValueError(f"round {turn}: {what} of client {client} are missing (NaN)")
    for turn in none.all(1).nonzero().flatten().tolist():
        raise ValueError(f"round {turn} is missing: no client's scalars are there (NaN)")
    for turn, client, *_ in scalars.isinf().nonzero().tolist():
        raise ValueError(f"round {turn}: the scalars of client {client} must be finite, got an infinite one")
    return [(~row).nonzero().flatten().tolist() for row in none]


def _parameters(group: str, arrays: dict[str, Any], model: nn.Module) -> models.Parameters | None:
    """Tensors of ``start`` or ``end`` by the model's names; None if there are none."""
    found = {name.partition("/")[2]: value for name, value in arrays.items() if name.startswith(f"{group}/")}
    if not found:
        return None
    wanted, known = models.parameters(model), model.state_dict()
    if all(name.isdigit() for name in found) and not set(found) <= set(known):
        if sorted(map(int, found)) != list(range(len(wanted))):
            raise ValueError(f"{group} must number the model's {len(wanted)} parameters from 0, got {sorted(found)}")
        found = {name: found[key] for name, key in zip(wanted, sorted(found, key=int), strict=True)}
    missing, foreign = sorted(set(wanted) - set(found)), sorted(set(found) - set(known))
    if missing or foreign:
        raise ValueError(f"{group} must name the model's parameters: lacks {missing}, and has {foreign} too")
    return {name: _parameter(f"{group}/{name}", value, known[name]) for name, value in found.items()}


def _parameter(name: str, value: Any, like: torch.Tensor) -> torch.Tensor:
    tensor = torch.as_tensor(value).detach().to(like.device)
    if tensor.shape != like.shape:
        raise ValueError(f"{name} must have shape {tuple(like.shape)}, got {tuple(tensor.shape)}")
    if like.is_floating_point() != tensor.is_floating_point():
        raise TypeError(f"{name} must be of the model's kind of numbers, {like.dtype}, got {tensor.dtype}")
    _validate.finite(name, tensor)
    if name.startswith("start") and not torch.equal(tensor.to(like.dtype).to(tensor.dtype), tensor):
        raise ValueError(f"{name} must hold numbers that the model's {like.dtype} can, got {tensor.dtype} beyond it")
    return tensor if name.startswith("end") else tensor.to(like.dtype)


def _replayed(
    log: Log, model: nn.Module, protocol: Protocol, lr: float, decay: float, unbiased: bool
) -> tuple[tuple[tuple[tuple[Round, ...], ...], ...], tuple[models.Parameters, ...]]:
    """Messages and states of a run: every client's own between two local steps, and the server's."""
    states: list[models.Parameters] = [{name: p.clone() for name, p in models.parameters(model).items()}]
    sizes, messages, device = log.sizes or (1,) * log.scalars.shape[1], [], next(model.parameters()).device
    scalars = log.scalars.to(device)
    for turn, (seeds, active) in enumerate(zip(log.seeds, log.present, strict=True)):
        state, rate = states[-1], lr * decay**turn
        own: dict[int, models.Parameters] = dict.fromkeys(active, state)
        entry: list[list[Round]] = [[] for _ in range(scalars.shape[1])]
        for step, seed in enumerate(seeds):
            now = protocol.with_seed(seed)
            directions, said = now.draw(model), []
            for k in active:
                payload = Payload("scalars", scalars[turn, k, step].clone(), UNKNOWN)
                said.append(Round(now.public_view(payload), payload, own[k], turn, k))
                entry[k].append(said[-1])
                if step + 1 < len(seeds):
                    left = now.left_behind(own[k], directions)
                    own[k] = zo.replay(left, payload.scalars, directions, rate, unbiased=unbiased)
            state = move(state, said, [sizes[k] for k in active], directions, rate, unbiased)
        messages.append(tuple(map(tuple, entry)))
        states.append(state)
    return tuple(messages), tuple(states)
