"""The slope of a loss along directions, as a client measures it, and what everybody makes of such slopes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from .. import _validate, models
from .directions import LONG, Directions

MANY = 2**16
"""Numbers of a batch from which on networks are faster one after the other than side by side."""
SCHEMES = ("forward", "central", "exact")
DTYPES = {
    "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip


def slopes(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    directions: Directions,
    *,
    mu: float,
    scheme: str = "central",
    dtype: torch.dtype = torch.float32,
    params: models.Parameters | None = None,
    each: bool = False,
    criterion: models.losses.Loss = models.losses.DEFAULT,
) -> torch.Tensor:
    """What an honest client answers: the K slopes of its loss, shape (K,), in ``dtype``.

    With ``each``, those of every image's own loss, shape (K, B); their mean over images is the former, where all images
    count alike in the loss.

    ``"central"``: (l(theta + mu z) - l(theta - mu z)) / (2 mu); ``"forward"``: (l(theta + mu z) - l(theta)) / mu;
    ``"exact"``: the directional derivative itself. Losses are computed in ``dtype``. The model's own parameters and
    buffers are never written to, so they are bit-identical afterwards. Differentiable in ``images``.
    """
    _validate.choice("scheme", scheme, SCHEMES)
    mu = _validate.number("mu", mu, above=0)
    if scheme == "exact":
        if each:
            pairs = [(x[None], y[None]) for x, y in zip(images, labels, strict=True)]
            how = {"dtype": dtype, "params": params, "criterion": criterion}
            return torch.stack([exact_slopes(model, x, y, directions, **how) for x, y in pairs], 1)
        return exact_slopes(model, images, labels, directions, dtype=dtype, params=params, criterion=criterion)
    params = models.parameters(model, dtype) if params is None else params
    images = images.to(dtype) if images.is_floating_point() else images
    labels = labels.to(dtype) if labels.is_floating_point() else labels
    theta = models.flatten(params)
    loss = partial(_loss, model, params, images, labels, each, criterion)
    with torch.set_grad_enabled(images.requires_grad and torch.is_grad_enabled()):
        slope = partial(difference, loss, theta, mu, loss(theta) if scheme == "forward" else None)
        # many small networks at once; a large one, or one that reads many images, alone
        size = max(1, min(32, 2**25 // directions.dim)) if images.numel() < MANY else 1
        parts = []
        for start, stop in directions.blocks(size):
            z = directions.rows(start, stop, dtype)
            parts.append(models.vectorised(model, slope)(z) if stop - start > 1 else slope(z[0])[None])
        return torch.cat(parts)


def _loss(
    model: nn.Module,
    like: models.Parameters,
    images: torch.Tensor,
    labels: torch.Tensor,
    each: bool,
    criterion: models.losses.Loss,
    theta: torch.Tensor,
) -> torch.Tensor:
    """The loss at the flat parameters ``theta``; with ``each``, those of all images, (B,)."""
    of = models.own_losses if each else models.loss
    return of(model, models.unflatten(theta, like), images, labels, criterion=criterion)


def difference(
    loss: Callable, theta: torch.Tensor, mu: float, here: torch.Tensor | None, z: torch.Tensor
) -> torch.Tensor:
    """The slope of ``loss`` at ``theta`` (d,) along z (d,): a forward difference from ``here``, the loss at ``theta``;
    if that is None, a central difference."""
    if here is None:
        return (loss(theta + mu * z) - loss(theta - mu * z)) / (2 * mu)
    return (loss(theta + mu * z) - here) / mu


def exact_slopes(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    directions: Directions,
    *,
    dtype: torch.dtype = torch.float32,
    params: models.Parameters | None = None,
    criterion: models.losses.Loss = models.losses.DEFAULT,
) -> torch.Tensor:
    """The limit mu -> 0 of :func:`slopes`: V times the gradient, shape (K,). Differentiable in ``images``."""
    if params is None and not models.own_precision(model, dtype):
        params = models.parameters(model, dtype)
    labels = labels.to(dtype) if labels.is_floating_point() else labels
    graph = torch.is_grad_enabled() and (images.requires_grad or labels.requires_grad)
    images = images.to(dtype) if images.is_floating_point() else images
    how = {"create_graph": graph, "criterion": criterion}
    gradient = list(models.gradient(model, params, images, labels, **how).values())
    if directions.dim < LONG:
        gradient = [torch.cat([part.reshape(-1) for part in gradient])]
    return _Project.apply(directions, *gradient) if graph else directions.project(gradient)


class _Project(torch.autograd.Function):
    """V @ gradient with V.T as its backward, neither of which needs V whole. The gradient may come in pieces."""

    @staticmethod
    def forward(ctx, directions, *pieces):
        ctx.directions, ctx.shapes = directions, [piece.shape for piece in pieces]
        return directions.project(pieces)

    @staticmethod
    def backward(ctx, *grad_outputs):
        (weights,) = grad_outputs
        back = ctx.directions.combine(weights, [shape.numel() for shape in ctx.shapes])
        back = [back] if len(ctx.shapes) == 1 else back
        return None, *(piece.view(shape) for piece, shape in zip(back, ctx.shapes, strict=True))


def estimate(scalars: torch.Tensor, directions: Directions, *, unbiased: bool = True) -> torch.Tensor:
    """Gradient estimate (1/K) sum_i s_i z_i, shape (d,).

    Its mean is the gradient for Gaussian directions, and the gradient divided by d for unit ones; ``unbiased=True``
    multiplies the latter by d, where the law says so (:attr:`Law.factor <glutils.zo.Law.factor>`). The reference code
    of ZeroGLA leaves that factor out (``unbiased=False``).
    """
    if scalars.shape != (directions.count,):
        raise ValueError(f"scalars must have shape ({directions.count},), got {tuple(scalars.shape)}")
    factor = directions.factor if unbiased else 1
    return directions.combine(scalars) * (factor / directions.count)


def replay(
    params: models.Parameters, scalars: torch.Tensor, directions: Directions, lr: float, *, unbiased: bool = True
) -> models.Parameters:
    """Parameters after one step of SGD along the estimate: what every party computes from seed and scalars alone."""
    step = models.unflatten(estimate(scalars.to(directions.device), directions, unbiased=unbiased), params)
    return {name: p - lr * step[name].to(p.dtype) for name, p in params.items()}


def roundoff(loss: float, mu: float, dtype: torch.dtype = torch.float32, scheme: str = "central") -> float:
    """Expected size of a slope's round-off: machine epsilon x loss / (2 mu) (twice that for forward differences).

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> round(gl.zo.roundoff(2.3, 1e-3, torch.float32), 6)
        0.000137
    """
    return torch.finfo(dtype).eps * abs(loss) / (mu * (2 if scheme == "central" else 1))
