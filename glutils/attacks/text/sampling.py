"""Texts that the attacker's own language model makes up: what a client may have written."""

from __future__ import annotations

import torch

from ... import models
from .code import Code
from .layout import NOTHING, Frame
from .reader import Reader

FREE = 0.5
"""Chance with which a token of a variant is drawn again."""


def drawn(reader: Reader, params: models.Parameters, frame: Frame, count: int, generator: torch.Generator):
    """Flat texts (count, n + 1) of the model ``params``, those of ``4 * count`` sentences that fit the length best."""
    stacked = {name: p[None] for name, p in params.items()}
    device = next(iter(params.values())).device
    many = 4 * count
    if frame.begin is None:
        tokens = torch.randint(frame.vocabulary, (many, 1), generator=generator).to(device)
    else:
        tokens = torch.full((many, 1), frame.begin, device=device)
    going = torch.ones(many, dtype=torch.bool, device=device)
    longest = frame.length if frame.end is None else min(frame.length, frame.targets + 2 - frame.sentences)
    while tokens.shape[1] < longest and going.any():
        chances = reader.whole(stacked, tokens.clamp(min=0))[0, :, -1].float().softmax(-1).cpu()
        chances[:, [token for token in frame.fixed if token != frame.end]] = 0
        new = torch.multinomial(chances, 1, generator=generator)[:, 0].to(device)
        new = torch.where(going, new, torch.full_like(new, NOTHING))
        if frame.end is not None:
            going = going & (new != frame.end)
        tokens = torch.cat([tokens, new[:, None]], 1)
    return joined(tokens, frame, count)


def public(tokens: torch.Tensor, labels: torch.Tensor, frame: Frame, count: int) -> torch.Tensor:
    """The same from public texts (M, L), where the adversary has some."""
    inside = labels[:, 1:] >= 0
    found = torch.where(inside, tokens[:, 1:], torch.full_like(tokens[:, 1:], NOTHING))
    found = torch.cat([tokens[:, :1], found], 1)
    return joined(found, frame, count)


def joined(tokens: torch.Tensor, frame: Frame, count: int) -> torch.Tensor:
    """The ``count`` sentences (M, L) whose length fits best, as as many flat texts, cut at n targets.

    Of several sentences, each is in as many texts as a text has sentences, so that what it contributes need be computed
    only once; and a long one follows a short one.
    """
    lines = [[token for token in line if token != NOTHING] for line in tokens.tolist()]
    parts = frame.sentences
    lines.sort(key=lambda line: abs(len(line) - 1 - frame.targets / parts))
    lines = lines[:count]
    if parts > 1:
        lines.sort(key=len)
        lines = [lines[i // 2 if i % 2 == 0 else -1 - i // 2] for i in range(len(lines))]
    rows = []
    for start in range(len(lines)):
        own = [lines[(start + i) % len(lines)] for i in range(parts)]
        row = [own[0][0]] + [token for line in own for token in line[1:]]
        rows.append((row + [NOTHING] * frame.targets)[: frame.targets + 1])
    return torch.tensor(rows, device=tokens.device)


def variants(
    code: Code, flat: torch.Tensor, others: torch.Tensor, count: int, generator: torch.Generator, *, free: float = FREE
) -> torch.Tensor:
    """``count`` texts (M, n + 1) near ``flat`` (n + 1,): other hypotheses of the search, and tokens drawn again by the
    language model.

    Each token is drawn again with chance ``free``. A piece of which the language model is sure stays what it is;
    digits, of which it knows nothing, come out anew.
    """
    frame = code.frame
    _, likely = code.table(flat)
    chances = likely.float().exp().cpu()
    chances[:, list(frame.fixed)] = 0
    chances += 1e-12  # a row of a fixed token is not used, but must be one that can be drawn from
    rows = [flat]
    for i in range(count - 1):
        base = others[i // 2 % len(others)] if len(others) and i % 2 else flat
        new = torch.multinomial(chances, 1, generator=generator)[:, 0].to(flat.device)
        again = (torch.rand(len(new), generator=generator) < free).to(flat.device)
        stays = torch.isin(base[1:], torch.tensor(sorted(frame.fixed), device=flat.device, dtype=base.dtype))
        rows.append(torch.cat([base[:1], torch.where(again & ~stays, new, base[1:])]))
    return torch.stack(rows)
