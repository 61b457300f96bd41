"""Private and public records, images or tables: embedded sets, sets in a reader's folder, how they are dealt out."""

from .batch import Batch
from .columns import Columns, Variable
from .holdout import concatenate, hold_out
from .kinds import Kind
from .partition import partition
from .sampling import available, load, names, public, sample

__all__ = [
    "Batch", "Columns", "Kind", "Variable", "available", "concatenate", "hold_out", "load", "names", "partition",
    "public", "sample",
]  # fmt: skip
