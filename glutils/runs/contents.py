"""What a record holds, in JSON's types: numbers that JSON lacks, significant digits, controls written once an image."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

DIGITS = 6
"""Significant digits of what was measured."""
STRANGE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dump(content: Mapping[str, Any]) -> str:
    """A record's file as text."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def take_out_controls(rows: list[dict], image_is: Sequence[str]) -> tuple[list[dict], list[dict]]:
    """Rows without the controls that all rows of an image share, and these, one mapping for each image.

    Args:
        rows: in JSON's types. Rows without ``controls`` (refusals) stay as they are.
        image_is: the columns in which rows of one image agree.
    """
    images: dict[tuple, list[dict]] = {}
    for row in rows if image_is else ():
        if "controls" in row:
            if missing := [column for column in image_is if column not in row]:
                raise ValueError(f"image_is must name columns of every row with controls, got {missing[0]!r}")
            images.setdefault(tuple(row[column] for column in image_is), []).append(row["controls"])
    shared = {}
    for image, found in images.items():
        first, *others = found
        same = {name: four for name, four in first.items() if all(other.get(name) == four for other in others)}
        if same and others:
            shared[image] = same
    made = []
    for row in rows:
        out = shared.get(tuple(row[column] for column in image_is), {}) if "controls" in row else {}
        own = {name: four for name, four in row["controls"].items() if name not in out} if out else None
        made.append(row if own is None else row | {"controls": own})
    return made, [dict(zip(image_is, image, strict=True)) | {"controls": same} for image, same in shared.items()]


def put_back_controls(rows: list[dict], shared: Sequence[Mapping[str, Any]]) -> None:
    """Undo :func:`take_out_controls`: every row with ``controls`` gets those of its image, before its own."""
    columns = [column for column in shared[0] if column != "controls"] if shared else []
    images = {tuple(one[column] for column in columns): one["controls"] for one in shared}
    for row in rows if images else ():
        if "controls" in row:
            row["controls"] = images.get(tuple(row[column] for column in columns), {}) | row["controls"]


def rounded(value: float) -> float:
    """A number to :data:`DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def encode(where: str, value: object, digits: int | None = None) -> Any:
    """``value`` in JSON's types, as a record holds it; ``where`` names it in errors; floats rounded if ``digits``."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().as_subclass(torch.Tensor).tolist()
    elif isinstance(value, (numpy.ndarray, numpy.generic)):
        value = value.tolist()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif callable(named := getattr(value, "_asdict", None)):
        value = named()
    elif isinstance(value, (torch.device, torch.dtype, Path)):
        value = str(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return value if digits is None else float(f"{value:.{digits}g}")
    if isinstance(value, str):
        if value in STRANGE:
            raise ValueError(f"{where} must not be the string {value!r}, which stands for a number in records")
        return value
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{where} must have strings as keys, got {wrong[0]!r}")
        return {key: encode(f"{where}[{key!r}]", item, digits) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, Sequence):
        return [encode(f"{where}[{index}]", item, digits) for index, item in enumerate(value)]
    raise TypeError(f"{where} must be something JSON can hold, got {type(value).__name__}")


def decode(value: object) -> Any:
    """What `encode` made of numbers that JSON cannot hold, turned back."""
    if isinstance(value, str):
        return STRANGE.get(value, value)
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    return [decode(item) for item in value] if isinstance(value, list) else value
