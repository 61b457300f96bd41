"""A convolutional generator trained on public images, by the simplest training that works."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ... import _validate
from .base import pixels
from .dcgan import dcgan
from .network import Standardised, train_network


class GLO(Standardised):
    """DCGAN's generator by generative latent optimisation (Bojanowski et al., ICML 2018).

    Every public image gets a z of its own; those and the weights are fitted together, by least squares. There is no
    second network and no game between two. The mean and covariance of the public images' z are then made 0 and 1.

    Deviations: squared error instead of a Laplacian pyramid; no projection of z to the unit ball, but a weak penalty on
    its length.
    """

    def __init__(self, module: nn.Module, codes: torch.Tensor, public: torch.Tensor):
        super().__init__(module, codes.shape[1], tuple(public.shape[1:]))
        self._shift = codes.mean(0)
        apart = codes - self._shift
        spread = apart.T @ apart / len(codes) + 1e-6 * torch.eye(self.size, device=codes.device)
        self._root = torch.linalg.cholesky(spread.double()).to(codes)
        self._codes = torch.linalg.solve_triangular(self._root, apart.T, upper=False).T
        self._public = public.flatten(1)

    @classmethod
    def fit(
        cls,
        public: Any,
        size: Any,
        *,
        steps: Any = 1000,
        width: Any = 16,
        seed: Any = 0,
        progress: bool | None = None,
    ) -> GLO:
        """Train on the public images: Adam, batches of 128, step sizes that rise and fall again.

        Args:
            size: numbers in z, 1 to the number of pixel values.
            steps: of training, 1 or more.
            width: channels of the generator before its last layer.
            seed: of weights, first z and batches.
        """
        flat = pixels(public)
        size = _validate.integer("size", size, at_least=1, at_most=flat.shape[1])
        steps, width = _validate.integer("steps", steps, at_least=1), _validate.integer("width", width, at_least=1)
        seed = _validate.integer("seed", seed, at_least=0)
        images, draw = public.images, torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = dcgan(size, public.shape, width).to(images.device)
        codes = (0.1 * torch.randn(len(images), size, generator=draw)).to(images.device).requires_grad_()

        def loss() -> torch.Tensor:
            chosen = torch.randint(len(images), (min(128, len(images)),), generator=draw).to(images.device)
            apart = (module(codes[chosen]) - images[chosen]).square().flatten(1).sum(1)
            return (apart + 1e-3 * codes[chosen].square().sum(1)).mean()

        groups = [{"params": module.parameters()}, {"params": [codes]}]
        train_network(groups, [3e-3, 3e-2], steps, loss, progress)
        return cls(module, codes.detach(), images)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The z of the nearest public image."""
        return self._codes.to(images)[torch.cdist(images.flatten(1), self._public.to(images)).argmin(1)]
