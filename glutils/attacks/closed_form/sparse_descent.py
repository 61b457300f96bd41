"""Sparse directions of a low-rank matrix by descent: smallest sums of absolute values, from its own rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

STARTS = 200
STEPS = 40
APART = 20
"""Steps in which the search keeps away from directions that are known."""
POWER = 0.8
"""Of the absolute values that are summed: below one, so that what is nearly zero is drawn to it."""
WIDE, NARROW, SHRINK = 0.3, 1e-5, 0.8
"""Where the power begins to bite, in units of the typical entry: at first, at last, and from step to step."""


def descend(rows: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
    """Directions q (STARTS, B) along which sum_k |rows_k q|^POWER is small for their length, from (m, B) rows.

    Reweighted least squares: every step solves for the direction with smallest sum of squares, each over what it was
    before. Lengths are measured in units of the rows' covariance, and a search starts at a sum of few rows: that is
    nearer to what is looked for than random numbers are (Sun, Qu and Wright, IEEE Transactions on Information Theory
    2017, for the sum of absolute values; Spielman, Wang and Wright, COLT 2012, for rows).

    Args:
        known: (B, n) with n <= B - 2, directions not to be found again: in those units, the first steps stay orthogonal
            to them.
    """
    square = rows.mT @ rows
    white = torch.linalg.cholesky(torch.linalg.inv(square + 1e-12 * square.trace() * torch.eye(len(square)).to(square)))
    even = rows @ white
    away = torch.linalg.svd(torch.linalg.solve(white, known), full_matrices=True)[0][:, known.shape[1] :]
    inside = even @ away
    some = torch.randint(len(rows), (3, STARTS), generator=generator)
    found = (torch.randn(3, STARTS, 1, generator=generator, dtype=rows.dtype) * inside[some]).sum(0)
    found, wide, shrunk = normalize(found, dim=1), WIDE, inside
    for step in range(STEPS):
        if step == APART:
            found, shrunk = found @ away.mT, even
        made = found @ shrunk.mT
        size = made.square() / made.square().mean(1, keepdim=True).clamp_min(1e-30)
        weights = (size + wide**2).pow(POWER / 2 - 1)
        spread = torch.einsum("tm,mi,mj->tij", weights, shrunk, shrunk)
        found = normalize(torch.linalg.solve_ex(spread, found[..., None])[0][..., 0], dim=1)
        wide = max(wide * SHRINK, NARROW)
    return normalize(found @ white.mT, dim=1).nan_to_num()


def independent(directions: Tensor, count: int) -> list[int]:
    """The first ``count`` columns of which none is a combination of those before it."""
    kept, basis = [], directions[:, :0]
    for index, column in enumerate(directions.mT):
        rest = column - basis @ (basis.mT @ column)
        rest = rest - basis @ (basis.mT @ rest)
        if float(rest.norm()) > 1e-4:
            kept.append(index)
            basis = torch.cat([basis, normalize(rest, dim=0)[:, None]], 1)
        if len(kept) == count:
            break
    return kept
