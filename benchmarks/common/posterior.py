"""Records as public ones have them, moved by what messages say, weighed by the noise.

The strongest attack of this book on sums with strong noise (ours, not peer-reviewed). What each public record of the
class would add to the messages is computed. Over these records, the linear estimate of records from messages that is
best in the mean square is taken, with the noise as declared. What is not linear (cut slopes, a curved loss) is part of
the scatter, and so counts as noise of its own: with strong noise the estimate stays near the mean record of the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import glutils as gl

FLOOR = 1e-5
"""Least noise, relative to the size of the numbers of a message: of round-off."""
LARGEST = 2**20
"""Most numbers of gradients held at a time."""


class Messages(NamedTuple):
    """T messages of M numbers, each a mean of what B records add at the message's own state of the model, with noise.

    A record adds its gradient, not longer than ``bound``; with ``rows`` (T, M, d) its slopes along them, cut at it.
    """

    model: torch.nn.Module
    numbers: Tensor
    noise: float
    states: dict[str, Tensor]
    rows: Tensor | None
    bound: float | None

    def parts(self, records: int) -> Iterator[Messages]:
        """Some messages at a time."""
        size = max(1, LARGEST // (records * sum(p[0].numel() for p in self.states.values())))
        for at in range(0, len(self.numbers), size):
            some = slice(at, at + size)
            states = {name: p[some] for name, p in self.states.items()}
            rows = None if self.rows is None else self.rows[some]
            yield self._replace(numbers=self.numbers[some], states=states, rows=rows)

    @property
    def floor(self) -> float:
        """The noise, or what round-off leaves."""
        return max(self.noise, FLOOR * float(self.numbers.square().mean().sqrt()))

    def shares(self, images: Tensor, labels: Tensor) -> Tensor:
        """(T, B, M) what each record adds."""
        each = torch.vmap(self._share, in_dims=(None, None, 0, 0))
        over = (0, None if self.rows is None else 0, None, None)
        return torch.vmap(each, in_dims=over)(self.states, self.rows, images, labels).detach()

    def _share(self, state, rows, x: Tensor, y: Tensor) -> Tensor:
        one = torch.func.grad(lambda p: gl.models.loss(self.model, p, x[None], y[None]))(state)
        gradient = gl.models.flatten(one)
        if rows is not None:
            slopes = rows @ gradient
            return slopes if self.bound is None else slopes.clamp(-self.bound, self.bound)
        return gradient if self.bound is None else gradient * (self.bound / gradient.norm()).clamp(max=1.0)


def estimates(views: Sequence[Messages], public, labels: Tensor, most: int = 100) -> list[Tensor]:
    """(B, D) of each view, the linear estimate that is best over public records of the classes, ``most`` of each.

    Views are the same messages with other numbers and other noise.
    """
    chosen = {int(k): public.images[public.labels == k][:most].double() for k in labels.unique()}
    away = {k: one.flatten(1) - one.flatten(1).mean(0) for k, one in chosen.items()}
    members = torch.bincount(labels).double()
    owner = torch.cat([torch.full((len(one),), k) for k, one in chosen.items()])
    # records of one class are alike before anything is seen: together they scatter as their number says
    weight = torch.cat([(members[k] / len(one)).sqrt().expand(len(one)) for k, one in chosen.items()])[:, None]
    gram, seen = torch.zeros(len(owner), len(owner)).double(), torch.zeros(len(owner), len(views)).double()
    for parts in zip(*(view.parts(max(len(one) for one in chosen.values())) for view in views), strict=True):
        middle, moved = torch.zeros_like(parts[0].numbers), []
        for k, one in chosen.items():
            shares = parts[0].shares(one, torch.full((len(one),), k)) / len(labels)
            middle += members[k] * shares.mean(1)
            moved.append(shares - shares.mean(1, keepdim=True))
        flat = torch.cat(moved, 1).movedim(1, 0).flatten(1) * weight
        gram += flat @ flat.T
        seen += flat @ torch.stack([(part.numbers - middle).flatten() for part in parts], 1)
    middle = torch.stack([chosen[int(label)].flatten(1).mean(0) for label in labels])
    found = []
    for view, towards in zip(views, seen.T, strict=True):
        noise = view.floor**2 * torch.eye(len(gram)).double()
        moved = torch.linalg.solve(gram + noise, towards)[:, None] * weight
        each = {k: (moved[owner == k] * away[k]).sum(0) / members[k] for k in chosen}
        found.append(middle + torch.stack([each[int(label)] for label in labels]))
    return found
