"""Metrics of two stacks of images, one number per image, in float64.

A reconstruction is clamped to [0, 1]; a truth must lie there already.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64, Num
from torch import Tensor

from .. import _torchvision, _validate
from . import perceptual

Images = Float[Tensor, "batch channel height width"]
CAP = 100.0  # dB; what an image counts as at most in an average over several


class LPIPSUnavailable(UserWarning):
    """LPIPS was asked for by name, and the weights of its backbone are not on this machine."""


_warned: set[str] = set()


def mse(images: Images, truth: Images) -> Float64[Tensor, " batch"]:
    """Mean squared error per image, shape (B,), float64, between 0 and 1.

    Args:
        images: shape (B, C, H, W), floating point; clamped to [0, 1]. A NaN makes its own image's metrics NaN.
        truth: the same shape, floating point, in [0, 1].

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes that differ or are not (B, C, H, W), or a truth outside [0, 1].

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> truth = torch.full((1, 1, 8, 8), 0.5)
        >>> gl.metrics.mse(truth + 0.1, truth).round(decimals=4)
        tensor([0.0100], dtype=torch.float64)
    """
    images, truth = _pair(images, truth)
    return (images - truth).square().flatten(1).mean(1)


def psnr(images: Images, truth: Images) -> Float64[Tensor, " batch"]:
    """Peak signal-to-noise ratio per image, -10 log10 MSE in dB, shape (B,); infinite for an exact copy.

    This is one PSNR per image. Torchmetrics' ``dim=0``, used in some published code, averages one PSNR per *pixel
    position* instead, which flatters a result: by 2.5 dB for two images with Gaussian errors. Arguments as in `mse`.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> truth = torch.full((1, 1, 8, 8), 0.5)
        >>> gl.metrics.psnr(truth + 0.1, truth).round(decimals=2)
        tensor([20.], dtype=torch.float64)
    """
    return -10 * torch.log10(mse(images, truth))


def ssim(images: Images, truth: Images) -> Float64[Tensor, " batch"]:
    """Structural similarity per image, shape (B,), at most 1: Gaussian window of 11 px, sigma 1.5, constants .01, .03.

    Only windows that lie inside the image count (22x22 of them on 32x32). An image narrower than 11 px gets the largest
    odd window that fits, with sigma scaled alike: 7 px and 0.95 on 8x8 digits, so four windows. Below 3 px there is
    no structure to compare, and the answer is NaN. Arguments as in `mse`.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> truth = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> float(gl.metrics.ssim(truth, truth))
        1.0
    """
    images, truth = _pair(images, truth)
    short = min(truth.shape[2:])
    window = min(11, short - (short + 1) % 2)
    if window < 3:
        return torch.full((len(truth),), math.nan, dtype=torch.float64)
    _torchvision.prepare()  # torchmetrics imports torchvision, and takes seconds, so late
    from torchmetrics.functional.image import structural_similarity_index_measure

    # torchmetrics derives the window from sigma (it ignores kernel_size) and pads by reflection; the padding goes.
    _, local = structural_similarity_index_measure(
        images, truth, sigma=1.5 * window / 11, data_range=1.0, reduction="none", return_full_image=True
    )
    edge = window // 2
    return local[..., edge : local.shape[-2] - edge, edge : local.shape[-1] - edge].flatten(1).mean(1)


def lpips(
    images: Images, truth: Images, *, net: str = "alex", weights: str | os.PathLike[str] | None = None
) -> Float64[Tensor, " batch"]:
    """Learned perceptual distance per image, shape (B,), 0 for equal images; needs backbone weights on this disk.

    Args:
        images, truth: as in `mse`, with one or three channels. Images under 64 px are enlarged to 64 first (bilinear).
        net: "alex", "vgg" or "squeeze".
        weights: a file of torchvision's weights for that network; by default the one in torch's hub cache
            (``$TORCH_HOME/hub/checkpoints``). Nothing is downloaded.

    Returns:
        NaN for every image where the hub cache has no weights, with one `LPIPSUnavailable` warning per process.

    Raises:
        ValueError: unknown ``net``, or ``weights`` that are not this network's. Otherwise as in `mse`.
    """
    images, truth = _pair(images, truth)
    if truth.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels for LPIPS, got {truth.shape[1]}")
    path = perceptual.find(net, weights)
    if path is None:
        warn_once(perceptual.why_missing(net))
        return torch.full((len(truth),), math.nan, dtype=torch.float64)
    return perceptual.distance(images, truth, net, path).double()


def affine_psnr(images: Images, truth: Images) -> Float64[Tensor, " batch"]:
    """PSNR in dB per image after the best scale and offset, shape (B,), for attacks that find an image up to both.

    Scale (negative allowed) and offset are fitted to the truth by least squares, one pair per image, before clamping:
    say so where this number is printed. Arguments as in `mse`.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> truth = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> bool(gl.metrics.affine_psnr(0.5 * truth + 0.2, truth) > 100)
        True
    """
    _pair(images, truth)
    raw, wanted = (stack.detach().cpu().double().flatten(1) for stack in (images, truth))
    centred = raw - raw.mean(1, keepdim=True)
    power = centred.square().mean(1, keepdim=True)
    scale = (centred * wanted).mean(1, keepdim=True) / torch.where(power > 0, power, 1.0)
    return psnr((scale * centred + wanted.mean(1, keepdim=True)).view(truth.shape), truth)


def match(images: Images, truth: Images) -> Int64[Tensor, " batch"]:
    """Which reconstruction belongs to which truth: ``matching[i]`` is the index in ``images`` for ``truth[i]``.

    Shape (B,), int64, a permutation: the assignment of least total MSE (Hungarian). Arguments as in `mse`.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> gl.metrics.match(batch.images.flip(0), batch.images)
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment  # here, because SciPy takes long to load

    cost = _distances(*_pair(images, truth)).nan_to_num(nan=2.0)  # a failed image is worse than any other
    rows, columns = linear_sum_assignment(cost.T.numpy())
    return torch.from_numpy(columns).long()


def label_accuracy(labels: Int64[Tensor, " batch"], truth: Int64[Tensor, " batch"]) -> float:
    """Share of equal entries of two (B,) int64 label vectors, between 0 and 1, in the order given.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> gl.metrics.label_accuracy(torch.tensor([3, 1]), torch.tensor([3, 2]))
        0.5
    """
    for name, value in (("labels", labels), ("truth", truth)):
        if not isinstance(value, torch.Tensor) or value.dtype != torch.int64:
            raise TypeError(f"{name} must be an int64 tensor, got {getattr(value, 'dtype', type(value).__name__)}")
    if labels.ndim != 1 or labels.shape != truth.shape or not len(labels):
        raise ValueError(f"labels must have shape {tuple(truth.shape)} and not be empty, got {tuple(labels.shape)}")
    return float((labels.cpu() == truth.cpu()).double().mean())


def mean_psnr(values: Num[Tensor, " images"] | Sequence[float]) -> float:
    """Mean of PSNRs in dB. Of several, each counts as 100 dB at most, so that one exact image does not decide the mean.

    A single image is no average: its PSNR is returned as it is, infinite if exact. No image at all gives NaN.

    Example:
        >>> import glutils as gl
        >>> gl.metrics.mean_psnr([20.0, 180.0])
        60.0
    """
    values = torch.as_tensor(values).double()
    return float(values.clamp(max=CAP).mean() if values.numel() > 1 else values.mean())


def nearest(
    candidates: Float[Tensor, " candidates *shape"], truth: Float[Tensor, " batch *shape"]
) -> Float[Tensor, " batch *shape"]:
    """For each truth, an image or a record, the candidate of least MSE; any number of candidates in [0, 1]."""
    return candidates[_distances(candidates.double(), truth.double()).argmin(0)]


def warn_once(message: str) -> None:
    """Warn with `LPIPSUnavailable`, but only the first time in this process that there is this to say."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, LPIPSUnavailable, stacklevel=3)


def _pair(images: Images, truth: Images) -> tuple[Images, Images]:
    for name, value in (("images", images), ("truth", truth)):
        _validate.instance(name, value, torch.Tensor)
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {value.dtype}")
    if truth.ndim != 4 or 0 in truth.shape:
        raise ValueError(f"truth must have shape (B, C, H, W) with no empty axis, got {tuple(truth.shape)}")
    if images.shape != truth.shape:
        raise ValueError(f"images must have the truth's shape {tuple(truth.shape)}, got {tuple(images.shape)}")
    images, truth = images.detach().cpu().double().clamp(0, 1), truth.detach().cpu().double()
    if not bool(((truth >= 0) & (truth <= 1)).all()):
        raise ValueError(f"truth must lie in [0, 1], got {float(truth.min()):.4g} to {float(truth.max()):.4g}")
    return images, truth


def _distances(
    images: Float64[Tensor, " images *shape"], truth: Float64[Tensor, " batch *shape"]
) -> Float64[Tensor, "images batch"]:
    """MSE of every image with every truth, shape (len(images), len(truth)), for float64 stacks in [0, 1]."""
    a, b = images.flatten(1), truth.flatten(1)
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0) / a.shape[1]
