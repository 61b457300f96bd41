"""GIAS and GIML: gradient inversion with a generative image prior (Jeon, Kim, Lee, Oh, Ok, NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ... import _validate
from ...observation import Observation
from ...priors import tv
from ...priors.latent import Latent, Network
from ...solvers import Found, Tally, Trace, adam, search
from ..base import Card, Reconstruction, reconstruction, register
from ..matching.objective import cosine, matching
from .common import add_penalty, divergence, known_or_inferred_labels, resolve_latent


@register(
    "gias",
    Card(
        title="GIAS",
        kinds=("gradient", "delta"),
        several=("gradient", "delta"),
        simulates="FedSGD or FedAvg",
        variable="generator's latent, then its weights",
        distance="cosine",
        prior="generator, TV, latent norm",
        solver="Adam",
        labels="given, or inferred (one image)",
        source="jeon2021gias",
    ),
)
def gias(
    seen: Observation,
    *,
    seed: int = 0,
    prior: str | Latent | None = None,
    components: int | None = None,
    iterations: int = 400,
    latent_share: float | int = 0.25,
    restarts: int = 1,
    latent_lr: float | int = 0.1,
    weight_lr: float | int = 1e-2,
    tv_weight: float | int = 1e-3,
    latent_weight: float | int = 1e-3,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """First the latent numbers of the batch, then the weights of the generator, one copy for each image.

    min 1 - cos(grad l(f(G_w(z)), y), g) + tv_weight TV + latent_weight KL(z): over z by Adam from z ~ N(0, 1), then
    over w at that z. The step size of either stage is divided by ten at 3/8, 5/8 and 7/8 of it; the last iterate is
    reported.

    Args:
        prior: a latent, or ``"pca"``, ``"generator"``, ``"glo"`` (learned from the public images) or ``"untrained"``.
            Default: ``"glo"``, or ``"untrained"`` where there are no public images.
        components: numbers in z, for one image, of a latent given by name; default 32.
        iterations: gradients that are evaluated, over both stages and all starts, and one more, as in IG.
        latent_share: of the iterations for z, between 0 and 1.
        restarts: starts of the first stage, which share its iterations; the lowest objective goes on.

    Deviations: hundreds of iterations instead of thousands, and step sizes to match; TV weight 1e-3 (mean form); a
    weight of 1e-3 on the length of z, which is GGL's term and 0 in the released code; of that code's options, batch
    norm statistics, the norm of the image and group consistency are absent; its box projection of the generated images,
    which changes neither z nor w there, is left out.
    """
    how = validate_options(iterations, latent_share, restarts, latent_lr, weight_lr, tv_weight, latent_weight)
    labels, notes = known_or_inferred_labels(seen, "gias")
    whole, more = resolve_latent(seen, "gias", prior, components, seed, progress)
    tally = Tally()
    found = invert(seen, whole, labels, seed=seed, seconds=seconds, progress=progress, tally=tally, **how)
    z, weights = found.variables
    about = sizes(whole, tally.evaluations)
    return reconstruction(found, whole.decode(z, weights), labels, *notes, *more, tally=tally, **about)


def validate_options(
    iterations, latent_share, restarts, latent_lr, weight_lr, tv_weight, latent_weight
) -> dict[str, Any]:
    """The options of :func:`invert`; refused where they cannot work."""
    return {
        "iterations": _validate.integer("iterations", iterations, at_least=1),
        "latent_share": _validate.number("latent_share", latent_share, at_least=0, at_most=1),
        "restarts": _validate.integer("restarts", restarts, at_least=1),
        "latent_lr": _validate.number("latent_lr", latent_lr, above=0),
        "weight_lr": _validate.number("weight_lr", weight_lr, above=0),
        "tv_weight": _validate.number("tv_weight", tv_weight, at_least=0),
        "latent_weight": _validate.number("latent_weight", latent_weight, at_least=0),
    }


def sizes(whole: Latent, evaluations: int) -> dict[str, float]:
    """Diagnostics: unknowns of one image in each stage, and gradients evaluated."""
    return {"latent": float(whole.size), "weights": float(whole.weights().numel()), "evaluations": float(evaluations)}


def own_weights(whole: Latent, seen: Observation) -> torch.Tensor:
    """A copy of the latent's weights for each image: (B, n) float32."""
    device = next(seen.model.parameters()).device
    return whole.weights().to(device, torch.float32).repeat(seen.shape[0], 1)


def invert(
    seen: Observation,
    whole: Latent,
    labels: torch.Tensor,
    *,
    iterations: int,
    latent_share: float,
    restarts: int,
    latent_lr: float,
    weight_lr: float,
    tv_weight: float,
    latent_weight: float,
    seed: int,
    seconds: float | int | None,
    progress: bool | None,
    tally: Tally | None = None,
) -> Found:
    """Both stages; the variables found are z (B, size) and the weights (B, n)."""
    first = own_weights(whole, seen)
    tries = round(latent_share * iterations) // restarts  # iterations of one start
    match = {"distance": cosine, "priors": [(tv_weight, tv)] if tv_weight else (), "tally": tally}

    def solve(trace: Trace, generator: torch.Generator) -> None:
        near = matching(seen, lambda v: (whole.decode(v[0]), labels), **match)
        near = add_penalty(near, lambda v: latent_weight * divergence(v[0]).mean())
        starts = [torch.randn(len(first), whole.size, generator=generator).to(first) for _ in range(restarts)]
        kept = []
        for start in starts if tries else ():
            stage = trace.stage(lambda v: (v[0], first))
            how = {"iterations": tries - 1, "lr": latent_lr, "schedule": "steps"}  # one more is evaluated
            if adam(near, (start,), stage, **how):
                return
            kept.append((stage.loss, stage.best[0]))
        z = min(kept, key=lambda pair: pair[0])[1] if kept else starts[0]
        if (left := iterations - tries * restarts) or not kept:
            stage = trace.stage(lambda v: (z, v[0]))
            near = matching(seen, lambda v: (whole.decode(z, v[0]), labels), **match)
            adam(near, (first,), stage, iterations=left, lr=weight_lr, schedule="steps")

    how = {"iterations": iterations, "seed": seed, "seconds": seconds, "progress": progress}
    return search(solve, keep="last", label="gias", view=lambda v: whole.decode(*v), **how)


def giml(
    tasks: Sequence[Observation],
    prior: Network,
    *,
    seed: int = 0,
    iterations: int = 200,
    meta_lr: float | int = 0.5,
    latent_share: float | int = 0.25,
    latent_lr: float | int = 0.1,
    weight_lr: float | int = 1e-2,
    tv_weight: float | int = 1e-3,
    latent_weight: float | int = 1e-3,
    progress: bool | None = None,
) -> Network:
    """A generator learned from gradients alone (GIML): no image is ever seen.

    For every observation in turn, both stages of GIAS run from the weights so far, which then move towards the adapted
    ones (their mean over the batch) by ``meta_lr``, as in Reptile.

    Args:
        tasks: observed gradients of many clients or rounds, with labels or of one image each.
        prior: the generator to begin with, for example :func:`glutils.priors.latent.untrained`.
        iterations: of GIAS, for each task.
        meta_lr: 0 to 1.

    Returns:
        The same network with learned weights.
    """
    if not tasks:
        raise ValueError("tasks must hold at least one observation, got none")
    _validate.instance("prior", prior, Network)
    _validate.number("meta_lr", meta_lr, at_least=0, at_most=1)
    how = validate_options(iterations, latent_share, 1, latent_lr, weight_lr, tv_weight, latent_weight)
    known = [known_or_inferred_labels(_validate.instance("tasks", seen, Observation), "gias")[0] for seen in tasks]
    for number, (seen, labels) in enumerate(zip(tasks, known, strict=True)):
        found = invert(seen, prior, labels, seed=seed + number, seconds=None, progress=progress, **how)
        now = prior.weights()
        prior = prior.with_weights(now + meta_lr * (found.variables[1].mean(0).to(now) - now))
    return prior
