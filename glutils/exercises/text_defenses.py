"""Exercise of the chapter on what stops the decoder: with how few scalars nobody can decode."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from .base import Case, exercise, uniform


def _least(surprise: float, spread: float, noise: float) -> int:
    bits = 0.5 * math.log2(1 + (spread / noise) ** 2)
    return math.ceil(surprise / math.log(2) / bits)


@exercise(
    "The surprise in bits is the nats over ln 2; a scalar holds log2(1 + (spread / noise)^2) / 2; divide; round up.",
    {
        "The surprise is in nats, and the scalar's share in bits.": lambda surprise, spread, noise: math.ceil(
            surprise / (0.5 * math.log2(1 + (spread / noise) ** 2))
        ),
        "Sizes enter as squares: it is their power that counts.": lambda surprise, spread, noise: math.ceil(
            surprise / math.log(2) / (0.5 * math.log2(1 + spread / noise))
        ),
        "A real number of noise carries one half of the logarithm.": lambda surprise, spread, noise: math.ceil(
            surprise / math.log(2) / math.log2(1 + (spread / noise) ** 2)
        ),
        "A scalar cannot be sent in part: round up.": lambda surprise, spread, noise: (
            surprise / math.log(2) / (0.5 * math.log2(1 + (spread / noise) ** 2)) - 0.25
        ),
    },
)  # fmt: skip
def least_scalars(draw: torch.Generator) -> Iterator[Case]:
    """least_scalars(surprise, spread, noise): the number of scalars below which no decoder can read, on average, texts
    of that surprise in nats, if a scalar has the root mean square ``spread`` and Gaussian noise of deviation
    ``noise``."""
    for _ in range(4):
        surprise, spread, noise = (5 + 40 * float(uniform(draw, 1)), *(1 + 5 * uniform(draw, 2)).tolist())
        said = f"surprise {surprise:.3g} nats, spread {spread:.3g}, noise {noise:.3g}"
        yield Case(said, (surprise, spread, noise), _least(surprise, spread, noise))
