"""FedLeak: partial gradient matching and gradient regularisation (Fan, Wang, Chen, Zhou, USENIX Security 2025)."""

from __future__ import annotations

import torch

from ... import _validate
from ... import labels as label_rules
from ...observation import Observation
from ...priors import tv
from ...solvers import Tally, adam, search
from ...solvers.adam import Objective
from ..base import ANY, ANY_LOSS, Card, Reconstruction, reconstruction, register
from .objective import Distance, Tensors, cosine, matching, start

RULES = {"gradient": "zero_shot", "delta": "dlf"}
"""How labels that were not told are inferred, by the kind of the payload."""


@register(
    "fedleak",
    Card(
        title="FedLeak",
        kinds=("gradient", "delta"),
        several=("gradient", "delta"),
        simulates="FedSGD or FedAvg",
        variable="pixels",
        distance="cosine, of a part",
        prior="TV, flatness, box",
        solver="signed Adam, two gradients a step",
        labels="given or inferred",
        source="fan2025fedleak",
        records=ANY,
        losses=ANY_LOSS,
    ),
)
def fedleak(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 200,
    restarts: int = 1,
    lr: float | int = 0.1,
    share: float | int = 0.5,
    flatness: float | int = 0.3,
    radius: float | int = 0.01,
    tv_weight: float | int | None = None,
    labels: str | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Pixels whose gradient points the observed way in a part of its entries, where the misfit is flat.

    ``min F(x) + flatness * radius * |F'(x)|``, with ``F(x) = 1 - cos`` over the ``share`` of each tensor's entries that
    are largest in the message (partial matching). The slope of the second term (gradient regularisation) takes one more
    gradient: ``(1 - flatness) F'(x) + flatness F'(x + radius F'(x) / |F'(x)|)`` is the slope of both. So an iteration
    costs two gradients. Local steps are simulated, as in IG.

    Args:
        share: of the entries that are compared, above 0, at most 1.
        flatness: weight of the step uphill, 0 to 1; 0 leaves the regularisation out, and costs one gradient.
        radius: length of that step, as a root mean square over the pixels.
        tv_weight: as in :func:`glutils.attacks.matching.ig.ig`.
        labels: rule by which they are inferred if they were not told; one of ``glutils.labels.names()``. Default:
            ``"zero_shot"`` for gradients, ``"dlf"`` for parameter differences.

    Deviations: written from the paper's abstract and summaries of it, without its algorithm at hand. That the largest
    entries of each tensor are compared, the half of them, and both constants of the regularisation are ours,
    chosen on photographs of 12 pixels. Cosine, signed Adam, TV and box are IG's, so that the two can be compared.

    Raises:
        ValueError: an option outside its range; labels that were neither told nor can be inferred.
    """
    _validate.number("lr", lr, above=0)
    _validate.number("share", share, above=0, at_most=1)
    _validate.number("flatness", flatness, at_least=0, at_most=1)
    _validate.number("radius", radius, above=0)
    tv_weight, box = seen.record.weight("tv_weight", tv_weight, 1e-2), seen.record.box(None)
    known, notes = _labels(seen, labels)
    tally = Tally()
    objective = matching(
        seen,
        lambda v: (v[0], known),
        distance=partial(share),
        tally=tally,
        priors=[(tv_weight, tv)] if tv_weight else (),
    )
    goal = flattened(objective, float(flatness), float(radius)) if flatness else objective

    def solve(trace, generator):
        images = start(seen, generator)
        begin = (images.clamp(0, 1) if box else images,)
        adam(goal, begin, trace, iterations=iterations, lr=lr, schedule="steps", sign=True, box=box)

    found = search(
        solve, iterations=iterations, restarts=restarts, seed=seed, seconds=seconds, keep="last", progress=progress,
        label="fedleak",
    )  # fmt: skip
    return reconstruction(found, found.variables[0], known, *notes, tally=tally)


def partial(share: float) -> Distance:
    """1 - cosine over the entries that are largest in the target: this share of each tensor, at least one."""
    if share == 1:
        return cosine

    def chosen(tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.abs().flatten()
        count = max(1, round(share * flat.numel()))
        mask = torch.zeros_like(flat)
        mask[flat.topk(count).indices] = 1
        return mask.view_as(tensor)

    known: list[tuple[Tensors, Tensors]] = []  # targets, and which of their entries count: one pair for a round

    def distance(found: Tensors, target: Tensors) -> tuple[torch.Tensor, Tensors]:
        kept = next((masks for seen, masks in known if seen is target), None)
        if kept is None:
            kept = [chosen(tensor) for tensor in target]
            known.append((target, kept))
        value, slopes = cosine(
            [a * mask for a, mask in zip(found, kept, strict=True)],
            [b * mask for b, mask in zip(target, kept, strict=True)],
        )
        return value, [slope * mask for slope, mask in zip(slopes, kept, strict=True)]

    return distance


def flattened(objective: Objective, weight: float, radius: float) -> Objective:
    """The objective with a slope that leads to where it is flat: partly its slope a step of this length uphill."""

    def evaluate(variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        value, slopes = objective(variables)
        slope = slopes[0]
        rms = slope.square().mean().sqrt().clamp_min(1e-30)
        uphill = (variables[0].detach() + radius / rms * slope).requires_grad_()
        _, (ahead, *_) = objective((uphill, *variables[1:]))
        return value, (torch.lerp(slope, ahead, weight), *slopes[1:])

    return evaluate


def _labels(seen: Observation, rule: str | None) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Labels (B,) as told, else inferred, with the rule's notes."""
    if seen.labels is not None:
        return seen.labels, ()
    found = label_rules.infer(_validate.choice("labels", rule or RULES[seen.kind], label_rules.names()), seen)
    return found.labels, found.notes
