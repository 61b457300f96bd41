"""The interface of a defence, and the registry of defences by name."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

import torch
from torch import nn

from .. import _validate, models
from .._registry import Registry
from ..protocols import Payload, Protocol

DEFENSES = Registry("defence")


class Defense:
    """Base of all defences. Subclasses are frozen dataclasses that check their arguments when they are made.

    A defence has two sides, as a protocol has. :meth:`client` is what the honest client does. :meth:`simulate` is what
    an attacker who knows the defence does with the payload of its dummy images: the deterministic part, and the
    expectation of the noise. Strength and rule of a defence are public; its random numbers are not.

    Attributes:
        kinds: payload kinds that it can protect.
        title: name in print.
        needs_data: whether it needs the client's images, not the payload alone; so it has to be the first of several.
        keeps_linearity: whether scalars that it has passed are still slopes, up to noise of a known size.
        of_tokens: whether clients can use it whose records are tokens, which cannot be mixed or differentiated.
    """

    kinds: tuple[str, ...] = ("gradient", "delta", "scalars")
    title: str = ""
    needs_data: bool = False
    keeps_linearity: bool = True
    of_tokens: bool = True

    @property
    def image_bound(self) -> float | None:
        """Where it cuts every single image's slope before the mean is taken; None: nowhere."""
        return None

    @property
    def gradient_bound(self) -> float | None:
        """The length to which it cuts every single image's gradient before the mean is taken; None: it does not."""
        return None

    @property
    def message_bound(self) -> float | None:
        """The length to which it cuts a message as a whole, by a factor that nobody else knows; None: it does not."""
        return None

    @property
    def public_count(self) -> float | None:
        """Public number by which it divides a sum over images, whatever their number; None: it takes their mean."""
        return None

    @property
    def mean_bound(self) -> float | None:
        """Where it cuts scalars; None: nowhere."""
        return None

    @property
    def keeps_memory(self) -> bool:
        """Whether :meth:`apply_with_memory` keeps something for the next message."""
        return False

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

    def apply_with_memory(self, payload: Payload, generator: torch.Generator, memory: Any) -> tuple[Payload, Any]:
        """:meth:`apply` for a client that keeps a memory: what leaves it, and what it keeps for its next message.

        ``memory`` is what it kept of the last one, None before the first. By default nothing is kept.
        """
        return self.apply(payload, generator), None

    def as_seen(self, payload: Payload) -> Defense:
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

    def scalar_weights(self, payload: Payload) -> torch.Tensor | None:
        """Of scalars: 0 for those of which this defence has left nothing, 1 for the others, (K,); None: all count."""
        return None


def names() -> list[str]:
    """Names that :func:`get` accepts.

    Example:
        >>> import glutils as gl
        >>> gl.defenses.names()[:3]
        ['clip', 'clip_scalars', 'dpsgd']
    """
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


def last_matrix(payload: Payload) -> str:
    """Name of the last linear layer's weights among named tensors, as an adversary finds it without the model."""
    return [name for name, tensor in payload.items() if tensor.dim() == 2][-1]


def random_like(tensor: torch.Tensor, generator: torch.Generator, law: str = "normal") -> torch.Tensor:
    """Standard normal or uniform (0, 1) numbers, drawn on the CPU, so that every device sees the same."""
    draw = torch.randn if law == "normal" else torch.rand
    return draw(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)


def laplace_like(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Laplace numbers of standard deviation 1, drawn as :func:`random_like` draws."""
    uniform = random_like(tensor, generator, "uniform") - 0.5
    spread = (1 - 2 * uniform.abs()).clamp_min(torch.finfo(tensor.dtype).tiny)
    return -uniform.sign() * spread.log() / 2**0.5  # scale 1 / sqrt(2)


def no_batchnorm(model: nn.Module, who: str) -> None:
    """Refuse a model with batch norm, under which no record has a share of its own that could be bounded."""
    if models.batchnorm_mode(model) is not None:
        raise ValueError(
            f"model must have no batch norm for {who}: it mixes the images of a batch, so no image's share can be "
            f"bounded; use a model without, or group norm"
        )


def check_expected(expected: float | int | None) -> None:
    """Check the public number by which a sum is divided; None is none."""
    if expected is not None:
        _validate.number("expected", expected, above=0)
