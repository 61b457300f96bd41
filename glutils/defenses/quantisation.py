"""Fewer bits a number. The adversary simulates the quantiser; where that has no slope, a smooth one stands in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import _validate
from ..protocols import Payload
from .base import DEFENSES, Defense, random_like

SOFT = 0.1
"""Width of the smooth step with which an attacker stands in for a sign, in root mean squares of the tensor."""
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@DEFENSES.register("sign")
@dataclass(frozen=True)
class Sign(Defense):
    """One bit a number: its sign (signSGD, Bernstein et al. 2018), times the tensor's mean absolute value if asked.

    The attacker replaces the step by tanh(g / (0.1 rms)), which is as good as a step for numbers that matter and has a
    slope for the others.

    Args:
        scaled: send one more number for every tensor, the mean absolute value (1-bit SGD, Seide et al. 2014, without
            its memory of errors). Else the length of the payload is lost.
    """

    scaled: bool = False
    title = "Sign"
    keeps_linearity = False

    def __post_init__(self) -> None:
        _validate.instance("scaled", self.scaled, bool)

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        return payload.map(lambda tensor: tensor.sign() * self._scale(tensor))

    def simulate(self, payload: Payload) -> Payload:
        def soft(tensor: torch.Tensor) -> torch.Tensor:
            width = SOFT * tensor.detach().square().mean().sqrt().clamp_min(1e-30)
            return (tensor / width).tanh() * self._scale(tensor)

        return payload.map(soft)

    def _scale(self, tensor: torch.Tensor) -> torch.Tensor | float:
        return tensor.abs().mean() if self.scaled else 1.0


@DEFENSES.register("qsgd")
@dataclass(frozen=True)
class QSGD(Defense):
    """Stochastic rounding to ``levels`` steps between 0 and the tensor's length; unbiased (Alistarh et al. 2017).

    Args:
        levels: 1 or more. One level sends sign x length for a few numbers and 0 for the others.
    """

    levels: int
    title = "QSGD"

    def __post_init__(self) -> None:
        _validate.integer("levels", self.levels, at_least=1)

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        def rounded(tensor: torch.Tensor) -> torch.Tensor:
            length = torch.linalg.vector_norm(tensor.detach())
            if length == 0:
                return tensor
            share = tensor.abs() / length * self.levels
            low = share.floor()
            up = random_like(tensor, generator, "uniform") < share - low
            return tensor.sign() * length * (low + up.to(tensor.dtype)) / self.levels

        return payload.map(rounded)


@DEFENSES.register("bits")
@dataclass(frozen=True)
class Bits(Defense):
    """Rounding to 2^bits - 1 equal steps between plus and minus the tensor's greatest absolute value (int8 and fewer).

    Args:
        bits: 2 to 16 for each number; one more number for each tensor, the greatest, is sent as it is.
        stochastic: round up or down at random so that the mean stays right; else to the nearest.
    """

    bits: int
    stochastic: bool = False
    title = "Fixed-point"

    def __post_init__(self) -> None:
        _validate.integer("bits", self.bits, at_least=2, at_most=16)
        _validate.instance("stochastic", self.stochastic, bool)

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        return payload.map(lambda tensor: self._rounded(tensor, generator))

    def simulate(self, payload: Payload) -> Payload:
        if self.stochastic:
            return payload
        return payload.map(lambda tensor: tensor + (self._rounded(tensor.detach(), None) - tensor.detach()))

    def noise(self, payload: Payload, images: int) -> float:
        """Root mean square of the rounding error, if errors are uniform."""
        steps = payload.map(lambda tensor: torch.full_like(tensor, self._step(tensor))).flat
        return float((steps.double().square() / (6 if self.stochastic else 12)).mean().sqrt()) if len(steps) else 0.0

    def _step(self, tensor: torch.Tensor) -> float:
        return float(tensor.detach().abs().max()) / (2 ** (self.bits - 1) - 1)

    def _rounded(self, tensor: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        step = self._step(tensor)
        if step == 0:
            return tensor
        share = tensor / step
        if not self.stochastic or generator is None:
            return share.round() * step
        low = share.floor()
        return (low + (random_like(tensor, generator, "uniform") < share - low).to(tensor.dtype)) * step


@DEFENSES.register("half")
@dataclass(frozen=True)
class Half(Defense):
    """Sixteen-bit floating point; a reader of the DLG paper (Zhu et al. 2019) knows that it does not protect.

    Args:
        format: ``"float16"`` or ``"bfloat16"``.
    """

    format: str = "float16"
    title = "Half precision"

    def __post_init__(self) -> None:
        _validate.choice("format", self.format, HALVES)

    def apply(self, payload: Payload, generator: torch.Generator) -> Payload:
        dtype = HALVES[self.format]
        largest = float(payload.flat.detach().abs().max())
        if largest > torch.finfo(dtype).max:
            raise ValueError(f"format must be able to hold the payload: {self.format} ends at "
                             f"{torch.finfo(dtype).max:g}, got {largest:g}")  # fmt: skip
        return payload.map(lambda tensor: tensor.to(dtype).to(tensor.dtype))

    def noise(self, payload: Payload, images: int) -> float:
        """Root mean square of the rounding error."""
        unit = torch.finfo(HALVES[self.format]).eps / 12**0.5 / 2**0.5
        return float(unit * payload.flat.detach().double().square().mean().sqrt())
