"""What an attacker believes about images before it sees a payload."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn

from .. import _validate, models

TV_KINDS = ("l1mean", "l1sum", "l2circ", "l2count")
Statistics = dict[str, tuple[torch.Tensor, torch.Tensor]]


def tv(images: torch.Tensor, kind: str = "l1mean") -> torch.Tensor:
    """Total variation of images (B, C, H, W): how much neighbouring pixels differ. Four definitions are in use.

    ``"l1mean"``: mean absolute difference along each axis, added (IG, FGLA, CPA). ``"l1sum"``: sum of absolute
    differences over the batch, divided by B (GradInversion, ZeroGLA). ``"l2circ"``: squared differences with
    wrap-around, summed per image, averaged over the batch (DLF). ``"l2count"``: squared differences, averaged along
    each axis, added, times 2 / B, where the average is over one image's pixels (GRNN).

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> float(gl.priors.tv(torch.full((1, 1, 8, 8), 0.5)))
        0.0
    """
    _validate.choice("kind", kind, TV_KINDS)
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W) for a total variation, got {tuple(images.shape)}")
    if kind == "l2circ":
        down, right = images - images.roll(1, 2), images - images.roll(1, 3)
        return (down.square().sum() + right.square().sum()) / len(images)
    down, right = images[:, :, 1:] - images[:, :, :-1], images[:, :, :, 1:] - images[:, :, :, :-1]
    if kind == "l1mean":
        return down.abs().mean() + right.abs().mean()
    if kind == "l1sum":
        return (down.abs().sum() + right.abs().sum()) / len(images)
    per_axis = [d.square().sum() / d[0].numel() for d in (down, right)]
    return 2 * (per_axis[0] + per_axis[1]) / len(images)


@contextlib.contextmanager
def record_batchnorm_statistics(model: nn.Module) -> Iterator[Statistics]:
    """Within this context every forward pass of ``model`` leaves its batch norm statistics in the mapping given.

    Layer name to (mean, unbiased variance) of the layer's input, as graphs to whatever the pass was computed from; a
    later pass replaces an earlier one's.
    """
    found: Statistics = {}

    def note(name: str, x: torch.Tensor) -> None:
        x = x.transpose(0, 1).flatten(1)
        found[name] = (x.mean(1), x.var(1, unbiased=x.shape[1] > 1))

    with models.before_layers(_batchnorm_layers(model), note):
        yield found


def batchnorm_statistics(model: nn.Module, images: torch.Tensor, params: models.Parameters | None = None) -> Statistics:
    """Mean and unbiased variance of the input of every batch norm layer, by layer name; differentiable in ``images``.

    Taken in one clean forward pass in the model's present mode; running statistics are left alone.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("resnet8", batch, seed=0)
        >>> len(gl.priors.batchnorm_statistics(model, batch.images))
        9
    """
    with record_batchnorm_statistics(model) as found:
        models.logits(model, models.parameters(model, images.dtype) if params is None else params, images)
    return found


def running_statistics(model: nn.Module) -> Statistics:
    """The running mean and variance that every party holds as part of the model, by layer name.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("resnet8", batch, seed=0)
        >>> len(gl.priors.running_statistics(model))
        9
    """
    return {
        name: (module.running_mean, module.running_var)
        for name, module in _batchnorm_layers(model).items()
        if module.running_mean is not None
    }


def _batchnorm_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def batchnorm_distance(found: Statistics, target: Statistics) -> torch.Tensor:
    """Sum over layers of squared distances of means and of variances (GradInversion, ZeroGLA).

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("resnet8", batch, seed=0)
        >>> one = gl.priors.batchnorm_statistics(model, batch.images)
        >>> float(gl.priors.batchnorm_distance(one, one))
        0.0
    """
    terms = [(a - b.to(a)).square().sum() for name in target for a, b in zip(found[name], target[name], strict=True)]
    return torch.stack(terms).sum()


def smoothness(
    shape: tuple[int, ...], images: torch.Tensor | None = None, eps: float = 1e-2, others: int = 0
) -> torch.Tensor:
    """Sparse matrix R (D, D), D = B C H W, of a quadratic prior: x.T R x is the (weighted) sum of squared differences
    of neighbouring pixels, plus a hundredth of the sum of squares so that R can be inverted.

    With ``images`` the weights are 1 / sqrt(difference^2 + eps^2), taken at these images and shared by the channels:
    x.T R x then is their total variation, and the quadratic form bounds it elsewhere (lagged diffusivity, Vogel and
    Oman 1996). Records without neighbours, of shape (B, columns), have the hundredth alone. ``others`` unknowns that
    are not pixels may follow; of them the hundredth alone counts.
    """
    index = torch.arange(math.prod(shape)).view(shape)
    size = index.numel() + others
    places, values = [torch.arange(size).expand(2, -1)], [torch.full((size,), 0.01, dtype=torch.float64)]
    for axis in range(2, len(shape)):
        count = shape[axis] - 1
        left, right = index.narrow(axis, 0, count), index.narrow(axis, 1, count)
        weight = torch.ones(left.shape, dtype=torch.float64)
        if images is not None:
            step = (images.narrow(axis, 1, count) - images.narrow(axis, 0, count)).double().cpu()
            weight = (step.square().mean(1, keepdim=True) + eps**2).rsqrt().expand(left.shape)
        left, right, weight = left.reshape(-1), right.reshape(-1), weight.reshape(-1)
        for i, j, sign in ((left, left, 1), (right, right, 1), (left, right, -1), (right, left, -1)):
            places.append(torch.stack([i, j]))
            values.append(sign * weight)
    return torch.sparse_coo_tensor(
        torch.cat(places, 1), torch.cat(values), (size, size), check_invariants=True
    ).coalesce()
