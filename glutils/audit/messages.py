"""Messages as other programs hold them: arrays in order, state dicts, names behind prefixes, per-sample gradients.

Flower's clients send arrays in the order of the state dict, Opacus puts ``_module.`` before every name and keeps a
gradient for each record, NVFlare sends weights after less weights before. All become named tensors of the model, and
what was done to them on the way is said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .. import _validate, models
from ..models import functional, loading
from ..protocols import Payload, Protocol

NEAR = 0.5
"""Tensors that lie closer to the model's own than this share of their length are a client's weights, no difference."""


def message(
    model: nn.Module, protocol: Protocol, source: Any, *, records: int, what: str = "payload"
) -> tuple[Payload, tuple[str, ...]]:
    """The payload that ``source`` holds, and in words what had to be done for it.

    Args:
        model: the global model before the round, whose names count.
        protocol: says what kind of message is expected: scalars, a gradient, or a parameter difference.
        source: a :class:`~glutils.protocols.Payload`; a tensor or array of scalars; named tensors or arrays, with or
            without a wrapper's prefix and with or without buffers; arrays in the order of ``model.parameters()`` or of
            ``model.state_dict()``, as Flower sends them; a path to a file of these (``.safetensors``, ``.npz``,
            ``.pt``), nothing in which is executed. For a protocol of differences also the client's weights after its
            round: they are taken off the model's. For gradients also one gradient for each record, (B, ...), as Opacus
            keeps them: their mean is taken.
        records: how many there are behind the message.
        what: what errors call it.

    Returns:
        The payload, and notes.

    Raises:
        TypeError, ValueError: something else; a file that is missing, damaged or cut off; names that are missing or
            strange, shapes that do not fit, numbers that are not finite. One sentence that names ``what``.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", seed=0)
        >>> model, protocol = gl.models.build("mlp", batch, seed=0), gl.protocols.FedAvg(batch_size=1)
        >>> sent = protocol.transmit(model, batch.images, batch.labels)
        >>> after = {f"_module.{name}": p.detach() - sent[name] for name, p in model.named_parameters()}
        >>> payload, notes = gl.audit.message(model, protocol, after, records=1)
        >>> bool((payload.flat - sent.flat).abs().max() < 1e-6), notes[-1][:33]
        (True, "the message holds the client's we")
    """
    _validate.instance("protocol", protocol, Protocol)
    if isinstance(source, Payload):
        return Payload.of(protocol.kind, source, what), ()
    if protocol.kind == "scalars":
        return _scalars(source, what), ()
    inner, _ = functional.unwrapped(_validate.instance("model", model, nn.Module))
    held = loading.read(source, argument=what)
    named, notes = _named(held, inner, what)
    named, more = _fitted(named, models.parameters(inner), protocol, records, what)
    payload = Payload.of(protocol.kind, named, what)
    for name, tensor in named.items():
        _validate.finite(f"{what}[{name!r}]", tensor)
    return payload, notes + more


def _scalars(source: Any, what: str) -> Payload:
    """A vector from a tensor, an array, a list or a file with one array in it."""
    if isinstance(source, (str, os.PathLike)):
        held = loading.read(source, argument=what)
        found = list(held.values()) if isinstance(held, dict) else held
        if len(found) != 1:
            raise ValueError(f"{what} {str(source)!r} must hold one array of scalars, got {len(found)}; a log of a "
                             "whole run is read by gl.transcripts.read")  # fmt: skip
        source = found[0]
    try:
        vector = torch.as_tensor(source).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{what} must be a vector of scalars, got {type(source).__name__}") from error
    if not vector.is_floating_point():
        raise TypeError(f"{what} must hold floating-point scalars, got {vector.dtype}")
    return Payload.of("scalars", vector.reshape(-1), what)


def _named(held: loading.Weights, model: nn.Module, what: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Trainable tensors by the model's names, out of names with a prefix, or of arrays in order."""
    wanted, state = models.parameters(model), model.state_dict()
    notes: list[str] = []
    if isinstance(held, list):
        for names in (list(wanted), list(state), [name for name, _ in model.named_parameters()]):
            if len(names) == len(held):
                order = "parameters" if names == list(wanted) else "state dict"
                notes.append(f"{len(held)} arrays were read in the order of the model's {order}")
                return {n: t for n, t in zip(names, held, strict=True) if n in wanted}, tuple(notes)
        raise ValueError(
            f"{what} must hold {len(wanted)} arrays, one for each trainable parameter, or {len(state)} with the "
            f"buffers, got {len(held)}: a layer is missing, or frozen on one side only"
        )
    stripped = _without_prefix(held, wanted)
    if set(stripped) != set(held):
        notes.append(f"the prefix {next(iter(held)).removesuffix(next(iter(stripped)))!r} was taken off all names")
    missing, strange = [n for n in wanted if n not in stripped], [n for n in stripped if n not in state]
    if missing or strange:
        told = [f"lacks {', '.join(missing[:3])}"] * bool(missing) + [f"has {', '.join(strange[:3])}"] * bool(strange)
        raise ValueError(f"{what} must name the model's parameters, it {' and '.join(told)}: another model, or a layer "
                         "that is frozen on one side only")  # fmt: skip
    buffers = [name for name in stripped if name not in wanted]
    if buffers:
        notes.append(f"{len(buffers)} entries that are not trained were left out, {buffers[0]} first")
    return {name: stripped[name] for name in wanted}, tuple(notes)


def _without_prefix(held: Mapping[str, torch.Tensor], wanted: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    found = dict(held)
    while not set(wanted) & set(found):
        prefix = next((p for p in loading.PREFIXES if found and all(name.startswith(p) for name in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _fitted(
    named: dict[str, torch.Tensor], like: models.Parameters, protocol: Protocol, records: int, what: str
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Tensors in the shapes and on the device of the parameters: means over records, differences from weights."""
    notes: tuple[str, ...] = ()
    for name, tensor in named.items():
        if not tensor.is_floating_point():
            raise TypeError(
                f"{what}[{name!r}] must be floating point, got {tensor.dtype}: another array, or quantised weights"
            )
    if protocol.kind == "gradient" and all(t.shape == (records, *like[n].shape) for n, t in named.items()):
        named = {name: tensor.mean(0) for name, tensor in named.items()}
        notes += (f"the message holds a gradient for each of {records} records: their mean was taken",)
    for name, tensor in named.items():
        if tensor.shape != like[name].shape:
            raise ValueError(
                f"{what}[{name!r}] must have shape {tuple(like[name].shape)}, got {tuple(tensor.shape)}: the order of "
                "the arrays, or the model, is another one"
            )
    named = {name: tensor.to(like[name].device) for name, tensor in named.items()}
    if protocol.kind == "delta" and _are_weights(named, like):
        named = {name: like[name].detach().double() - tensor.double() for name, tensor in named.items()}
        named = {name: tensor.to(like[name].dtype) for name, tensor in named.items()}
        if not any(bool(tensor.any()) for tensor in named.values()):
            raise ValueError(
                f"{what} holds the very weights that the model has: the client has not moved them, or they were loaded "
                "into the model already; give the weights before the round"
            )
        notes += ("the message holds the client's weights after its round, which were taken off those before",)
    return named, notes


def _are_weights(named: Mapping[str, torch.Tensor], like: models.Parameters) -> bool:
    pairs = [(tensor.double(), like[name].detach().double()) for name, tensor in named.items()]
    away = sum(float((a - b).square().sum()) for a, b in pairs)
    return away < NEAR**2 * sum(float(b.square().sum()) for _, b in pairs)
