"""Gauss-Newton ZeroGLA in the coordinates of a latent: what a prior learned from public images leaves unknown."""

from __future__ import annotations

import torch

from ... import _validate
from ...observation import Observation
from ...priors import latent
from ...priors.latent import Affine, Latent, ResidualLatent
from ...solvers import Solution, gauss_newton, search
from ..base import Reconstruction, need_labels, reconstruction
from .ensemble import STEPS, ensemble_size, through_kinks
from .equations import ScalarEquations
from .rank import count_equations

LEARNED = ("pca", "gaussian", "generator", "generator+residual")
"""Those of :data:`glutils.priors.latent.NAMES` that :func:`learned` takes."""

EXACT = 1e-6
"""Root mean square misfit of the scalars, relative to their spread, that counts as noise where there is less."""

ROUGH = 1e-4
"""The misfit at which a search may end below D scalars, where the prior decides, and not in the eleventh digit."""


def latent_gauss_newton(
    seen: Observation,
    prior: str | Latent,
    *,
    components: int | None = None,
    seed: int = 0,
    iterations: int = 40,
    restarts: int | None = None,
    spread: float | int | None = None,
    ensemble: int | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Levenberg-Marquardt in z, which is standard normal before any scalar is seen.

    Of ``"pca"`` and ``"generator"`` the residual is solved for, too, and counts as noise: the latent becomes the
    :class:`~glutils.priors.latent.ResidualLatent` of itself that reports the latent's part alone, so that this part is
    not bent to explain what it cannot make. A latent that is given is taken as it is.

    Through a network with kinks an ensemble of images leads, as in pixels, but it is drawn from what public images look
    like: all of its members are images that the attacker holds possible.

    A latent with a residual is solved twice: with the residual at zero, then with all of z, from there. Of several
    starts the one with the largest posterior probability is kept: the attacker's loss is ``mean r^2 + sigma^2 |z|^2 /
    K``, with sigma the noise that it finds in the scalars. The search ends early with a z that explains the scalars and
    whose length is that of a standard normal one with as many numbers as the scalars determine, or at most 2 times
    that, squared.

    Args:
        prior: a latent, or its name, one of :data:`LEARNED`. A name needs public images.
        components: numbers per image of a latent that is given by name. Default: a quarter of the scalars per image, at
            least 1, at most 8 for a generator, and at most what the public images allow.
        iterations: of each of the two.
        restarts: default 1 where images are an affine function of z, else 8.
        spread: of the starts after the first, which is z = 0: standard deviation of z, default 1.

        ensemble: images drawn around every guess, see :func:`~glutils.attacks.zerogla.ensemble.ensemble_size`.

    Returns:
        The reconstruction; ``diagnostics["surprise"]``: ``|z|^2`` over its expected value. Well above 1, what the
        scalars say and what public images look like do not go together.
    """
    labels = need_labels(seen, "zerogla")
    spread = 1.0 if spread is None else _validate.number("spread", spread, at_least=0)
    whole = _latent(prior, components, seen, seed, progress)
    part = whole.latent if isinstance(whole, ResidualLatent) else whole
    shape = (seen.shape[0], whole.size)
    equations = ScalarEquations(seen, *_unknowns_of(whole, seen, labels))
    notes, extra = count_equations(seen, equations.unknowns)
    count = ensemble_size(seen, ensemble, unknowns=equations.unknowns)
    determined = min(equations.count, equations.unknowns)
    state, pixels = {"starts": 0}, labels.new_empty(seen.shape).numel()
    exact = EXACT if equations.count >= pixels else ROUGH
    how = {} if equations.count >= equations.unknowns else {"accuracy": exact}

    def stage(equations, used, z, trace, generator) -> Solution:
        """Solve for the first numbers of z, as many as the latent has. The trace gets all of z."""
        start = z[:, : used.size].flatten()

        def lift(variables):
            full = z.clone()
            full[:, : used.size] = variables[0].view(len(z), used.size)
            return (full.flatten(),)

        equations = equations.with_decode(*_unknowns_of(used, seen, labels))
        centre, options = torch.zeros_like(start), dict(how)
        if count:
            drawn = {"count": count, "generator": generator, "spread": 1.0}
            start, equations = through_kinks(
                equations, start, trace.stage(lift), prior=torch.ones_like, centre=centre, **drawn
            )
            if trace.ending:
                return Solution(start, equations.noise, equations, trace.ending)
            options["damping"] = 1e-6  # the prior has done its part: more of it would lead away again
        return gauss_newton(equations, start, trace.stage(lift), iterations=iterations, centre=centre, **options)

    def solve(trace, generator):
        z, now = equations.targets.new_zeros(shape), equations
        if state["starts"]:
            z[:, : part.size] = spread * torch.randn(shape[0], part.size, generator=generator).to(z)
        state["starts"] += 1
        if part is not whole:
            first = stage(now, part, z, trace, generator)
            if first.ending:
                return
            z, now = trace.best[0].view(shape), first.problem
        last = stage(now, whole, z, trace, generator)
        if last.ending:
            return
        state["noise"] = sigma = max(last.noise, 0.0)
        state["misfit"], length = trace.loss, float(last.u.square().sum())
        state["surprise"] = length / determined
        trace.loss += max(sigma, exact) ** 2 * length / equations.count

    found = search(
        solve,
        iterations=(iterations + (STEPS if count else 0)) * (1 if part is whole else 2),
        restarts=(1 if isinstance(part, Affine) else 8) if restarts is None else restarts,
        seed=seed,
        seconds=seconds,
        keep="last",  # the weight of the prior changes on the way, so losses of different steps do not compare
        success=lambda loss: state["surprise"] < 2 and state["misfit"] < max(10 * state["noise"], ROUGH) ** 2,
        progress=progress,
        label="zerogla gauss-newton",
        view=lambda variables: whole.report(variables[0].view(shape)),
    )
    z = found.variables[0].view(shape)
    extra |= {"noise": state.get("noise", 0.0), "surprise": float(z.square().sum()) / determined}
    return reconstruction(found, whole.report(z), labels, *notes, tally=equations.tally, **extra)


def _unknowns_of(used: Latent, seen: Observation, labels: torch.Tensor):
    """What makes equations for pixels into equations for the numbers of a latent: decode and unknowns."""
    shape = (seen.shape[0], used.size)
    return lambda u: (used.decode(u.view(shape)), labels), shape[0] * shape[1]


def _latent(prior: str | Latent, components: int | None, seen: Observation, seed: int, progress) -> Latent:
    """The latent that is meant, with a residual beside it where its name asks for none, or why it cannot be had."""
    most = 8 if str(prior).startswith("generator") else seen.scalars
    default = max(1, min(seen.scalars // (4 * seen.shape[0]), most))
    made = latent.resolve(prior, tuple(seen.shape[1:]), seen.public, components, default, seed=seed, progress=progress)
    return ResidualLatent(made, seen.public, report_residual=False) if prior in ("pca", "generator") else made
