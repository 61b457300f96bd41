"""Work split over threads: torch draws random numbers, and multiplies matrices with vectors, on one core only."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
_pools: list[ThreadPoolExecutor] = []
os.register_at_fork(after_in_child=_pools.clear)  # threads do not come along


def split(count: int, work: Callable[[int, int], T], least: int = 1) -> list[T]:
    """``work(start, stop)`` of consecutive parts of ``range(count)``, in order: as many as torch may use threads, each
    of ``least`` or more. torch lets go of the interpreter while it computes."""
    parts = max(1, min(torch.get_num_threads(), count // max(1, least)))
    edges = [count * i // parts for i in range(parts + 1)]
    if parts == 1:
        return [work(0, count)]
    if not _pools:
        _pools.append(ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="glutils"))
    graph = torch.is_grad_enabled()  # a thread has a mode of its own

    def part(start: int, stop: int) -> T:
        with torch.set_grad_enabled(graph):
            return work(start, stop)

    others = [_pools[0].submit(part, *span) for span in zip(edges[1:], edges[2:], strict=False)]
    first = work(0, edges[1])
    return [first, *(other.result() for other in others)]
