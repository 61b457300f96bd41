"""The difference between two answers, in words."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

Answer = Tensor | float | Sequence["Answer"]
"""A tensor, a number, or several of them."""


def difference(expected: Answer | None, answer: object, rtol: float) -> str | None:
    """A sentence on the first difference; None if ``answer`` is ``expected`` up to ``rtol`` times its largest number.

    Args:
        expected: a tensor, a number, or a tuple or list of them. Whole numbers and truth values have to be met exactly.
        answer: anything.
    """
    if isinstance(expected, tuple | list):
        return _sequence_difference(expected, answer, rtol)
    if isinstance(expected, torch.Tensor) and expected.ndim:
        return _tensor_difference(expected, answer, rtol)
    if isinstance(expected, torch.Tensor):
        expected = expected.detach().item()
    return _number_difference(expected, answer, rtol)


def _sequence_difference(expected: Sequence[Answer], answer: object, rtol: float) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != len(expected):
        got = f"{len(answer)}" if isinstance(answer, tuple | list) else _describe(answer)
        return f"Expected {len(expected)} values, got {got}."
    for number, (one, other) in enumerate(zip(expected, answer, strict=True), 1):
        if wrong := difference(one, other, rtol):
            return f"Value {number} of {len(expected)}: {wrong}"
    return None


def _number_difference(expected: Any, answer: Any, rtol: float) -> str | None:
    if isinstance(answer, torch.Tensor) and answer.numel() == 1:
        answer = answer.detach().item()
    if not isinstance(answer, numbers.Real):
        return f"Expected a number, got {_describe(answer)}."
    exact = isinstance(expected, numbers.Integral)
    if expected == answer or (expected != expected and answer != answer):
        return None
    if not exact and abs(answer - expected) <= rtol * abs(expected):
        return None
    return f"Expected {_format(expected)}, got {_format(answer)}."


def _tensor_difference(expected: Tensor, answer: object, rtol: float) -> str | None:
    if not isinstance(answer, torch.Tensor):
        return f"Expected a tensor of shape {tuple(expected.shape)}, got {_describe(answer)}."
    if answer.shape != expected.shape:
        turned = answer.ndim == 2 and answer.T.shape == expected.shape and difference(expected, answer.T, rtol) is None
        more = " It is the right answer, transposed." if turned else ""
        return f"Expected shape {tuple(expected.shape)}, got {tuple(answer.shape)}.{more}"
    one, other = (value.detach().to("cpu", torch.float64) for value in (expected, answer))
    allowed = rtol * float(one.nan_to_num(0, 0, 0).abs().max()) if expected.is_floating_point() else 0.0
    apart = ~torch.isclose(one, other, rtol=0.0, atol=allowed, equal_nan=True)
    if not bool(apart.any()):
        return None
    first = tuple(apart.nonzero()[0].tolist())
    place = ", ".join(map(str, first))
    said = f"Expected {_format(one[first].item())} at [{place}], got {_format(other[first].item())}; "
    largest = float((one - other).abs().nan_to_num(0, 0, 0).max())
    said += f"{int(apart.sum())} of {one.numel()} entries differ, by up to {_format(largest)}."
    if bad := int((~other.isfinite()).sum()) if bool(one.isfinite().all()) else 0:
        return f"{said} {bad} of yours are not finite."
    return said + _factor_remark(one.flatten(), other.flatten())


def _factor_remark(expected: Float64[Tensor, " n"], answer: Float64[Tensor, " n"]) -> str:
    """A remark if the answer is the right one times a number."""
    one, other = expected.double(), answer.double()
    if not bool(one.isfinite().all() and other.isfinite().all()) or not float(one.norm()):
        return ""
    factor = float(one @ other / (one @ one))
    if factor and float((other - factor * one).norm()) <= 1e-6 * float(other.norm()):
        return f" It is the right answer times {_format(factor)}."
    return ""


def _describe(answer: object) -> str:
    """The kind of an answer, in words."""
    if answer is None:
        return "nothing (is there a return?)"
    if isinstance(answer, torch.Tensor):
        return f"a tensor of shape {tuple(answer.shape)}"
    return f"a {type(answer).__name__}"


def _format(number: Any) -> str:
    return str(number) if isinstance(number, int) else f"{number:.4g}"
