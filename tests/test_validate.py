"""Argument checks: what counts as an integer or a number, and what the refusal says."""

import numpy as np
import pytest
import torch

from glutils import _validate


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), torch.tensor(3)])
def test_whole_numbers_of_every_kind_are_integers(value):
    found = _validate.integer("count", value, at_least=3, at_most=3)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", [True, 3.0, "3", None, torch.tensor(2.5), torch.tensor([1, 2]), np.array([1, 2])])
def test_nothing_is_cut_down_to_an_integer(value):
    """A tensor of floats has ``__index__``, and ``int(torch.tensor(2.5))`` is 2."""
    with pytest.raises(TypeError, match="count must be an integer, got"):
        _validate.integer("count", value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.array(2.0), torch.tensor(2.0)])
def test_numbers_of_every_kind_become_floats(value):
    found = _validate.number("lr", value, above=1, at_most=2)
    assert found == 2 and type(found) is float


@pytest.mark.parametrize("value", [True, "2", None, 1j, torch.ones(2), np.ones(2)])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match="lr must be a number, got"):
        _validate.number("lr", value)


def test_ranges_choices_and_instances_say_what_is_allowed():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="lr must be finite"):
            _validate.number("lr", value)
    with pytest.raises(ValueError, match="lr must be greater than 0, got 0.0"):
        _validate.number("lr", 0, above=0)
    with pytest.raises(ValueError, match="count must be between 1 and 2, got 3"):
        _validate.integer("count", 3, at_least=1, at_most=2)
    with pytest.raises(ValueError, match="law must be one of 'a', 'b'; got 'c'"):
        _validate.choice("law", "c", ("a", "b"))
    with pytest.raises(TypeError, match="model must be a int or str, got float"):
        _validate.instance("model", 1.0, (int, str))


def test_a_module_is_named_on_one_line():
    assert _validate.brief(torch.nn.Linear(2, 3)) == "Linear(in_features=2, out_features=3, bias=True)"
    assert _validate.brief(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())) == "Sequential"
    assert _validate.brief(None) == "None"
