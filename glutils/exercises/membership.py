"""Exercises of the chapter on naming records: a step of the non-negative solver, and how many scalars it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from .base import Case, exercise, integer, normal, uniform


def _active(columns: torch.Tensor, message: torch.Tensor, active: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.zeros(columns.shape[1], dtype=columns.dtype)
    weights[active] = torch.linalg.lstsq(columns[:, active], message[:, None]).solution[:, 0]
    return weights, columns.T @ (message - columns @ weights)


def _unscaled(columns: torch.Tensor, message: torch.Tensor, active: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.zeros(columns.shape[1], dtype=columns.dtype)
    weights[active] = (columns.T @ message)[active]
    return weights, columns.T @ (message - columns @ weights)


def _everybody(columns: torch.Tensor, message: torch.Tensor, active: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.linalg.lstsq(columns, message[:, None], driver="gelsd").solution[:, 0]
    return weights, columns.T @ (message - columns @ weights)


@exercise(
    "With A the active columns, solve A'A w = A's for their weights; all others weigh nothing. The slopes are those of "
    "all columns along what is left of the scalars.",
    {
        "Only the active columns may have a weight: the others are left out of the system.": _everybody,
        "The inner products of columns and scalars are the right-hand side. Divide by A'A: candidates resemble "
        "each other.": _unscaled,
        "The slopes are taken along what is left of the scalars, not along the scalars.":
            lambda columns, message, active: (_active(columns, message, active)[0], columns.T @ message),
        "The slopes have the wrong sign: a positive one says that this candidate would help.":
            lambda columns, message, active: (
                _active(columns, message, active)[0], -_active(columns, message, active)[1]
            ),
    },
)  # fmt: skip
def solve_active(draw: torch.Generator) -> Iterator[Case]:
    """solve_active(columns, message, active): the weights of all N candidates, (N,), zero but for the active ones,
    which are those of least squares; and the slopes, (N,), the inner product of every column with what is then left of
    the message. From the columns (K, N), the message (K,) and a list of active numbers."""
    for _ in range(4):
        K, N = integer(draw, 6, 9), integer(draw, 10, 14)
        columns = normal(draw, K, N) + 1.0
        active = torch.randperm(N, generator=draw)[: integer(draw, 2, 4)].tolist()
        message = columns[:, active] @ (0.5 + uniform(draw, len(active))) + 0.1 * normal(draw, K)
        about = f"{K} scalars, {N} candidates and {len(active)} active ones"
        yield Case(about, (columns, message, active), _active(columns, message, active))


@exercise(
    "There are N choose B batches. Each scalar tells its bits; take the logarithm to the base 2 of the number of "
    "batches, divide, and round up.",
    {
        "N to the power of B counts orders, too: the same batch many times.":
            lambda members, candidates, bits: math.ceil(members * math.log2(candidates) / bits),
        "A scalar tells bits, so the logarithm must have the base 2.": lambda members, candidates, bits: math.ceil(
            math.log(math.comb(candidates, members)) / bits
        ),
        "One number per pixel would draw the records. Here they only have to be told apart.":
            lambda members, candidates, bits: 64 * members,
        "Rounding down leaves some batches that nobody can tell apart.": lambda members, candidates, bits: int(
            math.log2(math.comb(candidates, members)) // bits
        ),
    },
)  # fmt: skip
def scalars_to_name(draw: torch.Generator) -> Iterator[Case]:
    """scalars_to_name(members, candidates, bits): the least number of scalars, each worth so many bits, that can tell
    all batches of that many different members among the candidates apart; a whole number."""
    for bits in (1, 2, 4, 8):
        members, candidates = integer(draw, 3, 12), integer(draw, 500, 3000)
        count = math.comb(candidates, members)
        about = f"{members} of {candidates} candidates, {bits} bits"
        yield Case(about, (members, candidates, bits), _least(count, bits))


def _least(count: int, bits: int) -> int:
    scalars = 0
    while 2 ** (bits * scalars) < count:
        scalars += 1
    return scalars
