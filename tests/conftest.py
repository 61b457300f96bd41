"""Small private batches that many tests share; everything on the CPU, whatever this machine has."""

import gc
import importlib
import sys
from pathlib import Path

import _typecheck
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
_typecheck.install(ROOT / "glutils")  # before anything of it is imported

import glutils as gl  # noqa: E402
from glutils.data.batch import Batch  # noqa: E402

TOOLS = ROOT / "tools"

torch.set_num_threads(1)  # the tests' tensors are small: threads waiting for each other cost more than they save
gc.disable()  # until everything is imported


def pytest_collection_finish() -> None:
    """What is there by now stays: half a million objects that the garbage collector need not visit in every test."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def digit() -> Batch:
    """One 8x8 digit."""
    return gl.data.sample("digits", seed=3, device="cpu")


@pytest.fixture(scope="session")
def digits() -> Batch:
    """Five 8x8 digits of different classes."""
    return gl.data.sample("digits", count=5, seed=0, distinct=True, device="cpu")


@pytest.fixture(scope="session")
def photo() -> Batch:
    """One 16x16 colour photograph."""
    return gl.data.sample("photos", size=16, seed=0, device="cpu")


@pytest.fixture(scope="session")
def speck() -> Batch:
    """Three images of 2x2 pixels in three classes: a linear model of them has 15 parameters."""
    images = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.tensor([0, 2, 1]), ("a", "b", "c"))


@pytest.fixture
def no_lpips(monkeypatch, tmp_path):
    """No LPIPS weights, so that scoring costs nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark by name, as it finds itself when run as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {"common", *(path.stem for path in (ROOT / "benchmarks").glob("*.py"))}:
            del sys.modules[name]


@pytest.fixture
def tool(monkeypatch):
    """A module of tools/ by its name, as it finds itself when run as a script; fresh in every test."""
    names = [path.stem for path in TOOLS.glob("*.py")]
    monkeypatch.syspath_prepend(str(TOOLS))
    for name in names:
        sys.modules.pop(name, None)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
