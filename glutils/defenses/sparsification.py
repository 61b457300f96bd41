"""Sending only some of the numbers: the largest ones, or random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from .. import _validate
from ..protocols import Payload
from .base import DEFENSES, Defense

SCOPES = ("global", "tensor")


@dataclass(frozen=True)
class Masked(Defense):
    """What the adversary makes of a sparse payload: it compares the numbers that were sent, and no others.

    Args:
        mask: 1 where a number was sent, 0 elsewhere; a payload like the one that was seen.
    """

    mask: Payload
    title = "Known mask"

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        return self.simulate(payload)

    def simulate(self, payload: Payload) -> Payload:
        return payload * replace(self.mask, mode=payload.mode).to(payload.numbers[0])


@dataclass(frozen=True)
class _Sparse(Defense):
    keep: float | int
    kinds = ("gradient", "delta")

    def __post_init__(self) -> None:
        _validate.number("keep", self.keep, above=0, at_most=1)

    def as_seen(self, payload: Payload) -> Masked:
        return Masked(payload.map(lambda tensor: (tensor != 0).to(tensor.dtype)))

    def _count(self, tensor: torch.Tensor) -> int:
        return max(1, math.ceil(float(self.keep) * tensor.numel()))


@DEFENSES.register("topk")
@dataclass(frozen=True)
class TopK(_Sparse):
    """The largest numbers, by absolute value; zeros for all others (Aji and Heafield 2017; DGC, Lin et al. 2018).

    The adversary sees which numbers are zero, and matches the others alone.

    Args:
        keep: fraction that is sent, above 0, at most 1; at least one number.
        scope: ``"global"``: the largest of all tensors together; ``"tensor"``: that fraction of every tensor.
        feedback: error feedback (Seide et al. 2014; Stich et al. 2018): what is not sent is kept by the client and
            added to its next message before the largest are chosen. In a training run every client has its own
            memory, which starts empty; a single message has none. The adversary sees the zeros, not the memory: it
            compares the numbers that were sent with one gradient, though they hold parts of earlier ones.

    Deviations: no momentum correction, no warm-up of ``keep``.
    """

    scope: str = "global"
    feedback: bool = False
    title = "Top-k"

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.choice("scope", self.scope, SCOPES)
        _validate.instance("feedback", self.feedback, bool)

    @property
    def keeps_memory(self) -> bool:
        return self.feedback

    def apply_with_memory(self, payload, generator, memory):
        if not self.feedback:
            return self.apply(payload, generator), None
        whole = payload if memory is None else payload + memory
        sent = self.apply(whole, generator)
        return sent, (whole - sent).detach()

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        if self.scope == "global":
            return payload.with_flat(self._largest(payload.flat))
        return payload.map(self._largest)

    def _largest(self, tensor: torch.Tensor) -> torch.Tensor:
        values = tensor.reshape(-1)
        chosen = values.abs().topk(self._count(values)).indices
        return torch.zeros_like(values).index_copy(0, chosen, values[chosen]).view(tensor.shape)


@DEFENSES.register("randomk")
@dataclass(frozen=True)
class RandomK(_Sparse):
    """Random numbers of all tensors, divided by the fraction so that the mean stays right (Wangni et al. 2018).

    Args:
        keep: fraction that is sent, above 0, at most 1; at least one number.
    """

    title = "Random-k"

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        values = payload.flat
        count = self._count(values)
        chosen = torch.randperm(values.numel(), generator=generator)[:count].to(values.device)
        kept = torch.zeros_like(values).index_copy(0, chosen, values[chosen] * (values.numel() / count))
        return payload.with_flat(kept)

    def as_seen(self, payload: Payload) -> Masked:
        mask = super().as_seen(payload).mask
        factor = mask.numel() / self._count(mask.flat)  # the client's own: a number that was chosen may be zero
        return Masked(mask * factor)
