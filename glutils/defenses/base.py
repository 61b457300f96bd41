"""What a defence is, and how it wraps a protocol."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, replace
from typing import Any

import torch
from torch import nn

from .. import _validate, models
from .._registry import Registry
from ..protocols import NamedTensors, Payload, Protocol, owned, turned

DEFENSES = Registry("defence")
STEPS_APART = 15_485_863  # between the private seeds of steps


class Defense:
    """Base of all defences. Subclasses are frozen dataclasses that check their arguments when they are made.

    A defence has two sides, as a protocol has. :meth:`client` is what the honest client does. :meth:`simulate` is what
    an attacker who knows the defence does with the payload of its dummy images: the deterministic part, and the
    expectation of the noise. Strength and rule of a defence are public; its random numbers are not.

    Attributes:
        kinds: payload kinds that it can protect.
        title: name in print.
        first: whether it has to be the first of several, because it needs more than the payload.
        slopes: whether scalars that it has passed are still slopes, up to noise of a known size.
        each_bound: where it cuts every single image's slope before the mean is taken, if it does.
        mean_bound: where it cuts scalars, if it does.
    """

    kinds: tuple[str, ...] = ("gradient", "delta", "scalars")
    title: str = ""
    first: bool = False
    slopes: bool = True
    each_bound: float | None = None
    mean_bound: float | None = None

    def check(self, protocol: Protocol, model: nn.Module) -> None:
        """Refuse a protocol or a model that this defence cannot protect; by default nothing more is asked."""

    def client(
        self,
        protocol: Protocol,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        **how: Any,
    ) -> Payload:
        """What leaves the client: by default :meth:`apply` to what the protocol sends."""
        return self.apply(protocol.transmit(model, images, labels, **how), generator)

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        """The defended payload; ``generator`` is the client's own."""
        raise NotImplementedError

    remembers: Any = False
    """Whether :meth:`carry` keeps something for the next message."""

    def carry(self, payload: Payload, generator: torch.Generator, memory: Any) -> tuple[Payload, Any]:
        """:meth:`apply` for a client that remembers: what leaves it, and what it keeps for its next message.

        ``memory`` is what it kept of the last one, None before the first. By default nothing is kept.
        """
        return self.apply(payload, generator), None

    def informed(self, payload: Payload) -> Defense:
        """This defence as the adversary knows it once it has seen a payload (the mask that was used, say)."""
        return self

    def simulate(self, payload: Payload) -> Payload:
        """The attacker's twin of :meth:`apply`, differentiable in the payload; by default nothing: noise has mean 0."""
        return payload

    def attacker(
        self,
        protocol: Protocol,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        params: models.Parameters | None,
        how: dict[str, Any],
    ) -> Payload:
        """The attacker's twin of :meth:`client`: by default :meth:`simulate` of what the protocol would send."""
        return self.simulate(protocol.simulate(model, images, labels, params=params, **how))

    def noise(self, payload: Payload, images: int) -> float:
        """Standard deviation of what :meth:`simulate` leaves out of each number of an observed payload.

        ``images`` is the size of the batch that the payload is about.
        """
        return 0.0

    def weights(self, payload: torch.Tensor) -> torch.Tensor | None:
        """Of scalars: 0 for those of which this defence has left nothing, 1 for the others, (K,); None: all count."""
        return None


@dataclass(frozen=True)
class Defended(Protocol):
    """A protocol whose clients defend themselves; is a protocol too.

    Attributes:
        protocol: the protocol within. What is not defined here (``directions``, ``seed``, ``lr``, ...) is its own.
        defense: one defence, or several in the order in which they are applied.
        private: seed of the client's own randomness. An observation does not contain it.
        memory: what the client kept of its last message, by number of the defence (error feedback). As private.
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
            if entry.first:
                raise ValueError(f"{entry} must be the first defence: it needs the client's images")
        if self.protocol.remembers:
            raise ValueError(f"protocol must not remember, got {self.protocol}: put all defences into one tuple")
        if self.private is not None:
            _validate.integer("private", self.private, at_least=0)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "protocol" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["protocol"], name)

    @property
    def defenses(self) -> tuple:
        """The defences, in order."""
        return self.defense if isinstance(self.defense, tuple) else (self.defense,)

    @property
    def kind(self) -> str:
        return self.protocol.kind

    @property
    def each_bound(self) -> float | None:
        """Where the first defence cuts the slope of every single image, see :class:`~glutils.defenses.DPScalars`."""
        return self.defenses[0].each_bound

    @property
    def mean_bound(self) -> float | None:
        """Where scalars are cut before another defence, noise say, hides which of them were; None if nowhere."""
        bounds = [entry.mean_bound for entry in self.defenses[:-1] if entry.mean_bound is not None]
        return min(bounds) if bounds else None

    def check(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.protocol.check(model, images, labels)
        for entry in self.defenses:
            entry.check(self.protocol, model)

    def _client(self, model, images, labels, params=None, graph=None, directions=None) -> Payload:
        if self.private is None:
            raise ValueError("private must be the client's seed to transmit; the adversary's copy does not have it")
        generator = torch.Generator().manual_seed(self.private)
        how = {} if directions is None else {"directions": directions}
        kept, start = {}, 0
        if self.defenses[0].first:
            payload, start = self.defenses[0].client(self.protocol, model, images, labels, generator, **how), 1
        else:
            payload = self.protocol.transmit(model, images, labels, **how)
        for number, entry in enumerate(self.defenses[start:], start):
            payload, kept[number] = entry.carry(payload, generator, (self.memory or {}).get(number))
        if self.remembers:
            payload = NamedTensors(payload)
            payload.kept = kept
        return payload

    def _simulate(self, model, images, labels, params, directions) -> Payload:
        how = {} if directions is None else {"directions": directions}
        first, *others = self.defenses
        payload = first.attacker(self.protocol, model, images, labels, params, how)
        for entry in others:
            payload = entry.simulate(payload)
        return payload

    def turn(self, step: int) -> Defended:
        private = None if self.private is None else turned(self.private, step, STEPS_APART)
        return replace(self, protocol=self.protocol.turn(step), private=private)

    def own(self, client: int) -> Defended:
        return replace(self, protocol=self.protocol.own(client), private=owned(self.private, client))

    @property
    def remembers(self) -> bool:
        """Whether one of the defences keeps something for the client's next message."""
        return any(entry.remembers for entry in self.defenses)

    def remembering(self, kept: Any) -> Defended:
        return replace(self, memory=kept)

    def observed(self, payload: Payload) -> Defended:
        known = tuple(entry.informed(payload) for entry in self.defenses)
        return replace(self, protocol=self.protocol.observed(payload), defense=known, private=None, memory=None)

    def noise(self, payload: Payload, images: int) -> float:
        return sum(entry.noise(payload, images) ** 2 for entry in self.defenses) ** 0.5

    def weights(self, payload: torch.Tensor) -> torch.Tensor | None:
        """Which scalars of an observed payload came through all defences, see :meth:`Defense.weights`.

        What was cut can be told from the last defence alone: after any other it is hidden.
        """
        found = [w for entry in self.defenses[-1:] if (w := entry.weights(payload)) is not None]
        return torch.stack(found).amin(0) if found else None


def names() -> list[str]:
    """Names that :func:`get` accepts."""
    return DEFENSES.names()


def get(name: str, **strength: Any) -> Defense:
    """The defence called ``name``, with its strength.

    Raises:
        ValueError, TypeError: an unknown name or option, or a strength out of its range.

    Example:
        >>> import glutils as gl
        >>> noise = gl.defenses.get("gaussian_noise", sigma=0.01)
        >>> protected = gl.defenses.Defended(gl.protocols.FedSGD(), noise)
        >>> protected.kind, noise.sigma
        ('gradient', 0.01)
    """
    make = DEFENSES.get(name)
    allowed = list(make.__dataclass_fields__)
    for option in strength:
        if option not in allowed:
            raise TypeError(f"defence {name!r} has no option {option!r}; its options: {', '.join(allowed) or 'none'}")
    needed = [n for n, f in make.__dataclass_fields__.items() if f.default is MISSING and n not in strength]
    if needed:
        raise TypeError(f"defence {name!r} needs {', '.join(needed)}")
    return make(**strength)


def flat(payload: Payload) -> torch.Tensor:
    """All numbers of a payload, shape (n,)."""
    return payload.reshape(-1) if isinstance(payload, torch.Tensor) else models.flatten(payload)


def unflat(vector: torch.Tensor, payload: Payload) -> Payload:
    """The inverse of :func:`flat`."""
    return vector.view(payload.shape) if isinstance(payload, torch.Tensor) else models.unflatten(vector, payload)


def last_matrix(payload: models.Parameters) -> str:
    """Name of the last linear layer's weights among named tensors, as an adversary finds it without the model."""
    return [name for name, tensor in payload.items() if tensor.dim() == 2][-1]


def random_like(tensor: torch.Tensor, generator: torch.Generator, law: str = "normal") -> torch.Tensor:
    """Standard normal or uniform (0, 1) numbers, drawn on the CPU, so that every device sees the same."""
    draw = torch.randn if law == "normal" else torch.rand
    return draw(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
