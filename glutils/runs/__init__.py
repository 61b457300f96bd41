"""Runs and what they leave behind."""

from . import conditions, defended, leaderboard
from .defense_sweep import DefenseSweep, defense_sweep
from .reconstruct import Experiment, reconstruct
from .records import MissingRecord, Record, load, record, rows_from
from .sweep import Failure, Sweep, sweep

__all__ = [
    "DefenseSweep", "Experiment", "Failure", "MissingRecord", "Record", "Sweep", "conditions", "defended",
    "defense_sweep", "leaderboard", "load", "reconstruct", "record", "rows_from", "sweep",
]  # fmt: skip
