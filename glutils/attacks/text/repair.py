"""Repair: a text that is nearly right is made right by exchanging, moving and replacing tokens, judged by misfit alone.

A contribution depends mostly on a token and the one before it. So one table of contributions, of every token behind
every prefix of the present text, predicts the misfit of thousands of rearranged texts for the price of a few sums. The
most promising ones are then computed exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .code import IGNORED, Code

BLOCKS = 4
"""Longest block of tokens that is moved or exchanged."""
SHORTLIST, FINALISTS = 32, 6
"""Candidates that are computed on a part of the scalars, and of these on all."""
PART = 64
"""Scalars that suffice to rank candidates."""


@dataclass(frozen=True, eq=False)
class Text:
    """One text of L tokens, with what it explains.

    Attributes:
        tokens: (L,) the first token and all targets.
        misfit: |n s - sum of contributions| / |n s|.
    """

    tokens: torch.Tensor
    misfit: float


def misfits(code: Code, target: torch.Tensor, texts: torch.Tensor, labels: torch.Tensor, every: int = 1):
    """Misfit of each of the texts (N, L), and the log-probability of each, both (N,)."""
    found, likely = code.texts(texts, labels, every)
    rows = [torch.arange(w.start, w.stop, device=target.device) for w, _ in code.pairs.blocks(every)]
    part = target[torch.cat(rows)].to(found)
    left = part[:, None] - found.sum(2)
    return left.norm(dim=0) / part.norm(), likely.sum(1)


def repaired(
    code: Code,
    target: torch.Tensor,
    text: Text,
    labels_of: Callable[[torch.Tensor], torch.Tensor],
    *,
    tolerance: float,
    steps: int = 30,
    report: Callable[[Text], bool] = lambda text: False,
) -> Text:
    """The text after exchanges, moves and replacements that each lower its misfit, until none does.

    Args:
        labels_of: of texts (N, L) their labels.
        tolerance: misfit at which nothing is left to repair.
        report: called with every better text; True ends it.
    """
    tried: set[tuple[int, ...]] = {tuple(text.tokens.tolist())}
    for _ in range(steps):
        if text.misfit <= tolerance:
            break
        candidates = _candidates(code, target, text.tokens, tried)
        if not len(candidates):
            break
        every = max(1, code.count // PART // 1)
        if code.pairs.blocks_count >= 2 * every > 2:
            rough, _ = misfits(code, target, candidates, labels_of(candidates), every)
            candidates = candidates[rough.argsort()[:FINALISTS]]
        exact, _ = misfits(code, target, candidates, labels_of(candidates))
        tried.update(tuple(row) for row in candidates.tolist())
        best = int(exact.argmin())
        if float(exact[best]) >= text.misfit:
            break
        text = Text(candidates[best], float(exact[best]))
        if report(text):
            break
    return text


def _candidates(code: Code, target: torch.Tensor, tokens: torch.Tensor, tried: set) -> torch.Tensor:
    """The most promising rearrangements of a text and replacements in it, (N, L), by predicted misfit."""
    table, _ = code.table(tokens)
    left = target.to(table) - table[:, torch.arange(len(tokens) - 1), tokens[1:]].sum(1)
    orders = _orders(len(tokens), tokens.device)
    moved = _predicted_orders(table, tokens, orders, left)
    where, what, replaced = _predicted_replacements(table, tokens, left)
    best_orders, best_swaps = moved.argsort()[: 2 * SHORTLIST], replaced.argsort()[: 2 * SHORTLIST]
    found = [(float(moved[i]), tuple(tokens[orders[i]].tolist())) for i in best_orders.tolist()]
    for i in best_swaps.tolist():
        row = tokens.clone()
        row[where[i]] = what[i]
        found.append((float(replaced[i]), tuple(row.tolist())))
    rows = [row for _, row in sorted(found) if row not in tried]
    rows = list(dict.fromkeys(rows))[:SHORTLIST]
    return torch.tensor(rows, device=tokens.device, dtype=torch.int64).view(len(rows), len(tokens))


def _orders(length: int, device: torch.device) -> torch.Tensor:
    """Rearrangements (N, L) of positions: two blocks change places; the first and the last token stay where they are."""
    found = []
    for a in range(1, length - 1):
        for one in range(1, BLOCKS + 1):
            for c in range(a + one, length - 1):
                for two in range(0 if c > a + one else 1, BLOCKS + 1):
                    if c + two > length - 1 or (two == 0 and c == a + one):
                        continue
                    row = list(range(length))
                    found.append(
                        row[:a] + row[c : c + two] + row[a + one : c] + row[a : a + one] + row[c + two :]
                    )
        for c in range(a + BLOCKS + 1, length - 1):  # one token moves to the front, or to the back, by any way
            row = list(range(length))
            found.append(row[:a] + [c] + row[a:c] + row[c + 1 :])
    return torch.tensor(found, device=device).view(-1, length)


def _predicted_orders(table: torch.Tensor, tokens: torch.Tensor, orders: torch.Tensor, left: torch.Tensor):
    """Misfits (N,) if a contribution depended on the token before it alone."""
    pairs = table[:, :, tokens]  # (K, position of the token before, position of the token)
    here = torch.arange(len(tokens) - 1, device=tokens.device)
    own = pairs[:, here, here + 1].sum(1)
    found = []
    for rows in orders.split(1024):
        found.append((left[:, None] + own[:, None] - _sums(pairs, rows)).norm(dim=0))
    return torch.cat(found) if found else left.new_zeros(0)


def _sums(pairs: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """(K, N): the sum over neighbours, by a product with the counts of neighbours."""
    length = pairs.shape[1]
    counts = pairs.new_zeros(len(orders), length * length)
    index = orders[:, :-1] * length + orders[:, 1:]
    counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
    return pairs.flatten(1) @ counts.T


def _predicted_replacements(table: torch.Tensor, tokens: torch.Tensor, left: torch.Tensor):
    """Positions, tokens and misfits (N,) of every replacement of one token."""
    length, vocabulary = len(tokens), table.shape[2]
    last_seen = {int(t): i for i, t in enumerate(tokens.tolist())}
    where, what, found = [], [], []
    for i in range(1, length - 1):
        change = table[:, i - 1] - table[:, i - 1, tokens[i], None]  # (K, V)
        for token, place in last_seen.items():  # how the next token follows this one is known from there
            change[:, token] += table[:, place, tokens[i + 1]] - table[:, i, tokens[i + 1]]
        found.append((left[:, None] - change).norm(dim=0))
        where.append(torch.full((vocabulary,), i, device=tokens.device))
        what.append(torch.arange(vocabulary, device=tokens.device))
    return torch.cat(where), torch.cat(what), torch.cat(found)
