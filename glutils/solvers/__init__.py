"""Solvers: how an attack searches. The engine does restarts, history and budgets; one file a method of descent."""

from .adam import adam
from .cmaes import cmaes
from .engine import Ending, Found, History, Stage, Trace, search
from .gauss_newton import gauss_newton
from .lbfgs import lbfgs
from .least_squares import Calibration, Solution
from .tally import Tally

__all__ = [
    "Calibration", "Ending", "Found", "History", "Solution", "Stage", "Tally", "Trace", "adam", "cmaes", "gauss_newton",
    "lbfgs", "search",
]  # fmt: skip
