"""The check of annotations under pytest is alive: wrong shapes and types are caught, our own errors come through."""

import dataclasses
import importlib
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from _typecheck import checked
from jaxtyping import Float, Int, TypeCheckError
from torch import Tensor

import glutils as gl


def test_the_rooms_whose_types_are_checked_exist():
    root = Path(__file__).resolve().parent.parent
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["basedpyright"]
    assert settings["include"] and [part for part in settings["include"] if not (root / part).exists()] == []


def test_annotations_are_checked_in_every_room():
    rooms = [f"glutils.{path.parent.name}" for path in Path(gl.__file__).parent.glob("*/__init__.py")]
    assert len(rooms) > 12
    for room in rooms:
        importlib.import_module(room)
    for name, module in list(sys.modules.items()):
        if name.startswith(tuple(rooms)):
            assert type(module.__spec__.loader).__name__ == "_Loader", name
    assert gl.metrics.mse.__code__.co_filename.endswith("_typecheck.py"), "a function of a room is wrapped"


def test_a_wrong_shape_in_the_package_is_caught():
    assert gl.metrics.mean_psnr(torch.tensor([10.0, 20.0])) == 15
    with pytest.raises(TypeCheckError, match="mean_psnr"):
        gl.metrics.mean_psnr(torch.full((2, 2), 10.0))


def test_shapes_must_agree_with_each_other():
    truth = torch.rand(2, 1, 8, 8)
    assert gl.metrics.pixels.nearest(truth, truth[:1]).shape == (1, 1, 8, 8)
    with pytest.raises(TypeCheckError, match="pixels"):
        gl.metrics.pixels.nearest(truth.view(2, 1, 4, 16), truth)  # as many pixels, which is all that the sums need


def test_a_message_of_our_own_comes_through_an_honest_annotation():
    with pytest.raises(TypeError, match="count must be an integer, got 2.5") as caught:
        gl.data.sample("digits", count=2.5)
    assert not isinstance(caught.value, TypeCheckError)
    with pytest.raises(ValueError, match="truth must have shape"):
        gl.metrics.mse(torch.zeros(3, 4), torch.zeros(3, 4))


@checked
def doubled(
    values: Float[Tensor, " batch"], labels: Int[Tensor, " batch"], scale: float = 1
) -> Float[Tensor, " batch"]:
    if scale == 0:
        raise ValueError("scale must not be 0")
    return values if scale == 3 else torch.cat((values, values)) if scale == 4 else 2 * scale * values


@checked
def unsaid(values: Float[Tensor, " batch"]):
    raise AssertionError("ran")


@checked
@dataclasses.dataclass(frozen=True)
class Pair:
    values: Float[Tensor, " batch"]
    labels: Int[Tensor, " batch"]


def test_what_the_check_lets_through_and_what_not():
    one, labels = torch.ones(2), torch.tensor([0, 1])
    assert doubled(one, labels, 1).tolist() == [2, 2]  # an int is a float
    with pytest.raises(TypeCheckError, match="doubled"):
        doubled(one, labels[:1])  # shapes that disagree
    with pytest.raises(TypeCheckError, match="doubled"):
        doubled(one, one)  # no integers
    with pytest.raises(TypeCheckError, match="return value"):
        doubled(one, labels, 4)  # the answer
    with pytest.raises(ValueError, match="scale must not be 0"):
        doubled("no tensor", labels, 0)  # the function speaks first
    with pytest.raises(TypeCheckError, match="parameters"):
        unsaid(labels)  # nothing is said of the answer: checked before it runs
    with pytest.raises(TypeCheckError, match="Pair"):
        Pair(one, labels[:1])


def test_shapes_are_checked_inside_functional_transforms():
    def total(values):
        return doubled(values, torch.tensor([0, 1])).sum()

    stack = torch.ones(3, 2)
    assert torch.func.vmap(torch.func.grad(total))(stack).tolist() == [[2, 2]] * 3
    with pytest.raises(TypeCheckError, match="doubled"):
        torch.func.vmap(torch.func.grad(total))(torch.ones(2, 3))
