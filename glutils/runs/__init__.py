"""Runs and what they leave behind."""

from . import conditions
from .reconstruct import Experiment, reconstruct
from .records import MissingRecord, Record, load, record, rows_from

__all__ = ["Experiment", "MissingRecord", "Record", "conditions", "load", "reconstruct", "record", "rows_from"]
