"""Private and public images: embedded sets, sets in a folder of the reader's, and how they are dealt to clients."""

from .batch import Batch
from .holdout import hold_out, joined
from .partition import partition
from .sampling import load, names, public, sample

__all__ = ["Batch", "hold_out", "joined", "load", "names", "partition", "public", "sample"]
