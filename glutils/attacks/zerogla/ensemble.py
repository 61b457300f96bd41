"""Through kinks: the equations as they are on average over all images that the attacker still holds possible.

Through a network with switches (ReLU, max-pooling) the scalars jump wherever an image turns a switch over, and a search
that trusts the slopes at one point sticks. So the attacker carries a whole distribution of images, a normal one with
mean u and covariance P, and asks what the scalars do *over it*. It draws images from it, computes their scalars, and
splits what it sees into three parts: the mean; what is linear in the image, where switches turn over as they are
expected to; and the rest, whose covariance W over the equations says how far each combination of them can be believed.
Equations that jump much count little. The weighted least squares give the next mean and a narrower covariance,

    P = (J.T W^-1 J + R)^-1,    u <- u - P (J.T W^-1 r + R (u - m)),

until no switch turns over any more, and what is left is an ordinary Gauss-Newton step. This is posterior linearisation
(Garcia-Fernandez, Svensson, Morelande and Sarkka 2015), as in Kalman filters. W is scaled so that the residuals of the
step are as large as it says they are: no width is set by hand, and no truth enters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from ... import _validate, models
from ...models.switches import has_switches, with_expected_switching
from ...observation import Observation
from ...solvers import Stage
from .equations import ScalarEquations
from .rounds import Block, directional_derivative

IMAGES = 400
"""Drawn around each guess, by default."""
STEPS = 40
"""Most steps."""
LARGEST = 2**27
"""Most entries of a Jacobian, which is needed whole."""
SPREAD = 0.25
"""Standard deviation of pixels before anything is known."""
OWN = 0.2
"""Part of the variance of what is not linear that every equation has for itself, not shared with others."""
PATIENCE = 8
"""Steps in a row that bring nothing, after which the search is given up."""
NEAR = 1e-5
"""r at which plain Gauss-Newton takes over."""
DRIFT = 0.05
"""Most that parameters may change within a block, relative to their length, for one state to stand for all of it."""
GRADIENTS = 2**24
"""Most entries of the gradients that are computed at a time."""


def ensemble_size(
    seen: Observation, asked: int | None, soften: bool | None = None, unknowns: int | None = None,
    kinks: bool | None = None,
) -> int:  # fmt: skip
    """How many images are drawn around each guess; 0: none.

    By default :data:`IMAGES` if the network has switches (:func:`~glutils.models.switches.has_switches`), ``soften`` is
    left alone, and the ensemble can be carried: labels are told, batches full, slopes not cut, and the Jacobian fits
    into memory. ``unknowns``: by default pixels. ``kinks``: whether the network has switches, if that is known.

    Raises:
        ValueError: an ensemble is asked for that cannot be carried, or together with ``soften``.
    """
    plain = seen.labels is not None and seen.local_batch in (None, seen.shape[0]) and seen.record.neighbours
    uncut = plain and all(e.protocol.image_bound is e.protocol.mean_bound is None for e in seen.rounds)
    unknowns = torch.Size(seen.shape).numel() if unknowns is None else unknowns
    possible = uncut and seen.scalars * unknowns <= LARGEST
    if asked is None:
        if not possible or soften is not None:
            return 0
        return IMAGES if (has_switches(seen.model, seen.blank) if kinks is None else kinks) else 0
    asked = _validate.integer("ensemble", asked, at_least=0)
    if asked and (soften or not possible):
        why = "soften is another way" if soften else "only images may be unknown, in full batches, and not too large"
        raise ValueError(f"ensemble must be 0 here ({why}), got {asked}")
    return asked


class _Guess(NamedTuple):
    """A normal distribution of images, and how far the believed errors were from those that were seen."""

    mean: torch.Tensor
    covariance: torch.Tensor
    factor: float = 1.0


def through_kinks(
    equations: ScalarEquations,
    start: torch.Tensor,
    stage: Stage,
    *,
    prior: Callable[[torch.Tensor], torch.Tensor],
    centre: torch.Tensor,
    count: int,
    generator: torch.Generator,
    spread: float = SPREAD,
) -> tuple[torch.Tensor, ScalarEquations]:
    """From ``start`` to where plain Gauss-Newton can go on: the mean there, and the equations as last calibrated.

    Args:
        equations: for images alone, or for the numbers of a latent that they are made of.
        prior: u to the sparse matrix R(u) (D, D); its weight is set such that the images are as likely as they can be.
        centre: m (D,).
        count: images drawn at each step, at least 2.
        spread: standard deviation of the unknowns before anything is known.
    """
    u, bias, noise, least, idle = start, math.inf, equations.noise, math.inf, 0
    shape = _dense(prior(centre))
    believed = shape * (float(torch.linalg.inv(shape).diagonal().mean()) / spread**2)
    guess = _Guess(u, torch.linalg.inv(believed))
    rms = _rms(equations.residual(u))
    ending = stage.report(0, rms**2, (u,))
    for step in range(1, STEPS + 1):
        if ending or rms < max(NEAR, 3 * noise) or idle >= PATIENCE:
            break
        if rms < min(0.3, 10 * bias):
            noise, bias, equations = equations.calibrate(guess.mean)
        guess = _narrowed(equations, guess, believed, centre, count, noise, generator)
        rms = _rms(equations.residual(guess.mean))
        ending = stage.report(step, rms**2, (guess.mean,))
        idle = 0 if rms < 0.9 * least else idle + 1
        if rms < least:
            least, u = rms, guess.mean
        away, shape = guess.mean - centre, _dense(prior(guess.mean))
        believed = shape * (len(away) / float(away @ shape @ away + (guess.covariance * shape).sum()))
    return u, equations


def _narrowed(
    equations: ScalarEquations, guess: _Guess, believed: torch.Tensor, centre: torch.Tensor, count: int, noise: float,
    generator: torch.Generator,
) -> _Guess:  # fmt: skip
    """One step."""
    u = guess.mean
    away = _drawn(guess.covariance, count, generator)
    here, slopes = equations.residual(u), torch.cat([_slopes(b, u, away) for b in equations.blocks], 1)
    seen = here + slopes / equations.scale
    mean = seen.mean(0)
    rows = _expected_rows(equations, u, away)
    rest = seen - mean - away @ rows.T
    own = OWN * float(rest.square().mean()) + noise**2 + torch.finfo(torch.float64).tiny
    # W = own + shared.T shared; by the Woodbury identity a matrix as large as the number of images is enough
    shared = rest * math.sqrt((1 - OWN) / len(rest))
    inner = torch.linalg.cholesky(shared @ shared.T + own * torch.eye(len(rest), dtype=u.dtype, device=u.device))

    def weighed(columns: torch.Tensor) -> torch.Tensor:
        return (columns - shared.T @ torch.cholesky_solve(shared @ columns, inner)) / own

    both = weighed(torch.cat([rows, mean[:, None]], 1))
    curved, towards, total = rows.T @ both[:, :-1], rows.T @ both[:, -1], float(mean @ both[:, -1])
    pull, factor = believed @ (u - centre), guess.factor
    for _ in range(3):  # the factor by which W was wrong, and the step, agree
        covariance = torch.linalg.inv((curved + curved.T) / (2 * factor) + believed)
        covariance = (covariance + covariance.T) / 2
        delta = covariance @ (towards / factor + pull)
        left = total - 2 * float(delta @ towards) + float(delta @ curved @ delta)
        determined = float((covariance * curved).sum()) / factor
        factor = min(max(left / max(equations.count - determined, 1.0), 1e-3), 1e4)
    return _Guess(u - delta, covariance, factor)


def _drawn(covariance: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """As many differences from the mean, in pairs of opposite ones."""
    tiny = 1e-14 * float(covariance.diagonal().mean())
    unit = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    factor = torch.linalg.cholesky(covariance + tiny * unit)
    half = torch.randn(max(count // 2, 1), len(covariance), generator=generator, dtype=covariance.dtype)
    half = half.to(covariance.device) @ factor.T
    return torch.cat([half, -half])


def _slopes(block: Block, u: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
    """How the block's slopes differ at u + away from those at u, (N, K), at the state in its middle, in float32.

    Only how the slopes scatter is asked for here, and a client's model hardly moves within the rounds of one block.
    """
    params, directions = block.one_state()
    params = {name: p.float() for name, p in params.items()}

    def gradient(v: torch.Tensor) -> torch.Tensor:
        images, labels = block.decode(v)
        return models.flatten(torch.func.grad(lambda p: block.loss(p, images, labels))(params))

    points = torch.cat([u[None], u + away]).float()
    size = max(1, GRADIENTS // sum(p.numel() for p in params.values()))
    found = []
    for some in points.split(size):
        gradients = models.vectorised(block.model, gradient)(some)
        found.append(torch.cat([gradients @ rows.float().T for rows in directions()], 1).double())
    slopes = torch.cat(found)
    return slopes[1:] - slopes[:1]


def _expected_rows(equations: ScalarEquations, u: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
    """J (K, D), where switches turn over as they are expected to."""
    images = torch.stack([equations.decode(v)[0] for v in u + away]).float()
    params = {name: p.float() for name, p in equations.blocks[0].one_state()[0].items()}
    afar = equations.with_model(with_expected_switching(equations.model, params, images))
    if len(u) >= equations.count or any(_drift(block) > DRIFT for block in equations.blocks):
        return torch.cat(list(afar.jacobian_rows(u))).double()
    return torch.cat([_columns(block, u) for block in afar.blocks]).double() / equations.scale


def _drift(block: Block) -> float:
    """How far the model is from the state in the block's middle, root mean square, relative to its length."""
    middle, every = block.one_state()[0], block.params
    moved = sum(float((every[name] - p).square().sum() * p.numel() / every[name].numel()) for name, p in middle.items())
    return math.sqrt(moved / sum(float(p.square().sum()) for p in middle.values()))


def _columns(block: Block, u: torch.Tensor) -> torch.Tensor:
    """J (K, D) of a block, one column for each unknown instead of one row for each scalar, at the state in its middle,
    in float32."""
    params, directions = block.one_state()
    params, u = {name: p.float() for name, p in params.items()}, u.float()

    def gradient(v: torch.Tensor) -> torch.Tensor:
        images, labels = block.decode(v)
        return models.flatten(torch.func.grad(lambda p: block.loss(p, images, labels))(params))

    size = max(1, GRADIENTS // sum(p.numel() for p in params.values()))
    along = models.vectorised(block.model, lambda v: directional_derivative(gradient, u, v))
    moved = torch.cat([along(some) for some in torch.eye(len(u), device=u.device).split(size)])
    return torch.cat([rows.float() @ moved.T for rows in directions()])


def _dense(matrix: torch.Tensor) -> torch.Tensor:
    """R as a dense matrix that can be inverted; a vector stands for the identity."""
    dense = torch.ones_like(matrix).diag() if matrix.dim() == 1 else matrix.to_dense().double()
    unit = torch.eye(len(dense), dtype=dense.dtype, device=dense.device)
    return dense + 1e-3 * dense.diagonal().mean() * unit


def _rms(r: torch.Tensor) -> float:
    return float(r.square().mean().sqrt())
