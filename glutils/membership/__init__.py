"""Which records were in the client's batch: names from a handful of scalars, among candidates that somebody has."""

from .naming import Named, identify

__all__ = ["Named", "identify"]
