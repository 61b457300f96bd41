"""Attacks that solve for the images from the message alone, without simulating the client."""

from . import cpa, fc, fgla, rgap

__all__ = ["cpa", "fc", "fgla", "rgap"]
