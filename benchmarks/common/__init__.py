"""What the benchmarks share: where records lie, how one starts and goes on, timing side by side.

A benchmark is a script, ``python benchmarks/NAME.py``, and imports nothing beside it but this package.
"""

from .options import arguments, seeds
from .resume import RESULTS, Rows, measure, scores

__all__ = ["RESULTS", "Rows", "arguments", "measure", "scores", "seeds"]
