"""IGIMS: iterative gradient inversion on mixed spaces (Fang, Wang, Li, Cybersecurity 7:35, 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ... import _validate
from ...observation import Observation, as_gradient
from ...priors import tv
from ...priors.latent import Latent
from ...solvers import Stage, Tally, Trace, adam, search
from ...solvers.cmaes import cmaes, population_size
from ..base import Card, Reconstruction, reconstruction, register
from ..matching.objective import cosine, matching
from .common import add_penalty, candidates, divergence, known_or_inferred_labels, resolve_latent
from .gias import own_weights, sizes, validate_options


@register(
    "igims",
    Card(
        title="IGIMS",
        kinds=("gradient", "delta"),
        several=("gradient",),
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
    how = validate_options(iterations, latent_share, 1, latent_lr, weight_lr, tv_weight, latent_weight)
    rounds = _validate.integer("rounds", rounds, at_least=1, at_most=iterations)
    if latent_solver is not None:
        _validate.choice("latent_solver", latent_solver, ("cma", "adam"))
    drift_weight = _validate.number("drift_weight", drift_weight, at_least=0)
    if _validate.number("shrink", shrink, above=0) > 1:
        raise ValueError(f"shrink must be above 0 and at most 1, got {shrink}")
    labels, notes = known_or_inferred_labels(seen, "igims", "alr")
    if seen.kind == "delta":
        seen = as_gradient(seen)
        notes.append("the delta was read as the mean gradient of its local steps (AGA)")
    whole, more = resolve_latent(seen, "igims", prior, components, seed, progress)
    search_z = round(how["latent_share"] * iterations) // rounds
    latent_solver, told = _latent_solver(latent_solver, search_z, seen.shape[0] * whole.size)
    steps = Steps(search_z, latent_lr, weight_lr, shrink)
    weights = Weights(tv_weight, latent_weight, drift_weight)
    game = Alternation(seen, labels, whole, latent_solver, steps, weights)
    found = search(
        lambda trace, generator: game.play(trace, generator, rounds, iterations),
        iterations=iterations,
        seed=seed,
        seconds=seconds,
        keep="last",
        progress=progress,
        label="igims",
        view=lambda v: whole.decode(*v),
    )
    z, own = found.variables
    about = sizes(whole, game.tally.evaluations)
    return reconstruction(found, whole.decode(z, own), labels, *notes, *more, *told, tally=game.tally, **about)


def _latent_solver(asked: str | None, search_z: int, unknowns: int) -> tuple[str, list[str]]:
    """Who searches z, and a note where it is not the paper's choice for want of gradients."""
    generation, told = population_size(unknowns), []
    if asked is None:
        asked = "cma" if search_z > generation else "adam"
        if 0 < search_z <= generation:
            told.append(f"z was searched by Adam: {search_z} gradients a round are no generation of CMA-ES")
    if asked == "cma" and 0 < search_z <= generation:
        raise ValueError(
            f"iterations must leave CMA-ES more than one generation of {generation} in each "
            f"round, got {search_z}; use fewer rounds, a larger latent_share, or latent_solver='adam'"
        )
    return asked, told


@dataclass(frozen=True)
class Steps:
    """Gradients for z in a round, the step sizes of both stages, and their factor from round to round."""

    search_z: int
    latent_lr: float
    weight_lr: float
    shrink: float


@dataclass(frozen=True)
class Weights:
    """Of the terms beside the distance."""

    tv: float
    latent: float
    drift: float


class Alternation:
    """The two stages of a round, and their turns."""

    def __init__(self, seen: Observation, labels: torch.Tensor, whole: Latent, solver: str, steps: Steps, by: Weights):
        self.seen, self.labels, self.whole, self.solver, self.steps, self.by = seen, labels, whole, solver, steps, by
        self.shape = (seen.shape[0], whole.size)
        self.first, self.tally = own_weights(whole, seen), Tally()
        self.guesses = candidates(seen, labels, distance="cosine", tally=self.tally)
        self.match = {"distance": cosine, "priors": [(by.tv, tv)] if by.tv else (), "tally": self.tally}

    def play(self, trace: Trace, generator: torch.Generator, rounds: int, iterations: int) -> None:
        """All rounds, as far as the trace lets them."""
        start = torch.zeros(self.shape) if self.solver == "cma" else torch.randn(self.shape, generator=generator)
        z, weights, left = start.to(self.first), self.first, iterations + 1
        for number in range(rounds):
            scale, share = self.steps.shrink**number, left // (rounds - number)
            if self.steps.search_z:
                stage, used = self.latent_stage(trace, z, weights, scale, generator)
                if trace.ending:
                    return
                z, left, share = stage.best[0].view(self.shape), left - used, share - used
            stage = self.weight_stage(trace, z, weights, scale, share)
            if trace.ending:
                return
            weights, left = weights if stage.best is None else stage.best[0], left - share

    def latent_stage(self, trace: Trace, z: torch.Tensor, weights: torch.Tensor, scale: float, generator):
        """A better z for these weights: the stage that found it, and how many gradients it took."""
        stage, count = trace.stage(lambda v: (v[0].view(self.shape), weights)), self.steps.search_z
        if self.solver == "adam":
            near = matching(self.seen, lambda v: (self.whole.decode(v[0], weights), self.labels), **self.match)
            near = add_penalty(near, lambda v: self.by.latent * divergence(v[0]).mean())
            adam(near, (z,), stage, iterations=count - 1, lr=scale * self.steps.latent_lr, schedule="steps")
            return stage, count

        def loss(codes: torch.Tensor) -> torch.Tensor:
            images = self.spread(codes, weights)
            smooth = torch.stack([tv(part) for part in images])
            far = divergence(codes.view(-1, *self.shape)).mean(1)
            return self.guesses(images) + self.by.tv * smooth + self.by.latent * far

        return stage, cmaes(loss, z.flatten(), stage, evaluations=count, generator=generator, spread=scale)

    def weight_stage(self, trace: Trace, z: torch.Tensor, weights: torch.Tensor, scale: float, share: int) -> Stage:
        """Better weights for this z, kept near the first ones."""
        loss = matching(self.seen, lambda v: (self.whole.decode(z, v[0]), self.labels), **self.match)
        if self.by.drift:
            apart = lambda v: ((v[0] - self.first).square().sum(1) + 1e-12).sqrt().mean()  # noqa: E731
            loss = add_penalty(loss, lambda v: self.by.drift * apart(v))
        stage = trace.stage(lambda v: (z, v[0]))
        adam(loss, (weights,), stage, iterations=share - 1, lr=scale * self.steps.weight_lr, schedule="steps")
        return stage

    def spread(self, codes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Images (P, B, C, H, W) of candidates (P, B size), each image with its own weights."""
        codes = codes.view(-1, *self.shape)
        images = [self.whole.decode(codes[:, b], weights[b : b + 1]) for b in range(self.shape[0])]
        return torch.stack(images, 1)
