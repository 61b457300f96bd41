"""GRNN: Generative Regression Neural Network (Ren, Deng, Xie, ACM TIST 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from ... import _validate, priors
from ...observation import Observation
from ...solvers import Tally, search
from ..base import Card, Reconstruction, reconstruction, register
from ..matching.objective import Distance, Tensors, matching, squared

SIZES = (8, 16, 32, 64)
"""Sides of images that the generator can make: four pixels, doubled."""
NOISE = 128
"""Length of the generator's input."""
WIDTH = 32
"""Channels before the last doubling."""
PROJECTIONS = 64
"""Directions of the sliced Wasserstein distance, for every tensor."""


@register(
    "grnn",
    Card(
        title="GRNN",
        kinds=("gradient",),
        several=("gradient",),
        simulates="FedSGD",
        variable="generator weights",
        distance="squared + Wasserstein",
        prior="TV, untrained generator",
        solver="RMSprop",
        labels="generated",
        source="ren2022grnn",
    ),
)
def grnn(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 1000,
    restarts: int = 1,
    lr: float | int = 1e-4,
    momentum: float | int = 0.99,
    tv_weight: float | int = 1e-3,
    wd: str = "l2",
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Weights w of a fresh generator whose images and labels (x, y) = G_w(z), for fixed noise z, have the gradient g.

    ``min over w of |grad l(f(x), y) - g|^2 + Wasserstein + tv_weight TV(x)`` (eqs. 5 to 8), by RMSprop with momentum.
    The generator is trained for this one gradient; it has seen no images. The iterate with the lowest loss is reported.

    Args:
        lr, momentum: of RMSprop; ``momentum`` is from 0 to below 1.
        tv_weight: 1e-3 is the authors' for LeNet, 1e-6 for ResNet-18; the total variation is ``"l2count"``.
        wd: ``"l2"``: the norm ``|grad - g|``, which is what the released code computes under the name of a Wasserstein
            distance; ``"sliced"``: a sliced Wasserstein distance between the rows of each tensor of the gradient, see
            :func:`sliced_wasserstein`; ``"none"``.

    Deviations: the last image of the released code is the last iterate. Its initialisation, N(0, 0.02), is never
    carried out, because it asks containers for their type; like it, this one starts from PyTorch's default.

    Raises:
        ValueError: images that are not square with a side of 8, 16, 32 or 64 pixels.
    """
    height, width = seen.shape[2:]
    if height != width or height not in SIZES:
        raise ValueError(
            f"attack 'grnn' makes square images of {', '.join(map(str, SIZES))} pixels, got {height}x{width}; "
            "'dlg' takes any size"
        )
    _validate.choice("wd", wd, ("none", "l2", "sliced"))
    for name, value in (("lr", lr), ("momentum", momentum)):
        _validate.number(name, value, **({"above": 0} if name == "lr" else {"at_least": 0, "at_most": 0.9999}))
    tv_weight = _validate.number("tv_weight", tv_weight, at_least=0)
    smooth = [(tv_weight, lambda images: priors.tv(images, "l2count"))] if tv_weight else []
    target, tally = list(seen.payload.values()), Tally()

    def solve(trace, generator):
        noise = torch.randn(seen.shape[0], NOISE, generator=generator).to(target[0])
        network = _fresh(seen, generator).to(target[0])
        weights = dict(network.named_parameters())
        made = []

        def decode(variables):
            made[:] = functional_call(network, dict(zip(weights, variables, strict=True)), (noise,))
            return made

        objective = matching(seen, decode, distance=_distance(wd, target, generator), priors=smooth, tally=tally)
        _rmsprop(objective, tuple(weights.values()), made, trace, iterations, lr, momentum)

    found = search(
        solve, iterations=iterations, restarts=restarts, seed=seed, seconds=seconds, progress=progress, label="grnn"
    )
    images, probabilities = found.variables
    return reconstruction(found, images, probabilities.argmax(-1), tally=tally)


def _rmsprop(objective, weights, made, trace, iterations, lr, momentum) -> None:
    """RMSprop on the generator's weights; the trace gets what the generator made with them."""
    optimiser = torch.optim.RMSprop(weights, lr=lr, momentum=momentum)
    for step in range(iterations + 1):
        loss, grads = objective(weights)
        if trace.report(step, loss, tuple(made)) or step == iterations:
            break
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad
        optimiser.step()


class Generator(nn.Module):
    """Noise (B, 128) to images (B, C, S, S) in [0, 1] and label probabilities (B, classes).

    One linear layer for the labels. For the images a transposed convolution to 4 x 4, then doublings: nearest
    neighbour, 3x3 convolution, batch norm, gated linear unit; a sigmoid at the end.
    """

    def __init__(self, channels: int, size: int, classes: int):
        super().__init__()
        _validate.choice("size", size, SIZES)
        doublings = size.bit_length() - 3
        widths = [WIDTH * 2**k for k in range(doublings - 1, -1, -1)] + [channels]
        self.label = nn.Linear(NOISE, classes)
        layers: list[nn.Module] = [nn.ConvTranspose2d(NOISE, 2 * widths[0], 4), nn.GLU(1)]
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, 2 * after, 3, padding=1, bias=False),
                nn.BatchNorm2d(2 * after, track_running_stats=False),
                nn.GLU(1),
            ]
        self.image = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.image(noise[:, :, None, None]), F.softmax(self.label(noise), -1)


def _fresh(seen: Observation, generator: torch.Generator) -> Generator:
    """A generator of images of the observed shape; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        return Generator(seen.shape[1], seen.shape[2], seen.classes)


def _distance(wd: str, target: Tensors, generator: torch.Generator) -> Distance:
    """Squared distance of gradients, plus what ``wd`` names, with its derivative."""
    if wd == "none":
        return squared
    projections = directions(target, generator) if wd == "sliced" else None

    def distance(found: Tensors, target: Tensors) -> tuple[torch.Tensor, Tensors]:
        value, slopes = squared(found, target)
        if projections is None:
            norm = value.sqrt()
            return value + norm, torch._foreach_mul(slopes, 1 + 0.5 / float(norm.clamp_min(1e-30)))
        leaves = [f.detach().requires_grad_() for f in found]
        with torch.enable_grad():
            apart = sliced_wasserstein(leaves, target, projections)
        more = torch.autograd.grad(apart, leaves)
        return value + apart.detach(), torch._foreach_add(slopes, more)

    return distance


def directions(tensors: Tensors, generator: torch.Generator) -> list[torch.Tensor]:
    """For each tensor random unit vectors, one a column, on which :func:`sliced_wasserstein` projects its rows."""
    found = []
    for tensor in tensors:
        length = tensor.numel() // len(tensor)
        count = 1 if length == 1 else PROJECTIONS
        found.append(F.normalize(torch.randn(length, count, generator=generator), dim=0).to(tensor))
    return found


def sliced_wasserstein(found: Tensors, target: Tensors, projections: Tensors) -> torch.Tensor:
    """Sliced Wasserstein distance (order 2) between two gradients, each a cloud of rows for every tensor.

    A row holds what belongs to one output of a layer. The rows are projected on a direction; on a line the best
    transport pairs them in order of size. Squares are averaged over directions, multiplied by the length of a row, and
    added over rows and tensors; the root is returned. It is at most ``|found - target|`` on average over directions,
    equal to it where a tensor has one row, and does not change if rows of ``found`` change places.
    """
    total = found[0].new_zeros(())
    for a, b, along in zip(found, target, projections, strict=True):
        apart = (a.flatten(1) if a.dim() > 1 else a[:, None]) @ along
        other = (b.flatten(1) if b.dim() > 1 else b[:, None]) @ along
        total = total + len(along) * (apart.sort(0).values - other.sort(0).values).square().mean(1).sum()
    return total.clamp_min(1e-30).sqrt()
