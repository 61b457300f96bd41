"""glutils: what federated learning gives away, in one street.

Batch -> Protocol.transmit -> payload -> observe -> attack -> Reconstruction -> score -> figure, record.

Parts are loaded when they are first used, so that ``import glutils`` costs little more than ``import torch``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _torchvision  # noqa: F401  (first: whatever imports torchvision later needs it)
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from . import (
        attacks,
        audit,
        data,
        defenses,
        exercises,
        experiments,
        federation,
        labels,
        membership,
        metrics,
        models,
        observation,
        priors,
        protocols,
        runs,
        show,
        solvers,
        zo,
    )
    from .attacks.base import attack
    from .attacks.closed_form import decoder
    from .attacks.malicious import imprint
    from .experiments import live
    from .membership.naming import identify
    from .metrics.scores import score
    from .observation import transcripts
    from .observation.observe import Observation, observe
    from .observation.views import tamper
    from .priors import latent

__all__ = [
    "Observation", "attack", "attacks", "audit", "data", "decoder", "defenses", "exercises", "experiments",
    "federation", "identify", "imprint", "labels", "latent", "live", "membership", "metrics", "models", "observation",
    "observe", "priors", "protocols", "runs", "score", "show", "solvers", "tamper", "transcripts", "zo",
]  # fmt: skip
_ELSEWHERE = {
    "Observation": "observation", "observe": "observation", "tamper": "observation", "transcripts": "observation",
    "attack": "attacks", "identify": "membership", "score": "metrics", "latent": "priors", "live": "experiments",
    "decoder": "attacks.closed_form", "imprint": "attacks.malicious",
}  # fmt: skip
"""Names that stand here for convenience, and the part that each comes from."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'glutils' has no attribute {name!r}")
    if name not in _ELSEWHERE:
        return importlib.import_module(f".{name}", __name__)
    home = importlib.import_module(f".{_ELSEWHERE[name]}", __name__)
    try:
        found = getattr(home, name)
    except AttributeError:
        found = importlib.import_module(f"{home.__name__}.{name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
