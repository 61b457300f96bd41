"""Median and range of several runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from numbers import Real
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import _validate
from .measured import METRICS, OF_TABLES, OF_TOKENS
from .scores import Score


class Summary(NamedTuple):
    """Median, least and greatest of ``n`` runs."""

    median: float
    min: float
    max: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.min:.3g} to {self.max:.3g}, n = {self.n})"


def summary(scores: Iterable[Score | float | Float[Tensor, ""]], metric: str = "psnr") -> Summary:
    """Median and range across runs (seeds): of numbers, or of ``metric`` in each `Score`'s ``mean()``.

    ``metric`` is "psnr" (dB), "ssim", "mse", "lpips" or "label_accuracy"; of tables also "cells" or "numeric_error"; of
    texts "exact", "token_accuracy", "secrets" or "edit_distance". A NaN run makes all three NaN.

    Example:
        >>> import glutils as gl
        >>> gl.metrics.summary([20.0, 30.0, 25.0]).median
        25.0
    """
    _validate.choice("metric", metric, (*METRICS, *OF_TABLES, *OF_TOKENS, "label_accuracy"))
    _validate.instance("scores", scores, Iterable)
    values = []
    for one in scores:
        if not isinstance(one, (Score, Real)) and not (isinstance(one, torch.Tensor) and one.ndim == 0):
            raise TypeError(f"scores must hold Scores or numbers, got {type(one).__name__}")
        if isinstance(one, Score) and metric not in (*one.measured, "label_accuracy"):
            raise ValueError(f"metric must be one of {', '.join(one.measured)}, label_accuracy, got {metric!r}")
        values.append(one.mean()[metric] if isinstance(one, Score) else float(one))
    if not values:
        raise ValueError("scores must hold at least one run, got none")
    if any(map(math.isnan, values)):
        return Summary(math.nan, math.nan, math.nan, len(values))
    return Summary(statistics.median(values), min(values), max(values), len(values))
