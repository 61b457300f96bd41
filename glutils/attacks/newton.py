"""Gauss-Newton ZeroGLA: the scalars solved as the equations they are. This book's own attack."""

from __future__ import annotations

import dataclasses
import math

import torch

from .. import _check, latent
from ..observation import Observation
from ..priors import smoothness
from ..smooth import has_kinks, sharpen, smoothed
from ..solvers import Continued, Trace, gauss_newton, search
from .base import Reconstruction, counted, reconstruction
from .equations import ScalarEquations
from .learned import learned
from .objective import normal_start

PRIORS = ("tv", "smooth", "none")
SHARPNESS = tuple(2.0**k for k in range(13))
"""Of the smooth networks that lead to a ReLU network."""
SMOOTH_STEPS = 6
"""Steps on each of them."""
SURE = 0.9
"""Soft labels are replaced by the likeliest classes once every image is this sure of its own."""


def newton(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int | None = None,
    restarts: int | None = None,
    prior: str | latent.Latent = "tv",
    components: int | None = None,
    spread: float | int | None = None,
    soften: bool | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Levenberg-Marquardt on the scalars' equations, in float64.

    Labels that the adversary was not told are solved for together with the images: class probabilities of every image,
    as a softmax of further unknowns, until they are sure; then the likeliest classes are taken and the images solved
    alone.

    Args:
        iterations: of the last stage; default 40. Soft labels take up to 60 before it.
        restarts: random starts, ranked by the attacker's own loss; the search ends with the first whose scalars fit to
            ten times their noise. Default: 1; 4 for several images, which may fall into a false minimum where two
            images of a class are mixed, or unknown labels; 3 for a network with kinks.
        spread: standard deviation of the start around grey. Default: 0.01, and 0.1 for several images, which have to
            become different.
        prior: what decides where the scalars do not: ``"tv"`` (total variation), ``"smooth"`` (squared differences) or
            ``"none"`` (distance from grey). Its weight follows from the noise that the attacker finds in its own
            simulation of the client; no truth enters. Priors learned from public images, which the adversary must hold,
            replace the pixels as unknowns: a :class:`~glutils.latent.Latent` or the name of one, see
            :func:`~glutils.attacks.learned.learned`; ``components`` is theirs.
        soften: whether to come to a network with ReLU layers through smooth ones (swish of sharpness 1 to 4,096, a few
            steps each, every one starting where the last one ended). Default: if it has such layers.

    Returns:
        The reconstruction, with ``diagnostics["noise"]``: root mean square of the noise that the attacker finds in the
        scalars, relative to their standard deviation.
    """
    if isinstance(prior, latent.Latent) or _check.choice("prior", prior, (*PRIORS, *latent.NAMES)) in latent.NAMES:
        if soften:
            raise ValueError(f"soften does nothing with the learned prior {prior!r}; got {soften!r}")
        how = {"seed": seed, "restarts": restarts, "spread": spread, "seconds": seconds, "progress": progress}
        iterations = 40 if iterations is None else iterations
        return learned(seen, prior, components=components, iterations=iterations, **how)
    if components is not None:
        raise ValueError(f"components belongs to 'pca' and generators, not to prior={prior!r}; got {components!r}")
    kinks = has_kinks(seen.model)
    if soften and not kinks:
        raise ValueError("soften needs a model with ReLU layers, which this one has not; got True")
    several = seen.shape[0] > 1 or seen.labels is None
    spread = (0.1 if several else 0.01) if spread is None else _check.number("spread", spread, at_least=0)
    search_for = _Search(seen, prior, 40 if iterations is None else iterations, kinks and soften is not False)
    notes, extra = counted(seen, search_for.unknowns)
    state = {"noise": 0.0}

    def solve(trace, generator):
        start = 0.5 + spread * normal_start(seen, generator, torch.float64).flatten()
        state["noise"] = search_for.solve(start, trace)

    found = search(
        solve,
        iterations=search_for.steps,
        restarts=(4 if several else 3 if kinks else 1) if restarts is None else restarts,
        seed=seed,
        seconds=seconds,
        keep="last",  # the weight of the prior changes on the way, so losses of different steps do not compare
        good=lambda loss: loss < (10 * state["noise"]) ** 2,
        progress=progress,
        label="zerogla gauss-newton",
        view=lambda variables: variables[0].view(seen.shape),
    )
    images, labels = found.variables
    return reconstruction(found, images.view(seen.shape), labels, *notes, **extra, noise=state["noise"])


class _Search:
    """The stages of one restart. The trace notes pixels, and the labels that go with them."""

    def __init__(self, seen: Observation, prior: str, iterations: int, soften: bool):
        self.seen, self.iterations, self.soften = seen, iterations, soften
        self.pixels = torch.Size(seen.shape).numel()
        self.scores = 0 if seen.labels is not None else seen.shape[0] * seen.classes
        self.unknowns = self.pixels + self.scores
        self.steps = iterations + soften * SMOOTH_STEPS * len(SHARPNESS) + 60 * bool(self.scores)
        model = smoothed(seen.model) if soften else seen.model
        self.labels = seen.labels
        self.equations = ScalarEquations(
            dataclasses.replace(seen, model=model), lambda u: self.decode(u), self.unknowns
        )
        self.prior = prior

    def decode(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, and labels: told, taken as known, or soft."""
        images = u[: self.pixels].view(self.seen.shape)
        if self.labels is not None:
            return images, self.labels
        return images, u[self.pixels :].view(self.seen.shape[0], self.seen.classes).softmax(1)

    def solve(self, start: torch.Tensor, trace: Trace) -> float:
        """All stages; the noise that the attacker finds in the scalars."""
        u = torch.cat([start, start.new_zeros(self.scores)])
        self.labels = self.seen.labels
        model = self.equations.model
        for sharpness in SHARPNESS if self.soften else ():
            sharpen(model, sharpness)
            self.equations.offset.zero_()
            self._stage(u, trace, SMOOTH_STEPS, calibrate=False)
            u = self.last
        sharpen(model, math.inf)
        damping = 1e-2
        if self.labels is None:
            self._stage(u, trace, 60, until=lambda v: float(self.decode(v)[1].amax(1).min()) > SURE)
            self.labels = self.decode(self.last)[1].argmax(1)
            u, damping = self.last[: self.pixels], 1e-4
        return self._stage(u, trace, self.iterations, damping=damping)

    def _stage(self, u: torch.Tensor, trace: Trace, iterations: int, **options) -> float:
        self.equations.unknowns = len(u)
        centre = torch.cat([torch.full_like(u[: self.pixels], 0.5), torch.zeros_like(u[self.pixels :])])
        noting = Continued(trace, self._lift)
        return gauss_newton(
            self.equations, u, noting, iterations=iterations, prior=self._matrix, centre=centre, **options
        )

    def _lift(self, variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        (self.last,) = variables
        labels = self.decode(self.last)[1]
        return self.last[: self.pixels], labels if labels.dim() == 1 else labels.argmax(1)

    def _matrix(self, u: torch.Tensor) -> torch.Tensor:
        """The matrix of the quadratic prior at u, sparse; probabilities have a weak one of their own."""
        if self.prior == "none":
            return u  # the identity
        pixels = u[: self.pixels].view(self.seen.shape) if self.prior == "tv" else None
        matrix = smoothness(self.seen.shape, pixels, others=len(u) - self.pixels)
        return matrix.to(u.device)
