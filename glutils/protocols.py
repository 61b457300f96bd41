"""What a client sends: three protocols, each a pure function of model, images and labels.

``transmit`` is what the honest client computes on its private batch. ``simulate`` is its twin for the attacker: the
same function, differentiable in images (and in soft labels), or a cheaper function with the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from . import _check, models, zo

Payload = torch.Tensor | dict[str, torch.Tensor]
SEEDS_APART = 7919  # between the public seeds of consecutive steps
CLIENTS_APART = 104_729  # between the private seeds of clients


class Protocol:
    """Base of all protocols. Subclasses are frozen dataclasses; ``dataclasses.replace`` works on them.

    ``kind`` says what the payload is: ``"gradient"`` (named tensors), ``"delta"`` (named parameter differences) or
    ``"scalars"`` (a vector).
    """

    kind: str
    each_bound: Any = None
    """Of scalars: the greatest slope that one image may contribute to a mean, if a defence cuts it there."""
    mean_bound: Any = None
    """Of scalars: where a defence cuts them before another one hides which of them were cut."""

    def transmit(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        directions: zo.Directions | None = None,
    ) -> Payload:
        """What leaves the client. Differentiable in ``images`` if they require grad; the model is left as it was.

        Args:
            model: the global model, as received.
            images: (B, C, H, W); pixels may leave [0, 1], because the attacker's dummy images may.
            labels: (B,) int64 class indices, or (B, classes) probabilities.
            directions: what :meth:`ZerothOrder.draw` gave, to save that protocol from drawing again for every client.

        Raises:
            TypeError, ValueError: wrong shapes, dtypes or labels; an active dropout layer; batch norm layers in
                different modes.
        """
        self.check(model, images, labels)
        how = {} if directions is None else {"directions": directions}
        payload = self._client(model, images, labels, **how)
        if isinstance(payload, dict) and not isinstance(payload, NamedTensors):
            payload = NamedTensors(payload)
        payload.batchnorm = models.batchnorm_mode(model)  # the attacker has to run the model in the same mode
        return payload

    def simulate(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        params: models.Parameters | None = None,
        directions: zo.Directions | None = None,
    ) -> Payload:
        """The attacker's twin of :meth:`transmit`, with a graph to ``images`` and soft ``labels``, in their precision.

        ``params`` replaces the model's parameters (an earlier round's state, say); ``directions`` saves a zeroth-order
        protocol from drawing its own again.
        """
        with torch.enable_grad():
            return self._simulate(model, images, labels, params, directions)

    def check(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Refuse arguments that cannot work, before any work."""
        models.check_deterministic(model)
        _check.images_and_labels(images, labels, getattr(model, "classes", None))
        shape = getattr(model, "shape", None)
        if shape is not None and tuple(images.shape[1:]) != tuple(shape):
            raise ValueError(f"images must have shape (B, {', '.join(map(str, shape))}), got {tuple(images.shape)}")
        device = next(model.parameters()).device
        if images.device != device or labels.device != device:
            raise ValueError(
                f"images and labels must be on the model's device {device}, got {images.device} and {labels.device}"
            )

    def turn(self, step: int) -> Protocol:
        """The protocol in a later step of a run: what is drawn anew there has another seed."""
        return self

    def own(self, client: int) -> Protocol:
        """The protocol as this client runs it: what it draws in private has a seed of its own."""
        return self

    remembers: Any = False
    """Whether clients keep something of a message for the next one (error feedback)."""

    def remembering(self, kept: Any) -> Protocol:
        """The protocol of a client that :func:`kept` this of its last message; None before the first."""
        return self

    def observed(self, payload: Payload) -> Protocol:
        """The protocol as an adversary knows it that has seen a payload: without what is private to the client."""
        return self

    def noise(self, payload: Payload, images: int) -> float:
        """Standard deviation of noise that clients are known to add to each number of a payload about ``images``."""
        return 0.0

    def _client(self, model, images, labels, params=None, graph: bool | None = None) -> Payload:
        raise NotImplementedError

    def _simulate(self, model, images, labels, params, directions) -> Payload:
        return self._client(model, images, labels, params, graph=True)


class NamedTensors(dict):
    """Tensors by parameter name; remembers the mode of the batch norm layers that it was computed in, and until
    :func:`kept` takes it away what its sender keeps for the next message."""

    batchnorm: str | None = None
    kept: Any = None


def kept(payload: Payload) -> Any:
    """Takes from a payload what its sender remembers of it, which never leaves the client; None if nothing."""
    found = getattr(payload, "kept", None)
    if found is not None:
        payload.kept = None
    return found


def turned(seed: int, step: int, apart: int = SEEDS_APART) -> int:
    """A client's private seed at a step."""
    return (seed + apart * step) % 2**62


def owned(seed: int, client: int) -> int:
    """The private seed of one of the clients, made from the seed of all."""
    return (seed + CLIENTS_APART * (client + 1)) % 2**62


def mapped(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply ``function`` to every tensor in a payload, a set of parameters or statistics."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(mapped(entry, function) for entry in value)
    return {name: mapped(entry, function) for name, entry in value.items()}


def _wants_graph(images: torch.Tensor, graph: bool | None) -> bool:
    return (images.requires_grad and torch.is_grad_enabled()) if graph is None else graph


@dataclass(frozen=True)
class FedSGD(Protocol):
    """The gradient of the batch loss (McMahan et al. 2017, one local step)."""

    kind = "gradient"

    def _client(self, model, images, labels, params=None, graph=None):
        if params is None and not models.own_precision(model, images.dtype):
            params = models.parameters(model, images.dtype)
        return models.gradient(model, params, images, labels, create_graph=_wants_graph(images, graph))


@dataclass(frozen=True)
class FedAvg(Protocol):
    """Parameter differences theta_0 - theta_U after U = epochs * ceil(B / batch_size) local steps of SGD.

    (McMahan et al. 2017.) Batches are taken in the order of the images, every epoch alike, with a smaller last one; or
    in an order that is drawn anew for every epoch. A step is that of ``torch.optim.SGD``: v <- momentum v + g +
    weight_decay theta, theta <- theta - lr v, with v = 0 when a round begins.

    Args:
        epochs: local epochs, 1 or more.
        batch_size: images per local step, 1 or more.
        lr: local step size, above 0; in round t of a run it is lr * decay^t, and the messages of that round say so.
        shuffle: seed of the orders, private to the client; None: the order of the images. An observation does not
            contain it: the adversary's copy of the protocol takes the images as they come.
        momentum: from 0 to below 1.
        weight_decay: 0 or more.
        decay: factor of lr from round to round, above 0, at most 1.
    """

    epochs: int = 1
    batch_size: int = 10
    lr: float | int = 0.1
    shuffle: int | None = None
    momentum: float | int = 0.0
    weight_decay: float | int = 0.0
    decay: float | int = 1.0
    kind = "delta"

    def __post_init__(self) -> None:
        _check.integer("epochs", self.epochs, at_least=1)
        _check.integer("batch_size", self.batch_size, at_least=1)
        _check.number("lr", self.lr, above=0)
        if self.shuffle is not None:
            _check.integer("shuffle", self.shuffle, at_least=0)
        if _check.number("momentum", self.momentum, at_least=0) >= 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")
        _check.number("weight_decay", self.weight_decay, at_least=0)
        _check.number("decay", self.decay, above=0, at_most=1)

    def turn(self, step: int) -> FedAvg:
        later = self if self.decay == 1 else replace(self, lr=self.lr * self.decay**step)
        if self.shuffle is None:
            return later
        return replace(later, shuffle=turned(self.shuffle, step))

    def own(self, client: int) -> FedAvg:
        return self if self.shuffle is None else replace(self, shuffle=owned(self.shuffle, client))

    def observed(self, payload: Payload) -> FedAvg:
        return replace(self, shuffle=None)

    def average_gradient(self, start: models.Parameters, delta: models.Parameters, steps: int) -> models.Parameters:
        """The mean of the gradients behind a difference of U = ``steps`` steps: exact for one step.

        Momentum repeats the gradient of step u = 1 .. U with the weight (1 - momentum^(U-u+1)) / (1 - momentum); the
        mean is taken with these weights. Weight decay adds weight_decay theta_u to each gradient; it is taken off along
        the straight line from ``start``. Without either this is delta / (lr U).
        """
        left = torch.arange(steps, 0, -1, dtype=torch.float64)
        weights = (1 - self.momentum**left) / (1 - self.momentum)
        total = float(weights.sum())
        found = {name: part / (self.lr * total) for name, part in delta.items()}
        if not self.weight_decay:
            return found
        gone = float((weights * (1 - left / steps)).sum()) / total  # of the way from start, on the weighted average
        pull = {name: self.weight_decay * (start[name].to(part) - gone * part) for name, part in delta.items()}
        return {name: part - pull[name] for name, part in found.items()}

    def _client(self, model, images, labels, params=None, graph=None):
        graph = _wants_graph(images, graph)
        start = params = models.parameters(model, images.dtype) if params is None else params
        speed = None
        for xs, ys in self._epochs(images, labels):
            for x, y in zip(xs.split(self.batch_size), ys.split(self.batch_size), strict=True):
                grads = models.gradient(model, params, x, y, create_graph=graph)
                params, speed = self.step(params, speed, grads)
        return {name: start[name] - p if graph else (start[name] - p).detach() for name, p in params.items()}

    def step(
        self, params: models.Parameters, speed: models.Parameters | None, grads: models.Parameters
    ) -> tuple[models.Parameters, models.Parameters | None]:
        """Parameters and velocity after one local step; a velocity of None is 0."""
        if self.weight_decay:
            grads = {name: g + self.weight_decay * params[name] for name, g in grads.items()}
        if self.momentum:
            grads = speed = grads if speed is None else {n: self.momentum * speed[n] + g for n, g in grads.items()}
        return {name: p - self.lr * grads[name] for name, p in params.items()}, speed

    def _epochs(self, images: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and labels of every epoch, in its order."""
        for order in self._orders(len(images)):
            yield (images, labels) if order is None else (images[order], labels[order])

    def _orders(self, count: int) -> list[torch.Tensor | None]:
        """The order of the images in every epoch; None: as they come."""
        if self.shuffle is None:
            return [None] * self.epochs
        generator = torch.Generator().manual_seed(self.shuffle)
        return [torch.randperm(count, generator=generator) for _ in range(self.epochs)]


@dataclass(frozen=True)
class ZerothOrder(Protocol):
    """K slopes of the batch loss along public random directions (DeComFL, Li et al. 2024).

    ``transmit`` takes finite differences; ``simulate`` the exact directional derivatives, which are cheaper and differ
    by the differences' truncation and round-off.

    Args:
        directions: number of scalars K, 1 or more.
        mu: smoothing step, above 0, in units of the parameters times the direction's length.
        scheme: ``"central"``, ``"forward"`` or ``"exact"``.
        law: ``"unit"`` (directions of length one) or ``"gaussian"`` (length about sqrt(d)).
        dtype: ``"float32"`` or ``"float64"``: the precision in which the client evaluates its loss.
        seed: public seed of the directions.
        memory: bytes of directions that may be kept (not part of the protocol; a matter of the machine).
    """

    directions: int = 64
    mu: float | int = 1e-3
    scheme: str = "central"
    law: str = "unit"
    dtype: str = "float32"
    seed: int = 0
    memory: int = zo.MEMORY
    kind = "scalars"

    def __post_init__(self) -> None:
        _check.integer("directions", self.directions, at_least=1)
        _check.number("mu", self.mu, above=0)
        _check.choice("scheme", self.scheme, zo.SCHEMES)
        _check.choice("law", self.law, zo.LAWS)
        _check.choice("dtype", self.dtype, zo.DTYPES)
        _check.integer("seed", self.seed, at_least=0)
        _check.integer("memory", self.memory, at_least=0)

    def turn(self, step: int) -> ZerothOrder:
        return replace(self, seed=self.seed + SEEDS_APART * step)

    def draw(self, model: nn.Module) -> zo.Directions:
        """The public directions for this model, on its device."""
        params = models.parameters(model)
        dim, device = sum(p.numel() for p in params.values()), next(iter(params.values())).device
        return zo.Directions(self.seed, self.directions, dim, self.law, device=device, memory=self.memory)

    def of_each(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, directions: Any) -> torch.Tensor:
        """The scalars of every image by itself, (K, B): what a client computes that bounds or draws its images."""
        how = {"mu": self.mu, "scheme": self.scheme, "dtype": zo.DTYPES[self.dtype], "each": True}
        return zo.slopes(model, images, labels, self.draw(model) if directions is None else directions, **how)

    def _client(self, model, images, labels, params=None, graph=None, directions=None):
        how = {"mu": self.mu, "scheme": self.scheme, "dtype": zo.DTYPES[self.dtype], "params": params}
        return zo.slopes(model, images, labels, self.draw(model) if directions is None else directions, **how)

    def _simulate(self, model, images, labels, params, directions):
        directions = self.draw(model) if directions is None else directions
        return zo.exact_slopes(model, images, labels, directions, dtype=images.dtype, params=params)
