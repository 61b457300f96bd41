"""Whole experiments, client to score: one reconstruction, defences under attack, all attacks under equal conditions."""

from . import conditions, defended, leaderboard, live, pictures
from .defense_sweep import DefenseSweep, defense_sweep
from .reconstruct import Experiment, reconstruct

__all__ = [
    "DefenseSweep", "Experiment", "conditions", "defended", "defense_sweep", "leaderboard", "live", "pictures",
    "reconstruct",
]  # fmt: skip
