"""What an adversary knows of a batch that it does not hold: its shape, its number of classes, its labels if told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .. import _validate, models
from ..data import kinds
from ..data.batch import Batch
from ..data.columns import Columns
from ..data.vocabulary import Vocabulary

KNOWLEDGE = ("labels", "batch_stats", "public")
"""What ``knows`` may name: the private labels, the batch norm statistics of the private batch, public data."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a private batch, and, where somebody holds it, the records themselves.

    Attributes:
        shape: of the records, with the batch axis first.
        classes: number of classes; of tokens, of pieces.
        labels: (B,) int64, or (B, L) of tokens, or None.
        images: the records; None where nobody here has them.
        columns: what is public about the columns of a table, if anything is.
        whole: whether the records are whole numbers: tokens.
        vocabulary: which pieces the tokens stand for, where anybody said so.
        targets: of tokens, at how many positions of the whole batch the next piece is asked for; None: not known.
    """

    shape: tuple[int, ...]
    classes: int
    labels: torch.Tensor | None = None
    images: torch.Tensor | None = None
    columns: Columns | None = None
    whole: bool = False
    vocabulary: Vocabulary | None = None
    targets: int | None = None

    @classmethod
    def of(cls, batch: Batch) -> Facts:
        """Those of a batch."""
        whole, each = batch.kind == kinds.TOKENS.name, batch.labels.ndim == 2
        return cls(
            tuple(batch.images.shape), len(batch.classes), batch.labels, batch.images, batch.columns, whole,
            batch.vocabulary, int((batch.labels[:, 1:] != _validate.IGNORED).sum()) if whole and each else None,
        )  # fmt: skip

    def check_telling(self) -> None:
        """``ValueError`` where the labels cannot be told, or would tell all."""
        if self.labels is None:
            raise ValueError("knows names 'labels': give them, labels=...")
        if self.whole and self.labels.ndim == 2:
            most = int((self.labels != _validate.IGNORED).sum(1).max())
            if most > 1:
                raise ValueError(f"knows must not name 'labels' of {most} next pieces of a text: they are the text")


def knowledge(knows: Iterable[str]) -> frozenset[str]:
    """Names of :data:`KNOWLEDGE`, checked; ``TypeError`` or ``ValueError`` naming ``knows``."""
    if isinstance(knows, str):
        raise TypeError(f"knows must be a collection of names, got the string {knows!r}")
    for name in (found := frozenset(knows)):
        _validate.choice("knows", name, KNOWLEDGE)
    return found


def stated(
    model: nn.Module,
    shape: Sequence[int] | None,
    classes: int | None,
    labels: torch.Tensor | np.ndarray | Sequence[int] | None,
    criterion: models.losses.Loss = models.losses.DEFAULT,
) -> Facts:
    """The facts that a caller states in place of a private batch, tried on the model.

    Raises:
        TypeError, ValueError: naming ``shape``, ``classes`` or ``labels``; among them a shape that the model cannot
            take, and classes other than the model's outputs.
    """
    if shape is None:
        raise TypeError(f"shape must be given in place of a private batch; got shape=None, classes={classes}")
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise TypeError(f"shape must be (B, C, H, W), (B, columns) of a table, or (B, L) of tokens, got {shape!r}")
    shape = tuple(_validate.integer("shape", side, at_least=1) for side in shape)
    kinds.of_shape("shape", shape)
    found, whole = _outputs(model, shape)
    every = whole and found.shape[:-1] == shape
    if classes is None and not every:  # of tokens, the model's outputs say it
        raise TypeError(f"classes must be given in place of a private batch; got shape={shape}, classes=None")
    classes = found.shape[-1] if classes is None else _validate.integer("classes", classes, at_least=1)
    if found.ndim < 2 or (found.shape[0], found.shape[-1]) != (shape[0], classes):
        raise ValueError(
            f"classes must be the model's outputs for each record: records of shape {shape} give outputs of shape "
            f"{tuple(found.shape)}, got classes={classes}"
        )
    if labels is not None:
        plain = criterion.plain and found.ndim == 2
        labels = _labels(labels, shape[0], classes) if plain else _targets(labels, tuple(found.shape), criterion)
        labels = labels.to(found.device)
    if not every:
        return Facts(shape, classes, labels, whole=whole)
    targets = shape[1] - 1 if shape[0] == 1 else None  # texts of one batch need not be of one length
    if labels is not None:
        targets = int((labels[:, 1:] != _validate.IGNORED).sum())
    return Facts(shape, classes, labels, None, None, whole, getattr(model, "vocabulary", None), targets)


def _outputs(model: nn.Module, shape: tuple[int, ...]) -> tuple[torch.Tensor, bool]:
    """What the model makes of zeros of this shape, and whether it only takes them as whole numbers; ``ValueError``
    naming ``shape`` if it cannot take them."""
    _validate.instance("model", model, nn.Module)
    params = models.parameters(model)
    like = next(iter(params.values()), torch.zeros(()))
    refused: Exception | None = None
    for dtype in (like.dtype, torch.int64)[: 1 + (len(shape) == len(kinds.TOKENS.axes))]:
        try:
            with torch.no_grad():
                zeros = torch.zeros(shape, dtype=dtype, device=like.device)
                return models.logits(model, params, zeros), dtype == torch.int64
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            refused = error
    said = str(refused).strip().splitlines() or [type(refused).__name__]
    raise ValueError(f"shape must be one that the model can take, got {shape}: {said[0]}") from refused


def _targets(labels: object, outputs: tuple[int, ...], criterion: models.losses.Loss) -> torch.Tensor:
    """What a loss other than that of class indices takes for labels, on the CPU."""
    if isinstance(labels, str) or not isinstance(labels, (torch.Tensor, np.ndarray, Sequence)):
        raise TypeError(f"labels must be a tensor of what the loss takes, got {type(labels).__name__}")
    found = torch.as_tensor(labels).detach().cpu()
    if found.dtype == torch.float64 or found.dtype == torch.int32:
        found = found.to(torch.float32 if found.is_floating_point() else torch.int64)
    criterion.check(outputs, found)
    return found.clone()


def _labels(labels: torch.Tensor | np.ndarray | Sequence[int], count: int, classes: int) -> torch.Tensor:
    """(B,) int64 on the CPU; ``TypeError`` or ``ValueError`` naming ``labels``."""
    if isinstance(labels, str) or not isinstance(labels, (torch.Tensor, np.ndarray, Sequence)):
        raise TypeError(f"labels must be class indices, one for each record, got {type(labels).__name__}")
    if isinstance(labels, Sequence):
        labels = [_validate.integer("labels", entry) for entry in labels]
    found = torch.as_tensor(labels).detach().cpu()
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"labels must be integer class indices, got {found.dtype}")
    if found.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one for each record, got {tuple(found.shape)}")
    if found.numel() and not (0 <= int(found.min()) and int(found.max()) < classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {found.tolist()}")
    return found.to(torch.int64, copy=True)
