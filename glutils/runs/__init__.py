"""Runs and what they leave behind."""

from . import conditions, defended, leaderboard
from .reconstruct import Experiment, reconstruct
from .records import MissingRecord, Record, load, record, rows_from
from .sweep import Failure, Sweep, sweep

__all__ = [
    "Experiment", "Failure", "MissingRecord", "Record", "Sweep", "conditions", "defended", "leaderboard", "load",
    "reconstruct", "record", "rows_from", "sweep",
]  # fmt: skip
