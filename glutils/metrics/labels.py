"""How well labels were inferred: which classes are there, and how often."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from ..data.batch import Batch


@runtime_checkable
class HasCounts(Protocol):
    """What counts images of each class, as a :class:`~glutils.labels.LabelEstimate` does in ``counts`` (C,)."""

    @property
    def counts(self) -> Tensor: ...


def count_accuracy(
    estimate: HasCounts | Int64[Tensor, " classes"], truth: Batch | Int64[Tensor, " classes"]
) -> float:
    """Share of images whose label is accounted for, sum_c min(n_c, found_c) / B, between 0 and 1 (LLG's success rate).

    Args:
        estimate: a LabelEstimate, or counts (C,) int64.
        truth: the private Batch, or counts (C,) int64; the same number of classes and of images.

    Raises:
        TypeError, ValueError: other types, or counts that are negative or differ in their sum or length.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> round(gl.metrics.count_accuracy(torch.tensor([2, 0, 1]), torch.tensor([1, 1, 1])), 3)
        0.667
    """
    found, true = _pair(estimate, truth)
    return float(torch.minimum(found, true).sum()) / float(true.sum())


def existence_f1(
    estimate: HasCounts | Int64[Tensor, " classes"], truth: Batch | Int64[Tensor, " classes"]
) -> float:
    """F1 of the set of classes found against the set that is there, between 0 and 1. Arguments as above.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> round(gl.metrics.existence_f1(torch.tensor([2, 0, 1]), torch.tensor([1, 1, 1])), 3)
        0.8
    """
    found, true = (counts > 0 for counts in _pair(estimate, truth))
    return 2 * float((found & true).sum()) / float(found.sum() + true.sum())


def existence_jaccard(
    estimate: HasCounts | Int64[Tensor, " classes"], truth: Batch | Int64[Tensor, " classes"]
) -> float:
    """Classes found that are there, over classes found or there, between 0 and 1. Arguments as above.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> round(gl.metrics.existence_jaccard(torch.tensor([2, 0, 1]), torch.tensor([1, 1, 1])), 3)
        0.667
    """
    found, true = (counts > 0 for counts in _pair(estimate, truth))
    return float((found & true).sum()) / float((found | true).sum())


def _pair(
    estimate: HasCounts | Int64[Tensor, " classes"], truth: Batch | Int64[Tensor, " classes"]
) -> tuple[Int64[Tensor, " classes"], Int64[Tensor, " classes"]]:
    found, true = _counts("estimate", getattr(estimate, "counts", estimate)), _counts("truth", truth)
    if len(found) != len(true) or int(found.sum()) != int(true.sum()):
        raise ValueError(
            f"estimate must hold {int(true.sum())} images in {len(true)} classes, "
            f"got {int(found.sum())} in {len(found)}"
        )
    return found, true


def _counts(name: str, value: object) -> Int64[Tensor, " classes"]:
    if isinstance(value, Batch):
        return torch.bincount(value.labels.cpu(), minlength=len(value.classes))
    if not isinstance(value, torch.Tensor) or value.dtype != torch.int64:
        kind = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{name} must be a LabelEstimate, a Batch or int64 counts, got {kind}")
    if value.ndim != 1 or not len(value) or int(value.min()) < 0 or int(value.sum()) < 1:
        raise ValueError(f"{name} must be counts (C,) of at least one image, none negative, got {value.tolist()}")
    return value.cpu()
