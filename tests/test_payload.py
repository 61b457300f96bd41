"""A payload is a value: its arithmetic, its mode, and what it stands in for."""

import copy
import dataclasses
import operator
import pickle

import numpy as np
import pytest
import torch

from glutils.protocols import KINDS, UNKNOWN, Payload

V = torch.tensor([1.0, -2.0, 4.0])
NAMED = {"0.weight": torch.tensor([[1.0, -2.0], [3.0, 5.0]]), "0.bias": torch.tensor([7.0, 8.0])}
BOTH = [Payload("scalars", V, "train"), Payload("gradient", NAMED, "eval")]
ids = lambda payload: payload.kind  # noqa: E731


@pytest.mark.parametrize("payload", BOTH, ids=ids)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
def test_arithmetic_is_that_of_all_numbers_and_keeps_kind_and_mode(payload, name):
    """Oracle: the same on the flat vectors."""
    operate = getattr(operator, name)
    other = payload.map(lambda t: t.cos() + 3)
    for found, wanted in (
        (operate(payload, other), operate(payload.flat, other.flat)),
        (operate(payload, 2.5), operate(payload.flat, 2.5)),
        (operate(payload, torch.tensor(2.0)), operate(payload.flat, 2.0)),
    ):
        assert torch.equal(found.flat, wanted)
        assert (found.kind, found.mode) == (payload.kind, payload.mode)
    if name != "truediv":
        assert torch.equal(operate(2, payload).flat, operate(2, payload.flat))


@pytest.mark.parametrize("payload", BOTH, ids=ids)
def test_what_gives_a_payload_keeps_its_mode(payload):
    made = [-payload, payload.clone(), payload.detach(), payload.to(torch.float64), sum([payload, payload]) / 2,
            payload.with_flat(payload.flat + 1), payload.map(torch.sign), copy.deepcopy(payload),
            pickle.loads(pickle.dumps(payload)), dataclasses.replace(payload, content=payload.content),
            Payload.of(payload.kind, payload)]  # fmt: skip
    assert {(other.kind, other.mode) for other in made} == {(payload.kind, payload.mode)}
    assert torch.equal(made[1].flat, payload.flat) and made[1].numbers[0] is not payload.numbers[0]
    assert made[3].dtype == torch.float64 and torch.equal(made[5].flat, payload.flat + 1)


def test_payloads_of_different_kinds_names_or_modes_are_not_combined():
    scalars, named = BOTH
    with pytest.raises(ValueError, match="one kind to be combined, got 'scalars' and 'gradient'"):
        scalars + named
    with pytest.raises(ValueError, match=r"name the same tensors, differ in \['0.weight'\]"):
        named + Payload("gradient", {"0.bias": NAMED["0.bias"]}, "eval")
    with pytest.raises(ValueError, match="one mode to be combined, got 'eval' and 'train'"):
        named - dataclasses.replace(named, mode="train")
    assert (named + dataclasses.replace(named, mode=UNKNOWN)).mode == UNKNOWN  # ignorance is not lost
    with pytest.raises(TypeError):
        named + V
    with pytest.raises(TypeError):
        scalars + "1"


def test_named_tensors_are_combined_by_name():
    turned = Payload("gradient", dict(reversed(NAMED.items())), "eval")
    for name, tensor in (BOTH[1] + turned).items():
        assert torch.equal(tensor, 2 * NAMED[name])


def test_scalars_stand_where_a_vector_may_stand():
    payload = BOTH[0]
    assert torch.equal(torch.stack([payload, payload]).mean(0), V) and torch.allclose(payload, V)
    assert torch.equal(torch.cat([payload, V]), torch.cat([V, V])) and torch.equal(payload[1:], V[1:])
    assert torch.equal(V @ V, torch.dot(payload, V)) and type(torch.sign(payload)) is torch.Tensor
    assert torch.equal(V - payload, torch.zeros(3)) and type(V - payload) is torch.Tensor
    assert len(payload) == 3 and payload.shape == (3,) and payload.tolist() == [1.0, -2.0, 4.0]
    assert [float(s) for s in payload] == [1.0, -2.0, 4.0] and np.array_equal(np.asarray(payload), V.numpy())
    assert (payload - 1).norm() == (V - 1).norm() and payload.std() == V.std()
    grown = Payload("scalars", V.clone().requires_grad_())
    assert grown.requires_grad and (2 * grown).square().sum().requires_grad


def test_named_tensors_read_like_a_mapping():
    payload = BOTH[1]
    assert list(payload) == list(payload.keys()) == list(NAMED) and len(payload) == 2 and "0.bias" in payload
    assert dict(payload) == NAMED == {**payload} and payload["0.bias"] is NAMED["0.bias"]
    assert payload.get("0.bias") is NAMED["0.bias"] and payload.get("none") is None
    assert [t.shape for t in payload.values()] == [t.shape for t in payload.numbers]


@pytest.mark.parametrize("payload", BOTH, ids=ids)
def test_sizes_are_counted(payload):
    assert payload.numel() == len(payload.flat) and payload.nbytes == 4 * len(payload.flat)
    assert payload.to(torch.float64).nbytes == 8 * len(payload.flat)


def test_one_form_is_not_the_other():
    scalars, named = BOTH
    for read in (lambda: scalars.tensors, scalars.keys, scalars.items):
        with pytest.raises(TypeError, match="payload must hold named tensors for that, got 3 scalars"):
            read()
    for read in (lambda: named.scalars, lambda: named.shape, named.norm, lambda: torch.sign(named)):
        with pytest.raises(TypeError, match="payload must hold scalars for that, got named tensors of kind 'gradient'"):
            read()


def test_a_payload_is_frozen_and_keeps_a_dict_of_its_own():
    mine = dict(NAMED)
    payload = Payload("delta", mine)
    mine["1.bias"] = V
    assert list(payload) == list(NAMED)
    for name in ("kind", "mode", "content", "memory"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(payload, name, "train")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("logits", V), ValueError, "kind must be one of 'gradient', 'delta', 'scalars'; got 'logits'"),
        (("scalars", V, "test"), ValueError, "mode must be one of 'train', 'eval', None, 'unknown'; got 'test'"),
    ],
)
def test_bad_payloads_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        Payload(*arguments)


def test_a_bare_message_becomes_one_of_an_unknown_mode():
    for kind in KINDS:
        found = Payload.of(kind, V if kind == "scalars" else NAMED)
        assert (found.kind, found.mode) == (kind, UNKNOWN)
    for kind, value, text in (("scalars", NAMED, "sent must be a Tensor, got dict"),
                              ("delta", V, "sent must be a Mapping, got Tensor")):  # fmt: skip
        with pytest.raises(TypeError, match=text):
            Payload.of(kind, value, "sent")
    with pytest.raises(ValueError, match="sent must be of kind 'delta', which the protocol sends, got kind 'gradient'"):
        Payload.of("delta", BOTH[1], "sent")
