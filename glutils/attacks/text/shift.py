"""A token is missed at one place and made up at another: what stands between is right, and a place too far.

No exchange and no replacement mends that. But the table of contributions behind the prefixes of the present text
predicts what an insertion adds, and what a deletion takes away; together they leave the length as it is.
"""

from __future__ import annotations

import torch


def shifts(
    table: torch.Tensor, likely: torch.Tensor, tokens: torch.Tensor, left: torch.Tensor, fixed: set[int], *,
    share: float, count: int,
) -> list[tuple[float, tuple[int, ...]]]:  # fmt: skip
    """The most promising texts with one token inserted and one deleted, and their values; low is good.

    Args:
        table, likely: contributions (K, n, V) and log-probabilities (n, V) of every token behind every prefix.
        tokens: (n + 1,) the text.
        left: (K,) what it leaves unexplained.
        fixed: tokens that are neither inserted nor deleted.
        share: how many independent numbers a predicted misfit counts, in units of K.
        count: how many texts to return.
    """
    length = len(tokens) - 1
    places = [d for d in range(1, length) if int(tokens[d]) not in fixed]
    if len(places) < 2:
        return []
    what = [v for v in range(table.shape[2]) if v not in fixed]
    added, gain = _inserted(table, tokens)[:, :, what].flatten(1), _inserted(likely[None], tokens)[0][:, what]
    gone, lost = _deleted(table, tokens)[:, places], _deleted(likely[None], tokens)[0, places]
    rest = left[:, None] - gone  # (K, places)
    squares = rest.square().sum(0)[:, None] - 2 * rest.T @ added + added.square().sum(0)
    value = len(left) / 4 * share * squares.clamp(min=1e-24).log() - (gain.flatten() + lost[:, None])
    value = value.view(len(places), length, len(what))
    for i, d in enumerate(places):
        value[i, d - 1 : d + 1] = torch.inf  # beside the gap it would be a replacement
    best, index = value.flatten().topk(min(count, value.numel()), largest=False)
    found = []
    for number, at in zip(best.tolist(), index.tolist(), strict=True):
        d, gap, token = places[at // (length * len(what))], at // len(what) % length, what[at % len(what)]
        row = tokens.tolist()
        row.insert(gap + 1, token)
        del row[d + (d > gap)]
        found.append((number, tuple(row)))
    return found


def _inserted(table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """What changes if a token (last axis) stands behind each prefix, (K, n, V).

    How the token after it follows the new one is known if the text holds the new one elsewhere; else it is taken to
    stay what it is.
    """
    here = torch.arange(len(tokens) - 1, device=tokens.device)
    change = table.clone()
    for place, token in enumerate(tokens.tolist()[:-1]):
        change[:, :, token] = table[:, :, token] + table[:, place, tokens[1:]] - table[:, here, tokens[1:]]
    return change


def _deleted(table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """What changes if a token is not there, (K, n): number d of it for the token at d; none for the first."""
    here = torch.arange(1, len(tokens) - 1, device=tokens.device)
    change = table[:, here - 1, tokens[here + 1]] - table[:, here - 1, tokens[here]] - table[:, here, tokens[here + 1]]
    return torch.cat([torch.zeros_like(change[:, :1]), change], 1)
