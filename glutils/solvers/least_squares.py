"""Least squares, and the linear equations of one of their steps: K equations, D unknowns, a D x D matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from .engine import Ending

MANY, PROBES = 1024, 64
"""Unknowns from which on a trace is estimated, and the random vectors that it takes."""

PRODUCTS = 12
"""Most products with J.T J that the solution of one step takes."""


@runtime_checkable
class LeastSquares(Protocol):
    """What the solver asks of a problem: K equations r(u) = 0 in D unknowns.

    A problem may offer two things more, for less: ``rough_gram(u)``, as ``gram`` with an error of float32's size, and
    ``glance(u)``, noise and bias as ``calibrate`` would find them, from some of the equations.
    """

    count: int
    unknowns: int

    def evaluate(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """r(u), shape (K,), and J(u).T r(u), shape (D,)."""

    def jtj_vector(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """J(u) v, shape (K,), and J(u).T J(u) v, shape (D,)."""

    def vjp(self, u: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """J(u).T r for any r of shape (K,); shape (D,)."""

    def gram(self, u: torch.Tensor) -> torch.Tensor:
        """J(u).T J(u), shape (D, D), float64, from rows of J in float32."""

    def calibrate(self, u: torch.Tensor) -> Calibration:
        """What the client's arithmetic at u says of the noise, and the equations without the bias that it shows."""


class Calibration(NamedTuple):
    """What equations learn at a point: two root mean squares, in units of r, and the equations to go on with."""

    noise: float
    """That is left."""
    bias: float
    """That was removed."""
    problem: LeastSquares


@dataclass(frozen=True)
class Solution:
    """Where a search for the root of r(u) ended.

    Attributes:
        u: the last accepted iterate, (D,).
        noise: root mean square of the noise that the attacker believes to be in r.
        problem: the equations as they were last calibrated.
        ending: whether the restart has ended with it, and why.
    """

    u: torch.Tensor
    noise: float
    problem: LeastSquares
    ending: Ending = Ending.NONE


@dataclass
class Linear:
    """The damped normal equations at u, (J.T J + a R + b) d = c, factored from float32 rows."""

    problem: LeastSquares
    u: torch.Tensor
    shape: torch.Tensor
    """R, sparse."""
    a: float
    b: float
    factor: torch.Tensor
    exact: bool
    cg_failed: bool = False
    """Conjugate gradients did not converge on these equations."""

    def solve(self, c: torch.Tensor) -> torch.Tensor:
        """d; where ``exact``, by conjugate gradients on products with J itself, preconditioned by the factor.

        Rows in float32 lose every direction in which J is ten million times smaller than in its largest one. The
        factored matrix loses them, too: it squares J. The products do neither.
        """
        d = self.preconditioned(c)
        if not self.exact:
            return d
        d, q, rest, size = torch.zeros_like(d), d, c, c @ d
        first = size
        for _ in range(PRODUCTS):
            onward, back = self.problem.jtj_vector(self.u, q)
            towards = self.a * (self.shape @ q) + self.b * q
            length = size / (onward @ onward + q @ towards)
            d = d + length * q
            rest = rest - length * (back + towards)
            z = self.preconditioned(rest)
            size, last = rest @ z, size
            if not size > 1e-6 * first:
                return d
            q = z + size / last * q
        self.cg_failed = True
        return d

    def preconditioned(self, c: torch.Tensor) -> torch.Tensor:
        """By the factor alone. (``torch.cholesky_solve`` would copy it first, and it may be a gigabyte.)"""
        half = torch.linalg.solve_triangular(self.factor, c[:, None], upper=False)
        return torch.linalg.solve_triangular(self.factor.mT, half, upper=True)[:, 0]


def unit(matrix: torch.Tensor) -> torch.Tensor:
    """A prior's matrix as a sparse one with a mean diagonal of 1; a vector stands for the identity of its length."""
    if matrix.dim() == 1:
        places = torch.arange(len(matrix), device=matrix.device).expand(2, -1)
        return torch.sparse_coo_tensor(
            places, torch.ones_like(matrix), (len(matrix),) * 2, check_invariants=True
        ).coalesce()
    matrix = (matrix if matrix.is_sparse else matrix.to_sparse()).coalesce()
    rows, columns = matrix.indices()
    return matrix * (len(matrix) / float(matrix.values()[rows == columns].sum()))


def evidence(
    away: torch.Tensor, shape: torch.Tensor, factor: torch.Tensor, alpha: float, goal: float, sigma: float
) -> float:
    """MacKay's fixed point for alpha: determined unknowns x noise variance / the prior's present value."""
    bound = len(away) * sigma**2 / max(float(away @ (shape @ away)), 1e-300)
    if bound <= goal:  # all unknowns determined, and still below: no need to count them, which costs an inverse
        return bound
    free = alpha * _trace(factor, shape)
    return bound * max(len(away) - free, 1.0) / len(away)


def _trace(factor: torch.Tensor, shape: torch.Tensor) -> float:
    """The trace of A^-1 R, from A's Cholesky factor; of many unknowns by random signs (Hutchinson 1990).

    The inverse would cost more than twice what the factor did. With ``PROBES`` vectors of signs the share of the
    unknowns that are determined is known to sqrt(2 / (PROBES D)) and better: to 0.6 percent of 1,024 unknowns.
    """
    if len(factor) < MANY:
        rows, columns = shape.indices()
        return float(torch.cholesky_inverse(factor)[rows, columns] @ shape.values())
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (len(factor), PROBES), generator=draw).to(factor) * 2 - 1
    half = torch.linalg.solve_triangular(factor, shape @ signs, upper=False)
    return float((torch.linalg.solve_triangular(factor.mT, half, upper=True) * signs).sum() / PROBES)
