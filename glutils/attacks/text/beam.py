"""Beam search (the M-algorithm on a tree code): one token after the other, the best few hypotheses kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .code import Code
from .layout import Frame
from .reader import Prefixes

WIDE, EARLY = 3, 6
"""The search keeps so many times as many hypotheses in the first so many steps, when it is least sure."""
STATE, SURVIVORS = 3, 8
"""Of hypotheses with the same last so many tokens, at most one in so many of the whole width is kept: what follows adds
much the same to all of them. Else a number that no scalar has decided yet would fill the beam with its variants."""


@dataclass(frozen=True, eq=False)
class Beam:
    """N hypotheses, best first.

    Attributes:
        prefixes: of the sentence at work, as the model reads it.
        targets: (N, j) the j tokens decoded so far, over all sentences.
        first: (N,) the first token of the first sentence.
        sums: (K, N) what they add to n s.
        prior: (N,) log-probability under the language model.
        left: (N,) sentences not ended yet.
        score: (N,).
    """

    prefixes: Prefixes
    targets: torch.Tensor
    first: torch.Tensor
    sums: torch.Tensor
    prior: torch.Tensor
    left: torch.Tensor
    score: torch.Tensor

    def __len__(self) -> int:
        return len(self.first)

    @property
    def flat(self) -> torch.Tensor:
        """(N, j + 1) the first token and all targets."""
        return torch.cat([self.first[:, None], self.targets], 1)

    @classmethod
    def start(cls, code: Code, frame: Frame) -> Beam:
        """The first tokens: the one that is known, or all of them."""
        device = code.pairs.weights.device
        known = range(frame.vocabulary) if frame.begin is None else [frame.begin]
        first = torch.tensor(list(known), device=device)
        count = len(first)
        return cls(
            Prefixes.start(first), first.new_zeros((count, 0)), first,
            torch.zeros(code.count, count, device=device, dtype=code.pairs.dtype),
            torch.zeros(count, device=device, dtype=code.pairs.dtype), torch.full_like(first, frame.sentences),
            torch.zeros(count, device=device, dtype=code.pairs.dtype),
        )  # fmt: skip


Score = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""Of n s minus what is decoded (K, N), contributions (K, N, V) and depth to log-likelihoods (N, V)."""


def search(
    code: Code,
    score: Score,
    *,
    width: int,
    slack: float,
    prior: float = 1.0,
    report: Callable[[int, Beam], bool] = lambda depth, beam: False,
) -> Beam | None:
    """Hypotheses of all n targets, best first; None if ``report`` said stop before that.

    Args:
        score: log-likelihood of what a hypothesis leaves unexplained.
        width, slack: at most so many hypotheses, within so many nats of the best one.
        prior: weight of the language model.
        report: called after each depth; True ends the search.
    """
    frame, target = code.frame, code.target
    code.reader.forget()
    beam = Beam.start(code, frame)
    for depth in range(frame.targets):
        a, likely = code.next(beam.prefixes)
        left = target[:, None] - beam.sums
        evidence = score(left, a, depth)
        total = evidence + prior * (beam.prior[:, None] + likely)
        total = total.masked_fill(~_allowed(beam, frame, depth), -torch.inf)
        if not torch.isfinite(total).any():
            return None
        beam = _extended(code, beam, frame, a, likely, total, width * (WIDE if depth < EARLY else 1), slack)
        if report(depth, beam) and depth + 1 < frame.targets:
            return None
    return beam


def _allowed(beam: Beam, frame: Frame, depth: int) -> torch.Tensor:
    """(N, V): which next tokens leave a text that can end as it must."""
    allowed = torch.ones(len(beam), frame.vocabulary, dtype=torch.bool, device=beam.first.device)
    allowed[:, [token for token in frame.fixed if token != frame.end]] = False
    if frame.end is None:
        return allowed
    more = frame.targets - 1 - depth
    last = more < beam.left  # every sentence that is left needs one more token, its end
    must = last & (more + 1 == beam.left)
    may = (beam.left > 1) & ((beam.left - 1) <= more) if more else beam.left == 1
    # a sentence cannot grow longer than the longest
    full = beam.prefixes.lengths + 1 >= frame.length
    allowed[~may, frame.end] = False
    only = torch.zeros_like(allowed)
    only[:, frame.end] = True
    return torch.where((must | full)[:, None], allowed & only, allowed)


def _extended(
    code: Code, beam: Beam, frame: Frame, a: torch.Tensor, likely: torch.Tensor, total: torch.Tensor, width: int,
    slack: float,
) -> Beam:  # fmt: skip
    """The best ``width`` extensions within ``slack`` of the best one."""
    best, index = total.flatten().topk(min(SURVIVORS * width, total.numel()))
    kept = (best >= best[0] - slack) & torch.isfinite(best)
    best, index = best[kept], index[kept]
    parents, tokens = index // frame.vocabulary, index % frame.vocabulary
    kept = _varied(beam, parents, tokens, frame, width)
    best, parents, tokens = best[kept], parents[kept], tokens[kept]
    length = beam.prefixes.lengths[parents] + 1
    ended = tokens == frame.end if frame.end is not None else length >= frame.length
    begin = frame.begin if frame.begin is not None else 0
    prefixes = beam.prefixes.extended(parents, torch.where(ended, torch.full_like(tokens, begin), tokens), ended)
    prefixes = replace(prefixes, visible=code.reader.keep(prefixes.visible))
    return Beam(
        prefixes, torch.cat([beam.targets[parents], tokens[:, None]], 1), beam.first[parents],
        beam.sums[:, parents] + a[:, parents, tokens], beam.prior[parents] + likely[parents, tokens],
        beam.left[parents] - ended.long(), best,
    )  # fmt: skip


def _varied(beam: Beam, parents: torch.Tensor, tokens: torch.Tensor, frame: Frame, width: int) -> torch.Tensor:
    """Which of the extensions, best first, are kept: so many that no few endings take up all places."""
    if len(tokens) <= width // SURVIVORS:
        return torch.arange(len(tokens), device=tokens.device)
    ends = torch.cat([beam.targets[parents][:, max(0, beam.targets.shape[1] - STATE + 1) :], tokens[:, None]], 1)
    if frame.end is not None:  # a new sentence sees nothing of the one before
        over = (ends == frame.end).flip(1).cumsum(1).flip(1) > 0
        ends = torch.where(over, torch.full_like(ends, frame.end), ends)
    length = beam.prefixes.lengths[parents]
    _, state = torch.cat([ends, length[:, None]], 1).unique(dim=0, return_inverse=True)
    order = state.argsort(stable=True)
    first = torch.searchsorted(state[order].contiguous(), state[order].contiguous())
    rank = torch.empty_like(state)
    rank[order] = torch.arange(len(state), device=state.device) - first
    return (rank < max(2, width // SURVIVORS)).nonzero()[:width, 0]
