"""A client that trains a part of its network: an attack that reads a layer outside says so, and names who could."""

import pytest

import glutils as gl
from glutils.attacks.base import ATTACKS
from glutils.experiments import conditions

OTHERS = {"dmgan": "reads no message", "inverter": "takes whatever a message holds", "fgla": "reads the last layer"}
READS_A_LAYER = [
    name
    for name in gl.attacks.names()
    if ATTACKS.get(name).run.__module__.split(".")[2] in ("closed_form", "malicious") and name not in OTHERS
]


@pytest.mark.parametrize("name", READS_A_LAYER)
def test_a_frozen_layer_is_named_with_who_could(name):
    own = conditions.of(name)
    if "tokens" in ATTACKS.get(name).records:
        batch = gl.data.sample("messages", seed=0, device="cpu")
    else:
        batch = gl.data.sample("photos", size=8, count=1 if own.largest == 1 else 2, seed=0, device="cpu")
    public = gl.data.public(batch, count=80)
    model = conditions.network_of(name, batch, public=public)
    last, _ = gl.models.last_linear(model, tuple(batch.images.shape))
    for parameter, value in model.named_parameters():
        value.requires_grad_(parameter.startswith(f"{last}."))
    protocol = gl.protocols.FedSGD()
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
    with pytest.raises(ValueError, match=rf"attack '{name}' needs .*(frozen|trained).*'(ig|tag)'"):
        gl.attack(name, seen)
