"""Solvers: how an attack searches. The engine does restarts, history and budgets; one file a method of descent."""

from .adam import adam
from .cmaes import cmaes
from .engine import Continued, Found, History, Trace, search
from .gauss_newton import gauss_newton
from .lbfgs import lbfgs

__all__ = ["Continued", "Found", "History", "Trace", "adam", "cmaes", "gauss_newton", "lbfgs", "search"]
