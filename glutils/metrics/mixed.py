"""Metrics for attacks that find images up to sign, scale and offset, in any number and order."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from .. import _validate


def correlations(
    images: Float[Tensor, "images channel height width"], truth: Float[Tensor, "batch channel height width"]
) -> Float64[Tensor, "images batch"]:
    """Pearson correlation over pixels of every image with every truth: (N, B) float64, between -1 and 1.

    Blind to scale and offset; negative for a negative. Nothing is clamped. A constant image, or one with a NaN,
    correlates 0 with everything.

    Args:
        images: shape (N, C, H, W), floating point. truth: shape (B, C, H, W), floating point.

    Raises:
        TypeError: not floating-point tensors. ValueError: other shapes.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> gl.metrics.correlations(batch.images, batch.images).shape
        torch.Size([2, 2])
    """
    for name, value in (("images", images), ("truth", truth)):
        _validate.instance(name, value, torch.Tensor)
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {value.dtype}")
        if value.ndim != 4 or 0 in value.shape:
            raise ValueError(f"{name} must have shape (B, C, H, W) with no empty axis, got {tuple(value.shape)}")
    if images.shape[1:] != truth.shape[1:]:
        allowed = ", ".join(map(str, truth.shape[1:]))
        raise ValueError(f"images must have the truth's shape (N, {allowed}), got {tuple(images.shape)}")
    one, other = (_unit(stack.detach().cpu().double().flatten(1)) for stack in (images, truth))
    return (one @ other.T).clamp(-1, 1)


def match_by_correlation(
    images: Float[Tensor, "images channel height width"], truth: Float[Tensor, "batch channel height width"]
) -> Int64[Tensor, " batch"]:
    """For each truth the index of its image, -1 where there are too few: the largest total ``|correlation|``.

    Shape (B,), int64; sign-free; any number of images (Hungarian). Arguments as in `correlations`.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> gl.metrics.match_by_correlation(batch.images.flip(0), batch.images)
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment  # here, because SciPy takes long to load

    rows, columns = linear_sum_assignment(-correlations(images, truth).abs().numpy())
    found = torch.full((len(truth),), -1, dtype=torch.int64)
    found[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return found


def correlation(
    images: Float[Tensor, "images channel height width"], truth: Float[Tensor, "batch channel height width"]
) -> Float64[Tensor, " batch"]:
    """Size of each truth's correlation with the image that `match_by_correlation` gives it: (B,) float64, 0 where none.

    What an image of the same batch, or noise, reaches by chance is not 0: print a control. Arguments as in
    `correlations`.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> gl.metrics.correlation(batch.images, batch.images).round(decimals=6)
        tensor([1., 1.], dtype=torch.float64)
    """
    all_pairs, found = correlations(images, truth).abs(), match_by_correlation(images, truth)
    return torch.where(found >= 0, all_pairs[found.clamp(min=0), torch.arange(len(truth))], 0.0)


def recovery_mask(
    images: Float[Tensor, "images channel height width"],
    truth: Float[Tensor, "batch channel height width"],
    *,
    above: float = 60.0,
) -> Bool[Tensor, " batch"]:
    """Which truths are among the images: (B,) bool, those that some image copies with a PSNR over ``above`` dB.

    For attacks that find some images exactly and others not at all; no matching, any number of images. The other
    arguments as in `correlations`.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> gl.metrics.recovery_mask(batch.images[:1], batch.images)
        tensor([ True, False])
    """
    above = _validate.number("above", above, above=0)
    correlations(images, truth)  # checks both
    one, other = (stack.detach().cpu().double().flatten(1) for stack in (images, truth))
    return (one[:, None] - other[None]).square().mean(2).nan_to_num(nan=1.0).amin(0) < 10 ** (-above / 10)


def _unit(rows: Float64[Tensor, "rows pixels"]) -> Float64[Tensor, "rows pixels"]:
    """Rows with mean zero and length one; zeros where that is impossible."""
    level = rows.mean(1, keepdim=True)
    centred = rows - level
    length = centred.norm(dim=1, keepdim=True)
    flat = length <= 1e-12 * level.abs() * rows.shape[1] ** 0.5  # what rounding leaves of a constant image
    return torch.where(flat, 0.0, centred / torch.where(flat, 1.0, length)).nan_to_num(0.0)
