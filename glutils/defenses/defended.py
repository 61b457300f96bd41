"""A protocol whose clients defend themselves, which is a protocol too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .. import _validate, models, zo
from ..protocols import CLIENTS_APART, Payload, Protocol, derive_seed
from .base import Defense

STEPS_APART = 15_485_863  # between the private seeds of steps


@dataclass(frozen=True)
class Defended(Protocol):
    """A protocol whose clients defend themselves; is a protocol too.

    It answers all that :class:`~glutils.protocols.Protocol` declares, and hands on what everybody needs to know of a
    zeroth-order protocol within (``directions``, ``mu``, ``scheme``, ``law``, ``dtype``, ``seed``). Whatever else the
    protocol within has is to be asked of :attr:`undefended`.

    Attributes:
        protocol: the protocol within.
        defense: one defence, or several in the order in which they are applied.
        private: seed of the client's own randomness. An observation does not contain it.
        memory: what the client kept of its last message, by number of the defence (error feedback). As private.

    Example:
        >>> import glutils as gl
        >>> noise = gl.defenses.get("gaussian_noise", sigma=0.01)
        >>> protected = gl.defenses.Defended(gl.protocols.ZerothOrder(directions=8), noise)
        >>> protected.kind, protected.directions, protected.undefended.mu
        ('scalars', 8, 0.001)
    """

    protocol: Any
    defense: Any
    private: Any = 0
    memory: Any = None

    def __post_init__(self) -> None:
        _validate.instance("protocol", self.protocol, Protocol)
        if not self.defenses:
            raise ValueError("defense must be a defence, or several in a tuple, got an empty tuple")
        for entry in self.defenses:
            _validate.instance("defense", entry, Defense)
            if self.protocol.kind not in entry.kinds:
                allowed = " or ".join(entry.kinds)
                raise ValueError(
                    f"defence {entry} protects payloads of kind {allowed}, {type(self.protocol).__name__} sends "
                    f"{self.protocol.kind!r}"
                )
        for entry in self.defenses[1:]:
            if entry.needs_data:
                raise ValueError(f"{entry} must be the first defence: it needs the client's images")
        if self.protocol.keeps_memory:
            raise ValueError(f"protocol must not remember, got {self.protocol}: put all defences into one tuple")
        if self.private is not None:
            _validate.integer("private", self.private, at_least=0)

    @property
    def defenses(self) -> tuple[Any, ...]:
        """The defences, in order."""
        return self.defense if isinstance(self.defense, tuple) else (self.defense,)

    @property
    def undefended(self) -> Protocol:
        return self.protocol.undefended

    @property
    def kind(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  (read only, as in a frozen dataclass)
        return self.protocol.kind

    @property
    def criterion(self) -> models.losses.Loss:
        return self.protocol.criterion

    # --- messages ---

    def check(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None) -> None:
        self.protocol.check(model, images, labels)
        for entry in self.defenses:
            if not (images.is_floating_point() or entry.of_tokens):
                raise ValueError(f"defence {entry} works on the entries of images and tables, got tokens")
            entry.check(self.protocol, model)

    def transmit_with_memory(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        directions: zo.Directions | None = None,
    ) -> tuple[Payload, Any]:
        if len(images) or self.public_count is None:
            self.check(model, images, labels)
        if self.private is None:
            raise ValueError("private must be the client's seed to transmit; the adversary's copy does not have it")
        generator = torch.Generator().manual_seed(self.private)
        how = {} if directions is None else {"directions": directions}
        memory, start = {}, 0
        if self.defenses[0].needs_data:
            payload, start = self.defenses[0].client(self.protocol, model, images, labels, generator, **how), 1
        else:
            payload = self.protocol.transmit(model, images, labels, **how)
        for number, entry in enumerate(self.defenses[start:], start):
            payload, memory[number] = entry.apply_with_memory(payload, generator, (self.memory or {}).get(number))
        return payload, memory if self.keeps_memory else None

    def simulate(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        params: models.Parameters | None = None,
        directions: zo.Directions | None = None,
    ) -> Payload:
        how = {} if directions is None else {"directions": directions}
        first, *others = self.defenses
        with torch.enable_grad():
            payload = first.attacker(self.protocol, model, images, labels, params, how)
            for entry in others:
                payload = entry.simulate(payload)
        return payload

    # --- the same protocol in other hands ---

    def for_round(self, step: int) -> Defended:
        private = None if self.private is None else derive_seed(self.private, step, STEPS_APART)
        return replace(self, protocol=self.protocol.for_round(step), private=private)

    def with_seed(self, seed: int) -> Defended:
        return replace(self, protocol=self.protocol.with_seed(seed))

    def for_client(self, client: int) -> Defended:
        private = None if self.private is None else derive_seed(self.private, client + 1, CLIENTS_APART)
        return replace(self, protocol=self.protocol.for_client(client), private=private)

    def with_memory(self, memory: Any) -> Defended:
        return replace(self, memory=memory)

    @property
    def keeps_memory(self) -> bool:
        """Whether one of the defences keeps something for the client's next message."""
        return any(entry.keeps_memory for entry in self.defenses)

    def public_view(self, payload: Payload) -> Defended:
        known = tuple(entry.as_seen(payload) for entry in self.defenses)
        return replace(self, protocol=self.protocol.public_view(payload), defense=known, private=None, memory=None)

    def averages_with(self, other: Protocol) -> bool:
        """Whether the other is defended too, and payloads of the protocols within may be averaged."""
        if not isinstance(other, Defended):
            return False
        return super().averages_with(other) and self.protocol.averages_with(other.protocol)

    # --- what can be asked of the messages ---

    @property
    def keeps_linearity(self) -> bool:
        return self.protocol.keeps_linearity and all(entry.keeps_linearity for entry in self.defenses)

    @property
    def public_seed(self) -> int | None:
        return self.protocol.public_seed

    def draw(self, model: nn.Module) -> zo.Directions:
        return self.protocol.draw(model)

    def linearisation_state(
        self, params: models.Parameters, payload: Payload, directions: zo.Directions
    ) -> models.Parameters:
        return self.protocol.linearisation_state(params, payload, directions)

    def directions_as_computed(self, params: models.Parameters, directions: zo.Directions) -> zo.Directions:
        return self.protocol.directions_as_computed(params, directions)

    def left_behind(self, params: models.Parameters, directions: zo.Directions) -> models.Parameters:
        return self.protocol.left_behind(params, directions)

    @property
    def arithmetic(self) -> zo.Arithmetic:
        return self.protocol.arithmetic

    def scalar_weights(self, payload: Payload) -> torch.Tensor | None:
        """Which scalars of an observed payload came through all defences, see :meth:`Defense.scalar_weights`.

        What was cut can be told from the last defence alone: after any other it is hidden.
        """
        return self.defenses[-1].scalar_weights(payload)

    def noise(self, payload: Payload, images: int) -> float:
        return sum(entry.noise(payload, images) ** 2 for entry in self.defenses) ** 0.5

    @property
    def image_bound(self) -> float | None:
        """Where the first defence cuts the slope of every single image, see :class:`~glutils.defenses.DPScalars`."""
        return self.defenses[0].image_bound

    @property
    def public_count(self) -> float | None:
        """That of the first defence, which meets the images."""
        return self.defenses[0].public_count

    @property
    def mean_bound(self) -> float | None:
        """Where scalars are cut before another defence, noise say, hides which of them were; None if nowhere."""
        bounds = [entry.mean_bound for entry in self.defenses[:-1] if entry.mean_bound is not None]
        return min(bounds) if bounds else None

    # --- local training ---

    def local_steps(self, images: int) -> int:
        return self.protocol.local_steps(images)

    @property
    def sums_gradients(self) -> bool:
        return self.protocol.sums_gradients

    @property
    def local_batch_size(self) -> int | None:
        return self.protocol.local_batch_size

    @property
    def step_size(self) -> float | None:
        return self.protocol.step_size

    # --- of a zeroth-order protocol within ---

    @property
    def directions(self) -> int:
        """The protocol's own."""
        return self.protocol.directions

    @property
    def mu(self) -> float | int:
        """The protocol's own."""
        return self.protocol.mu

    @property
    def scheme(self) -> str:
        """The protocol's own."""
        return self.protocol.scheme

    @property
    def law(self) -> str:
        """The protocol's own."""
        return self.protocol.law

    @property
    def dtype(self) -> str:
        """The protocol's own."""
        return self.protocol.dtype

    @property
    def seed(self) -> int:
        """The protocol's own."""
        return self.protocol.seed
