"""A text with a few wrong tokens: every plausible change of one token is computed exactly, and changes are added up.

Two wrong digits of a number hide each other: changing one of them need not lower the misfit. But what two changes do
together is nearly the sum of what each does, so all pairs and triples are judged by their Gram matrix.
"""

from __future__ import annotations

import torch

from .code import Code

PART = 48
"""Scalars on which changes are computed."""
CHANGES = 160
"""Most changes of one token that are looked at, the likeliest ones."""
RARE = 0.02
"""Probability below which the language model rules a token out."""
FINALISTS = 6
"""Combinations that are handed on."""


def combinations(code: Code, flat: torch.Tensor) -> torch.Tensor:
    """The most promising texts (N, n + 1) that differ from ``flat`` (n + 1,) in one, two or three tokens."""
    where, what = _changes(code, flat)
    if not len(where):
        return flat.new_zeros((0, len(flat)))
    texts = flat.repeat(1 + len(where), 1)
    texts[1 + torch.arange(len(where), device=flat.device), where] = what
    every = max(1, min(code.pairs.blocks_count, code.count // PART))
    sums = code.texts(texts, every)[0].sum(2)
    left = code.target[code.part(every)] - sums[:, 0]
    changes = sums[:, 1:] - sums[:, :1]
    rows = []
    for chosen in _best(left, changes, where):
        row = flat.clone()
        row[where[chosen]] = what[chosen]
        rows.append(row)
    return torch.stack(rows)


def _changes(code: Code, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places and tokens of all plausible changes of one token, at most :data:`CHANGES`."""
    fixed = code.frame.fixed
    _, likely = code.table(flat)
    likely = likely.clone()
    likely[:, list(fixed)] = -torch.inf
    likely[torch.arange(len(likely), device=flat.device), flat[1:]] = -torch.inf
    likely[[i for i, token in enumerate(flat[1:].tolist()) if token in fixed]] = -torch.inf
    best, index = likely.flatten().topk(min(CHANGES, likely.numel()))
    index = index[best > torch.tensor(RARE).log()]
    return index // likely.shape[1] + 1, index % likely.shape[1]


def _best(left: torch.Tensor, changes: torch.Tensor, where: torch.Tensor) -> list[torch.Tensor]:
    """Index sets of one to three changes at different places that leave least."""
    gram, along = changes.T @ changes, changes.T @ left
    single = gram.diagonal() - 2 * along  # what one change takes off the square
    same = (where[:, None] == where[None]).to(gram) * 1e30
    pair = single[:, None] + single[None] + 2 * gram + same
    triple = pair[:, :, None] + single + (2 * gram + same)[:, None] + (2 * gram + same)[None]
    found: dict[tuple[int, ...], float] = {}
    count = len(single)
    for values, order in ((single, 1), (pair, 2), (triple, 3)):
        flat = values.flatten()
        times = (1, 2, 6)[order - 1]  # every set is met in every order
        best, index = flat.topk(min(len(flat), FINALISTS * times), largest=False)
        for value, at in zip(best.tolist(), index.tolist(), strict=True):
            if value < 1e20:
                found[tuple(sorted(at // count**power % count for power in range(order)))] = value
    return [torch.tensor(chosen) for chosen in sorted(found, key=found.__getitem__)[: 2 * FINALISTS]]
