"""Unmixing for CPA: the layer's inputs, recovered from the rows of its weight gradient, which are mixtures of them."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ... import _validate
from ...priors import tv
from ...solvers import adam, search

CLIP = 1e-8
"""Eigenvalues of the covariance below this times the largest are raised to it: no source stands behind them."""


@dataclass(frozen=True)
class White:
    """Rows of a weight gradient (m, n), reduced to B uncorrelated rows of mean zero and variance one.

    ``rows`` (B, n) = ``operator`` (B, m) times the centred gradient; ``offset`` (B,) = ``operator`` times its row
    means; ``found`` counts the eigenvalues above the clip, which is how many images can be told apart.
    """

    rows: torch.Tensor
    operator: torch.Tensor
    offset: torch.Tensor
    found: int


def whiten(gradient: torch.Tensor, count: int) -> White:
    """The rows of ``gradient`` (m, n), centred and whitened to ``count`` rows (section 4; ``eigh``, clipping)."""
    gradient = gradient.double()
    mean = gradient.mean(1, keepdim=True)
    centred = gradient - mean
    values, vectors = torch.linalg.eigh(centred @ centred.T / max(1, gradient.shape[1] - 1))  # ascending
    values, vectors = values[-count:].flip(0), vectors[:, -count:].flip(1)
    floor = (CLIP * values[0]).clamp_min(1e-300)
    operator = vectors.T / values.clamp_min(floor).sqrt()[:, None]
    return White(operator @ centred, operator, (operator @ mean)[:, 0], int((values > floor).sum()))


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of the unmixing objective; ``temperature`` belongs to ``independence``."""

    negentropy: float = 1.0
    independence: float = 0.0
    temperature: float = 0.0
    tv: float = 0.0
    one_sign: float = 0.0
    sparsity: float = 0.0


def unmixing_objective(white: White, weights: Weights, shape: tuple[int, ...] | None) -> Callable:
    """The objective of U (B, B), whose rows are normalised inside; sources are S = U times the white rows (eq. 4 to 9).

    -w_1 mean_i (mean log cosh S_i)^2 + w_2 mean_ij [exp(T |cos(U_i, U_j)|) - 1] + w_3 TV(S)
    + w_4 mean_i min(|S_i^-|, |S_i^+|) + w_5 mean |S|. The last two terms see the sources before centring. Pairs i = j,
    a constant in the released code, count 0. ``shape`` is the images' (B, C, H, W), None where sources are no images.
    """
    rows, offset = white.rows.float(), white.offset.float()
    others = 1 - torch.eye(len(rows)).to(rows)

    def objective(variables):
        unmix = F.normalize(variables[0], dim=1)
        sources = unmix @ rows  # survey, eq. (22)
        # The first three terms are the survey's eq. (23), negated.
        value = weights.independence * (torch.expm1(weights.temperature * (unmix @ unmix.T).abs()) * others).mean()
        if weights.negentropy:
            size = sources.abs()
            log_cosh = size + F.softplus(-2 * size) - math.log(2)
            value = value - weights.negentropy * log_cosh.mean(1).square().mean()
        if weights.tv:
            value = value + weights.tv * tv(sources.view(shape))
        if weights.one_sign or weights.sparsity:
            whole = sources + (unmix @ offset)[:, None]
            parts = torch.stack([whole.clamp(max=0).norm(dim=1), whole.clamp(min=0).norm(dim=1)])
            value = value + weights.one_sign * parts.amin(0).mean() + weights.sparsity * whole.abs().mean()
        return value.detach(), torch.autograd.grad(value, variables)

    return objective


def separate(
    gradient, white, weights, shape, solver, view, *, iterations, restarts, lr, seed, seconds, progress, label
):
    """The unmixing rows (B, m) for a gradient (m, n), and what the search found."""
    _validate.choice("solver", solver, ("adam", "fastica"))
    _validate.number("lr", lr, above=0)
    objective = unmixing_objective(white, weights, shape)
    operator, turn = white.operator, itertools.count()
    mixer = lambda unmix: F.normalize(unmix.double(), dim=1) @ operator  # noqa: E731

    def solve(trace, generator):
        start = torch.eye(len(operator), device=gradient.device)
        if trace.iterations and solver == "fastica":
            start = fastica(white, seed, iterations).to(start)
        elif next(turn):  # every restart but the first
            start = torch.linalg.qr(torch.randn(start.shape, generator=generator))[0].to(start)
        adam(objective, (start,), trace, iterations=iterations if solver == "adam" else 0, lr=lr)

    with torch.enable_grad():
        found = search(
            solve, iterations=iterations, restarts=restarts, seed=seed, seconds=seconds, progress=progress, label=label,
            view=lambda variables: view(mixer(variables[0].detach())),
        )  # fmt: skip
    return mixer(found.variables[0]), found


def fastica(white: White, seed: int, iterations: int) -> torch.Tensor:
    """Unmixing matrix (B, B) of scikit-learn's FastICA with log cosh (Hyvarinen 1999): the baseline."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what it found is scored like everything else
        solver = FastICA(whiten=False, fun="logcosh", max_iter=max(1, iterations), random_state=seed)
        return torch.from_numpy(solver.fit(white.rows.cpu().numpy().T).components_)


def sources_of(mixer: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scale: str) -> torch.Tensor:
    """Sources (B, n) = mixer times weight gradient, with sign and scale resolved without the truth.

    A row that takes image i out of the weight gradient takes the number 1 out of the bias gradient, with the same
    factor. ``scale="bias"`` divides by it. ``"range"`` (the paper's) maps each source to [0, 1] from its least to its
    greatest value; the sign is then that of the bias, or of the source's mean where the layer has no bias.
    """
    sources = mixer @ weight.double()  # survey, eq. (22)
    factor = sources.mean(1) if bias is None else mixer @ bias.double()
    if scale == "bias":
        return (sources / factor[:, None]).nan_to_num(0.0, 0.0, 0.0)
    sources = torch.where(factor[:, None] < 0, -sources, sources)
    low, high = sources.amin(1, keepdim=True), sources.amax(1, keepdim=True)
    return (sources - low) / (high - low).clamp_min(1e-30)
