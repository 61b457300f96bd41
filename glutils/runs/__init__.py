"""Runs and what they leave behind."""

from .records import MissingRecord, Record, load, record, rows_from

__all__ = ["MissingRecord", "Record", "load", "record", "rows_from"]
