"""Runs and what they leave behind."""

from . import conditions, leaderboard
from .reconstruct import Experiment, reconstruct
from .records import MissingRecord, Record, load, record, rows_from

__all__ = [
    "Experiment", "MissingRecord", "Record", "conditions", "leaderboard", "load", "reconstruct", "record", "rows_from",
]  # fmt: skip
