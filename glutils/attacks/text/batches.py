"""Mini-batches whose members are known: one text after the other, and what is decoded is taken off the scalars.

A scalar of a mini-batch is a sum over its texts. Who knows which texts were behind which scalar decodes one text from
the scalars that it is behind, where the others are noise of known mean and covariance. What was decoded is subtracted,
and the next text has less noise: successive interference cancellation, as radio engineers call it. Texts that were
decoded under noise are decoded again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ... import _validate, models
from ...observation import Observation
from .code import Code
from .decode import Effort, decoded, examples_of
from .layout import NOTHING, Frame
from .pairs import Pairs
from .reader import Reader
from .remainder import shrunk
from .repair import Text

SWEEPS = 3
"""How often a text that is not settled is decoded."""
CLEAR = 0.0
"""Nats by which a text must explain more than chance would, to be taken off the scalars of others."""


def members(batches: Sequence[Sequence[int]], rounds: int, texts: int) -> torch.Tensor:
    """(rounds, texts) bool: which texts are behind each message.

    Raises:
        TypeError, ValueError: another number of messages, an index out of range, an empty batch.
    """
    if isinstance(batches, str) or not isinstance(batches, Sequence):
        raise TypeError(f"batches must be a list with the indices behind each message, got {type(batches).__name__}")
    if len(batches) != rounds:
        raise ValueError(f"batches must have one entry for each of {rounds} messages, got {len(batches)}")
    found = torch.zeros(rounds, texts, dtype=torch.bool)
    for number, own in enumerate(batches):
        for index in own:
            found[number, _validate.integer(f"batches[{number}]", index, at_least=0, at_most=texts - 1)] = True
        if not len(own):
            raise ValueError(f"batches[{number}] must not be empty")
    return found


@dataclass(frozen=True, eq=False)
class Single:
    """One text of several, and the scalars that it is behind.

    Attributes:
        code: of that text by itself.
        rows: (k,) the numbers of its scalars among all.
        sizes: (k,) how many targets each of those scalars' batches has.
        members: (k, texts) who is behind each.
    """

    code: Code
    rows: torch.Tensor
    sizes: torch.Tensor
    members: torch.Tensor


def singles(
    seen: Observation, reader: Reader, frame: Frame, behind: torch.Tensor, lengths: Sequence[int], *, budget: int,
    dtype: torch.dtype,
) -> list[Single]:  # fmt: skip
    """The texts of a client, each with its own scalars.

    Args:
        behind: as :func:`members` has it.
        lengths: targets of each text.
    """
    counts = torch.tensor([len(entry.payload) for entry in seen.rounds])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    sizes = (behind * torch.tensor(lengths)).sum(1)
    found = []
    for text, targets in enumerate(lengths):
        own = behind[:, text].nonzero()[:, 0].tolist()
        if not own:
            raise ValueError(f"batches must hold every text at least once; text {text} is behind no message")
        part = replace(seen, rounds=tuple(seen.rounds[r] for r in own))
        rows = torch.cat([torch.arange(int(starts[r]), int(starts[r + 1])) for r in own])
        each = counts[own]
        code = Code(Pairs(part, budget=budget, dtype=dtype), reader, replace(frame, sentences=1, targets=targets))
        found.append(
            Single(code, rows, sizes[own].repeat_interleave(each), behind[own].repeat_interleave(each, 0))
        )
    return found


def separated(
    own: list[Single], effort: Effort, params: models.Parameters, *, tolerance: float, generator: torch.Generator,
    report: Callable[[list[Text | None]], bool],
) -> list[Text | None]:  # fmt: skip
    """A text for each; None where nothing was found.

    Args:
        params: the language model that makes up examples.
        tolerance: misfit at which a text is settled.
        report: called after each text with all; True ends the search.
    """
    total = 1 + max(int(one.rows.max()) for one in own)
    texts: list[Text | None] = [None] * len(own)
    adds = torch.zeros(len(own), total)  # what each decoded text adds to n s
    settled = [False] * len(own)
    for _ in range(SWEEPS):
        for i in sorted(range(len(own)), key=lambda i: _noise(own[i], texts, i)):
            if settled[i]:
                continue
            one, adds[i] = own[i], 0
            size, dtype = one.sizes.to(one.code.pairs.scalars), one.code.pairs.dtype
            goal = (one.code.pairs.scalars * size).to(dtype) - adds[:, one.rows].sum(0).to(dtype)
            examples = examples_of(one.code, params, effort, generator)
            unknown = one.members.clone()
            unknown[:, [j for j, text in enumerate(texts) if j == i or text is not None]] = False
            goal, others = _others(one.code, examples, goal, unknown, [o.code.frame.targets for o in own])
            code = replace(one.code, goal=goal, others=others)
            text = decoded(code, examples, effort, tolerance=tolerance, generator=generator, report=_quiet)
            complete = not bool((text.flat == NOTHING).any()) and math.isfinite(text.misfit)
            if complete and _surplus(code, text) > CLEAR:
                texts[i] = text
                adds[i, one.rows] = code.texts(text.flat[None])[0].sum((1, 2)).float()
            settled[i] = texts[i] is not None and text.misfit <= tolerance
            if report(texts):
                return texts
        if all(settled):
            break
    return texts


def _quiet(stage: str, flat: torch.Tensor, misfit: float) -> bool:
    return False


def _noise(one: Single, texts: list[Text | None], i: int) -> float:
    """How many texts that are not decoded are behind the scalars of one, on average."""
    return float(one.members[:, [j for j, text in enumerate(texts) if text is None and j != i]].sum(1).float().mean())


def _others(
    code: Code, examples: torch.Tensor, goal: torch.Tensor, unknown: torch.Tensor, lengths: list[int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The goal without what other texts add on average, and the covariance of the rest.

    Another text adds alike to two scalars as far as it is behind both.
    """
    if not unknown.any():
        return goal, None
    found, _ = code.texts(examples)
    told = (examples[:, 1:] >= 0).sum(1)
    whole = found.sum(2) / told  # of one target, on average over a text
    mean, spread = whole.mean(1), whole - whole.mean(1, keepdim=True)
    sizes = torch.tensor(lengths, dtype=goal.dtype)
    both = (unknown.to(goal) * sizes**2) @ unknown.to(goal).T
    return goal - mean * (unknown.to(goal) @ sizes), shrunk(spread).to(goal) * both


def _surplus(code: Code, text: Text) -> float:
    """Nats by which the text explains the scalars better than any text as likely would by chance."""
    likely = float(code.texts(text.flat[None])[1].sum())
    return -code.count * math.log(max(text.misfit, 1e-12)) + likely
