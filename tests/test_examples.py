"""The examples in the docstrings of the calls that are used most."""

import doctest

import pytest

import glutils as gl

CALLS = (
    gl.data.sample, gl.data.partition, gl.models.build, gl.protocols.ZerothOrder, gl.observe, gl.attack, gl.score,
    gl.federation.train, gl.labels.infer, gl.defenses.get, gl.runs.record,
    gl.transcripts.read, gl.transcripts.recorded,
)  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_an_example_does_what_it_says(call, no_lpips):
    (test,) = doctest.DocTestFinder(recurse=False).find(call, call.__qualname__, module=False, globs={})
    assert test.examples, "its docstring ends with an example"
    said = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not failed, "".join(said)
