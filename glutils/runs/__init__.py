"""Notebooks and functions run with checked parameters, one by one or as a grid, and the records that runs leave."""

from .published import CLAIMS, RECORDS
from .records import MissingRecord, Record, load, record, rows_from
from .sweep import Failure, Sweep, sweep

__all__ = ["CLAIMS", "RECORDS", "Failure", "MissingRecord", "Record", "Sweep", "load", "record", "rows_from", "sweep"]
