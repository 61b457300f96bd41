"""What a loss asks of outputs and targets, refused in one sentence each; and the mean over next tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _validate

IGNORED = _validate.IGNORED
"""A target that counts for nothing: padding, or a token that the model was only shown."""


def tokens(outputs: tuple[int, ...], labels: Tensor) -> None:
    """Targets (B, L) of tokens for outputs (B, L, V)."""
    if labels.dtype != torch.int64:
        raise TypeError(f"labels of tokens must be int64, got {labels.dtype}")
    if tuple(labels.shape) != outputs[:2]:
        raise ValueError(f"labels of tokens must have shape {outputs[:2]}, got {tuple(labels.shape)}")
    told = labels[labels != IGNORED]
    if told.numel() and not (0 <= int(told.min()) and int(told.max()) < outputs[2]):
        raise ValueError(
            f"labels of tokens must lie in 0..{outputs[2] - 1}, or be {IGNORED}, got {int(told.min())} to "
            f"{int(told.max())}"
        )
    if not bool((labels[:, 1:] != IGNORED).any()):
        raise ValueError(
            f"labels of tokens must hold at least one target behind the first position, got only {IGNORED}"
        )


def two_axes(outputs: tuple[int, ...], what: str, at_least: int = 1) -> None:
    """Outputs (B, n)."""
    if len(outputs) != 2 or outputs[1] < at_least:
        more = f" with at least {at_least} classes" if at_least > 1 else ""
        raise ValueError(
            f"model must give logits of shape (B, {'classes' if at_least > 1 else 'n'}){more} for {what}, "
            f"gives {outputs} for {outputs[0]} records"
        )


def same_shape(outputs: tuple[int, ...], labels: Tensor) -> None:
    """Finite targets of the outputs' shape (B, n), or (B,) where n is 1."""
    allowed = [outputs] if outputs[1] > 1 else [outputs, outputs[:1]]
    if tuple(labels.shape) not in allowed:
        shown = " or ".join(map(str, allowed))
        raise ValueError(f"labels must have shape {shown} for this loss, got {tuple(labels.shape)}")
    if labels.is_complex() or (labels.is_floating_point() and not bool(torch.isfinite(labels).all())):
        raise ValueError("labels must be finite real numbers for this loss, got some that are not")


def of_tokens(outputs: Tensor, labels: Tensor, **how: Any) -> Tensor:
    """The mean cross entropy of every record's own targets, (B,); 0 for one without any."""
    rows, following = outputs[:, :-1].reshape(-1, outputs.shape[2]), labels[:, 1:]
    found = F.cross_entropy(rows, following.reshape(-1), ignore_index=IGNORED, reduction="none", **how)
    found = found.view(following.shape)
    return found.sum(1) / counted(labels, found).clamp_min(1)


def counted(labels: Tensor, like: Tensor) -> Tensor:
    """How many targets of each record count, (B,)."""
    return (labels[:, 1:] != IGNORED).sum(1).to(like.dtype)
