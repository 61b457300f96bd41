"""How much a client's gradient moves with its records: G'G, without holding G.

G = dg/dx has a row for each of the gradient's d numbers and a column for each of the records' D. Most of d belongs to
matrices, and a matrix's gradient about B records has a rank of about B: the sum of B outer products. Whatever moves
such a sum stays in a small space, in which lengths and angles can be taken. Ours; the space is the textbook's tangent
space of matrices of fixed rank.
"""

from __future__ import annotations

import torch
from torch import nn

from .. import models
from ..attacks.zerogla.derivatives import gradient_tangents
from ..attacks.zerogla.equations import add_gram
from ..data.batch import Batch
from ..protocols import Protocol

SMALL = 4096
"""Numbers in a matrix below which it is kept as it is."""


def gradient_gram(model: nn.Module, protocol: Protocol, batch: Batch) -> torch.Tensor:
    """G'G at the model's present state, (D, D) float64: one directional derivative of the gradient a column."""
    state = models.parameters(model, torch.float64)
    images, labels, criterion = batch.images.double(), batch.labels, protocol.criterion
    gradient = torch.func.grad(lambda params: models.loss(model, params, images, labels, criterion=criterion))(state)
    frames = [_Frame(part) for part in gradient.values()]
    rows = []
    for parts in gradient_tangents(model, [state], images, labels, criterion):
        rows.append(torch.cat([frame.coordinates(part) for frame, part in zip(frames, parts, strict=True)], 1))
        if not all(frame.holds for frame in frames):  # a layer that is no sum of few outer products
            return _gram(_whole(part) for part in gradient_tangents(model, [state], images, labels, criterion))
    return _gram(rows)


def _gram(chunks) -> torch.Tensor:
    rows = torch.cat(list(chunks))
    total = rows.new_zeros(len(rows), len(rows))
    add_gram(total, rows.T)
    return total.triu() + total.triu(1).T


def _whole(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


class _Frame:
    """Coordinates, of an orthonormal basis, for what can move one parameter's gradient.

    With the gradient A = U S V' of rank r, every movement is M = U X' + Y V'. Its coordinates are U'M and what
    is left of M V outside of U. Whether they hold everything is seen by the lengths, of every movement.
    """

    def __init__(self, gradient: torch.Tensor):
        self.holds, self._left, self._right = True, None, None
        if gradient.dim() != 2 or gradient.numel() < SMALL:
            return
        left, sizes, right = torch.linalg.svd(gradient, full_matrices=False)
        rank = int((sizes > sizes[0] * 1e-12).sum()) if float(sizes[0]) > 0 else 0
        if 0 < rank <= min(gradient.shape) // 4:
            self._left, self._right = left[:, :rank], right[:rank].T

    def coordinates(self, moved: torch.Tensor) -> torch.Tensor:
        """(n, m) of movements (n, *shape)."""
        if self._left is None or self._right is None:
            return moved.flatten(1)
        above = self._left.T @ moved
        beside = moved @ self._right - self._left @ (above @ self._right)
        found = torch.cat([above.flatten(1), beside.flatten(1)], 1)
        length = moved.flatten(1).square().sum(1)
        self.holds = self.holds and bool(((length - found.square().sum(1)).abs() <= 1e-13 * length).all())
        return found
