"""STG: See Through Gradients, or GradInversion (Yin, Mallya, Vahdat, Alvarez, Molchanov, Kautz, CVPR 2021)."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import torch

from ... import _validate, models, priors
from ... import labels as label_rules
from ...models.relu import with_surrogates
from ...observation import Observation
from ...solvers import Tally, adam, search
from ...solvers.adam import Objective
from ..base import Card, Reconstruction, reconstruction, register
from . import batchnorm
from .objective import matching, normal_start, size

PUBLISHED = {
    "iterations": 20_000,
    "gradient_weight": 1e-3,
    "bn_weight": 0.1,
    "tv_weight": 1e-4,
    "l2_weight": 1e-6,
    "noise": 0.2,
    "kinks": 0.0,
    "box": False,
}
"""Weights of the paper, found for ResNet-50 and ImageNet: ``gl.attack("stg", seen, **gl.attacks.stg.PUBLISHED)``.
Give ``group=8, group_weight=0.01`` for group consistency, of which only the pixel mean is implemented."""

BN_WEIGHTS = {"exact": 0.1, "running": 1e-6}
"""Weights of the statistics beside a relative gradient misfit, found on public photographs of 16 pixels and a
ResNet-8. One image's statistics are far from the running ones; no larger weight, fading or not, helped there."""

TV_WEIGHTS = {True: 1e-4, False: 3e-5}
"""Weight of total variation for networks with batch norm, or without, found on public photographs of 16 pixels. Deep
networks with pooling say less about fine detail than shallow ones, on which 1e-4 cost 5 dB."""


@register(
    "stg",
    Card(
        title="STG (GradInversion)",
        kinds=("gradient",),
        several=("gradient",),
        simulates="FedSGD",
        variable="pixels",
        distance="squared",
        prior="TV, l2, BN statistics, group",
        solver="Adam, through surrogate kinks (ours)",
        labels="zero-shot",
        source="yin2021stg",
    ),
)
def stg(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 1000,
    restarts: int = 1,
    gradient_weight: str | float | int = "relative",
    bn: str | None = None,
    bn_weight: float | int | None = None,
    tv_weight: float | int | None = None,
    l2_weight: float | int = 1e-6,
    noise: float | int = 0.0,
    group: int = 1,
    group_weight: float | int | None = None,
    lr: float | int = 0.1,
    kinks: float | int = 4.0,
    box: bool = True,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Pixels whose gradient, batch norm statistics and smoothness fit, searched by Adam, in several copies if asked.

    ``min over x of gradient_weight |grad l(f(x), y) - g|^2 + bn_weight sum over batch norm layers of (|mean(x) -
    mean|^2 + |var(x) - var|^2) + tv_weight TV(x) + l2_weight |x| + group_weight |x - mean of the copies|^2`` (section
    3). Adam, step 0.1 after a warm-up of 50 steps (or a quarter of the iterations), then half a cosine to 1e-5 over the
    iterations. The last iterate is reported: by then step and noise have decayed.

    Args:
        gradient_weight: a number (paper: 1e-3), or ``"relative"``: one over the observed gradient's sum of squares,
            so that a model's scale does not matter.
        bn: statistics to match. ``"exact"``: those of the private batch, which FedSGD does not send and the adversary
            must have been told (``knows={"batch_stats"}``); ``"running"``: the model's own, which everybody has, as in
            the paper; ``"none"``. Default: exact if told, else none.
        bn_weight: default 0.1 (as in the paper) for exact and 1e-6 for running statistics, which do not help one
            image at any weight tried.
        tv_weight: of the total variation as a sum, ``"l1sum"``. Default: 1e-4, as in the paper, for networks with batch
            norm; 3e-5 for others.
        l2_weight: of the length of x, not squared.
        noise: standard deviation of the pixel noise after every step, in units of the step size (paper: 0.2).
        group: copies searched together from different starts. The copy whose own loss is lowest is reported.
        group_weight: of a copy's squared distance from the mean of the copies; default 0.01 where there are several.
        kinks: width of the surrogate derivative of ReLU's steps (:class:`glutils.models.relu.SurrogateReLU`), in
            units of a layer's inputs; 0: as automatic differentiation has it, zero. Payload and loss are the same; only
            the direction of search differs.
        box: keep pixels in [0, 1] (the paper and its ports do not).

    Labels that were not told are inferred by the paper's rule, ``"zero_shot"``, which can only give distinct ones.

    Deviations: ``kinks`` is ours; without it the search stalls early on small ReLU networks, whatever the statistics.
    No noise, which then only costs. The paper first registers the copies by optical flow and pulls them to the
    registered mean; here it is the plain pixel mean, the paper's first stage. Labels are used if told. The private
    batch's exact statistics, which ports of this attack take for granted, have to be asked for. 1,000 iterations
    instead of 20,000. The weights of the paper are for ResNet-50 and ImageNet, and hardly move small networks; they
    are in :data:`PUBLISHED`.

    Raises:
        ValueError: exact statistics that were not told, statistics of a model without batch norm, a weight for a term
            that is not there, labels that cannot be inferred.
    """
    _validate.number("lr", lr, above=0)
    _validate.number("noise", noise, at_least=0)
    group, pull = _group(group, group_weight)
    if tv_weight is None:
        tv_weight = TV_WEIGHTS[models.batchnorm_mode(seen.model) is not None]
    smooth = _smooth(tv_weight, l2_weight)
    _validate.number("kinks", kinks, at_least=0)
    target, factor = batchnorm.to_match(seen, bn, bn_weight, BN_WEIGHTS)
    weight = _gradient_weight(seen, gradient_weight)
    labels, notes = _labels(seen)
    if kinks:
        seen = dataclasses.replace(seen, model=with_surrogates(seen.model, kinks))

    tally = Tally()
    with priors.record_batchnorm_statistics(seen.model) if factor else contextlib.nullcontext({}) as noted:
        terms = [*smooth, (factor, batchnorm.Statistics(seen.model, target, noted))]
        terms = [(share, term) for share, term in terms if share]
        objective = matching(seen, lambda v: (v[0], labels), weight=weight, priors=terms, tally=tally)
        goal = objective if group == 1 else together(objective, group, pull)

        def solve(trace, generator):
            start = torch.cat([0.5 + 0.25 * normal_start(seen, generator) for _ in range(group)])
            start = start.clamp(0, 1) if box else start
            how = {"lr": lr, "schedule": "cosine", "warmup": min(50, iterations // 4), "box": box, "noise": noise}
            adam(goal, (start,), trace, iterations=iterations, generator=generator, **how)

        limits = {"iterations": iterations, "restarts": restarts, "seed": seed, "seconds": seconds}
        found = search(solve, keep="last", progress=progress, label="stg", **limits)
        chosen, extra = _chosen(objective, found.variables[0], group)
    return _reported(found, chosen, labels, notes, tally, extra)


def _reported(
    found, chosen: slice, labels: torch.Tensor, notes: tuple[str, ...], tally: Tally, extra: dict
) -> Reconstruction:
    """The chosen copy, in the images and in the history's frames."""
    history = dataclasses.replace(found.history, frames=tuple(frame[chosen] for frame in found.history.frames))
    found = dataclasses.replace(found, history=history)
    return reconstruction(found, found.variables[0][chosen], labels, *notes, tally=tally, **extra)


def _smooth(tv_weight: Any, l2_weight: Any) -> list[tuple[float, Any]]:
    return [
        (_validate.number("tv_weight", tv_weight, at_least=0), lambda x: priors.tv(x, "l1sum")),
        (_validate.number("l2_weight", l2_weight, at_least=0), torch.linalg.vector_norm),
    ]


def together(objective: Objective, copies: int, pull: float) -> Objective:
    """Mean over copies, stacked along the first axis, of each one's loss and ``pull`` times its squared distance from
    the mean of the copies."""

    def evaluate(variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        parts = variables[0].detach().chunk(copies)
        values, grads = zip(*(objective((part.requires_grad_(),)) for part in parts), strict=True)
        stacked = torch.stack([part.detach() for part in parts])
        apart = stacked - stacked.mean(0)
        value = torch.stack(values).mean() + pull * apart.square().sum() / copies
        slope = torch.stack([grad for (grad,) in grads]) + 2 * pull * apart
        return value, ((slope / copies).flatten(0, 1),)

    return evaluate


def _chosen(objective: Objective, images: torch.Tensor, copies: int) -> tuple[slice, dict[str, float]]:
    """Which of the copies is reported: the one with the lowest loss of its own; and that loss, and their spread."""
    if copies == 1:
        return slice(None), {}
    parts = images.detach().chunk(copies)
    own = [float(objective((part.clone().requires_grad_(),))[0]) for part in parts]
    best, count = own.index(min(own)), len(parts[0])
    spread = float(torch.stack(parts).std(0, unbiased=False).mean())
    return slice(best * count, (best + 1) * count), {"copy": float(best), "copy_loss": own[best], "spread": spread}


def _group(copies: Any, weight: Any) -> tuple[int, float]:
    copies = _validate.integer("group", copies, at_least=1)
    if copies == 1 and weight is not None:
        raise ValueError(f"group_weight does nothing with group=1, got {weight!r}")
    return copies, _validate.number("group_weight", 0.01 if weight is None else weight, at_least=0)


def _gradient_weight(seen: Observation, value: Any) -> float:
    if isinstance(value, str):
        _validate.choice("gradient_weight", value, ("relative",))
        return 1 / max(size(seen), 1e-30)
    return _validate.number("gradient_weight", value, at_least=0)


def _labels(seen: Observation) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Labels (B,) as told, else by the zero-shot rule, with its notes."""
    if seen.labels is not None:
        return seen.labels, ()
    estimate = label_rules.infer("zero_shot", seen)
    return estimate.labels, estimate.notes
