"""The network of these clients: three convolutions with ReLU and a linear layer, 12,937 parameters at 32x32."""

import torch
from torch import nn


def small(batch=None):
    """The network with its weights from seed 0; a factory for ``glutils``, which gives it the batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 8 * 8, 9),
        )  # fmt: skip
