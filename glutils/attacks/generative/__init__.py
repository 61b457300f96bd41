"""Attacks that search what a generator can make of a few numbers, or of its weights."""

from . import ggl, gias, gifd, grnn, igims, rog

__all__ = ["ggl", "gias", "gifd", "grnn", "igims", "rog"]
