"""Gauss-Newton ZeroGLA: the scalars solved as the equations they are. This book's own attack."""

from __future__ import annotations

import torch

from .. import _check, latent
from ..observation import Observation
from ..priors import smoothness
from ..solvers import gauss_newton, search
from .base import Reconstruction, counted, need_labels, reconstruction
from .equations import ScalarEquations
from .learned import learned
from .objective import normal_start

PRIORS = ("tv", "smooth", "none")


def newton(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int | None = None,
    restarts: int | None = None,
    prior: str | latent.Latent = "tv",
    components: int | None = None,
    spread: float | int | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Levenberg-Marquardt on the scalars' equations, in float64.

    Args:
        iterations: default 40.
        restarts: random starts, ranked by the attacker's own loss; the search ends with the first whose scalars fit to
            ten times their noise. Default: 1, and 4 for several images, which may fall into a false minimum where two
            images of a class are mixed.
        spread: standard deviation of the start around grey. Default: 0.01, and 0.1 for several images, which have to
            become different.
        prior: what decides where the scalars do not: ``"tv"`` (total variation), ``"smooth"`` (squared differences) or
            ``"none"`` (distance from grey). Its weight follows from the noise that the attacker finds in its own
            simulation of the client; no truth enters. Priors learned from public images, which the adversary must hold,
            replace the pixels as unknowns: a :class:`~glutils.latent.Latent` or the name of one, see
            :func:`~glutils.attacks.learned.learned`; ``components`` is theirs.

    Returns:
        The reconstruction, with ``diagnostics["noise"]``: root mean square of the noise that the attacker finds in the
        scalars, relative to their standard deviation.
    """
    if isinstance(prior, latent.Latent) or _check.choice("prior", prior, (*PRIORS, *latent.NAMES)) in latent.NAMES:
        how = {"seed": seed, "restarts": restarts, "spread": spread, "seconds": seconds, "progress": progress}
        iterations = 40 if iterations is None else iterations
        return learned(seen, prior, components=components, iterations=iterations, **how)
    if components is not None:
        raise ValueError(f"components belongs to 'pca' and generators, not to prior={prior!r}; got {components!r}")
    one = seen.shape[0] == 1
    spread = (0.01 if one else 0.1) if spread is None else _check.number("spread", spread, at_least=0)
    labels = need_labels(seen, "zerogla")
    iterations = 40 if iterations is None else iterations
    unknowns = labels.new_empty(seen.shape).numel()
    notes, extra = counted(seen, unknowns)
    equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), labels), unknowns)
    matrix = _prior(prior, seen.shape, equations.targets.device)
    grey = equations.targets.new_full((unknowns,), 0.5)

    def solve(trace, generator):
        start = grey + spread * normal_start(seen, generator, torch.float64).flatten()
        extra["noise"] = gauss_newton(equations, start, trace, iterations=iterations, prior=matrix, centre=grey)

    found = search(
        solve,
        iterations=iterations,
        restarts=(1 if one else 4) if restarts is None else restarts,
        seed=seed,
        seconds=seconds,
        keep="last",  # the weight of the prior changes on the way, so losses of different steps do not compare
        good=lambda loss: loss < (10 * extra.get("noise", 0.0)) ** 2,
        progress=progress,
        label="zerogla gauss-newton",
        view=lambda variables: variables[0].view(seen.shape),
    )
    return reconstruction(found, found.variables[0].view(seen.shape), labels, *notes, **extra)


def _prior(name: str, shape: tuple[int, ...], device: torch.device):
    """u to the matrix of the quadratic prior."""
    if name == "none":
        return None
    if name == "tv":
        return lambda u: smoothness(shape, u.view(shape)).to(device)
    fixed = smoothness(shape).to(device)
    return lambda u: fixed
