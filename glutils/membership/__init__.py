"""Which records were in the client's batch: names from a handful of scalars, among candidates that somebody has."""

from .classes import Counts, class_counts
from .naming import Named, identify

__all__ = ["Counts", "Named", "class_counts", "identify"]
