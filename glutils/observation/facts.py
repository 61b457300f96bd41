"""What an adversary knows of a batch that it does not hold: its shape, its number of classes, its labels if told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .. import _validate, models
from ..data import kinds
from ..data.batch import Batch
from ..data.columns import Columns
from ..data.vocabulary import Vocabulary


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
            batch.vocabulary, int((batch.labels[:, 1:] != _validate.UNTOLD).sum()) if whole and each else None,
        )  # fmt: skip


def stated(
    model: nn.Module,
    shape: Sequence[int] | None,
    classes: int | None,
    labels: torch.Tensor | np.ndarray | Sequence[int] | None,
) -> Facts:
    """The facts that a caller states in place of a private batch, tried on the model.

    Raises:
        TypeError, ValueError: naming ``shape``, ``classes`` or ``labels``; among them a shape that the model cannot
            take, and classes other than the model's outputs.
    """
    if shape is None or (classes is None and len(shape) != 2):
        name = "shape" if shape is None else "classes"
        raise TypeError(f"{name} must be given in place of a private batch; got shape={shape}, classes={classes}")
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise TypeError(f"shape must be (B, C, H, W), (B, columns) of a table, or (B, L) of tokens, got {shape!r}")
    shape = tuple(_validate.integer("shape", side, at_least=1) for side in shape)
    kinds.of_shape("shape", shape)
    found, whole = _outputs(model, shape)
    every = whole and found.shape[:-1] == shape
    if classes is None and not every:
        raise TypeError(f"classes must be given in place of a private batch; got shape={shape}, classes=None")
    classes = found.shape[-1] if classes is None else _validate.integer("classes", classes, at_least=1)
    if tuple(found.shape) != (*(shape if every else shape[:1]), classes):
        raise ValueError(
            f"classes must be the model's outputs for each record: records of shape {shape} give outputs of shape "
            f"{tuple(found.shape)}, got classes={classes}"
        )
    told = None if labels is None else _labels(labels, shape if every else shape[:1], classes).to(found.device)
    if not every:
        return Facts(shape, classes, told, whole=whole)
    targets = shape[1] - 1 if shape[0] == 1 else None  # texts of one batch need not be of one length
    if told is not None:
        targets = int((told[:, 1:] != _validate.UNTOLD).sum())
    return Facts(shape, classes, told, None, None, whole, getattr(model, "vocabulary", None), targets)


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


def _labels(labels: torch.Tensor | np.ndarray | Sequence, shape: tuple[int, ...], classes: int) -> torch.Tensor:
    """(B,) int64 on the CPU, or (B, L) of tokens; ``TypeError`` or ``ValueError`` naming ``labels``."""
    if isinstance(labels, str) or not isinstance(labels, (torch.Tensor, np.ndarray, Sequence)):
        raise TypeError(f"labels must be class indices, one for each record, got {type(labels).__name__}")
    if isinstance(labels, Sequence) and len(shape) == 1:
        labels = [_validate.integer("labels", entry) for entry in labels]
    found = torch.as_tensor(labels).detach().cpu()
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"labels must be integer class indices, got {found.dtype}")
    if found.shape != shape:
        raise ValueError(f"labels must have shape {shape}, one for each record, got {tuple(found.shape)}")
    named = found[found != _validate.UNTOLD] if len(shape) == 2 else found
    if named.numel() and not (0 <= int(named.min()) and int(named.max()) < classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {found.tolist()}")
    return found.to(torch.int64, copy=True)
