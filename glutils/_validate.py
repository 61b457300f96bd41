"""Argument checks. Every message names the argument, the value it had, and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

import torch


def integer(name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """Return ``value`` as an ``int`` in ``[at_least, at_most]``; ``TypeError`` or ``ValueError`` otherwise."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    value = int(value)
    if (at_least is not None and value < at_least) or (at_most is not None and value > at_most):
        raise ValueError(f"{name} must be {_range(at_least, at_most)}, got {value}")
    return value


def number(
    name: str,
    value: Any,
    *,
    at_least: int | float | None = None,
    at_most: int | float | None = None,
    above: int | float | None = None,
) -> float:
    """Return ``value`` as a finite ``float`` in the stated range; ``TypeError`` or ``ValueError`` otherwise."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if above is not None and value <= above:
        raise ValueError(f"{name} must be greater than {above}, got {value}")
    if (at_least is not None and value < at_least) or (at_most is not None and value > at_most):
        raise ValueError(f"{name} must be {_range(at_least, at_most)}, got {value}")
    return value


def choice(name: str, value: Any, allowed: Collection) -> Any:
    """Return ``value`` if it is one of ``allowed``; ``ValueError`` listing them otherwise."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
    return value


def file_name(name: str, value: Any) -> str:
    """Return ``value`` if a file or folder of ours may be called so; ``ValueError`` otherwise.

    Letters, digits, ``.``, ``_`` and ``-`` are allowed, the first one a letter or a digit: no path, and nothing hidden.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"{name} must be letters, digits, '.', '_' and '-', got {value!r}")
    return value


def instance(name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    """Return ``value`` if it is an instance of ``kind``; ``TypeError`` otherwise."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise TypeError(f"{name} must be a {' or '.join(k.__name__ for k in kinds)}, got {type(value).__name__}")
    return value


def images_and_labels(images: Any, labels: Any, classes: int | None = None) -> None:
    """Check shapes, dtypes and label range of a batch. Pixel range is *not* checked: dummy images may leave [0,1].

    ``labels`` are ``(B,)`` int64 class indices, or ``(B, C)`` floating soft labels.
    """
    instance("images", images, torch.Tensor)
    instance("labels", labels, torch.Tensor)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (B, C, H, W) with no empty axis, got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point, got {images.dtype}")
    if labels.is_floating_point():
        if labels.ndim != 2 or (classes is not None and labels.shape[1] != classes):
            raise ValueError(f"soft labels must have shape (B, {classes or 'classes'}), got {tuple(labels.shape)}")
    elif labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64 class indices or floating soft labels, got {labels.dtype}")
    elif labels.ndim != 1:
        raise ValueError(f"labels must have shape (B,), got {tuple(labels.shape)}")
    elif classes is not None and labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {labels.tolist()}")
    if len(labels) != len(images):
        raise ValueError(f"labels must have one entry per image ({len(images)}), got {len(labels)}")


def finite(name: str, value: torch.Tensor) -> torch.Tensor:
    """Return ``value`` if every entry is finite; ``ValueError`` saying how many are not otherwise."""
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite entries of {value.numel()}")
    return value


def _range(low: int | float | None, high: int | float | None) -> str:
    if low is not None and high is not None:
        return f"between {low} and {high}"
    return f"at least {low}" if low is not None else f"at most {high}"
