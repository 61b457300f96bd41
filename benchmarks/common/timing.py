"""Timing side by side: alternating runs, medians, ratios. Absolute seconds belong to one machine; ratios travel."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def alternate(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run every piece of work once to warm up, then in turn ``repeats`` times; seconds of each run by name."""
    for run in work.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median milliseconds by name."""
    return {name: 1e3 * statistics.median(runs) for name, runs in seconds.items()}
