"""Argument checks. Every message names the argument, the value it had, and what is allowed."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection
from typing import SupportsFloat, SupportsIndex, TypeVar, cast

import torch

T = TypeVar("T")
IGNORED = -100
"""The label of a position of which no token is asked for, as torch's cross entropy has it."""


def integer(name: str, value: object, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """Return ``value`` as an ``int`` in ``[at_least, at_most]``; ``TypeError`` or ``ValueError`` otherwise."""
    try:
        found = operator.index(value) if isinstance(value, SupportsIndex) and not isinstance(value, bool) else None
    except TypeError:  # among them tensors of floats, which have __index__ all the same
        found = None
    if found is None:
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if (at_least is not None and found < at_least) or (at_most is not None and found > at_most):
        raise ValueError(f"{name} must be {_range(at_least, at_most)}, got {found}")
    return found


def number(
    name: str,
    value: object,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
) -> float:
    """Return ``value`` as a finite ``float`` in the stated range; ``TypeError`` or ``ValueError`` otherwise."""
    try:
        found = float(value) if isinstance(value, SupportsFloat) and not isinstance(value, bool) else None
    except (TypeError, ValueError, RuntimeError):  # among them arrays and tensors of several numbers
        found = None
    if found is None:
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if not math.isfinite(found):
        raise ValueError(f"{name} must be finite, got {found}")
    if above is not None and found <= above:
        raise ValueError(f"{name} must be greater than {above}, got {found}")
    if (at_least is not None and found < at_least) or (at_most is not None and found > at_most):
        raise ValueError(f"{name} must be {_range(at_least, at_most)}, got {found}")
    return found


def choice(name: str, value: T, allowed: Collection[T]) -> T:
    """Return ``value`` if it is one of ``allowed``; ``ValueError`` listing them otherwise."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
    return value


def file_name(name: str, value: object) -> str:
    """Return ``value`` if a file or folder of ours may be called so; ``ValueError`` otherwise.

    Letters, digits, ``.``, ``_`` and ``-`` are allowed, the first one a letter or a digit: no path, and nothing hidden.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"{name} must be letters, digits, '.', '_' and '-', got {value!r}")
    return value


def instance(name: str, value: object, kind: type[T] | tuple[type[T], ...]) -> T:
    """Return ``value`` if it is an instance of ``kind``; ``TypeError`` otherwise."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise TypeError(f"{name} must be a {' or '.join(k.__name__ for k in kinds)}, got {type(value).__name__}")
    return cast("T", value)


def images_and_labels(images: torch.Tensor, labels: torch.Tensor, classes: int | None = None) -> None:
    """Check shapes, dtypes and label range of a batch: :func:`records`, then :func:`class_labels`; tokens that are
    labelled by the ones that come next have labels (B, L) int64, :data:`IGNORED` where none is asked for."""
    records(images)
    instance("labels", labels, torch.Tensor)
    if not images.is_floating_point() and labels.ndim == 2 and not labels.is_floating_point():
        _tokens(images, labels, classes)
    else:
        class_labels(labels, len(images), classes)


def records(images: torch.Tensor) -> None:
    """Check shape and dtype of records of any kind (:mod:`glutils.data.kinds`).

    Pixel range is *not* checked: dummy images may leave [0,1].
    """
    instance("images", images, torch.Tensor)
    if images.ndim not in (2, 4) or 0 in images.shape:
        allowed = "(B, C, H, W), (B, columns) of a table, or (B, L) of tokens,"
        raise ValueError(f"images must have shape {allowed} with no empty axis, got {tuple(images.shape)}")
    if not images.is_floating_point() and (images.ndim != 2 or images.dtype != torch.int64):
        tokens = ", or int64 tokens" if images.ndim == 2 else ""
        raise TypeError(f"images must be floating point{tokens}, got {images.dtype}")


def class_labels(labels: torch.Tensor, count: int, classes: int | None = None) -> None:
    """Check ``labels`` of ``count`` records: ``(B,)`` int64 class indices, or ``(B, C)`` floating soft labels."""
    if labels.is_floating_point():
        if labels.ndim != 2 or (classes is not None and labels.shape[1] != classes):
            raise ValueError(f"soft labels must have shape (B, {classes or 'classes'}), got {tuple(labels.shape)}")
    elif labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64 class indices or floating soft labels, got {labels.dtype}")
    elif labels.ndim != 1:
        raise ValueError(f"labels must have shape (B,), got {tuple(labels.shape)}")
    elif classes is not None and labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {labels.tolist()}")
    if len(labels) != count:
        raise ValueError(f"labels must have one entry per image ({count}), got {len(labels)}")


def _tokens(images: torch.Tensor, labels: torch.Tensor, classes: int | None) -> None:
    """Check tokens that are labelled by the pieces that come next."""
    if labels.dtype != torch.int64:
        raise TypeError(f"labels of tokens must be int64, got {labels.dtype}")
    if labels.shape != images.shape:
        raise ValueError(f"labels must have the tokens' shape {tuple(images.shape)}, got {tuple(labels.shape)}")
    most = torch.iinfo(torch.int64).max if classes is None else classes - 1
    if int(images.min()) < 0 or int(images.max()) > most:
        raise ValueError(f"images must hold tokens in 0..{most}, got {int(images.min())} to {int(images.max())}")
    told = labels[labels != IGNORED]
    if told.numel() and not (int(told.min()) >= 0 and int(told.max()) <= most):
        raise ValueError(f"labels must lie in 0..{most}, or be {IGNORED}, got {int(told.min())} to {int(told.max())}")
    if not (labels[:, 1:] != IGNORED).any():
        raise ValueError(f"labels must ask for at least one piece after the first, all are {IGNORED}")


def finite(name: str, value: torch.Tensor) -> torch.Tensor:
    """Return ``value`` if every entry is finite; ``ValueError`` saying how many are not otherwise."""
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite entries of {value.numel()}")
    return value


def brief(module: object) -> str:
    """A module as a message names it: on one line, without what is inside it."""
    text = repr(module)
    return text if "\n" not in text else type(module).__name__


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"between {low} and {high}"
    return f"at least {low}" if low is not None else f"at most {high}"
