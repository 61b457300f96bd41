"""Attacks that do not keep to the protocol: a server that sends a model of its own making, a client that plays."""

from . import dmgan, fishing, inconsistency, loki, rtf

__all__ = ["dmgan", "fishing", "inconsistency", "loki", "rtf"]
