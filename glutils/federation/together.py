"""Clients run together: the weighted mean of many clients' messages without one pass for each of them.

Gradients and scalars are linear in the loss, so their mean is one message about all images, each weighted. Differences
of FedAvg are not: there every client trains a network of its own, and all networks take their step at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, vmap

from .. import models
from ..protocols import FedAvg, Payload, Protocol

Data = Sequence[tuple[torch.Tensor, torch.Tensor]]
LARGEST = 2**18
"""Parameters of a network up to which stacked networks are faster than one after the other."""
FEWEST = 4
"""Clients from which on stacking them pays."""
_STACKED = 2**23  # numbers in a stack of networks; a step of them needs about five times that
_PIXELS = {"gradient": 2**21, "scalars": 2**16}  # in one pass; scalars evaluate 32 networks in each


def possible(protocol: Protocol, model: nn.Module, clients: int) -> bool:
    """Whether the mean of so many clients may, and should, be computed together.

    Not where a client draws in private or transforms its own payload (a defence), and not for a model with batch norm
    or dropout layers, whose output for an image can depend on the others. FedAvg: up to 2^18 parameters, where it is
    faster.
    """
    coupled = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd
    if clients < FEWEST or any(isinstance(module, coupled) for module in model.modules()):
        return False
    if not hasattr(model, "classes"):
        return False
    if protocol.stackable:
        return sum(p.numel() for p in models.parameters(model).values()) <= LARGEST
    return protocol.linear_in_gradient and protocol.criterion.plain  # soft labels carry the weights of clients


def mean(
    protocols: Sequence[Protocol],
    model: nn.Module,
    state: models.Parameters,
    data: Data,
    weights: Sequence[float],
    **how: object,
) -> Payload:
    """Sum over clients of weight x what the client would transmit.

    Args:
        protocols: each client's own, alike but for their private seeds.
        model: in the state that ``state`` names.
        data: images and labels of each.
        weights: of each.
        how: ``directions`` of a scalar protocol, drawn for all.
    """
    whole: Payload | None = None
    for part in _parts(protocols[0], state, [len(images) * images[0].numel() for images, _ in data]):
        chosen = [[entries[i] for i in part] for entries in (protocols, data, weights)]
        if protocols[0].kind == "delta":
            factors = torch.tensor(chosen[2])
            moved = deltas(chosen[0], model, state, chosen[1])
            shares = {name: torch.tensordot(factors.to(each), each, 1) for name, each in moved.items()}
            found = protocols[0].payload(shares, model)
        else:
            found = _union(chosen[0][0], model, chosen[1], chosen[2], how)
        whole = found if whole is None else whole + found
    return whole


def _parts(protocol: Protocol, state: models.Parameters, pixels: list[int]) -> Iterator[list[int]]:
    """Clients that fit into one pass."""
    if protocol.kind == "delta":
        size = max(1, _STACKED // sum(p.numel() for p in state.values()))
        yield from (list(range(i, min(i + size, len(pixels)))) for i in range(0, len(pixels), size))
        return
    part, room = [], _PIXELS[protocol.kind]
    for k, needed in enumerate(pixels):
        if part and needed > room:
            yield part
            part, room = [], _PIXELS[protocol.kind]
        part, room = [*part, k], room - needed
    yield part


def _union(protocol: Protocol, model: nn.Module, data: Data, weights: Sequence[float], how: dict) -> Payload:
    """One message about all images. Soft labels carry the weights: cross entropy is linear in them."""
    images = torch.cat([x for x, _ in data])
    precise = torch.float64 if protocol.kind == "scalars" else images.dtype
    soft = [
        F.one_hot(y, model.classes).to(precise) * (w * len(images) / len(y))
        for (_, y), w in zip(data, weights, strict=True)
    ]
    return protocol.transmit(model, images, torch.cat(soft), **how)


@torch.no_grad()
def deltas(
    protocols: Sequence[FedAvg], model: nn.Module, state: models.Parameters, data: Data
) -> dict[str, torch.Tensor]:
    """What each client's local training subtracts from ``state``, by name, (clients, ...), in the images' precision.

    The networks are stacked. Client k takes its own U_k steps on its own batches; a batch shorter than the others' is
    filled up with images of weight 0, and whoever has finished stands still. Equal to one client after the other but
    for the order of additions.
    """
    plans = [_plan(p, len(images)) for p, (images, _) in zip(protocols, data, strict=True)]
    order = sorted(range(len(data)), key=lambda k: -len(plans[k]))  # so that those still training come first
    steps = [len(plans[k]) for k in order]
    images, labels = (_padded([data[k][i] for k in order]) for i in (0, 1))
    index, weights = _schedule([plans[k] for k in order], protocols[0].batch_size, images)
    rows = torch.arange(len(order), device=images.device)[:, None]
    stack = {n: p.to(images.dtype).expand(len(order), *p.shape).contiguous() for n, p in state.items()}
    speed = {n: torch.zeros_like(p) for n, p in stack.items()} if protocols[0].momentum else None

    def loss(params, images, labels, weights):
        return models.loss(model, params, images, labels, weights, criterion=protocols[0].criterion)

    for u in range(steps[0]):
        active = sum(count > u for count in steps)
        width = int((weights[:active, u] > 0).sum(1).max())
        chosen = rows[:active], index[:active, u, :width]
        now = {name: p[:active] for name, p in stack.items()}
        pace = speed and {name: v[:active] for name, v in speed.items()}
        slopes = vmap(grad(loss))(now, images[chosen], labels[chosen], weights[:active, u, :width])
        moved, pace_after = protocols[0].step(now, pace, slopes)
        for name, p in now.items():
            p.copy_(moved[name])
            if pace:
                pace[name].copy_(pace_after[name])
    back = torch.tensor(order, device=images.device).argsort()
    return {name: (state[name].to(images.dtype) - p)[back] for name, p in stack.items()}


def _plan(protocol: FedAvg, count: int) -> list[torch.Tensor]:
    """The indices of every step's images."""
    orders = [torch.arange(count) if order is None else order for order in protocol._orders(count)]
    return [part for order in orders for part in order.split(protocol.batch_size)]


def _padded(tensors: list[torch.Tensor]) -> torch.Tensor:
    """(clients, most, ...): each client's tensor, filled up with zeros."""
    out = tensors[0].new_zeros(len(tensors), max(map(len, tensors)), *tensors[0].shape[1:])
    for row, tensor in zip(out, tensors, strict=True):
        row[: len(tensor)] = tensor
    return out


def _schedule(plans: list[list[torch.Tensor]], size: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (clients, steps, size), and weights: 1 / batch size for a batch's images, 0 where it is filled up."""
    size = min(size, like.shape[1])
    index = torch.zeros(len(plans), len(plans[0]), size, dtype=torch.int64)
    weights = torch.zeros(index.shape, dtype=like.dtype)
    for k, plan in enumerate(plans):
        for u, chosen in enumerate(plan):
            index[k, u, : len(chosen)] = chosen
            weights[k, u, : len(chosen)] = 1 / len(chosen)
    return index.to(like.device), weights.to(like.device)

