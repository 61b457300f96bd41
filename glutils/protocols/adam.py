"""Adam as a pure function of parameters and gradients, so that an attacker can differentiate through local training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .. import models

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class Adam:
    """The state of Adam (Kingma and Ba 2015, algorithm 1) with the defaults of ``torch.optim.Adam``.

    Attributes:
        lr: step size.
        taken: steps so far.
        first, second: running means of gradients and of their squares; None before the first step.
    """

    lr: float
    taken: int = 0
    first: models.Parameters | None = None
    second: models.Parameters | None = None

    def step(self, params: models.Parameters, grads: models.Parameters) -> tuple[models.Parameters, Adam]:
        """Parameters after one step, and the state that the next one begins with."""
        (slow, slower), taken = BETAS, self.taken + 1
        zeros = {name: torch.zeros_like(g) for name, g in grads.items()}
        first = {n: slow * m + (1 - slow) * grads[n] for n, m in (self.first or zeros).items()}
        second = {n: slower * v + (1 - slower) * grads[n].square() for n, v in (self.second or zeros).items()}
        moved = {}
        for name, p in params.items():
            spread = _root(second[name] / (1 - slower**taken))
            moved[name] = p - self.lr / (1 - slow**taken) * first[name] / (spread + EPSILON)
        return moved, replace(self, taken=taken, first=first, second=second)


def _root(square: torch.Tensor) -> torch.Tensor:
    """The square root, with a derivative of 0 at 0: weights that no image reaches have a gradient of 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
