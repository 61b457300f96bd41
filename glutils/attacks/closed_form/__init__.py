"""Attacks that solve for the records from the message alone, without simulating the client."""

from . import april, cpa, dager, fc, fgla, inverter, rgap, spear

__all__ = ["april", "cpa", "dager", "fc", "fgla", "inverter", "rgap", "spear"]
