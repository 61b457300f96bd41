"""The attacking client of DMGAN: its generator, its game against the global models, and what it uploads."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from ... import models
from .image_statistics import ImageStatistics

LATENT, DRAWN = 100, 32
"""Numbers in a latent, and how many images a step of the generator draws."""


class Generator(nn.Module):
    """Latents (B, 100) to images (B, C, H, W) in [0, 1]: a linear layer, then twice up by two and a 3x3 convolution."""

    def __init__(self, shape: tuple[int, int, int], width: int = 32):
        super().__init__()
        channels, self.height, self.width = shape
        base = -(-self.height // 4), -(-self.width // 4)
        self.net = nn.Sequential(
            nn.Linear(LATENT, 2 * width * base[0] * base[1]),
            nn.Unflatten(1, (2 * width, *base)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.net(z)[:, :, : self.height, : self.width])


class DmganClient:
    """The malicious client: its data, its generator, and what it uploads."""

    def __init__(self, own, tracked, label, protocol, epochs, optimiser, rates, priors, generator):
        self.own, self.tracked, self.label, self.protocol, self.epochs = own, tracked, label, protocol, epochs
        self.random, self.device = generator, own.images.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            self.network = Generator(own.shape).to(self.device)
        lr, self.discriminator_lr = rates
        weights = self.network.parameters()
        self.priors, self.received, self.statistics = priors, [], None
        if priors["anchor"] or priors["variation"] or priors["diversity"]:
            self.statistics = ImageStatistics(own.images, own.labels)
        adam = optimiser == "adam"
        self.optimiser = torch.optim.Adam(weights, lr, (0.5, 0.999)) if adam else torch.optim.SGD(weights, lr)

    def draw(self, count: int) -> torch.Tensor:
        """Random latents (count, 100)."""
        return torch.randn(count, LATENT, generator=self.random).to(self.device)

    def upload(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The client's message of a round: what the game and the local training changed, both together."""
        self.received.append(copy.deepcopy(model))
        for batch in self._batches():
            if len(self.received) > 1:
                self._generate(model)
            self._discriminate(model, images[batch], labels[batch])
        sent, before = self.protocol.transmit(model, images, labels), models.parameters(self.received[-1])
        return {name: before[name] - p + sent[name] for name, p in models.parameters(model).items()}

    def finish(self, model: nn.Module) -> None:
        """Play the game once more with the last global model; nothing is sent."""
        if self.received:
            self.received.append(model)
            for _ in self._batches():
                self._generate(model)

    def _batches(self):
        for _ in range(self.epochs):
            yield from torch.randperm(len(self.own), generator=self.random).split(self.protocol.batch_size)

    def _generate(self, model) -> None:
        """One step of the generator; the first model received knows nothing and is not asked."""
        images = shown = self.network(self.draw(DRAWN))
        if self.priors["variation"]:
            shown = self.statistics.add_deviations(images, self.priors["variation"], self.random)
        judges = [model, *self.received[max(1, len(self.received) - self.priors["memory"]) :]]
        loss = torch.stack([self._class_loss(judge, shown) for judge in judges]).mean()
        if self.priors["anchor"]:
            loss = loss + self.priors["anchor"] * self.statistics.mahalanobis(images).mean()
        if self.priors["diversity"]:
            loss = loss + self.priors["diversity"] * self.statistics.mode_collapse_penalty(images)
        moved = list(self.network.parameters())
        for parameter, slope in zip(moved, torch.autograd.grad(loss, moved), strict=True):
            parameter.grad = slope
        self.optimiser.step()

    def _class_loss(self, model, images) -> torch.Tensor:
        return F.cross_entropy(model(images), torch.full((len(images),), self.tracked, device=self.device))

    def _discriminate(self, model, images, labels) -> None:
        """One step of the discriminator on images and as many fakes."""
        with torch.no_grad():
            fakes = self.network(self.draw(len(images)))
        shown = torch.cat([images, fakes]), torch.cat([labels, torch.full_like(labels, self.label)])
        weights = [p for p in model.parameters() if p.requires_grad]
        slopes = torch.autograd.grad(F.cross_entropy(model(shown[0]), shown[1]), weights)
        with torch.no_grad():
            torch._foreach_sub_(weights, slopes, alpha=self.discriminator_lr)

    @torch.no_grad()
    def sample(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) of latents (B, 100), in eval mode, so that each depends on its own latent alone."""
        self.network.eval()
        images = self.network(latents)
        self.network.train()
        return images

    @torch.no_grad()
    def loss(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Cross entropy () of the images to the tracked class, under a model."""
        return self._class_loss(model, images)
