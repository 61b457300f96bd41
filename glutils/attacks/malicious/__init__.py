"""Attacks that do not keep to the protocol: a server that sends a model of its own making, a client that plays."""

from . import dmgan, inconsistency, rtf

__all__ = ["dmgan", "inconsistency", "rtf"]
