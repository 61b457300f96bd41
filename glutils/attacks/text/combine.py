"""A text with a few wrong tokens: every plausible change of one token is computed exactly, and changes are added up.

Two wrong digits of a number hide each other: changing one of them need not lower the misfit. But what two changes do
together is nearly the sum of what each does, so all pairs and triples are judged by their Gram matrix.
"""

from __future__ import annotations

import torch

from .code import Code

PART = 48
"""Scalars on which changes are computed."""
CHANGES = 96
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
    pair = single[:, None] + single[None] + 2 * gram
    pair = pair.masked_fill(where[:, None] == where[None], torch.inf).triu(1)
    pair = pair.masked_fill(torch.ones_like(pair, dtype=torch.bool).tril(), torch.inf)
    found = [(float(single[i]), [i]) for i in single.argsort()[:FINALISTS].tolist()]
    count = len(single)
    for at in pair.flatten().argsort()[: 4 * FINALISTS].tolist():
        i, j = divmod(at, count)
        if not torch.isfinite(pair[i, j]):
            continue
        found.append((float(pair[i, j]), [i, j]))
        third = pair[i, j] + single + 2 * (gram[i] + gram[j])
        third = third.masked_fill((where == where[i]) | (where == where[j]), torch.inf)
        k = int(third.argmin())
        if torch.isfinite(third[k]):
            found.append((float(third[k]), sorted([i, j, k])))
    unique = {tuple(chosen): value for value, chosen in found}
    return [torch.tensor(chosen) for chosen in sorted(unique, key=unique.__getitem__)[: 2 * FINALISTS]]
