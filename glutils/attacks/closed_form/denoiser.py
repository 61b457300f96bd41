"""GUIDE in small: a network that cleans what an inverter finds (Carletti, Foggia, Mazzocca, Parrella, Vento 2025)."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ... import _validate, metrics
from ...data.batch import Batch
from ...observation import Observation
from .inverse_map import BINS, EXAMPLES, caused, distinct, labels_of, subject, train_inverter

FOLDS, WIDTH, LAYERS, EPOCHS, RATE, AT_ONCE, HELD_OUT = 4, 32, 4, 20, 2e-3, 32, 8
"""Folds of the public images, channels and layers of the network, passes, step of Adam, images a step, and the share of
pairs, one in so many, that is kept from training."""


class Denoiser(nn.Module):
    """Images as found to images as they were, pixel by pixel from their neighbours: (P, C, H, W) to (P, C, H, W).

    Attributes:
        made_for: network and protocol whose inverter it cleans up after, see
            :func:`glutils.attacks.closed_form.inverse_map.subject`.
        found, cleaned: mean PSNR (dB) of public images that were kept from training, before and after.
    """

    def __init__(self, channels: int, made_for: tuple[str, str], *, width: int = WIDTH, layers: int = LAYERS):
        super().__init__()
        sizes = [channels, *[width] * (layers - 1), channels]
        parts = [nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sizes, sizes[1:], strict=False)]
        nn.init.zeros_(parts[-1].weight)  # it begins as the identity
        nn.init.zeros_(parts[-1].bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*[one for part in parts for one in (part, nn.ReLU())][:-1])
        self.made_for, self.found, self.cleaned = made_for, float("nan"), float("nan")

    def forward(self, images: Float[Tensor, "p channel height width"]) -> Float[Tensor, "p channel height width"]:
        """The images with what the network takes for error added to them, in [0, 1] once it is not training."""
        made = images + self.layers(images)
        return made if self.training else made.clamp(0, 1)


def train_denoiser(
    seen: Observation,
    public: Batch | None = None,
    *,
    bins: int = BINS,
    examples: int = EXAMPLES,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> Denoiser:
    """Learn what the inverter's errors look like, from public images that it did not see when it was trained.

    A map fits the images that it was learned from better than others. So the public images are divided into four folds;
    each fold is reconstructed by a map that was learned from the other three, and all of these pairs teach the network.

    Args:
        seen: an observation of the network and the protocol, with the labels of the batch.
        public: images to learn from; default: those of ``seen``.
        bins, examples: of each map, see :func:`glutils.attacks.closed_form.inverse_map.train_inverter`.
        epochs: passes over the pairs and their mirrored likes; 0 or more; 0 leaves the identity.
        seed: of folds, maps, weights and order.

    Deviations: a network of four layers in one step, in place of a diffusion model that was trained on faces.

    Raises:
        ValueError: no public images, too few for four folds, or a bad number.

    Example:
        >>> import glutils as gl
        >>> batch, protocol = gl.data.sample("digits", seed=0, device="cpu"), gl.protocols.FedSGD()
        >>> model, public = gl.models.build("mlp", batch, hidden=(16,), seed=0), gl.data.public(batch, count=64)
        >>> sent = protocol.transmit(model, batch.images, batch.labels)
        >>> seen = gl.observe(model, protocol, sent, batch, knows={"labels", "public"}, public=public)
        >>> denoiser = gl.attacks.train_denoiser(seen, examples=40, epochs=2)
        >>> bool(denoiser.cleaned > denoiser.found - 1)
        True
    """
    epochs = _validate.integer("epochs", epochs, at_least=0)
    seed = _validate.integer("seed", seed, at_least=0)
    public = seen.public if public is None else public
    if public is None:
        raise ValueError("public must be given, or be in seen, for a denoiser: it learns from images alone")
    least = 2 * FOLDS * seen.shape[0]
    if len(public) < least:
        raise ValueError(f"public must hold at least {least} images for {FOLDS} folds, got {len(public)}")
    found, truth = pairs(seen, public, bins=bins, examples=examples, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found), generator=generator)
    held, rest = order[: max(1, len(found) // HELD_OUT)], order[max(1, len(found) // HELD_OUT) :]
    many, wanted = (torch.cat([part[rest], part[rest].flip(3)]) for part in (found, truth))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = Denoiser(found.shape[1], subject(seen)).to(found.device)
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=RATE)
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = RATE * (1 - epoch / epochs)
        for some in torch.randperm(len(many), generator=generator).split(AT_ONCE):
            optimiser.zero_grad()
            F.mse_loss(denoiser(many[some]), wanted[some]).backward()
            optimiser.step()
    denoiser.eval().requires_grad_(False)
    denoiser.found = float(metrics.psnr(found[held], truth[held]).mean())
    denoiser.cleaned = float(metrics.psnr(denoiser(found[held]), truth[held]).mean())
    return denoiser


def pairs(seen: Observation, public: Batch, *, bins: int, examples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Public images as maps find them that were learned without them, and as they are: twice (P, C, H, W)."""
    labels = distinct(labels_of(seen)[0], seen.shape[0]).sort().values
    order = torch.randperm(len(public), generator=torch.Generator().manual_seed(seed))
    found, truth = [], []
    for fold in range(FOLDS):
        out = order[fold::FOLDS]
        keep = torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold]).sort().values
        own = replace(public, images=public.images[keep], labels=public.labels[keep])
        trained = train_inverter(seen, own, labels, bins=bins, examples=examples, seed=seed + fold)
        groups = out[: len(out) // len(labels) * len(labels)].view(-1, len(labels))
        images = public.images[groups].to(labels.device)
        with torch.no_grad():
            found.append(trained.images(caused(seen, images, labels)).flatten(0, 1))
        truth.append(images.flatten(0, 1))
    return torch.cat(found), torch.cat(truth)
