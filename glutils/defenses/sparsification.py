"""Sending only some of the numbers: the largest ones, or random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .. import _validate
from ..protocols import Payload, mapped
from .base import DEFENSES, Defense, flat, unflat

SCOPES = ("global", "tensor")


@dataclass(frozen=True)
class Masked(Defense):
    """What the adversary makes of a sparse payload: it compares the numbers that were sent, and no others.

    Args:
        mask: 1 where a number was sent, 0 elsewhere; in the form of the payload.
    """

    mask: Payload
    title = "Known mask"

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        return self.simulate(payload)

    def simulate(self, payload: Payload) -> Payload:
        if isinstance(payload, torch.Tensor):
            return payload * self.mask.to(payload)
        return {name: tensor * self.mask[name].to(tensor) for name, tensor in payload.items()}


@dataclass(frozen=True)
class _Sparse(Defense):
    keep: float | int
    kinds = ("gradient", "delta")

    def __post_init__(self) -> None:
        _validate.number("keep", self.keep, above=0, at_most=1)

    def informed(self, payload: Payload) -> Defense:
        return Masked(mapped(payload, lambda tensor: (tensor != 0).to(tensor.dtype)))

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
    def remembers(self) -> bool:
        return self.feedback

    def carry(self, payload, generator, memory):
        if not self.feedback:
            return self.apply(payload, generator), None
        whole = dict(payload) if memory is None else {n: tensor + memory[n] for n, tensor in payload.items()}
        sent = self.apply(whole, generator)
        return sent, {n: (tensor - sent[n]).detach() for n, tensor in whole.items()}

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        if self.scope == "global":
            return unflat(self._largest(flat(payload)), payload)
        return mapped(payload, self._largest)

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
        values = flat(payload)
        count = self._count(values)
        chosen = torch.randperm(values.numel(), generator=generator)[:count].to(values.device)
        kept = torch.zeros_like(values).index_copy(0, chosen, values[chosen] * (values.numel() / count))
        return unflat(kept, payload)

    def informed(self, payload: Payload) -> Defense:
        mask = super().informed(payload).mask
        numbers = flat(mask)  # the client's own factor: a number that was chosen may be zero
        return Masked(mapped(mask, lambda tensor: tensor * (numbers.numel() / self._count(numbers))))
