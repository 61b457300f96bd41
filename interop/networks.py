"""The network of these clients: two convolutions and two linear layers with ReLU, 35,865 parameters at 16x16."""

import torch
from torch import nn

SIDE = 16


def small(batch=None):
    """The network with its weights from seed 0; a factory for ``glutils``, which gives it the batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * (SIDE // 2) ** 2, 32), nn.ReLU(), nn.Linear(32, 9),
        )  # fmt: skip
