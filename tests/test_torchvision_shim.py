"""The shim that lets torchvision be imported beside a torch its operators do not fit; test_imports.py tries it."""

import sys

import pytest
import torch

from glutils import _torchvision


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


@pytest.mark.parametrize("name", ["_C", "_C_stable", "_C_later"])
def test_operators_are_looked_for_under_any_name_that_their_library_has(fresh, monkeypatch, tmp_path, name):
    """Declared a second time, they would end the whole interpreter."""
    ending = _torchvision.EXTENSION_SUFFIXES[-1]
    for other in (f"{name}{ending}", f"image_stable{ending}", "_C.txt"):
        (tmp_path / other).touch()
    tried = []
    monkeypatch.setattr(torch.ops, "load_library", tried.append)
    assert _torchvision._own_operators_load(tmp_path)
    assert tried == [str(tmp_path / f"{name}{ending}")]
    (tmp_path / f"{name}{ending}").unlink()
    assert not _torchvision._own_operators_load(tmp_path)
