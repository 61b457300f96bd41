"""Metrics of two stacks of table records, one number per record, float64: cells that are right, numbers that are near.

Records are as a Batch holds them: numbers in standard deviations from the public mean, levels one-hot. What an attack
returns holds a real number for every level; the largest of a variable counts.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from .. import _validate
from ..data.columns import Columns

TOLERANCE = 0.1
"""Standard deviations by which a number may be off and still count as right."""
Records = Float[Tensor, "batch columns"]


def cells(
    records: Records, truth: Records, columns: Columns, *, tolerance: float | int = TOLERANCE
) -> Float64[Tensor, " batch"]:
    """Share of a record's variables that are right, (B,) float64, 0 to 1.

    A level is right if it has the largest entry of its variable, a number if it is off by ``tolerance`` standard
    deviations of the public values at most: one cell for each variable, however many columns it has. So counts TabLeak
    (Vero et al. 2023), which sets a tolerance for each numeric feature; one for all of them is this book's choice.

    Args:
        records: (B, columns), floating point. A NaN is wrong.
        truth: the same shape.
        columns: what the columns are.
        tolerance: in standard deviations, above 0.

    Raises:
        TypeError: not floating-point tensors. ValueError: other shapes, or a tolerance that is not above 0.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("wine", count=2, seed=0, device="cpu")
        >>> near = batch.records + 0.05
        >>> near[0, 0] += 1
        >>> gl.metrics.cells(near, batch.records, batch.columns)
        tensor([0.9231, 1.0000], dtype=torch.float64)
    """
    tolerance = _validate.number("tolerance", tolerance, above=0)
    records, truth = _pair(records, truth, columns)
    right = []
    for variable, place in columns.places():
        ours, theirs = records[:, place], truth[:, place]
        if variable.levels:
            right.append((ours.argmax(1) == theirs.argmax(1)) & ~ours.isnan().any(1))
        else:
            right.append((ours - theirs).abs()[:, 0] <= tolerance)
    return torch.stack(right, 1).double().mean(1)


def numeric_error(records: Records, truth: Records, columns: Columns) -> Float64[Tensor, " batch"]:
    """Root mean square over a record's numbers of how many standard deviations they are off, (B,) float64.

    NaN where there are no numbers. Arguments as in `cells`.
    """
    records, truth = _pair(records, truth, columns)
    chosen = list(columns.numeric)
    return (records[:, chosen] - truth[:, chosen]).square().mean(1).sqrt()


def square_error(records: Records, truth: Records, columns: Columns) -> Float64[Tensor, " batch"]:
    """Mean over all columns of the squared difference, (B,) float64: numbers in standard deviations, levels as such.

    Arguments as in `cells`.
    """
    records, truth = _pair(records, truth, columns)
    return (records - truth).square().mean(1)


def match_records(records: Records, truth: Records, columns: Columns) -> Int64[Tensor, " batch"]:
    """``matching[i]``: which of ``records`` belongs to ``truth[i]``, by the assignment of least total `square_error`.

    Arguments as in `cells`.
    """
    from scipy.optimize import linear_sum_assignment  # here, because SciPy takes long to load

    records, truth = _pair(records, truth, columns)
    cost = (records[:, None] - truth[None]).square().mean(2)
    finite = cost[cost.isfinite()]
    worst = 1 + (float(finite.max()) if finite.numel() else 0.0)  # a failed record is worse than any other
    return torch.from_numpy(linear_sum_assignment(cost.nan_to_num(worst, worst).T.numpy())[1]).long()


def _pair(records: Records, truth: Records, columns: Columns) -> tuple[Tensor, Tensor]:
    _validate.instance("columns", columns, Columns)
    for name, value in (("records", records), ("truth", truth)):
        _validate.instance(name, value, torch.Tensor)
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {value.dtype}")
        if value.ndim != 2 or value.shape[1] != len(columns) or not len(value):
            raise ValueError(f"{name} must have shape (B, {len(columns)}), got {tuple(value.shape)}")
    if records.shape != truth.shape:
        raise ValueError(f"records must have the truth's shape {tuple(truth.shape)}, got {tuple(records.shape)}")
    return records.detach().cpu().double(), truth.detach().cpu().double()
