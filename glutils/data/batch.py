"""A batch of labelled images: what a client holds and nobody else should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from .. import _validate


@dataclass(frozen=True, eq=False)
class Batch:
    """Labelled images.

    Attributes:
        images: shape (B, C, H, W), float32, every pixel in [0, 1].
        labels: shape (B,), int64, in ``0 .. len(classes) - 1``.
        classes: the names of the classes, at least two.
        source: where the images come from, for records and captions.

    Raises:
        TypeError: a tensor of the wrong dtype.
        ValueError: wrong shape, NaN, a pixel outside [0, 1], or a label out of range.
    """

    images: Float32[Tensor, "batch channel height width"]
    labels: Int64[Tensor, " batch"]
    classes: tuple[str, ...]
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        if len(self.classes) < 2:
            raise ValueError(f"classes must name at least two classes, got {self.classes!r}")
        _validate.images_and_labels(self.images, self.labels, len(self.classes))
        if self.labels.device != self.images.device:
            raise ValueError(f"labels must be on the images' device {self.images.device}, got {self.labels.device}")
        if self.labels.is_floating_point():
            raise TypeError(f"labels of a Batch must be int64 class indices, got {self.labels.dtype}")
        if self.images.dtype != torch.float32:
            raise TypeError(f"images of a Batch must be float32, got {self.images.dtype}")
        _validate.finite("images", self.images)
        low, high = float(self.images.min()), float(self.images.max())
        if low < 0 or high > 1:
            raise ValueError(f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int]) -> Batch:
        """A batch of the chosen images; ``index`` is an int, a slice or a list of ints."""
        chosen = [int(index)] if isinstance(index, (int, np.integer)) else index
        return Batch(self.images[chosen], self.labels[chosen], self.classes, self.source)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        return Batch(self.images.to(device), self.labels.to(device), self.classes, self.source)
