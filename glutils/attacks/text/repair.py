"""Repair: a text that is nearly right is made right by exchanging, moving and replacing tokens, judged by misfit.

A contribution depends mostly on a token and the one before it. So one table of contributions, of every token behind
every prefix of the present text, predicts the misfit of thousands of rearranged texts for the price of a few sums. The
most promising ones are then computed exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .code import Code
from .combine import combinations
from .shift import shifts

BLOCKS = 4
"""Longest block of tokens that is moved or exchanged."""
SHORTLIST, FINALISTS = 32, 6
"""Candidates that are computed on a part of the scalars, and of these on all."""
CLOSE = 0.35
"""Misfit below which few tokens are wrong, so that combinations of small changes are worth their price."""
PART = 48
"""Scalars that suffice to rank candidates."""
SHARE = 0.3
"""How many independent numbers a predicted misfit counts, in units of K: predictions are rough."""


@dataclass(frozen=True, eq=False)
class Text:
    """One hypothesis of all texts, with what it leaves unexplained.

    Attributes:
        flat: (n + 1,) the first token and all targets.
        misfit: |n s - sum of contributions| / |n s|.
    """

    flat: torch.Tensor
    misfit: float


def repaired(
    code: Code, text: Text, *, tolerance: float, steps: int = 8, report: Callable[[Text], bool] = lambda text: False
) -> Text:
    """The text after exchanges, moves and replacements that each lower its misfit, until none does.

    Args:
        tolerance: misfit at which nothing is left to repair.
        steps: changes at most.
        report: called with every better text; True ends it.
    """
    tried: set[tuple[int, ...]] = {tuple(text.flat.tolist())}
    for _ in range(steps):
        if text.misfit <= tolerance:
            break
        better = None
        if text.misfit < CLOSE:
            better = _better(code, text, combinations(code, text.flat))
        if better is None:
            better = _better(code, text, _shortlist(code, text.flat, tried))
        if better is None or report(text := better):
            break
    return text


def _better(code: Code, text: Text, candidates: torch.Tensor) -> Text | None:
    """The candidate of the lowest misfit, if it is below the text's own."""
    if not len(candidates):
        return None
    misfits = code.misfits(candidates)
    best = int(misfits.argmin())
    return Text(candidates[best], float(misfits[best])) if float(misfits[best]) < text.misfit else None


def _shortlist(code: Code, flat: torch.Tensor, tried: set[tuple[int, ...]]) -> torch.Tensor:
    """Candidates by their predicted misfit, and of these the best by the misfit of a part of the scalars."""
    candidates = _candidates(code, flat, tried)
    tried.update(tuple(row) for row in candidates.tolist())
    every = max(1, min(code.pairs.blocks_count, code.count // PART))
    if every > 1 and len(candidates) > FINALISTS:
        candidates = candidates[code.misfits(candidates, every).argsort()[:FINALISTS]]
    return candidates


def _candidates(code: Code, tokens: torch.Tensor, tried: set) -> torch.Tensor:
    """The most promising rearrangements of a text and replacements in it, (N, n + 1).

    They are ranked by the likelihood of the predicted misfit, free of its scale, and the language model's table.
    """
    table, likely = code.table(tokens)
    here = torch.arange(len(tokens) - 1, device=tokens.device)
    left = code.target - table[:, here, tokens[1:]].sum(1)
    orders = _orders(len(tokens), tokens.device)
    moved = _moved(table, tokens, orders, left), _moved(likely[None], tokens, orders, likely.new_zeros(1))
    where, what, replaced, gained = _replaced(table, likely, tokens, left, code.frame.fixed)
    found = shifts(table, likely, tokens, left, code.frame.fixed, share=SHARE, count=2 * SHORTLIST)
    for residuals, gains, row_of in (
        (moved[0].norm(dim=0), -moved[1][0], lambda i: tokens[orders[i]]),
        (replaced, gained, lambda i: _with(tokens, int(where[i]), int(what[i]))),
    ):
        value = code.count / 2 * residuals.clamp(min=1e-12).log() * SHARE - gains
        found += [(float(value[i]), tuple(row_of(i).tolist())) for i in value.argsort()[: 2 * SHORTLIST].tolist()]
    rows = list(dict.fromkeys(row for _, row in sorted(found) if row not in tried))[:SHORTLIST]
    return torch.tensor(rows, device=tokens.device, dtype=torch.int64).view(len(rows), len(tokens))


def _with(tokens: torch.Tensor, place: int, token: int) -> torch.Tensor:
    row = tokens.clone()
    row[place] = token
    return row


def _orders(length: int, device: torch.device) -> torch.Tensor:
    """Rearrangements (N, L) of positions: two blocks change places; the first and the last token stay in theirs."""
    found = []
    for a in range(1, length - 1):
        for one in range(1, BLOCKS + 1):
            for c in range(a + one, length - 1):
                for two in range(0 if c > a + one else 1, BLOCKS + 1):
                    if c + two > length - 1 or (two == 0 and c == a + one):
                        continue
                    row = list(range(length))
                    found.append(row[:a] + row[c : c + two] + row[a + one : c] + row[a : a + one] + row[c + two :])
        for c in range(a + BLOCKS + 1, length - 1):  # one token moves to the front, or to the back, by any way
            row = list(range(length))
            found.append(row[:a] + [c] + row[a:c] + row[c + 1 :])
    return torch.tensor(found, device=device).view(-1, length)


def _moved(table: torch.Tensor, tokens: torch.Tensor, orders: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """What rearrangements leave (K, N), if a contribution depended on the token before it alone."""
    pairs = table[:, :, tokens]  # (K, position of the token before, position of the token)
    here = torch.arange(len(tokens) - 1, device=tokens.device)
    own = pairs[:, here, here + 1].sum(1)
    return torch.cat([(left + own)[:, None] - _sums(pairs, rows) for rows in orders.split(1024)], 1)


def _sums(pairs: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """(K, N): the sum over neighbours, by a product with the counts of neighbours."""
    width = pairs.shape[2]
    counts = pairs.new_zeros(len(orders), pairs.shape[1] * width)
    index = orders[:, :-1] * width + orders[:, 1:]
    counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
    return pairs.flatten(1) @ counts.T


def _replaced(
    table: torch.Tensor, likely: torch.Tensor, tokens: torch.Tensor, left: torch.Tensor, fixed: set[int]
) -> tuple[torch.Tensor, ...]:
    """Of every replacement of one token: its position, the token, the norm of what it leaves, and the gain in
    log-probability, (N,) each."""
    vocabulary = table.shape[2]
    last_seen = {token: i for i, token in enumerate(tokens.tolist()[:-1])}
    places = [i for i in range(1, len(tokens) - 1) if int(tokens[i]) not in fixed]
    allowed = torch.ones(vocabulary, dtype=torch.bool, device=tokens.device)
    allowed[list(fixed)] = False
    what = allowed.nonzero()[:, 0]
    norms, gains = [], []
    for i in places:
        after = tokens[i + 1]
        change, gain = table[:, i - 1] - table[:, i - 1, tokens[i], None], likely[i - 1] - likely[i - 1, tokens[i]]
        for token, place in last_seen.items():  # how the next token follows this one is known from there
            change[:, token] += table[:, place, after] - table[:, i, after]
            gain[token] += likely[place, after] - likely[i, after]
        norms.append((left[:, None] - change).norm(dim=0)[what])
        gains.append(gain[what])
    where = torch.tensor(places, device=tokens.device).repeat_interleave(len(what))
    return where, what.repeat(len(places)), torch.cat(norms), torch.cat(gains)
