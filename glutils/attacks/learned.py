"""Gauss-Newton ZeroGLA in the coordinates of a latent: what a prior learned from public images leaves unknown."""

from __future__ import annotations

import dataclasses
import time

import torch

from .. import _check, latent
from ..latent import Affine, Latent, WithRest
from ..observation import Observation
from ..solvers import Found, History, gauss_newton, search
from .base import Reconstruction, counted, need_labels, reconstruction
from .equations import ScalarEquations


def learned(
    seen: Observation,
    prior: str | Latent,
    *,
    components: int | None = None,
    seed: int = 0,
    iterations: int = 40,
    restarts: int | None = None,
    spread: float | int | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Levenberg-Marquardt in z, which is standard normal before any scalar is seen.

    A latent with a rest is solved twice: without it, from several starts, of which the one whose scalars fit best is
    kept; then with it, from there.

    Args:
        prior: a latent, or its name: :data:`glutils.latent.NAMES`. A name needs public images.
        components: numbers per image of a latent that is given by name. Default: a quarter of the scalars per image, at
            least 1, at most 8 for a generator, and at most what the public images allow.
        restarts: default 1 where images are an affine function of z, else 8.
        spread: standard deviation of the start around z = 0. Default: 0 where one start is enough, else 0.5.
    """
    labels = need_labels(seen, "zerogla")
    whole = _latent(prior, components, seen, seed, progress)
    affine = isinstance(whole.latent if isinstance(whole, WithRest) else whole, Affine)
    restarts = (1 if affine else 8) if restarts is None else restarts
    spread = (0.0 if affine else 0.5) if spread is None else _check.number("spread", spread, at_least=0)
    deadline = None if seconds is None else time.monotonic() + _check.number("seconds", seconds, above=0)
    how = {"iterations": iterations, "seed": seed, "progress": progress}
    used = whole.latent if isinstance(whole, WithRest) else whole
    found, extra = _solve(seen, labels, used, spread=spread, restarts=restarts, seconds=seconds, **how)
    if used is not whole and found.stopped is None:
        begun, used = found, whole
        left = None if deadline is None else max(1e-3, deadline - time.monotonic())
        found, extra = _solve(seen, labels, used, start=begun.variables[0], seconds=left, **how)
        found = dataclasses.replace(found, history=_joined(begun.history, found.history))
    notes, counts = counted(seen, found.variables[0].numel())
    return reconstruction(found, used.report(found.variables[0]), labels, *notes, **counts, **extra)


def _solve(
    seen: Observation, labels: torch.Tensor, used: Latent, *, start=None, spread=0.0, restarts=1, **how
) -> tuple[Found, dict[str, float]]:
    """Search z of all images in the coordinates of one latent; variables are (B, size).

    ``start`` may be the z of a latent without its rest, which then starts at zero.
    """
    shape, extra = (seen.shape[0], used.size), {}
    equations = ScalarEquations(seen, lambda u: (used.decode(u.view(shape)), labels), shape[0] * shape[1])
    centre = equations.targets.new_zeros(shape)

    def solve(trace, generator):
        begin = centre + spread * torch.randn(shape, generator=generator).to(centre)
        if start is not None:
            begin[:, : start.shape[1]] = start
        extra["noise"] = gauss_newton(
            equations, begin.flatten(), trace, iterations=how["iterations"], centre=centre.flatten()
        )

    found = search(
        solve,
        restarts=restarts,
        keep="last",  # the weight of the prior changes on the way, so losses of different steps do not compare
        good=lambda loss: loss < (10 * extra.get("noise", 0.0)) ** 2,
        label="zerogla gauss-newton",
        view=lambda variables: used.report(variables[0].view(shape)),
        **how,
    )
    return dataclasses.replace(found, variables=(found.variables[0].view(shape),)), extra


def _joined(first: History, second: History) -> History:
    """Two searches as one, the second a continuation of the first; restarts are those of the first."""
    shift = first.steps[-1] + 1
    return History(
        first.steps + tuple(step + shift for step in second.steps),
        first.loss + second.loss,
        first.frame_steps + tuple(step + shift for step in second.frame_steps),
        first.frames + second.frames,
        first.restarts,
    )


def _latent(prior: str | Latent, components: int | None, seen: Observation, seed: int, progress) -> Latent:
    """The latent that is meant, or why it cannot be had."""
    shape = tuple(seen.shape[1:])
    if isinstance(prior, Latent):
        if components is not None:
            raise ValueError(f"components belongs to a latent given by name, this has {prior.size}; got {components!r}")
        if prior.shape != shape:
            raise ValueError(f"prior must be a latent of images {shape}, got one of {prior.shape}")
        return prior
    if seen.public is None:
        raise ValueError(f"prior={prior!r} learns from public images: observe(..., knows={{'public'}}, public=...)")
    if seen.public.shape != shape:
        raise ValueError(f"public must hold images of shape {shape}, got {seen.public.shape}")
    if prior == "gaussian":
        if components is not None:
            raise ValueError(f"components does nothing with prior='gaussian', got {components!r}")
        return latent.Gaussian.fit(seen.public)
    if components is None:
        scalars = sum(len(entry.payload) for entry in seen.rounds)
        most = min(len(seen.public) - 1, seen.public.images[0].numel(), *(() if prior == "pca" else (8,)))
        components = max(1, min(scalars // (4 * seen.shape[0]), most))
    return latent.fit(prior, seen.public, components, seed=seed, progress=progress)
