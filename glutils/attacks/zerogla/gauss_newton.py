"""Gauss-Newton ZeroGLA: the scalars solved as the equations they are. This book's own attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ... import _validate
from ...models.relu import smooth_relu
from ...models.switches import switches_of
from ...observation import Observation
from ...priors import latent, smoothness
from ...solvers import Solution, Trace, gauss_newton, search
from ...solvers.boxed import boxed
from ...solvers.engine import deadline_after
from ..base import Reconstruction, reconstruction
from ..matching.objective import start as start_of
from .coarse_to_fine import DAMPING, STEPS, climb, halvings
from .consistency import check_rounds
from .ensemble import STEPS as ENSEMBLE_STEPS
from .ensemble import ensemble_size, through_kinks
from .equations import ScalarEquations
from .latent_space import LEARNED, latent_gauss_newton
from .rank import count_equations
from .rounds import Decode

PRIORS = ("tv", "smooth", "none")
SHARPNESS = tuple(2.0**k for k in range(13))
"""Of the smooth networks that lead to a ReLU network."""
SMOOTH_STEPS = 6
"""Steps on each of them."""
JOINT_STEPS = 60
"""Most steps with soft labels or weights."""
BOX_STEPS = 20  # most, between bounds
SURE = 0.9
"""Soft labels are replaced by the likeliest classes once every image is this sure of its own."""


def gauss_newton_attack(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 40,
    restarts: int | None = None,
    prior: str | latent.Latent | None = None,
    components: int | None = None,
    spread: float | int | None = None,
    soften: bool | None = None,
    ensemble: int | None = None,
    box: bool = False,
    coarse: int | None = None,
    check: bool = True,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Levenberg-Marquardt on the scalars' equations, in float64.

    Labels that the adversary was not told are solved for together with the images: class probabilities of every image,
    as a softmax of further unknowns, until they are sure; then the likeliest classes are taken and the images solved
    alone. So is it with mini-batches, if the client drew some of its images for each message and kept to itself which:
    the weights of all images in every message's loss are further unknowns, and once they are sure they are rounded.

    Args:
        iterations: of the last stage. Soft labels and weights take up to 60 before it.
        restarts: random starts, ranked by the attacker's own loss; the search ends with the first whose scalars fit to
            ten times their noise. Default: 1; 4 for several images, which may fall into a false minimum where two
            images of a class are mixed, or unknown labels; 3 for a network with kinks; 12 for several
            records of a table, which fall into false minima more often and cost little.
        spread: standard deviation of the start around grey. Default: 0.01, and 0.1 for several images, which have to
            become different.
        prior: what decides where the scalars do not: ``"tv"`` (total variation), ``"smooth"`` (squared differences) or
            ``"none"`` (distance from grey, or from a table's public means). Default: ``"tv"`` for images, ``"none"``
            for tables, which allow no other. Its weight follows from the noise that the attacker finds in its own
            simulation of the client; no truth enters. Priors learned from public images, which the adversary must hold,
            replace the pixels as unknowns: a :class:`~glutils.priors.latent.Latent` or the name of one, see
            :func:`~glutils.attacks.zerogla.latent_space.latent_gauss_newton`; ``components`` is theirs.
        soften: whether to come to a network with ReLU through smooth ones (swish of sharpness 1 to 4,096, a few
            steps each, every one starting where the last one ended). Default: where no ensemble can be carried.
        ensemble: images drawn around every guess, to step by what the scalars do on average over them. Default: 400 for
            a network with kinks (:func:`~glutils.models.switches.has_switches`) where it can be done,
            :func:`~glutils.attacks.zerogla.ensemble.ensemble_size`; else 0. With a prior learned from public images
            they are drawn from that.
        box: at the end, drop the prior and keep the pixels within [0, 1] instead
            (:func:`~glutils.solvers.boxed.boxed`). It helps where noisy scalars determine the pixels, but barely, and
            many of them are black: float32 clients with several images of a class.
        coarse: how often the image is halved in height and width; the search begins there, with the first few scalars,
            and doubles it again (:func:`~glutils.attacks.zerogla.coarse_to_fine.climb`). Default: for one image of
            more than 4,096 unknowns as often as leaves 16 pixels a side, else 0.
        check: of a transcript, test whether the images explain every round; if not, look for rounds of another client
            and leave them out, as far as ``seconds`` allow.

    Returns:
        The reconstruction, with ``diagnostics["noise"]``: root mean square of the noise that the attacker finds in the
        scalars, relative to their standard deviation; and, for mini-batches, ``diagnostics["sure"]``: fraction of the
        messages whose images are known. Of a transcript, ``notes`` names the rounds that these images do not explain,
        see :func:`~glutils.attacks.zerogla.consistency.check_rounds`.
    """
    for entry in seen.protocol.defenses:
        if not entry.keeps_linearity:
            raise ValueError(f"solver must be 'lbfgs' or 'adam' for scalars behind {entry}: Gauss-Newton needs slopes")
    prior, deadline = _prior(seen, prior), deadline_after(seconds)
    if isinstance(prior, latent.Latent) or latent.choice("prior", prior, (*PRIORS, *LEARNED)) in LEARNED:
        if soften:
            raise ValueError(f"soften does nothing with the learned prior {prior!r}; got {soften!r}")
        how = {"seed": seed, "restarts": restarts, "spread": spread, "seconds": seconds, "progress": progress}
        return latent_gauss_newton(seen, prior, components=components, iterations=iterations, ensemble=ensemble, **how)
    if components is not None:
        raise ValueError(f"components belongs to 'pca' and generators, not to prior={prior!r}; got {components!r}")
    kinks = switches_of(seen.model, seen.blank)
    ensemble = ensemble_size(seen, ensemble, soften, kinks=bool(kinks))
    if soften and "relu" not in kinks:
        raise ValueError("soften needs a model that calls ReLU, which this one does not; got True")
    soften = "relu" in kinks and soften is not False and not ensemble
    several = seen.shape[0] > 1 or seen.labels is None
    spread = (0.1 if several else 0.01) if spread is None else _validate.number("spread", spread, at_least=0)
    box = box and seen.record.box(box)
    search_for = _Search(seen, prior, iterations, soften, box, coarse, ensemble, bool(kinks))
    notes, extra = count_equations(seen, search_for.unknowns)
    if box and seen.scalars < search_for.unknowns:
        raise ValueError(f"box needs at least as many scalars as unknowns; {notes[0]}")
    state = {"noise": 0.0} | ({"sure": 0.0} if search_for.drawn else {})

    def solve(trace, generator):
        outcome = search_for.solve(start_of(seen, generator, torch.float64, spread).flatten(), trace, generator)
        if not trace.ending:
            state["noise"] = outcome.noise
            if search_for.drawn:
                state["sure"] = outcome.sure

    found = search(
        solve,
        iterations=search_for.steps,
        restarts=_restarts(seen, several, bool(kinks)) if restarts is None else restarts,
        seed=seed,
        seconds=seconds,
        keep="last",  # the weight of the prior changes on the way, so losses of different steps do not compare
        success=lambda loss: loss < (10 * state["noise"]) ** 2,
        progress=progress,
        label="zerogla gauss-newton",
        view=lambda variables: variables[0].view(seen.shape),
    )
    images, labels = found.variables
    tally = search_for.equations.tally
    result = reconstruction(found, images.view(seen.shape), labels, *notes, tally=tally, **extra, **state)
    return check_rounds(result, seen, deadline) if check else result


def _prior(seen: Observation, asked: str | latent.Latent | None) -> str | latent.Latent:
    """The prior as asked, or the default of the records; ``ValueError`` for one that is about pixels, without any."""
    if seen.record.neighbours:
        return "tv" if asked is None else asked
    if asked not in (None, "none"):
        kind = seen.record.name
        raise ValueError(f"prior must be 'none' or left alone for {kind}: others are about pixels; got {asked!r}")
    return "none"


def _restarts(seen: Observation, several: bool, kinks: bool) -> int:
    """As many as are tried by default."""
    if several:
        return 4 if seen.record.neighbours else 12
    return 3 if kinks else 1


@dataclass(frozen=True)
class _Outcome:
    """What a restart leaves beside its images: noise in the scalars, and the share of messages with known images."""

    noise: float
    sure: float = 0.0


class _Search:
    """The stages of one restart. The trace gets pixels, and the labels that go with them.

    The unknowns u: pixels, then a score for each image and class if labels are unknown, then a weight for each message
    and image if the client drew mini-batches. Nothing here changes from one restart to the next.
    """

    def __init__(self, seen: Observation, prior: str, iterations: int, soften: bool, box: bool, coarse: int | None,
                 ensemble: int = 0, kinks: bool = False):  # fmt: skip
        self.seen, self.iterations, self.prior, self.box = seen, iterations, prior, box
        self.soften, self.ensemble = soften, ensemble
        self.drawn = seen.local_batch if seen.local_batch not in (None, seen.shape[0]) else 0
        self.pixels = torch.Size(seen.shape).numel()
        self.scores = 0 if seen.labels is not None else seen.shape[0] * seen.classes
        self.weights = len(seen.rounds) * seen.shape[0] if self.drawn else 0
        self.unknowns = self.pixels + self.scores + self.weights
        joint = bool(self.scores) or bool(self.weights)
        self.coarse = halvings(seen, coarse, pixels_alone=not (joint or kinks))
        self.steps = iterations + soften * SMOOTH_STEPS * len(SHARPNESS) + JOINT_STEPS * joint + BOX_STEPS * box
        self.steps += STEPS * self.coarse + ENSEMBLE_STEPS * bool(ensemble)
        decode = self.decoder(seen.labels, None)
        self.equations = ScalarEquations(seen, decode, self.unknowns, weighted=bool(self.drawn))

    def decoder(self, labels: torch.Tensor | None, memberships: torch.Tensor | None) -> Decode:
        """u to images; labels: told, taken as known, or soft (None); for mini-batches the weights of images in
        messages: taken as known, or unknown (None)."""
        count, classes = self.seen.shape[0], self.seen.classes

        def decode(u: torch.Tensor) -> tuple[torch.Tensor, ...]:
            images, shown = u[: self.pixels].view(self.seen.shape), labels
            if shown is None:
                shown = u[self.pixels : self.pixels + self.scores].view(count, classes).softmax(1)
            if not self.drawn:
                return images, shown
            if memberships is not None:
                return images, shown, memberships.to(u.dtype)
            # far tighter a prior than that of pixels: a weight is 1 / count, or a third more or less
            return images, shown, (1 + u[-self.weights :].view(-1, count) / 3) / count

        return decode

    def solve(self, start: torch.Tensor, trace: Trace, generator: torch.Generator | None = None) -> _Outcome:
        """All stages, each from where the last one ended, as far as the trace lets them."""
        if self.ensemble:
            how = {"prior": self._matrix, "centre": self.seen.blank.flatten().to(start), "generator": generator}
            stage = trace.stage(self._lift(self.equations))
            u, known = through_kinks(self.equations, start, stage, count=self.ensemble, **how)
            return _Outcome(known.noise) if trace.ending else self._pixels_alone(known, u, trace, damping=1e-6)
        u = torch.cat([start, start.new_zeros(self.scores + self.weights)])
        for sharpness in SHARPNESS if self.soften else ():
            smooth = self.equations.with_model(smooth_relu(self.equations.model, sharpness))
            solution = self._stage(smooth, u, trace, SMOOTH_STEPS, calibrate=False)
            u = solution.u
            if solution.ending:
                return _Outcome(solution.noise)
        if self.coarse:
            u = climb(self.seen, start, trace, self.coarse, self.prior, self.equations.tally)
            if trace.ending:
                return _Outcome(0.0)
            return self._pixels_alone(self.equations, u, trace, damping=DAMPING)
        if not (self.scores or self.weights):
            return self._pixels_alone(self.equations, u, trace)
        until = None if self.weights else self._labels_are_sure
        solution = self._stage(self.equations, u, trace, JOINT_STEPS, until=until)
        if solution.ending:
            return _Outcome(solution.noise)
        labels, memberships, sure = self._rounded(solution.u)
        if self.weights and sure < 1:
            return _Outcome(solution.noise, sure)
        known = solution.problem.with_decode(self.decoder(labels, memberships), self.pixels)
        outcome = self._pixels_alone(known, solution.u[: self.pixels], trace, damping=1e-4)
        return _Outcome(outcome.noise, sure)

    def _pixels_alone(self, equations: ScalarEquations, u: torch.Tensor, trace: Trace, **options) -> _Outcome:
        """The last stage, and the pixels between bounds if that is asked for."""
        solution = self._stage(equations, u, trace, self.iterations, **options)
        if self.box and not solution.ending:
            boxed(solution.problem, solution.u, trace.stage(self._lift(equations)), iterations=BOX_STEPS)
        return _Outcome(solution.noise)

    def _labels_are_sure(self, u: torch.Tensor) -> bool:
        return float(self.equations.decode(u)[1].amax(1).min()) > SURE

    def _rounded(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """The likeliest labels; the likeliest images of every message, if all are within a quarter of being sure; and
        the share of messages that are."""
        _, labels, *weights = self.equations.decode(u)
        labels, memberships, sure = self._likeliest(labels), None, 0.0
        if weights:
            shares = weights[0] * self.drawn
            chosen = torch.zeros_like(shares).scatter_(1, shares.topk(self.drawn, 1).indices, 1.0)
            sure = float(((shares - chosen).abs() < 0.25).all(1).double().mean())
            memberships = chosen / self.drawn
        return labels, memberships, sure

    def _likeliest(self, labels: torch.Tensor) -> torch.Tensor:
        """Classes (B,) of labels that are solved for; those that were told, or are rounded already, as they are."""
        return labels.argmax(1) if self.scores and labels.is_floating_point() else labels

    def _stage(self, equations: ScalarEquations, u: torch.Tensor, trace: Trace, iterations: int, **options) -> Solution:
        centre = torch.cat([self.seen.blank.flatten(), torch.zeros_like(u[self.pixels :])])
        stage = trace.stage(self._lift(equations))
        return gauss_newton(equations, u, stage, iterations=iterations, prior=self._matrix, centre=centre, **options)

    def _lift(self, equations: ScalarEquations) -> Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
        """From the unknowns of these equations to pixels and labels."""

        def lift(variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            labels = equations.decode(variables[0])[1]
            return variables[0][: self.pixels], self._likeliest(labels)

        return lift

    def _matrix(self, u: torch.Tensor) -> torch.Tensor:
        """The matrix of the quadratic prior at u, sparse; what is not a pixel has a weak one of its own."""
        if self.prior == "none":
            return u  # the identity
        pixels = u[: self.pixels].view(self.seen.shape) if self.prior == "tv" else None
        return smoothness(self.seen.shape, pixels, others=len(u) - self.pixels).to(u.device)
