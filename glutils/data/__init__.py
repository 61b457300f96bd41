"""Private and public images: embedded sets, sets in a folder of the reader's, and how they are dealt to clients."""

from .batch import Batch
from .partition import partition
from .sampling import load, names, public, sample

__all__ = ["Batch", "load", "names", "partition", "public", "sample"]
