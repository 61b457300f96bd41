"""IGIMS: iterative gradient inversion on mixed spaces (Fang, Wang, Li, Cybersecurity 7:35, 2024)."""

from __future__ import annotations

import torch

from .. import _check
from ..latent import Latent
from ..observation import Observation, as_gradient
from ..priors import tv
from ..solvers import Continued, Trace, adam, search
from ..solvers.cmaes import cmaes, population_size
from .base import Card, Reconstruction, reconstruction, register
from .generative import believed, candidates, chosen, divergence, penalised
from .gias import checked, own_weights, sizes
from .objective import cosine, matching


@register(
    "igims",
    Card(
        title="IGIMS",
        kinds=("gradient", "delta"),
        simulates="FedSGD, or AGA",
        variable="generator's latent and its weights, in turn",
        distance="cosine",
        prior="generator, TV, latent norm, weight drift",
        solver="CMA-ES or Adam, Adam",
        labels="given or inferred (ALR)",
        source="fang2024igims",
    ),
)
def igims(
    seen: Observation,
    *,
    seed: int = 0,
    prior: str | Latent | None = None,
    components: int | None = None,
    iterations: int = 400,
    rounds: int = 2,
    latent_share: float | int = 0.25,
    latent_solver: str | None = None,
    latent_lr: float | int = 0.1,
    weight_lr: float | int = 1e-2,
    shrink: float | int = 1.0,
    tv_weight: float | int = 1e-3,
    latent_weight: float | int = 1e-3,
    drift_weight: float | int = 1e-4,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """GIAS's two stages in turn, ``rounds`` times, each with fewer iterations than there (algorithm 1).

    The objective is GIAS's, with ``drift_weight |w - w_0|_2`` added where w is searched. The last iterate is reported.

    Args:
        prior, components: as in GIAS.
        iterations: gradients that are evaluated, over all rounds and both stages, and one more, as in GIAS and IG. A
            candidate of CMA-ES is one of them.
        latent_share: of the iterations for z, between 0 and 1, spread over the rounds.
        latent_solver: ``"cma"``, the paper's choice, or ``"adam"``. Default: ``"cma"``, but Adam (and a note) where a
            round's share is less than a generation of CMA-ES and its mean; for those ``"cma"`` is refused.
        shrink: factor of all step sizes from one round to the next, above 0 and at most 1. The paper makes steps
            smaller; with hundreds of iterations that costs more than it gives, so the default is 1.

    Labels that were not told are inferred by ALR. Of a delta the mean gradient of a local step is matched (AGA).

    Deviations: hundreds of iterations instead of thousands, and step sizes to match; generations of 4 + 3 ln n instead
    of 50; the penalty on z is GGL's, since the paper gives no formula.
    """
    how = checked(iterations, latent_share, 1, latent_lr, weight_lr, tv_weight, latent_weight)
    rounds = _check.integer("rounds", rounds, at_least=1, at_most=iterations)
    if latent_solver is not None:
        _check.choice("latent_solver", latent_solver, ("cma", "adam"))
    drift_weight = _check.number("drift_weight", drift_weight, at_least=0)
    if _check.number("shrink", shrink, above=0) > 1:
        raise ValueError(f"shrink must be above 0 and at most 1, got {shrink}")
    labels, notes = believed(seen, "igims", "alr")
    if seen.kind == "delta":
        seen = as_gradient(seen)
        notes.append("the delta was read as the mean gradient of its local steps (AGA)")
    whole, more = chosen(seen, "igims", prior, components, seed, progress)
    search_z = round(how["latent_share"] * iterations) // rounds
    shape = (seen.shape[0], whole.size)
    generation = population_size(shape[0] * shape[1])
    if latent_solver is None:
        latent_solver = "cma" if search_z > generation else "adam"
        if 0 < search_z <= generation:
            more.append(f"z was searched by Adam: {search_z} gradients a round are no generation of CMA-ES")
    if latent_solver == "cma" and 0 < search_z <= generation:
        raise ValueError(
            f"iterations must leave CMA-ES more than one generation of {generation} in each "
            f"round, got {search_z}; use fewer rounds, a larger latent_share, or latent_solver='adam'"
        )
    first = own_weights(whole, seen)
    guesses = candidates(seen, labels, distance="cosine")
    match = {"distance": cosine, "priors": [(tv_weight, tv)] if tv_weight else ()}

    def spread(codes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Images (P, B, C, H, W) of candidates (P, B size), each image with its own weights."""
        codes = codes.view(-1, *shape)
        return torch.stack([whole.decode(codes[:, b], weights[b : b + 1]) for b in range(shape[0])], 1)

    def latent_stage(trace, z, weights, scale, generator):
        """A better z for these weights, and how many gradients it took."""
        stage = Continued(trace, lambda v: (v[0].view(shape), weights))
        if latent_solver == "adam":
            near = matching(seen, lambda v: (whole.decode(v[0], weights), labels), **match)
            near = penalised(near, lambda v: latent_weight * divergence(v[0]).mean())
            adam(near, (z,), stage, iterations=search_z - 1, lr=scale * latent_lr, schedule="steps")
            return search_z

        def loss(codes):
            images = spread(codes, weights)
            smooth = torch.stack([tv(part) for part in images])
            return guesses(images) + tv_weight * smooth + latent_weight * divergence(codes.view(-1, *shape)).mean(1)

        return cmaes(loss, z.flatten(), stage, evaluations=search_z, generator=generator, spread=scale)

    spent: list[int] = []

    def solve(trace: Trace, generator: torch.Generator) -> None:
        z = (
            torch.zeros(shape).to(first)
            if latent_solver == "cma"
            else torch.randn(shape, generator=generator).to(first)
        )
        weights, left = first, iterations + 1
        for number in range(rounds):
            scale, share = shrink**number, left // (rounds - number)
            if search_z:
                used = latent_stage(trace, z, weights, scale, generator)
                z, left, share = trace.best[0], left - used, share - used
            near = matching(seen, lambda v, z=z: (whole.decode(z, v[0]), labels), **match)
            drift = lambda v: drift_weight * ((v[0] - first).square().sum(1) + 1e-12).sqrt().mean()  # noqa: E731
            loss = penalised(near, drift) if drift_weight else near
            stage = Continued(trace, lambda v, z=z: (z, v[0]))
            adam(loss, (weights,), stage, iterations=share - 1, lr=scale * weight_lr, schedule="steps")
            weights, left = trace.best[1], left - share
        spent.append(iterations + 1 - left)

    found = search(
        solve,
        iterations=iterations,
        seed=seed,
        seconds=seconds,
        keep="last",
        progress=progress,
        label="igims",
        view=lambda v: whole.decode(*v),
    )
    z, weights = found.variables
    return reconstruction(found, whole.decode(z, weights), labels, *notes, *more, **sizes(whole, sum(spent)))
