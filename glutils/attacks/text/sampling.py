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
    """Flat texts (count, n + 1) of the model ``params``, those of ``4 * count`` drawn that fit the length best."""
    stacked = {name: p[None] for name, p in params.items()}
    device = next(iter(params.values())).device
    many = 4 * count * frame.sentences
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
    return fitting(joined(tokens, frame), count)


def public(tokens: torch.Tensor, labels: torch.Tensor, frame: Frame, count: int) -> torch.Tensor:
    """The same from public texts (M, L), where the adversary has some."""
    inside = labels[:, 1:] >= 0
    found = torch.where(inside, tokens[:, 1:], torch.full_like(tokens[:, 1:], NOTHING))
    found = torch.cat([tokens[:, :1], found], 1)
    return fitting(joined(found[: len(found) // frame.sentences * frame.sentences], frame), count)


def joined(tokens: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Sentences (M, L) as flat texts of ``frame.sentences`` each, cut at n targets."""
    rows = []
    lines = [[token for token in line if token != NOTHING] for line in tokens.tolist()]
    for start in range(0, len(lines) - frame.sentences + 1, frame.sentences):
        parts = lines[start : start + frame.sentences]
        row = [parts[0][0]] + [token for part in parts for token in part[1:]]
        rows.append((row + [NOTHING] * frame.targets)[: frame.targets + 1])
    return torch.tensor(rows, device=tokens.device)


def fitting(flat: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` texts whose length is closest to what it has to be."""
    return flat[(flat == NOTHING).sum(1).argsort(stable=True)[:count]]


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
