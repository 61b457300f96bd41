"""TuRBO: a search by a model of the loss within a box that grows and shrinks (Eriksson et al., NeurIPS 2019)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from .. import _validate
from .engine import Ending, Recorder

Population = Callable[[torch.Tensor], torch.Tensor]
CANDIDATES = 1000
"""Points at which the model is asked before a batch is evaluated."""
FITTING = 30
"""Steps of L-BFGS-B by which the model's parameters are fitted, each time."""
SHORTEST, LONGEST = 0.5**7, 1.6
"""Of a region's side, in units of the whole box's."""


@dataclass
class Region:
    """A trust region's side: doubled after three batches in a row that improve, halved after too many that do not.

    Attributes:
        patience: batches without improvement before the side is halved: the unknowns over the batch, rounded up.
        length: the side, in units of the whole box's, before it is stretched by the model's length scales.
    """

    patience: int
    length: float = 0.8
    successes: int = 0
    failures: int = 0

    def update(self, improved: bool) -> None:
        """Take note of one batch."""
        self.successes, self.failures = (self.successes + 1, 0) if improved else (0, self.failures + 1)
        if self.successes == 3:
            self.length, self.successes = min(2 * self.length, LONGEST), 0
        elif self.failures == self.patience:
            self.length, self.failures = self.length / 2, 0

    @property
    def collapsed(self) -> bool:
        """Whether it is too small to find anything new."""
        return self.length < SHORTEST


def pieces() -> SimpleNamespace:
    """What is used of BoTorch and GPyTorch; ``ImportError`` naming the extra if they are not installed."""
    try:
        from botorch import exceptions, fit, generation, models
        from botorch.utils.sampling import manual_seed
        from gpytorch import constraints, kernels, likelihoods, mlls, settings
    except ImportError as error:
        raise ImportError(
            "solver='turbo' needs BoTorch: pip install \"leaky-scalars[turbo]\"; 'cma' needs nothing"
        ) from error
    return SimpleNamespace(
        Failed=exceptions.ModelFittingError,
        fit=fit.fit_gpytorch_mll,
        Thompson=generation.MaxPosteriorSampling,
        Process=models.SingleTaskGP,
        Likelihood=likelihoods.GaussianLikelihood,
        Evidence=mlls.ExactMarginalLogLikelihood,
        Interval=constraints.Interval,
        Matern=kernels.MaternKernel,
        Scale=kernels.ScaleKernel,
        exact=settings.max_cholesky_size,
        seeded=manual_seed,
    )


def turbo(
    objective: Population,
    start: torch.Tensor,
    trace: Recorder,
    *,
    evaluations: int,
    generator: torch.Generator,
    width: float | int = 2.0,
    batch: int = 10,
) -> int:
    """Minimise ``objective`` in a box by TuRBO with one region, built from BoTorch's parts.

    A Gaussian process (Matern 5/2, one length scale for each unknown) is fitted to what was evaluated. Around the best
    point lies a region, longer along unknowns that matter less. Each batch of evaluations is where draws from the
    process are lowest among 1,000 points of the region (Thompson sampling). A region that has shrunk to nothing is
    given up and a new one begins elsewhere. One step of the trace is one batch: its best candidate.

    Args:
        objective: (P, n) candidates, in the dtype and on the device of ``start``, to (P,) losses.
        start: (n,), the middle of the box and the first point.
        evaluations: of the objective at most, counted in candidates; at least three batches.
        generator: of all draws; the global state of torch is restored.
        width: half the side of the box.
        batch: candidates that are evaluated together, at least 1.

    A candidate whose loss is NaN counts as the worst of all; a whole batch of them abandons the restart.

    Deviations: scrambled Sobol points instead of a Latin hypercube to begin with, 2 n of them but at most half of the
    evaluations.

    Returns:
        How many candidates were evaluated.
    """
    bo, unknowns = pieces(), start.numel()
    batch = _validate.integer("batch", batch, at_least=1)
    evaluations = _validate.integer("evaluations", evaluations, at_least=3 * batch)
    width = _validate.number("width", width, above=0)
    state = _State(objective, start, trace, width, batch)
    seed = int(torch.randint(2**31, (), generator=generator))
    with bo.seeded(seed), bo.exact(10_000), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fits that stop early are still usable, and BoTorch says so in many ways
        sobol = torch.quasirandom.SobolEngine(unknowns, scramble=True, seed=seed)
        while state.used + batch <= evaluations and not state.ending:
            region, first, state.model = Region(max(1, math.ceil(unknowns / batch))), len(state.losses), None
            _begin(state, sobol, min(2 * unknowns, evaluations // 2), evaluations)
            while state.used + batch <= evaluations and not region.collapsed and not state.ending:
                points, losses = torch.cat(state.points[first:]), torch.cat(state.losses[first:])
                model = state.model = _fitted(bo, points, losses, state.model)
                drawn = _propose(bo, model, points, losses, region.length, batch)
                before = float(losses.min())
                region.update(float(state.evaluate(drawn).min()) < before - 1e-3 * abs(before))
    return state.used


class _State:
    """Points in the unit cube and their losses, a batch at a time; evaluates and reports."""

    def __init__(self, objective: Population, start: torch.Tensor, trace: Recorder, width: float, batch: int):
        self.objective, self.start, self.trace, self.width, self.batch = objective, start, trace, width, batch
        self.points: list[torch.Tensor] = []
        self.losses: list[torch.Tensor] = []
        self.used, self.model = 0, None
        self.ending = Ending.NONE

    def evaluate(self, points: torch.Tensor) -> torch.Tensor:
        """Losses (P,) of points (P, n) of the cube, in float64; NaN becomes the worst seen, unless all are NaN."""
        candidates = self.start + ((2 * points - 1) * self.width).to(self.start)
        found = self.objective(candidates).detach()
        best = int(found.nan_to_num(nan=math.inf).argmin())
        self.ending = self.trace.report(len(self.losses), found[best], (candidates[best],))
        losses = found.double().cpu()
        known = torch.cat([*self.losses, losses])
        if bool(known.isfinite().any()):
            losses = torch.where(losses.isfinite(), losses, known[known.isfinite()].max())
        self.points.append(points)
        self.losses.append(losses)
        self.used += len(points)
        return losses


def _begin(state: _State, sobol: torch.quasirandom.SobolEngine, count: int, evaluations: int) -> None:
    """Points all over the cube, the first of all in its middle."""
    points = sobol.draw(count, dtype=torch.float64)
    if not state.used:
        points[0] = 0.5
    for part in points.split(state.batch):
        if state.used + len(part) <= evaluations and not state.ending:
            state.evaluate(part)


def _propose(bo: SimpleNamespace, model, points: torch.Tensor, losses: torch.Tensor, length: float, batch: int):
    """The next batch (P, n): where draws from the fitted process are lowest, within the region."""
    scales = model.covar_module.base_kernel.lengthscale.detach().reshape(-1)
    scales = scales / scales.log().mean().exp()
    centre, unknowns = points[losses.argmin()], points.shape[1]
    low, high = (centre - scales * length / 2).clamp(0, 1), (centre + scales * length / 2).clamp(0, 1)
    moved = low + (high - low) * torch.rand(CANDIDATES, unknowns, dtype=torch.float64)
    which = torch.rand(CANDIDATES, unknowns) <= min(1.0, 20 / unknowns)  # many unknowns: move some at a time
    which[torch.arange(CANDIDATES), torch.randint(unknowns, (CANDIDATES,))] = True
    with torch.no_grad():
        return bo.Thompson(model, replacement=False)(torch.where(which, moved, centre), num_samples=batch)


def _fitted(bo: SimpleNamespace, points: torch.Tensor, losses: torch.Tensor, last=None):
    """A Gaussian process of minus the losses, standardised, fitted from the last one's parameters on; with its starting
    parameters where no fit succeeds."""
    values = -(losses - losses.mean()) / losses.std().clamp_min(1e-12)
    kernel = bo.Matern(nu=2.5, ard_num_dims=points.shape[1], lengthscale_constraint=bo.Interval(0.005, 4.0))
    likelihood = bo.Likelihood(noise_constraint=bo.Interval(1e-8, 1e-3))
    model = bo.Process(
        points, values[:, None], likelihood=likelihood, covar_module=bo.Scale(kernel), outcome_transform=None
    )
    if last is not None:
        model.load_state_dict(last.state_dict())
    try:
        bo.fit(bo.Evidence(model.likelihood, model), optimizer_kwargs={"options": {"maxiter": FITTING}})
    except bo.Failed:
        pass
    return model.eval()
