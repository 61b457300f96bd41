"""Zeroth-order queries: public random directions, and the slope of the loss along them.

A zeroth-order client answers K questions. Question i is a direction z_i in parameter space, which everybody can draw
from a public seed; the answer is one number, the slope of the client's loss along it (Spall 1992;
DeComFL, Li et al. 2024). With V the K x d matrix whose rows are the directions, the answers are V times the
gradient, up to the error of finite differences.
"""

from __future__ import annotations

from .arithmetic import HALF, Arithmetic, losses
from .directions import MEMORY, Directions, GivenDirections
from .laws import LAWS, Law, find_law
from .slopes import DTYPES, SCHEMES, difference, estimate, exact_slopes, replay, roundoff, slopes

__all__ = [
    "Arithmetic", "DTYPES", "Directions", "GivenDirections", "HALF", "LAWS", "Law", "MEMORY", "SCHEMES", "difference",
    "estimate", "exact_slopes", "find_law", "losses", "replay", "roundoff", "slopes",
]  # fmt: skip
