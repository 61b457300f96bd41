"""Private and public records: embedded sets of images, tables and texts, those in a reader's folder, partitions."""

from .batch import Batch
from .columns import Columns, Variable
from .holdout import concatenate, hold_out
from .kinds import Kind
from .partition import partition
from .sampling import available, load, names, public, sample
from .texts import from_texts, messages_vocabulary
from .vocabulary import Vocabulary

__all__ = [
    "Batch", "Columns", "Kind", "Variable", "Vocabulary", "available", "concatenate", "from_texts", "hold_out", "load",
    "messages_vocabulary", "names", "partition", "public", "sample",
]  # fmt: skip
