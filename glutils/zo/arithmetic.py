"""The client's own arithmetic: its precision, and whether it perturbs the very parameters that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from .. import models
from .directions import Directions, GivenDirections
from .slopes import DTYPES, slopes

HALF = ("bfloat16", "float16")
"""Precisions in which the perturbation itself is rounded so coarsely that it matters."""
Loss = Callable[..., torch.Tensor]
"""Of points (n, d) to losses (n,), or (n, B) for each image by itself."""


@dataclass(frozen=True)
class Arithmetic:
    """How a client turns a direction into a scalar, down to the rounding.

    Where everybody knows seed and parameters, everybody can compute the very points between which the client took its
    difference, rounding and all: :meth:`walk`. Only the forward pass then remains unpredictable.

    Attributes:
        mu: smoothing step.
        scheme: ``"central"``, ``"forward"`` or ``"exact"``.
        dtype: of parameters, directions and forward pass: a name of ``glutils.zo.DTYPES``.
        loss_dtype: of the cross entropy, from outputs that are cast first; None: ``dtype``.
        in_place: whether the parameters themselves go + mu z, - 2 mu z, + mu z (forward: + mu z, - mu z). Then they
            come back rounded, and the next direction starts there.
        criterion: the loss that it minimises.
    """

    mu: float | int
    scheme: str = "central"
    dtype: str = "float32"
    loss_dtype: str | None = None
    in_place: bool = False
    criterion: models.losses.Loss = models.losses.DEFAULT

    @property
    def plain(self) -> bool:
        """Whether round-off lies in the losses alone, as far as it matters, so that :func:`slopes` says all."""
        return not (self.in_place or self.dtype in HALF)

    def slopes(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        directions: Directions,
        *,
        params: models.Parameters | None = None,
        each: bool = False,
    ) -> torch.Tensor:
        """What the client answers: K slopes, or (K, B) of every image's own loss, as :func:`slopes` has it.

        In half precision the numbers are those that the client computes, as float32.

        Raises:
            ValueError: mu that is lost: not one parameter moves along some direction.
        """
        here = models.parameters(model) if params is None else params
        dtype = DTYPES[self.dtype]
        if self.plain:
            how = {"mu": self.mu, "scheme": self.scheme, "dtype": dtype, "criterion": self.criterion}
            found = slopes(model, images, labels, directions, params=params, each=each, **how)
            if not found.any():
                self._check_first(here, directions)
        else:
            here = {name: p.to(dtype) for name, p in here.items()}
            loss = losses(model, here, images, labels, self, each=each)
            theta, found = models.flatten(here), []
            with torch.set_grad_enabled(images.requires_grad and torch.is_grad_enabled()):
                for ahead, behind, after in self.walk(theta, directions):
                    self._check_moved((ahead != behind).any(1))
                    found.append((loss(ahead) - loss(behind)) / self.span)
                    theta = after
            found = torch.cat(found)
        return found.float() if found.dtype.itemsize < 4 else found

    @property
    def span(self) -> float:
        """Of a difference, in units of the direction's length."""
        return self.mu * (2 if self.scheme == "central" else 1)

    def walk(self, theta: torch.Tensor, directions: Directions) -> Iterator[tuple[torch.Tensor, ...]]:
        """For one block of n directions after the other: points ahead (n, d) and behind, and where theta is afterwards.

        ``theta`` (d,) in the client's precision. A forward difference looks back at the same point from all directions:
        then ``behind`` is (1, d).
        """
        start = theta
        for first, last in directions.blocks(max(1, min(32, 2**25 // directions.dim))):
            steps = self.mu * directions.rows(first, last, theta.dtype)
            if self.in_place:
                ahead, behind = [], []
                for step in steps:
                    ahead.append(theta + step)
                    if self.scheme == "central":
                        behind.append(ahead[-1] - 2 * step)
                    theta = behind[-1] + step if behind else ahead[-1] - step
                yield torch.stack(ahead), torch.stack(behind) if behind else start[None], theta
            else:
                yield theta + steps, theta - steps if self.scheme == "central" else start[None], theta

    def left(self, params: models.Parameters, directions: Directions) -> models.Parameters:
        """Parameters as the client holds them after a message, before any step.

        A client that perturbs in place has moved its parameters by round-off; unless it had to cast them first, for
        then it perturbed a copy.
        """
        if not self.in_place or any(p.dtype != DTYPES[self.dtype] for p in params.values()):
            return params
        theta = models.flatten(params)
        for _, _, after in self.walk(theta, directions):
            theta = after
        return models.unflatten(theta, params)

    def points(self, params: models.Parameters, directions: Directions) -> tuple[torch.Tensor, torch.Tensor]:
        """The points ahead and behind of all K directions, (K, d) each, in the client's precision."""
        ahead, behind = [], []
        for a, b, _ in self.walk(models.flatten(params).to(DTYPES[self.dtype]), directions):
            ahead.append(a)
            behind.append(b.expand_as(a))
        return torch.cat(ahead), torch.cat(behind)

    def as_computed(self, params: models.Parameters, directions: Directions) -> tuple[models.Parameters, Directions]:
        """The middle between the client's points, in float64, and the ways from one to the other as directions.

        The slope at the middle, along the way as it was rounded, is what the client's difference tells, but for second
        order in mu and the round-off of the forward pass. Several directions share the mean of their middles. All of
        the ways are kept, as float32.
        """
        ahead, behind = (part.double() for part in self.points(params, directions))
        middle = models.unflatten((ahead + behind).mean(0) / 2, params)
        return middle, GivenDirections(((ahead - behind) / self.span).float())

    def _check_first(self, params: models.Parameters, directions: Directions) -> None:
        """Refuse mu that moves not one parameter along the first direction."""
        if self.scheme == "exact":
            return
        z = models.unflatten(directions.rows(0, 1, DTYPES[self.dtype])[0], params)
        here = ((p.to(z[name].dtype), z[name]) for name, p in params.items())
        self._check_moved(torch.tensor(any(bool((p + self.mu * part != p).any()) for p, part in here)))

    def _check_moved(self, moved: torch.Tensor) -> None:
        if not moved.all():
            raise ValueError(
                f"mu must move at least one parameter, got {self.mu} with dtype {self.dtype!r}: theta + mu z is theta"
            )


def losses(
    model: nn.Module,
    like: models.Parameters,
    images: torch.Tensor,
    labels: torch.Tensor,
    arithmetic: Arithmetic,
    *,
    each: bool = False,
) -> Loss:
    """The function of points (n, d) to the batch's losses there, as a client computes them.

    With a second argument, weights (n, B): the weighted sum over images in place of the mean.
    """
    dtype, criterion = DTYPES[arithmetic.dtype], arithmetic.criterion
    last = dtype if arithmetic.loss_dtype is None else DTYPES[arithmetic.loss_dtype]
    images = images.to(dtype) if images.is_floating_point() else images
    labels = labels.to(last) if labels.is_floating_point() else labels

    def at(theta: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        outputs = models.logits(model, models.unflatten(theta, like), images).to(last)
        if weights is None:
            return criterion.own(outputs, labels) if each else criterion.mean(outputs, labels)
        return criterion.weighted(outputs, labels, weights.to(last))

    def of(points: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        points = points.to(dtype)
        if len(points) == 1:
            return at(points[0], None if weights is None else weights[0])[None]
        size = max(1, min(32, 2**25 // points.shape[1]))
        return models.vectorised(model, at, (0, None if weights is None else 0), chunk_size=size)(points, weights)

    return of
