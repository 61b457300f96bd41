"""glutils: what federated learning gives away, in one street.

Batch -> Protocol.transmit -> payload -> observe -> attack -> Reconstruction -> score -> figure, record.
"""

from . import (
    _torchvision,  # noqa: F401  (first: whatever imports torchvision later needs it)
    attacks,
    check,
    data,
    decoder,
    defenses,
    federation,
    hidden,
    imprint,
    labels,
    latent,
    live,
    metrics,
    models,
    priors,
    protocols,
    runs,
    show,
    solvers,
    zo,
    zo_protocols,
)
from .attacks import attack
from .metrics import score
from .observation import Observation, observe, tamper

__version__ = "0.1.0"
__all__ = [
    "Observation", "attack", "attacks", "check", "data", "decoder", "defenses", "federation", "hidden", "imprint",
    "labels", "latent", "live", "metrics", "models", "observe", "priors", "protocols", "runs", "score", "show",
    "solvers", "tamper", "zo", "zo_protocols",
]  # fmt: skip
