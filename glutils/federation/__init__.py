"""Rounds of federated training.

For scalar protocols this is DeComFL's loop (Li et al. 2024): every round has public seeds, every client answers with
scalars, and the averaged scalars are replayed by everyone, so that nobody ever sends a model.
"""

from .rounds import train
from .run import load

__all__ = ["load", "train"]
