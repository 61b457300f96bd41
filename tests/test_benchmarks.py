"""The benchmarks measure what they say: the records behind the page on costs, and the rules by which they are made."""

import sys
from pathlib import Path

import pytest
import torch

import glutils as gl

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("timing", "zerogla_iteration", "zo_objective", "controls")


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark by name, as it finds itself when run as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield lambda name: __import__(name)
    for name in NAMES:
        sys.modules.pop(name, None)


def test_ways_follow_the_budget_and_the_limit(benchmark):
    module = benchmark("zo_objective")
    size = gl.zo.MEMORY // 4
    assert module.ways(1, size, limit=2) == [module.KEPT, module.REDRAWN, module.REFERENCE]
    assert module.ways(1, size + 1, limit=2) == [module.REDRAWN]
    assert module.ways(1, size + 1, limit=3) == [module.REDRAWN, module.REFERENCE]


def test_kept_and_drawn_again_directions_give_one_objective(benchmark):
    """The reference draws its own directions, so only its time compares; the two others give one value."""
    module = benchmark("zo_objective")
    values = []
    for way in (module.KEPT, module.REDRAWN):
        run, plain, images, before = module.prepared("lenet", 8, way, 6, "cpu")
        values.append(run())
        assert before > 0 and module.peak("cpu") > 0 and torch.isfinite(plain()[0])
    (kept, slopes), (again, others) = values
    assert torch.allclose(kept, again, rtol=1e-4) and torch.allclose(slopes[0], others[0], rtol=1e-3, atol=1e-7)


def test_controls_cover_every_attack_of_the_bar(benchmark):
    names = {case[0] for case in benchmark("controls").cases(1)}
    assert {"dlg", "idlg", "ig", "zerogla gauss-newton", "zerogla lbfgs", "zerogla adam"} == names


def test_recorded_controls_hold_nothing():
    for row in gl.runs.load(RESULTS / "controls_cpu.json").rows:
        assert row["above"] <= row["bar"], row
