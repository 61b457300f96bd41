"""What a client sends: protocols, each a pure function of model, images and labels, and payloads, their values.

``transmit`` is what the honest client computes on its private batch. ``simulate`` is its twin for the attacker: the
same function, differentiable in images (and in soft labels), or a cheaper function with the same value.
"""

from ..zo import GivenDirections
from .base import CLIENTS_APART, SEEDS_APART, Protocol, derive_seed
from .fedavg import FedAvg, FedSGD
from .payload import KINDS, UNKNOWN, Payload
from .zeroth_order import ZerothOrder
from .zo_variants import Along, HiddenDirections, SeedPool

__all__ = [
    "Along", "CLIENTS_APART", "FedAvg", "FedSGD", "GivenDirections", "HiddenDirections", "KINDS", "Payload", "Protocol",
    "SEEDS_APART", "SeedPool", "UNKNOWN", "ZerothOrder", "derive_seed",
]  # fmt: skip
