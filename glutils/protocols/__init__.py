"""What a client sends: three protocols, each a pure function of model, images and labels.

``transmit`` is what the honest client computes on its private batch. ``simulate`` is its twin for the attacker: the
same function, differentiable in images (and in soft labels), or a cheaper function with the same value.
"""

from .base import CLIENTS_APART, SEEDS_APART, NamedTensors, Payload, Protocol, kept, mapped, owned, turned
from .fedavg import FedAvg, FedSGD
from .zeroth_order import ZerothOrder
from .zo_variants import Along, GivenDirections, HiddenDirections, SeedPool

__all__ = [
    "Along", "CLIENTS_APART", "FedAvg", "FedSGD", "GivenDirections", "HiddenDirections", "NamedTensors", "Payload",
    "Protocol", "SEEDS_APART", "SeedPool", "ZerothOrder", "kept", "mapped", "owned", "turned",
]  # fmt: skip
