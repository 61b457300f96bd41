"""Messages of real programs, as ``interop/`` recorded them: read in every form, and equal to our own client's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import glutils as gl
from glutils.audit import command, held

INTEROP = Path(__file__).resolve().parent.parent / "interop"
MESSAGES = INTEROP / "messages"
CLASSES = 9


@pytest.fixture(scope="module")
def network():
    spec = importlib.util.spec_from_file_location("interop_networks", INTEROP / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.small


def arrays(name):
    with np.load(MESSAGES / f"{name}.npz") as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def observed(model, protocol, name, count):
    how = {"shape": (count, 3, 16, 16), "classes": CLASSES, "labels": None}
    return held.of_message(model, str(MESSAGES / f"{name}.npz"), protocol, how=how)


@pytest.mark.parametrize("name, outcome", [("flower_fit", "mended"), ("flower_difference", "mended")])
def test_what_a_flower_client_sends_is_read_at_either_sign_and_is_what_our_client_sends(name, outcome, network):
    model = gl.models.load(MESSAGES / "flower_global.npz", network())
    private, protocol = arrays("flower_private"), gl.protocols.FedAvg(epochs=1, batch_size=1, lr=0.01)
    seen, checks = observed(model, protocol, name, 1)
    ours = protocol.transmit(model, private["images"], private["labels"])
    assert float((seen.payload.flat - ours.flat).abs().max()) < 1e-7
    assert outcome in [check.outcome for check in checks]
    said = " ".join(check.says for check in checks)
    assert ("new less old" in said) == (name == "flower_difference") and ("taken off" in said) == (name == "flower_fit")


def test_a_flower_message_without_its_last_layer_or_with_another_lr_is_refused(network):
    model = gl.models.load(MESSAGES / "flower_global.npz", network())
    with pytest.raises(ValueError, match=r"lr=0\.01"):
        observed(model, gl.protocols.FedAvg(epochs=1, batch_size=1, lr=0.02), "flower_fit", 1)
    with pytest.raises(ValueError, match="a layer is missing"):
        gl.audit.message(model, gl.protocols.FedAvg(), list(arrays("flower_fit").values())[:-1], records=1)


def test_what_opacus_keeps_for_each_record_is_their_gradient_and_its_sum_is_refused(network):
    model = gl.models.load(MESSAGES / "opacus_global.npz", network())
    private, protocol = arrays("opacus_private"), gl.protocols.FedSGD()
    seen, checks = observed(model, protocol, "opacus_each", 2)
    ours = protocol.transmit(model, private["images"], private["labels"])
    assert torch.allclose(seen.payload.flat, ours.flat, atol=1e-6) and "each of 2 records" in checks[0].says
    summed = {name: tensor for name, tensor in arrays("opacus_summed").items()}
    payload, notes = gl.audit.message(model, protocol, summed, records=2)
    assert torch.allclose(payload.flat, 2 * ours.flat, atol=1e-5) and "'_module.'" in notes[0]
    with pytest.raises(ValueError, match="no mean over"):
        gl.observe(model, protocol, payload, shape=(2, 3, 16, 16), classes=CLASSES)


def test_the_example_file_is_read_as_it_stands(network, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    found = command.load(INTEROP / "audit_flower.yaml")
    asked = command.asked(found, INTEROP)
    assert set(yaml.safe_load((INTEROP / "audit_flower.yaml").read_text())) <= set(command.SECTIONS)
    assert asked["shape"] == (1, 3, 16, 16) and len(asked["stand_in"]) == 6 and asked["minutes"] == 3
    own = gl.models.load(MESSAGES / "flower_global.npz", network())
    assert all(torch.equal(a, b) for a, b in zip(asked["model"].parameters(), own.parameters(), strict=True))
