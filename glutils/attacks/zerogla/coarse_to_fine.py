"""Coarse to fine: a first guess at a large image from few of its scalars, for a small part of the price of one step.

Half the height and width means a quarter of the unknowns, a quarter of the equations to determine them, and a sixteenth
of the matrix. What a coarse image cannot show looks like noise in the equations, so twice as many are used as there are
unknowns. The steps that lead from grey to a rough image are taken there; the last few, at full size, are left.
"""

from __future__ import annotations

import dataclasses

import torch
from torch.nn import functional as F

from ... import _validate
from ...observation import Observation
from ...priors import smoothness
from ...solvers import Stage, Tally, Trace, gauss_newton
from .equations import ScalarEquations

LARGE = 4096
"""Unknowns above which one image is halved by default: from there on a step at full size takes minutes."""
LEAST = 16
"""Rows or columns of pixels, whichever are fewer, of the coarsest image that is taken by default."""
EQUATIONS = 2
"""Per unknown of a coarse image."""
STEPS = 8
"""Most steps at one size; two or three are usual."""
DAMPING = 1e-4
"""First damping, and weight of the prior, where a coarser image is the start."""


def halvings(seen: Observation, coarse: int | None, pixels_alone: bool) -> int:
    """How often the image is halved: as asked, or by default if it is one, and large.

    Raises:
        ValueError: ``coarse`` that leaves a side of less than two pixels, or more to find than pixels
            (``pixels_alone`` is False), or defended clients, whose first scalars may depend on all of them.
    """
    simple = pixels_alone and all(entry.protocol.answers_slopes for entry in seen.rounds)
    if not seen.record.neighbours:
        if coarse:
            raise ValueError(f"coarse must be 0 for {seen.record.name}: it halves images; got {coarse!r}")
        return 0
    shorter = min(seen.shape[2:])
    if coarse is None:
        count = 0
        large = seen.shape[0] == 1 and torch.Size(seen.shape).numel() > LARGE
        while simple and large and shorter >> (count + 1) >= LEAST:
            count += 1
        return count
    most = shorter.bit_length() - 2
    coarse = _validate.integer("coarse", coarse, at_least=0, at_most=most)
    if coarse and not simple:
        raise ValueError(
            "coarse must be 0 where there is more to find than pixels (labels, membership of mini-batches), or a "
            f"network with kinks, or a defended client, got {coarse}"
        )
    return coarse


def climb(
    seen: Observation, start: torch.Tensor, trace: Trace, count: int, prior: str, tally: Tally | None = None
) -> torch.Tensor:
    """Pixels (D,) that the scalars suggest, found at 1 / 2^count of the size first, then at twice that, and so on.

    Args:
        start: (D,) float64.
        trace: gets every step, as images of full size.
        count: how often the size is halved.
        prior: name of the prior.
        tally: counts what is computed.
    """
    pixels = start.view(seen.shape)
    for level in range(count, 0, -1):
        shape = (*seen.shape[:2], *(max(1, side >> level) for side in seen.shape[2:]))
        u = _resized(pixels, shape).flatten()

        def enlarged(v: torch.Tensor, shape=shape) -> torch.Tensor:
            return _resized(v.view(shape), seen.shape)

        equations = ScalarEquations(
            _first(seen, EQUATIONS * u.numel()), lambda v, of=enlarged: (of(v), seen.labels), u.numel(), tally=tally
        )
        stage = trace.stage(lambda variables, of=enlarged: (of(variables[0]).flatten(), seen.labels))
        solution = gauss_newton(
            equations,
            u,
            stage,
            iterations=STEPS,
            damping=1e-2 if level == count else DAMPING,
            prior=lambda v, shape=shape: _matrix(prior, v, shape),
            centre=torch.full_like(u, 0.5),
            calibrate=False,
            until=lambda _, stage=stage: _stalls(stage),
        )
        pixels = enlarged(solution.u)
        if solution.ending:
            break
    return pixels.flatten()


def _stalls(stage: Stage) -> bool:
    """Whether the last step lowered the loss by less than half: what is left speaks of finer detail."""
    return stage.losses[-1] > 0.5 * stage.losses[-2]


def _first(seen: Observation, count: int) -> Observation:
    """The first ``count`` scalars: a direction depends on the seed and its number alone."""
    rounds = []
    for entry in seen.rounds:
        if count <= 0:
            break
        own = min(count, entry.protocol.directions)
        protocol = dataclasses.replace(entry.protocol, directions=own)
        payload = dataclasses.replace(entry.payload, content=entry.payload.scalars[:own])
        rounds.append(dataclasses.replace(entry, protocol=protocol, payload=payload))
        count -= own
    return dataclasses.replace(seen, rounds=tuple(rounds))


def _resized(images: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Larger by linear interpolation, smaller by means."""
    size = tuple(shape[2:])
    if size[0] < images.shape[2]:
        return F.adaptive_avg_pool2d(images, size)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _matrix(prior: str, u: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if prior == "none":
        return u  # the identity
    return smoothness(shape, u.view(shape) if prior == "tv" else None).to(u.device)
