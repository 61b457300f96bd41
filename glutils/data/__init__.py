"""Private and public images: embedded sets, sets in a folder of the reader's, and how they are dealt to clients."""

from .batch import Batch
from .holdout import concatenate, hold_out
from .partition import partition
from .sampling import available, load, names, public, sample

__all__ = ["Batch", "available", "concatenate", "hold_out", "load", "names", "partition", "public", "sample"]
