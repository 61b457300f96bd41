"""A small generator trained on public images, as half of an autoencoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ... import _validate
from .base import pixels
from .network import Standardised, train_network


class Generator(Standardised):
    """A small decoder network, trained on public images as the second half of a variational autoencoder.

    The encoder and its noise make z nearly normal (Kingma and Welling 2014); its mean and covariance over the public
    images are then made 0 and 1. Smooth activations (GELU inside, a sigmoid at the end), so that second-order solvers
    work in z.
    """

    def __init__(self, decoder: nn.Module, encoder: nn.Module, size: int, shape: tuple[int, int, int]):
        super().__init__(decoder, size, shape)
        self._encoder = encoder.requires_grad_(False)
        self._shift, self._root = torch.zeros(size), torch.eye(size)

    @classmethod
    def fit(
        cls,
        public: Any,
        size: Any,
        *,
        steps: Any = 1500,
        hidden: Any = 128,
        noise: Any = 0.1,
        seed: Any = 0,
        progress: bool | None = None,
    ) -> Generator:
        """Train on the public images: Adam, batches of 128, a step size that rises to 3e-3 and falls again.

        Args:
            size: numbers in z, 1 to the number of pixel values.
            steps: of training, 1 or more.
            hidden: width of the two hidden layers of encoder and decoder.
            noise: standard deviation, per pixel, of what the generator leaves unexplained; above 0. Smaller follows the
                public images closer, larger keeps z closer to normal.
            seed: of weights, batches and the encoder's noise.
        """
        flat = pixels(public).float()
        size = _validate.integer("size", size, at_least=1, at_most=flat.shape[1])
        steps, hidden = _validate.integer("steps", steps, at_least=1), _validate.integer("hidden", hidden, at_least=1)
        seed = _validate.integer("seed", seed, at_least=0)
        weight = 2 * _validate.number("noise", noise, above=0) ** 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            decoder = _Decoder(size, hidden, public.shape).to(flat.device)
            encoder = _layers(flat.shape[1], hidden, 2 * size).to(flat.device)
        draw = torch.Generator().manual_seed(seed)

        def loss() -> torch.Tensor:
            x = flat[torch.randint(len(flat), (min(128, len(flat)),), generator=draw).to(flat.device)]
            mean, log = encoder(x).chunk(2, 1)
            z = mean + log.exp() * torch.randn(mean.shape, generator=draw).to(mean)
            apart = (0.5 * (mean.square() + (2 * log).exp() - 1) - log).sum(1)  # Kullback-Leibler, to N(0, 1)
            return ((decoder(z).flatten(1) - x).square().sum(1) + weight * apart).mean()

        train_network([*decoder.parameters(), *encoder.parameters()], 3e-3, steps, loss, progress)
        made = cls(decoder, encoder, size, public.shape)
        mean, log = made._run(made._encoder, flat.double()).chunk(2, 1)
        made._shift = mean.mean(0)
        apart = mean - made._shift
        made._root = torch.linalg.cholesky(apart.T @ apart / len(apart) + (2 * log).exp().mean(0).diag())
        return made

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        apart = self._run(self._encoder, images.flatten(1))[:, : self.size] - self._shift.to(images)
        return torch.linalg.solve_triangular(self._root.to(images), apart.T, upper=False).T


class _Decoder(nn.Module):
    """Two hidden layers beside a linear one, and a sigmoid."""

    def __init__(self, size: int, hidden: int, shape: tuple[int, int, int]):
        super().__init__()
        self.shape, pixels = shape, math.prod(shape)
        self.bent, self.straight = _layers(size, hidden, pixels), nn.Linear(size, pixels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.bent(z) + self.straight(z)).unflatten(1, self.shape)


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )
