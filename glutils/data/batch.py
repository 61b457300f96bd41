"""A batch of labelled records: what a client holds and nobody else should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from .. import _validate
from . import kinds
from .columns import Columns
from .vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Batch:
    """Labelled records: images, the rows of a table, or texts as word pieces.

    Attributes:
        images: the records. Images have shape (B, C, H, W), float32, every pixel in [0, 1]. Records of a table have
            shape (B, columns), float32: numbers in standard deviations from the public mean, and for every categorical
            variable a column for each level, one of them 1 and the others 0. Texts have shape (B, L), int64, the
            numbers of their pieces.
        labels: shape (B,), int64, in ``0 .. len(classes) - 1``. Or (B, len(classes)), float32, for protocols whose loss
            takes numbers: a probability, a yes or no, or a value for each of ``classes``. Of texts whose next pieces
            are to be told: (B, L), int64, the pieces again, but -100 at the first position, at padding, and wherever
            else none is asked for.
        classes: the names of the classes, at least two; with numbers for labels, of what they are about, at least one;
            the pieces, where these are to be told.
        source: where the records come from, for the files of results and captions.
        columns: what is public about a table's columns; None for images. Of a table that comes without, all columns
            are taken to be numbers, standardised already.
        vocabulary: which pieces the numbers of a text stand for; None for images and tables. Of texts that come without
            one and are labelled by pieces, every class is a word.

    Raises:
        TypeError: a tensor of the wrong dtype.
        ValueError: wrong shape, NaN, a pixel outside [0, 1], a level that is not one-hot, a description of other
            columns, or a label out of range.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("wine", count=8, seed=0, device="cpu")
        >>> batch.kind, batch.records.shape, batch.columns.names[:2]
        ('tables', torch.Size([8, 13]), ('alcohol', 'malic_acid'))
    """

    images: Float32[Tensor, "batch ..."] | Int64[Tensor, "batch length"]
    labels: Int64[Tensor, " batch"] | Float32[Tensor, "batch outputs"] | Int64[Tensor, "batch length"]
    classes: tuple[str, ...]
    source: str = ""
    columns: Columns | None = None
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        numbers = isinstance(self.labels, Tensor) and self.labels.is_floating_point()
        if len(self.classes) < (1 if numbers else 2):
            raise ValueError(f"classes must name at least two classes, got {self.classes!r}")
        _validate.images_and_labels(self.images, self.labels, len(self.classes))
        if self.labels.device != self.images.device:
            raise ValueError(f"labels must be on the images' device {self.images.device}, got {self.labels.device}")
        if numbers:
            _validate.finite("labels", self.labels)
            if self.labels.dtype != torch.float32:
                raise TypeError(f"labels of a Batch must be int64 class indices, or float32, got {self.labels.dtype}")
        kind = kinds.of("images", self.images)
        if self.images.dtype != torch.float32 and not kind.whole:
            raise TypeError(f"images of a Batch must be float32, got {self.images.dtype}")
        _validate.finite("images", self.images)
        if self.columns is None and kind is kinds.TABLES:
            object.__setattr__(self, "columns", Columns.plain(self.images.shape[1]))
        if self.vocabulary is None and kind is kinds.TOKENS and self.labels.ndim == 2:
            object.__setattr__(self, "vocabulary", Vocabulary(self.classes))
        kind.check(self.images, self.columns, self.vocabulary)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int]) -> Batch:
        """A batch of the chosen records; ``index`` is an int, a slice or a list of ints."""
        chosen = [int(index)] if isinstance(index, (int, np.integer)) else index
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    @property
    def records(self) -> Float32[Tensor, "batch ..."] | Int64[Tensor, "batch length"]:
        """``images`` by the name that fits every kind of record."""
        return self.images

    @property
    def kind(self) -> str:
        """What kind of records these are, ``"images"``, ``"tables"`` or ``"tokens"``."""
        return kinds.of("images", self.images).name

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that the pieces are those of, (B,); ``TypeError`` for records of another kind, and for numbers of
        which nobody said what they stand for."""
        if self.vocabulary is None:
            raise TypeError(f"batch must hold tokens with a vocabulary for that, got {self.kind}")
        return tuple(map(self.vocabulary.decode, self.images.cpu()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one record: (C, H, W) of an image, (columns,) of a table, (L,) of a text."""
        return tuple(self.images.shape[1:])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))
