"""What a client sends: three protocols, each a pure function of model, images and labels.

``transmit`` is what the honest client computes on its private batch. ``simulate`` is its twin for the attacker: the
same function, differentiable in images (and in soft labels), or a cheaper function with the same value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .. import _validate, models, zo

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
        _validate.images_and_labels(images, labels, getattr(model, "classes", None))
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
