"""The interface of a protocol: what a client sends, what an adversary simulates, and what both may ask about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .. import _validate, models, zo
from .payload import Payload

SEEDS_APART = 7919  # between the public seeds of consecutive steps
CLIENTS_APART = 104_729  # between the private seeds of clients


class Protocol:
    """Base of all protocols. Subclasses are frozen dataclasses; ``dataclasses.replace`` works on them.

    A subclass computes numbers in ``_client`` (and in ``_simulate``, where the attacker has a cheaper way to the same),
    names their ``kind``, and overrides of the rest what differs from what is said here. Whoever needs to know what a
    protocol can do asks its properties, never its type, so that a protocol of your own takes the right way by what it
    declares.

    Attributes:
        kind: what the payload is: ``"gradient"`` (named tensors), ``"delta"`` (named parameter differences) or
            ``"scalars"`` (a vector).
    """

    kind: str

    # --- messages ---

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
            labels: (B,) int64 class indices, or (B, classes) probabilities; what :attr:`criterion` takes, if that is
                another loss than cross entropy.
            directions: what :meth:`draw` gave, to save that protocol from drawing again for every client.

        Raises:
            TypeError, ValueError: wrong shapes, dtypes or labels; an active dropout layer; batch norm layers in
                different modes.

        Example:
            >>> import glutils as gl
            >>> batch = gl.data.sample("digits", count=2, seed=0)
            >>> model = gl.models.build("mlp", batch, seed=0)
            >>> gl.protocols.ZerothOrder(directions=3).transmit(model, batch.images, batch.labels).shape
            torch.Size([3])
        """
        return self.transmit_with_memory(model, images, labels, directions=directions)[0]

    def transmit_with_memory(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        directions: zo.Directions | None = None,
    ) -> tuple[Payload, Any]:
        """What :meth:`transmit` returns, and what the client keeps, without sending it, for :meth:`with_memory`."""
        self.check(model, images, labels)
        how: dict[str, Any] = {} if directions is None else {"directions": directions}
        return self.payload(self._client(model, images, labels, **how), model), None

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
            return self.payload(self._simulate(model, images, labels, params, directions), model)

    def payload(self, numbers: torch.Tensor | models.Parameters, model: nn.Module) -> Payload:
        """``numbers`` as a message of this protocol about ``model`` in the mode that it is in."""
        return Payload(self.kind, numbers, models.batchnorm_mode(model))

    def check(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None) -> None:
        """Refuse arguments that cannot work, before any work; labels of None are not looked at."""
        _validate.instance("model", model, nn.Module)
        _validate.records(images)
        if labels is not None:
            _validate.instance("labels", labels, torch.Tensor)
        shape = getattr(model, "shape", None)
        if shape is not None and tuple(images.shape[1:]) != tuple(shape):
            raise ValueError(f"images must have shape (B, {', '.join(map(str, shape))}), got {tuple(images.shape)}")
        device = next((p.device for p in model.parameters()), images.device)
        if images.device != device or (labels is not None and labels.device != device):
            other = device if labels is None else labels.device
            raise ValueError(f"images and labels must be on the model's device {device}, got {images.device}, {other}")
        outputs, named = models.outputs(model, images), getattr(model, "classes", None)
        if isinstance(named, int) and named != outputs[-1]:
            raise ValueError(f"model must give one logit for each of its {named} classes, gives {outputs[-1]}")
        if labels is not None:
            self.criterion.check(outputs, labels)

    def _client(self, model, images, labels, params=None, graph: bool | None = None):
        """The numbers that an honest client sends: a vector, or named tensors."""
        raise NotImplementedError

    def _simulate(self, model, images, labels, params, directions):
        """The same numbers for the attacker, with a graph."""
        return self._client(model, images, labels, params, graph=True)

    @property
    def criterion(self) -> models.losses.Loss:
        """The loss that clients minimise; by default cross entropy."""
        return models.losses.DEFAULT

    # --- the same protocol in other hands ---

    def for_round(self, step: int) -> Protocol:
        """The protocol in a later step of a run: what is drawn anew there has another seed."""
        return self

    def with_seed(self, seed: int) -> Protocol:
        """The protocol with this public seed, as a server's log names it; ``TypeError`` for a protocol without."""
        raise TypeError(f"protocol must have a public seed for that, got {self}")

    def for_client(self, client: int) -> Protocol:
        """The protocol as this client runs it: what it draws in private has a seed of its own."""
        return self

    def with_memory(self, memory: Any) -> Protocol:
        """The protocol of a client that kept this of its last message; None before the first."""
        return self

    @property
    def keeps_memory(self) -> bool:
        """Whether clients keep something of a message for the next one (error feedback)."""
        return False

    def public_view(self, payload: Payload) -> Protocol:
        """The protocol as an adversary knows it that has seen a payload: without what is private to the client."""
        return self

    def averages_with(self, other: Protocol) -> bool:
        """Whether payloads of the two may be averaged: by default if they are of one class, and of one loss."""
        return self.__class__ is other.__class__ and self.kind == other.kind and self.criterion == other.criterion

    # --- what can be asked of the messages ---

    @property
    def linear_in_gradient(self) -> bool:
        """Whether the payload is a fixed linear function of one gradient, at one state.

        Then the weighted mean of many clients' messages is one message about all of their images, weighted.
        """
        return False

    @property
    def exact_gradient(self) -> bool:
        """Whether the payload is the gradient of the batch loss itself."""
        return False

    @property
    def answers_slopes(self) -> bool:
        """Whether the payload holds plain slopes of the batch loss, along directions that a public seed gives."""
        return False

    @property
    def keeps_linearity(self) -> bool:
        """Whether scalars that it sends are still slopes, up to noise of a known size."""
        return True

    @property
    def public_seed(self) -> int | None:
        """Seed from which everybody draws the directions; None: there are none, or they are secret."""
        return None

    def draw(self, model: nn.Module) -> zo.Directions:
        """The public directions for this model, on its device; ``TypeError`` for a protocol without."""
        raise TypeError(f"protocol must have public directions for that, got {self}")

    def linearisation_state(
        self, params: models.Parameters, payload: Payload, directions: zo.Directions
    ) -> models.Parameters:
        """The state at which a payload's slopes are to be taken, as far as an adversary can tell, given the global one.

        By default ``params`` themselves.
        """
        return params

    def directions_as_computed(self, params: models.Parameters, directions: zo.Directions) -> zo.Directions:
        """The directions along which a client at ``params`` really looked, as far as an adversary can tell.

        By default ``directions``, what :meth:`draw` gave. In half precision, and where parameters are perturbed in
        place, rounding leads elsewhere.
        """
        return directions

    def left_behind(self, params: models.Parameters, directions: zo.Directions) -> models.Parameters:
        """What a message leaves of the parameters ``params`` before the step is taken.

        By default ``params`` themselves; moved by round-off where they are perturbed in place. Everybody who knows the
        directions can compute it, and a replay starts there.
        """
        return params

    @property
    def arithmetic(self) -> zo.Arithmetic:
        """How a client computes its scalars, down to the rounding; ``TypeError`` for a protocol that sends none."""
        raise TypeError(f"protocol must be of slopes along directions for that, got {self}")

    def scalar_weights(self, payload: Payload) -> torch.Tensor | None:
        """Of scalars: 0 for those of which a defence has left nothing, 1 for the others, (K,); None: all count."""
        return None

    def noise(self, payload: Payload, images: int) -> float:
        """Standard deviation of noise that clients are known to add to each number of a payload about ``images``."""
        return 0.0

    @property
    def image_bound(self) -> float | None:
        """Of scalars: the greatest slope that one image may contribute to a mean, if a defence cuts it there."""
        return None

    @property
    def public_count(self) -> float | None:
        """Public number by which a defence divides its sum over images, even over none; None: it takes means."""
        return None

    @property
    def mean_bound(self) -> float | None:
        """Of scalars: where a defence cuts them before another one hides which of them were cut."""
        return None

    # --- local training ---

    def local_steps(self, images: int) -> int:
        """Steps that a client takes by itself for one message about so many images."""
        return 1

    @property
    def stackable(self) -> bool:
        """Whether its clients do plain local training as :class:`FedAvg` has it, which many can do as one stack."""
        return False

    @property
    def sums_gradients(self) -> bool:
        """Whether a difference that it sends is a weighted sum of gradients: not with steps of Adam."""
        return True

    @property
    def local_batch_size(self) -> int | None:
        """Images of each of the client's own steps; None: all that it was given."""
        return None

    @property
    def step_size(self) -> float | None:
        """Of the steps that a parameter difference is made of; None: the server brings its own."""
        return None

    def average_gradient(
        self, start: models.Parameters, delta: Payload | models.Parameters, steps: int
    ) -> models.Parameters:
        """The mean of the gradients behind a parameter difference; ``TypeError`` for protocols that send none."""
        raise TypeError(f"protocol must send parameter differences for that, got {self}")

    # --- defences ---

    @property
    def defenses(self) -> tuple[Any, ...]:
        """The client's defences, in the order in which they are applied."""
        return ()

    @property
    def undefended(self) -> Protocol:
        """The protocol within all defences."""
        return self


def derive_seed(seed: int, number: int, apart: int = SEEDS_APART) -> int:
    """A client's private seed at a step, ``apart`` from that of the next step, or that of one of the clients."""
    return (seed + apart * number) % 2**62


def _wants_graph(images: torch.Tensor, graph: bool | None) -> bool:
    return (images.requires_grad and torch.is_grad_enabled()) if graph is None else graph
