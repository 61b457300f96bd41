"""The block that a malicious server puts before a model, so that gradients separate into single images (RTF).

Fowl et al., "Robbing the Fed", ICLR 2022. K neurons look at the same number, a linear statistic h(x) = <w, x> of the
image, and neuron l fires if h(x) > c_l. What lies between two neighbouring cuts is a bin; an image that is alone in its
bin can be read from the gradient by one subtraction and one division.
"""

from __future__ import annotations

import copy
import math
import statistics
from typing import Any

import torch
from torch import nn

from ... import _validate
from ...data.batch import Batch
from ...observation import Observation
from ..base import Reconstruction

LAWS = ("empirical", "gaussian", "laplace")
STATISTICS = ("brightness", "random")
CONNECTIONS = ("add", "replace")


class Imprint(nn.Module):
    """Flatten, K neurons with one and the same row w / gain and cuts c, ReLU, a linear layer back to the image's shape.

    Attributes:
        encode: ``nn.Linear(n, K)``: the rows, and minus the cuts as biases.
        decode: ``nn.Linear(K, n)``. If its columns are equal, every neuron that fires has the same gradient, and the
            difference of neighbouring rows contains the images of one bin and nothing else.
        two_sided: a neuron fires only inside its own bin ("sparse" in the paper): each row holds one bin, so columns
            may differ, and local steps of FedAvg do not mix bins.
        clients: how many have neurons of their own in it, as LOKI makes them; None: it is shared.
        connection: ``"add"``: the block's output is added to the image; ``"replace"``: it takes the image's place.
    """

    clients: int | None = None

    def __init__(self, row: torch.Tensor, cuts: torch.Tensor, last: float, gain: float, two_sided: bool, add: bool):
        super().__init__()
        widths = torch.diff(cuts, append=cuts.new_tensor([last])) if two_sided else torch.ones_like(cuts)
        factors = (gain / widths)[:, None]
        self.encode, self.decode = nn.Linear(row.numel(), len(cuts)), nn.Linear(len(cuts), row.numel())
        self.two_sided, self.connection, self.gain = two_sided, "add" if add else "replace", gain
        with torch.no_grad():
            self.encode.weight.copy_(factors * row.flatten())
            self.encode.bias.copy_(-factors[:, 0] * cuts)

    @property
    def bins(self) -> int:
        """K."""
        return self.encode.out_features

    def active_neurons(self, images: torch.Tensor) -> torch.Tensor:
        """A mask (B, K) of the neurons that pass a gradient for each image."""
        before = self.encode(images.flatten(1))
        return (before > 0) & (before < self.gain) if self.two_sided else before > 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        before = self.encode(images.flatten(1))
        fired = before.clamp(0, self.gain) if self.two_sided else before.relu()
        made = self.decode(fired).view(images.shape)
        return images + made if self.connection == "add" else made


def imprint(
    model: nn.Module,
    public: Batch,
    *,
    bins: int = 64,
    statistic: str = "brightness",
    law: str = "empirical",
    connection: str = "add",
    gain: float | int = 1e-4,
    strength: float | int = 1.0,
    equal: bool = True,
    two_sided: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``model`` behind a malicious block, for the server to send in its place. It can still be trained.

    Args:
        model: for images of the shape of ``public``; it is left as it is.
        public: images that the server holds; the cuts are quantiles of their statistic. 2 images or more.
        bins: K, 2 or more. The first bin begins below every image, so no image falls outside.
        statistic: ``"brightness"``, the mean of all pixels, or ``"random"``, a random direction of length one.
        law: ``"empirical"``: quantiles of the public images themselves; ``"gaussian"`` or ``"laplace"``: of a
            distribution with their mean and standard deviation.
        connection: ``"add"``: the model sees the image plus a small even offset, whose mean over the public images is
            zero. ``"replace"``: it sees the block's output alone, one number a pixel, all the same.
        gain: factor of the first layer. FedAvg in float32 needs it small: a difference of parameters keeps more digits
            of a step the smaller the parameters are.
        strength: of the second layer, whose entries are strength / K. The larger, the more the block's own steps
            disturb the training. The reference has a gain of 1e-3 and a strength of 1e3.
        equal: False draws the second layer at random, as an ordinary initialisation would: the trap does not close.
        two_sided: neurons that fire only inside their own bin, see :class:`Imprint`.
        seed: of ``"random"`` and of ``equal=False``.

    Returns:
        ``nn.Sequential(Imprint, model)`` in the model's mode, with its ``classes``, ``shape`` and ``name``.

    Raises:
        TypeError, ValueError: a bad argument, a ``public`` of another shape, or public images whose quantiles coincide.
    """
    _validate.instance("model", model, nn.Module)
    _validate.instance("public", public, Batch)
    bins = _validate.integer("bins", bins, at_least=2)
    _validate.choice("statistic", statistic, STATISTICS)
    _validate.choice("law", law, LAWS)
    _validate.choice("connection", connection, CONNECTIONS)
    gain, strength = _validate.number("gain", gain, above=0), _validate.number("strength", strength, above=0)
    for name, value in (("equal", equal), ("two_sided", two_sided)):
        _validate.instance(name, value, bool)
    shape = getattr(model, "shape", public.shape)
    if tuple(shape) != public.shape or len(public) < 2:
        raise ValueError(f"public must hold 2 or more images of {tuple(shape)}, got {len(public)} of {public.shape}")
    generator = torch.Generator().manual_seed(_validate.integer("seed", seed, at_least=0))
    pixels = math.prod(public.shape)
    row = torch.full((pixels,), 1 / pixels)
    if statistic == "random":
        row = torch.randn(pixels, generator=generator)
        row = row / row.norm()
    inside = quantiles(public.images.cpu().flatten(1).double() @ row.double(), bins, law)
    # No image in [0, 1] has a statistic outside these ends; outer quantiles of an assumed law may lie farther out.
    low = min(float(row.clamp(max=0).sum()), float(inside[0]))
    high = max(float(row.clamp(min=0).sum()), float(inside[-1]))
    margin = 0.01 * (high - low)
    cuts = torch.cat([inside.new_tensor([low - margin]), inside]).float()
    block = Imprint(row, cuts, high + margin, gain, two_sided, connection == "add")
    with torch.no_grad():
        block.decode.weight.fill_(strength / bins)
        if not equal:
            block.decode.weight.copy_(strength / bins * torch.randn(pixels, bins, generator=generator))
        block.decode.bias.zero_()
        device = next(model.parameters()).device
        block.to(device)
        if connection == "add":
            images = public.images.to(device)
            block.decode.bias.copy_((images - block(images)).flatten(1).mean(0))
    trapped = nn.Sequential(block, copy.deepcopy(model)).train(model.training)
    trapped.classes, trapped.shape = getattr(model, "classes", len(public.classes)), public.shape
    trapped.name = f"imprint + {getattr(model, 'name', type(model).__name__)}"
    return trapped


def quantiles(values: torch.Tensor, bins: int, law: str) -> torch.Tensor:
    """The K - 1 inner cuts that make K bins of equal mass, ascending, float64.

    Raises:
        ValueError: two cuts coincide.
    """
    levels = torch.arange(1, bins, dtype=torch.float64) / bins
    if law == "empirical":
        cuts = torch.quantile(values, levels)
    else:
        centre, spread = float(values.mean()), float(values.std())
        if law == "gaussian":
            standard = statistics.NormalDist()
            scores = torch.tensor([standard.inv_cdf(float(level)) for level in levels], dtype=torch.float64)
        else:  # the Laplace law of standard deviation one has scale 1 / sqrt(2)
            scores = -(levels - 0.5).sign() * torch.log1p(-2 * (levels - 0.5).abs()) / math.sqrt(2)
        cuts = centre + spread * scores
    if not bool((torch.diff(cuts.float()) > 0).all()):
        raise ValueError(f"public must have different values at its {bins} quantiles; fewer bins or more images do")
    return cuts


def read_bins(
    weight: torch.Tensor, bias: torch.Tensor, two_sided: bool, threshold: float | int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a block's gradient holds of each bin: of weights (K, n), of biases (K,), and which bins are hit.

    A bin is hit if its bias difference exceeds ``threshold`` times the largest bias gradient.
    """
    weight, bias = weight.double(), bias.double()
    largest = bias.abs().max()
    if not two_sided:
        weight = weight - torch.cat([weight[1:], torch.zeros_like(weight[:1])])
        bias = bias - torch.cat([bias[1:], torch.zeros_like(bias[:1])])
    return weight, bias, (bias.abs() > threshold * largest).nonzero()[:, 0]


def collected(
    seen: Observation, rows: torch.Tensor, sizes: torch.Tensor, order: str, diagnostics: dict[str, float]
) -> Reconstruction:
    """The images read from bins that were hit: of ``rows`` (hits, n) the B of the largest ``sizes`` (hits,).

    They stay in the order of the rows, which ``order`` puts in words. Places without a hit are grey; a note says so.
    """
    count, notes = seen.shape[0], ()
    kept = sizes.argsort(descending=True)[:count].sort().values
    images = torch.full((count, rows.shape[1]), 0.5, dtype=torch.float64, device=rows.device)
    images[: len(kept)] = rows[kept]
    if len(kept) < count:
        notes += (f"{len(kept)} bins were hit by {count} images: the last {count - len(kept)} are grey, not found",)
    labels = seen.labels
    if labels is None:
        labels = torch.zeros(count, dtype=torch.int64, device=rows.device)
        notes += ("labels are not inferred: zeros",)
    else:
        notes += (f"images come {order}: labels are as told, not matched to images",)
    return Reconstruction(
        images.view(seen.shape), labels, 0.0, notes=notes, diagnostics=diagnostics, evaluations=0, pullbacks=0
    )


def block_of(model: nn.Module) -> Imprint | None:
    """The malicious block of a model, if it begins with one."""
    first = model[0] if isinstance(model, nn.Sequential) and len(model) else model
    return first if isinstance(first, Imprint) else None


@torch.no_grad()
def bin_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Index of the bin that each image falls into: (B,) int64. For evaluation only: an attacker has no images.

    Raises:
        ValueError: a model without an imprint.
    """
    block = block_of(model)
    if block is None:
        raise ValueError("model must begin with an imprint; gl.imprint.imprint makes one")
    above = block.encode(images.flatten(1)) > 0
    return above.sum(1) - 1  # the first cut lies below every image


def is_alone(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """A mask (B,) of the images that share their bin with no other. For evaluation only."""
    bins = bin_of(model, images)
    return (bins[:, None] == bins[None]).sum(1) == 1


def expected_alone_count(images: Any, bins: Any) -> float:
    """The expected number of B images that are alone in their bin, if each falls into any of K bins equally often.

    B (1 - 1/K)^(B-1). The reference code counts the ways of filling bins as equally likely instead.
    """
    images, bins = _validate.integer("images", images, at_least=1), _validate.integer("bins", bins, at_least=1)
    return images * (1 - 1 / bins) ** (images - 1)
