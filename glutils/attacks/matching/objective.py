"""The objective of every attack that matches by simulation: distance of payloads plus priors, with its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.func import grad, vmap

from ... import models
from ...models import convolutions
from ...observation import Observation
from ...protocols import FedSGD
from ...solvers import Tally
from ...solvers.adam import Objective

Decode = Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, torch.Tensor]]
Prior = Callable[[torch.Tensor], torch.Tensor]
Tensors = Sequence[torch.Tensor]
Distance = Callable[[Tensors, Tensors], tuple[torch.Tensor, Tensors]]


def squared(found: Tensors, target: Tensors) -> tuple[torch.Tensor, Tensors]:
    """Sum of squared differences over all tensors, and its derivative in ``found``."""
    apart = torch._foreach_sub(found, target)
    value = torch.stack(torch._foreach_norm(apart)).square().sum()
    return value, torch._foreach_mul(apart, 2.0)


def cosine(found: Tensors, target: Tensors) -> tuple[torch.Tensor, Tensors]:
    """1 - cosine of the angle between the concatenated tensors, and its derivative in ``found``.

    One cosine over everything (IG, eq. 4), not a mean of cosines by layer. Near the solution the derivative is a small
    difference of long vectors, so the sums behind it have to be exact to round-off: ``sum`` adds in pairs, while the
    float32 norm of a million entries is off by 1e-5, which showed as wrong signs of pixel gradients.
    """
    dot = torch.stack([(a * b).sum() for a, b in zip(found, target, strict=True)]).sum()
    square, other = (torch.stack([(a * a).sum() for a in tensors]).sum() for tensors in (found, target))
    scale = (square.sqrt() * other.sqrt()).clamp_min(1e-30)
    slopes = torch._foreach_mul(found, dot / square.clamp_min(1e-30) / scale)
    torch._foreach_add_(slopes, target, alpha=-1 / float(scale))  # in place: a fresh long tensor costs page faults
    return 1 - dot / scale, slopes


def matching(
    seen: Observation,
    decode: Decode,
    *,
    distance: Distance = squared,
    weight: float = 1.0,
    priors: Sequence[tuple[float, Prior]] = (),
    dtype: torch.dtype = torch.float32,
    tally: Tally | None = None,
) -> Objective:
    """Objective: weight x sum over rounds of distance(simulated payload, payload), plus weighted priors on the images.

    The distance's derivative in the simulated payload has a closed form, so one graph to the payload and one
    vector-Jacobian product through it are all that an iteration costs. For scalars and squared distances the graph ends
    at the gradient: ``|V g - s|^2`` and its derivative ``2 V.T (V g - s)`` need none. Weights that never meet a pixel
    and their columns of V are left out.

    ``tally`` counts the calls of the objective, each of them one evaluation.
    """
    slopes = distance is squared and all(entry.protocol.answers_slopes for entry in seen.rounds)
    called = convolutions.sizes(seen.model, seen.shape)
    cut = convolutions.trimmed(seen.model, seen.shape, called) if slopes else None
    model, little = seen.model if cut is None else cut.model, convolutions.little(called)
    rounds = []
    for entry in seen.rounds:
        params = entry.parameters
        if params is not None:
            params = {name: p.to(dtype) for name, p in params.items()}
            params = params if cut is None else cut.params(params)
        target = [t.to(dtype) for t in entry.payload.numbers]
        extra = {}
        if cut is not None:  # drawn in blocks, of which only what is left is kept
            drawn = replace(entry.protocol, memory=0).draw(seen.model)
            extra = {"directions": drawn.narrowed(cut.columns, entry.protocol.memory)}
        elif seen.kind == "scalars":
            extra = {"directions": entry.protocol.draw(seen.model)}
        rounds.append((entry.protocol, target, extra | {"params": params}))

    def objective(variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        images, labels = decode(variables)
        if tally is not None and rounds:
            tally.add()
        with convolutions.direct(little and images is variables[0]):  # a generator has convolutions of its own
            return evaluated(variables, images, labels)

    def evaluated(variables, images, labels):
        total = images.new_zeros(())
        outputs, cotangents = [], []
        for protocol, target, extra in rounds:
            if slopes:
                found = FedSGD(protocol.criterion).simulate(model, images, labels, params=extra["params"]).numbers
                r, slope = extra["directions"].match([f.detach() for f in found], target[0], times=2 * weight)
                value = r @ r
            else:
                found = protocol.simulate(seen.model, images, labels, **extra).numbers
                value, slope = distance([f.detach() for f in found], target)
                slope = slope if weight == 1 else torch._foreach_mul(slope, weight)
            with torch.no_grad():
                total = total + weight * value
            outputs += found
            cotangents += slope
        for factor, prior in priors:
            term = factor * prior(images)
            total = total + term.detach()
            outputs.append(term)
            cotangents.append(torch.ones_like(term))
        grads = torch.autograd.grad(outputs, variables, cotangents, allow_unused=True)
        return total, tuple(torch.zeros_like(v) if g is None else g for g, v in zip(grads, variables, strict=True))

    return objective


def size(seen: Observation) -> float:
    """Sum of squares of the first payload: the scale against which a squared distance is large or small."""
    return float(torch.stack([t.double().square().sum() for t in seen.payload.numbers]).sum())


def start(
    seen: Observation, generator: torch.Generator, dtype: torch.dtype = torch.float32, spread: float | None = None
) -> torch.Tensor:
    """Dummy records around what is believed before any message, N(0.5, 0.25) for images; ``spread`` as told, or that of
    their kind."""
    spread = seen.record.spread if spread is None else spread
    return seen.blank.to(dtype) + spread * normal_start(seen, generator, dtype)


def normal_start(seen: Observation, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Dummy images drawn from N(0, 1) on the CPU, so that every device starts from the same point."""
    device = next(iter(models.parameters(seen.model).values())).device
    return torch.randn(seen.shape, generator=generator).to(device, dtype)


def messages(seen: Observation, protocol, params, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What the client would have sent for each of P batches (P, B, C, H, W) with the same labels (B,): (P, d)."""
    if protocol.exact_gradient:
        one = grad(lambda p, x: models.loss(seen.model, p, x, labels, criterion=protocol.criterion))
        found = vmap(one, in_dims=(None, 0))({name: p.to(images.dtype) for name, p in params.items()}, images)
        return torch.cat([part.flatten(1) for part in found.values()], 1)
    rows = []
    for batch in images:
        sent = protocol.simulate(seen.model, batch, labels, params={n: p.to(batch.dtype) for n, p in params.items()})
        rows.append(sent.flat.detach())
    return torch.stack(rows)
