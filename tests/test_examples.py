"""The examples in the docstrings of public calls do what they say, and there are few calls without one."""

import doctest
import inspect

import pytest
from conftest import ROOT

import glutils as gl

ROOMS = (
    "attacks", "audit", "data", "defenses", "experiments", "federation", "labels", "latent", "membership", "metrics",
    "models", "observation", "priors", "protocols", "runs", "show", "solvers", "transcripts", "zo",
)  # fmt: skip
MISSING = 80
"""Public functions that have no example yet, at most: a new one comes with its own."""


def calls():
    """Every public function and class of the rooms, and of the package itself, once."""
    found = {}
    for room in (gl, *(getattr(gl, name) for name in ROOMS)):
        for name in getattr(room, "__all__", ()):
            thing = getattr(room, name)
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__.startswith("glutils."):
                found.setdefault(f"{thing.__module__}.{thing.__qualname__}", thing)
    return dict(sorted(found.items()))


CALLS = calls()
WITH = {name: call for name, call in CALLS.items() if ">>> " in (call.__doc__ or "")}


@pytest.fixture
def own_names(monkeypatch):
    """Networks that an example registers are gone after it: other tests ask for all there are."""
    monkeypatch.setattr(gl.models.factories, "_OWN", {})


@pytest.mark.parametrize("name", WITH)
def test_an_example_does_what_it_says(name, no_lpips, own_names):
    (test,) = doctest.DocTestFinder(recurse=False).find(WITH[name], name, module=False, globs={})
    said = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not failed, "".join(said)


def test_no_example_shows_a_traceback():
    """A page of the built book that holds one has failed, as far as the test of the pages can tell."""
    files = ROOT.glob("glutils/**/*.py")
    assert not [path.name for path in files if "Traceback (most recent" in path.read_text(encoding="utf-8")]


def test_a_new_public_function_comes_with_an_example():
    without = [name for name, call in CALLS.items() if inspect.isfunction(call) and name not in WITH]
    assert len(without) <= MISSING, f"{len(without)} have none: {', '.join(without)}"
    first = ("data.sample", "models.build", "observe", "attack", "score", "runs.load", "defenses.get", "labels.infer")
    for name in first:
        thing = gl
        for part in name.split("."):
            thing = getattr(thing, part)
        assert ">>> " in (thing.__doc__ or ""), name
