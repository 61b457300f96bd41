"""The metrics of a stack of records, and those of a stack that nobody attacked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Float64
from torch import Tensor

METRICS = ("psnr", "ssim", "mse", "lpips")
OF_TABLES = ("cells", "numeric_error")
OF_TOKENS = ("exact", "token_accuracy", "secrets", "edit_distance")


@dataclass(frozen=True, eq=False, repr=False)
class Metrics:
    """How close each record of a batch comes to its truth.

    Attributes:
        psnr: (B,) float64, dB, infinite for an exact record. Of a table, -10 log10 MSE: a peak of one public standard
            deviation, so 0 dB is what guessing every mean reaches on average.
        ssim: at most 1. NaN for tables.
        mse: 0 to 1. Of a table, in squared standard deviations, see `square_error`.
        lpips: 0 and up, or NaN.
        cells: of a table, the share of its cells that are right, see `cells`; None for images.
        numeric_error: of a table, the root mean square error of its numbers in standard deviations; None for images.
        exact: of a text, whether it is the true one to its last piece, bool; None for images and tables, as are:
        token_accuracy: the share of its pieces that stand in their place.
        secrets: the share of its runs of four digits or more that were found; NaN for a text without any.
        edit_distance: pieces to be put in, left out or exchanged. The first four are NaN for texts.
    """

    psnr: Float64[Tensor, " batch"]
    ssim: Float64[Tensor, " batch"]
    mse: Float64[Tensor, " batch"]
    lpips: Float64[Tensor, " batch"]
    cells: Float64[Tensor, " batch"] | None = field(default=None, kw_only=True)
    numeric_error: Float64[Tensor, " batch"] | None = field(default=None, kw_only=True)
    exact: Bool[Tensor, " batch"] | None = field(default=None, kw_only=True)
    token_accuracy: Float64[Tensor, " batch"] | None = field(default=None, kw_only=True)
    secrets: Float64[Tensor, " batch"] | None = field(default=None, kw_only=True)
    edit_distance: Float64[Tensor, " batch"] | None = field(default=None, kw_only=True)

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of the metrics that this kind of record has: `METRICS`, for tables two more, for texts others."""
        if self.token_accuracy is not None:
            return OF_TOKENS
        return METRICS + tuple(name for name in OF_TABLES if getattr(self, name) is not None)

    @property
    def leading(self) -> Float64[Tensor, " batch"]:
        """The metric by which one is better than another: PSNR; of texts, the share of tokens in place."""
        return self.psnr if self.token_accuracy is None else self.token_accuracy

    def __len__(self) -> int:
        return len(self.psnr)


class Control(Metrics):
    """What is reached without the attack: the same metrics, per record.

    Tables set a control's PSNR beside the attack's, so a control also answers like its ``psnr`` (of texts, like its
    ``token_accuracy``): what a tensor has (``mean()``, ``shape``), its entries, comparisons, sums and differences, all
    as plain tensors. It is no tensor: where a function of torch is to take it, name the metric, ``control.psnr``.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in (*METRICS, *OF_TABLES, *OF_TOKENS):  # a copy asks before there is a psnr
            raise AttributeError(name)
        return getattr(self.leading, name)

    def __repr__(self) -> str:
        return f"Control({self.leading})"

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.leading)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        return self.leading[index]

    def __float__(self) -> float:
        return float(self.leading)

    def __add__(self, other: Tensor | float) -> Tensor:
        return self.leading + other

    def __radd__(self, other: Tensor | float) -> Tensor:
        return other + self.leading

    def __sub__(self, other: Tensor | float) -> Tensor:
        return self.leading - other

    def __rsub__(self, other: Tensor | float) -> Tensor:
        return other - self.leading

    def __lt__(self, other: Tensor | float) -> Tensor:
        return self.leading < other

    def __le__(self, other: Tensor | float) -> Tensor:
        return self.leading <= other

    def __gt__(self, other: Tensor | float) -> Tensor:
        return self.leading > other

    def __ge__(self, other: Tensor | float) -> Tensor:
        return self.leading >= other
