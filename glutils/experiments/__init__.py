"""Whole experiments, client to score: one reconstruction, defences under attack, all attacks under equal conditions.

:mod:`~glutils.experiments.live` and :mod:`~glutils.experiments.pictures` are loaded when they are first used, because
they load what draws figures and panels.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import conditions, defended, forms, leaderboard, races, strengths, submission
from .defense_sweep import DefenseSweep, defense_sweep
from .reconstruct import Experiment, reconstruct

if TYPE_CHECKING:
    from . import live, pictures

__all__ = [
    "DefenseSweep", "Experiment", "conditions", "defended", "defense_sweep", "forms", "leaderboard", "live", "pictures",
    "races", "reconstruct", "strengths", "submission",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in ("live", "pictures"):
        raise AttributeError(f"module 'glutils.experiments' has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
