"""Work split over threads: the same parts in the same order, whatever the number of threads."""

import os
import threading

import pytest
import torch

from glutils import _threads


@pytest.fixture(params=[1, 2, 5])
def threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


def test_parts_cover_everything_in_order(threads):
    parts = _threads.split(7, lambda start, stop: list(range(start, stop)))
    assert sum(parts, []) == list(range(7)) and len(parts) == threads


def test_small_work_is_not_split(threads):
    assert _threads.split(7, lambda start, stop: threading.current_thread(), least=4) == [threading.current_thread()]
    assert _threads.split(0, lambda start, stop: (start, stop)) == [(0, 0)]


def test_mode_and_errors_come_through(threads):
    with torch.no_grad():
        assert not any(_threads.split(5, lambda *_: torch.is_grad_enabled()))

    def fail(start, stop):
        if stop == 5:
            raise KeyError("last part")

    with pytest.raises(KeyError, match="last part"):
        _threads.split(5, fail)


def test_after_a_fork_threads_are_made_again(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    _threads.split(2, lambda *span: span)
    child = os.fork()
    if child == 0:
        os._exit(0 if _threads.split(2, lambda *span: span) == [(0, 1), (1, 2)] else 1)
    assert os.waitpid(child, 0)[1] == 0
