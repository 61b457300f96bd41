"""What a message holds of one parameter, for attacks that read a layer of their own choice."""

from __future__ import annotations

import torch

from ...observation import Observation


def gradient_of(seen: Observation, attack: str, name: str, instead: str = "'ig' uses what there is") -> torch.Tensor:
    """The gradient of one parameter, or its difference; refused where the client did not train it.

    Args:
        attack: whose name the error gives.
        name: of the parameter.
        instead: who could, in words.

    Raises:
        ValueError: a message that does not hold it.
    """
    if name not in seen.payload:
        raise ValueError(f"attack {attack!r} needs the gradient of {name!r}, which is frozen; {instead}")
    return seen.payload[name]
