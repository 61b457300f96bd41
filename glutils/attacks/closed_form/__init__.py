"""Attacks that solve for the records from the message alone, without simulating the client."""

from . import cpa, dager, fc, fgla, rgap, spear

__all__ = ["cpa", "dager", "fc", "fgla", "rgap", "spear"]
