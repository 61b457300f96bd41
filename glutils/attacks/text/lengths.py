"""Nobody said how long the texts are: each number of tokens is tried, and the misfit decides.

A scalar is a mean over n targets, so what is decoded is n s. With a wrong n the whole sum is scaled wrongly, and no
text explains it: the end of a text is found by the scalars, and not by what the language model expects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ... import _validate
from .code import Code
from .decode import Effort, Report, decoded
from .layout import Frame

LOOK = 4
"""The first look at a length keeps so many times fewer hypotheses than the search does."""
TRIED = 4
"""Lengths that are searched in earnest, those of the lowest misfit at the first look."""
PROMISING = 0.3
"""Misfit of a first look at which a length is searched in earnest at once: a wrong one explains less, as a rule."""


def possible(targets: Sequence[int], frame: Frame) -> tuple[int, ...]:
    """The numbers of next tokens that may count in all texts together, in their order and once each.

    Raises:
        TypeError, ValueError: no numbers, or such as B texts of at most L tokens cannot have.
    """
    if isinstance(targets, (str, bytes)) or not isinstance(targets, Sequence) or not len(targets):
        raise ValueError(f"targets must be a number, or the numbers that it may be, got {targets!r}")
    most = frame.sentences * (frame.length - 1)
    least = frame.sentences
    return tuple(dict.fromkeys(_validate.integer("targets", n, at_least=least, at_most=most) for n in targets))


def sized(code: Code, targets: int) -> Code:
    """The same scalars read as those of so many targets."""
    frame = code.frame
    if frame.end is None and frame.sentences == 1:
        frame = replace(frame, length=targets + 1)
    return replace(code, frame=replace(frame, targets=targets))


def decided(
    codes: Sequence[Code], examples: Callable[[Code], torch.Tensor], effort: Effort, *, tolerance: float,
    generator: torch.Generator, report: Callable[[Code], Report],
) -> None:  # fmt: skip
    """One restart over all lengths: a quick look at each, then a search in earnest of the best few.

    Args:
        codes: one for each length.
        examples: texts from which the remainder of a code is learnt.
        tolerance: misfit at which the search is over.
        report: of each code, told how the search goes; True ends it.
    """
    looks, over = [], False

    def told(code: Code) -> Report:
        def tell(stage: str, flat: torch.Tensor, misfit: float) -> bool:
            nonlocal over
            over = over or report(code)(stage, flat, misfit)
            return over

        return tell

    def searched(code: Code, plan: Effort, **how) -> float:
        how |= {"tolerance": tolerance, "generator": generator, "report": told(code)}
        return decoded(code, examples(code), plan, **how).misfit

    quick = replace(effort, width=max(4, effort.width // LOOK), examples=max(4, effort.examples // 2))
    for number, code in enumerate(codes):
        misfit = searched(code, quick, passes=0)
        if misfit <= PROMISING and misfit > tolerance and not over:
            misfit = searched(code, effort)
        else:
            looks.append((misfit, number))
        if over or misfit <= tolerance:
            return
    for _, number in sorted(looks)[:TRIED]:
        if searched(codes[number], effort) <= tolerance or over:
            return
