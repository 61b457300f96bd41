"""The shim that lets torchvision be imported beside a torch its compiled operators do not fit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glutils import _torchvision

ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchvision_works_in_a_fresh_interpreter():
    said = run(
        "import glutils._torchvision as shim\n"
        "assert not shim.prepare()\n"  # done at import, and once only
        "import torch, torchvision, torchvision.models as models\n"
        "from torchvision.datasets import ImageFolder\n"
        "from torchvision.transforms.v2.functional import resize\n"
        "print(tuple(resize(torch.zeros(3, 8, 8), [4, 4], antialias=True).shape))\n"
        "print(tuple(models.resnet18(weights=None).eval()(torch.zeros(1, 3, 32, 32)).shape))\n"
    )
    assert said.split("\n")[:2] == ["(3, 4, 4)", "(1, 1000)"]


@pytest.fixture
def fresh(monkeypatch):
    """The shim's function as a new interpreter without torchvision would see it."""
    monkeypatch.setattr(_torchvision, "_library", None)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    declared = []

    class Library:
        def __init__(self, name, kind):
            declared.append(name)

        def define(self, schema):
            declared.append(schema.split("(")[0])

    monkeypatch.setattr(torch.library, "Library", Library)
    return declared


def test_it_declares_nothing_where_torchvisions_own_operators_load(fresh, monkeypatch):
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    assert not _torchvision.prepare()
    assert fresh == []


def test_it_declares_both_schemas_where_they_do_not_load(fresh, monkeypatch):
    def refuse(path):
        raise OSError("no CUDA libraries")

    monkeypatch.setattr(torch.ops, "load_library", refuse)
    assert _torchvision.prepare()
    assert fresh == ["torchvision", "nms", "qnms"]
    assert not _torchvision.prepare()


def test_it_does_nothing_without_torchvision_or_after_it(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", torch)
    assert not _torchvision.prepare()
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr(_torchvision.importlib.util, "find_spec", lambda name: None)
    assert not _torchvision.prepare()
    assert fresh == []
