"""Clients run together against the same clients run one after the other."""

import pytest
import torch
from torch import nn

import glutils as gl
from glutils import models
from glutils.federation import together
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def clients():
    """Seven clients with 1 to 9 digits each."""
    batch = gl.data.sample("digits", count=32, seed=0, device="cpu")
    sizes, edges = (3, 9, 1, 5, 4, 8, 2), [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    return [batch[list(range(a, b))] for a, b in zip(edges, edges[1:], strict=False)]


def doubles(clients):
    return [(client.images.double(), client.labels) for client in clients]


@pytest.mark.parametrize("name", ["mlp", "convnet"])
@pytest.mark.parametrize(
    "options",
    [{}, {"shuffle": 3}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"momentum": 0.5, "weight_decay": 0.2}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_stacked_networks_are_the_clients_one_by_one(clients, name, options):
    """Sizes, ragged batches and numbers of steps differ; whoever has finished must stand still, also with momentum."""
    small = {"hidden": (5,)} if name == "mlp" else {"channels": (2, 3), "hidden": None}
    model = models.build(name, clients[0], **small)
    protocols = [FedAvg(epochs=2, batch_size=3, lr=0.3, **options).for_client(k) for k in range(len(clients))]
    state = models.parameters(model)
    found = together.deltas(protocols, model, state, doubles(clients))
    for k, (images, labels) in enumerate(doubles(clients)):
        wanted = protocols[k].transmit(model, images, labels)
        for key, tensor in wanted.items():
            assert found[key].dtype == DOUBLE
            torch.testing.assert_close(found[key][k], tensor, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "protocol",
    [FedSGD(), FedAvg(2, 3, 0.2), ZerothOrder(directions=9, dtype="float64"), ZerothOrder(3, scheme="exact")],
    ids=lambda p: f"{type(p).__name__}-{getattr(p, 'scheme', '')}",
)
@pytest.mark.parametrize("room", [None, 2**7])
def test_the_mean_together_is_the_mean_of_all(clients, protocol, room, monkeypatch):
    """Also where a pass has room for two images, or two networks, only."""
    model = models.build("mlp", clients[0], hidden=(5,))
    state, weights = models.parameters(model), [len(c) / 40 for c in clients]
    if room is not None:
        monkeypatch.setattr(together, "_PIXELS", dict.fromkeys(together._PIXELS, room))
        monkeypatch.setattr(together, "_STACKED", 2 * sum(p.numel() for p in state.values()))
    exact = protocol.kind == "scalars" and protocol.dtype == "float32"
    found = together.mean([protocol] * len(clients), model, state, doubles(clients), weights)
    sent = [protocol.transmit(model, images, labels) for images, labels in doubles(clients)]
    wanted = sum(weight * payload for weight, payload in zip(weights, sent, strict=True))
    assert (found.kind, found.mode) == (wanted.kind, wanted.mode)
    for a, b in zip(found.numbers, wanted.numbers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4 if exact else 1e-6, atol=1e-6 if exact else 1e-9)


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        (FedAvg(2, 3, 0.1, shuffle=2, momentum=0.5, decay=0.9), {}),
        (FedSGD(), {"lr": 0.2, "local_batch": 1}),
        (ZerothOrder(directions=4, dtype="float64"), {"lr": 0.02}),
    ],
    ids=["FedAvg", "FedSGD", "ZerothOrder"],
)
def test_training_is_the_same_with_and_without(clients, protocol, options):
    model = models.build("mlp", clients[0], hidden=(5,))
    how = {"rounds": 3, "record": [1], "sampled": 6, "seed": 4} | options
    a, b = (gl.federation.train(protocol, model, clients, batched=batched, **how) for batched in (True, False))
    assert a.took_part == b.took_part and torch.equal(a.uplink, b.uplink)
    for name, p in b.states[-1].items():
        torch.testing.assert_close(a.states[-1][name], p, rtol=1e-5, atol=1e-6)
    a.check()


def test_the_recorded_clients_send_what_they_send_alone(clients):
    model, protocol = models.build("mlp", clients[0], hidden=(5,)), FedAvg(1, 3, 0.1, shuffle=5)
    run = gl.federation.train(protocol, model, clients, rounds=2, record=[1])
    for turn, entry in enumerate(run.messages):
        (message,) = entry[1]
        twin = models.build("mlp", clients[0], hidden=(5,))
        gl.federation.load(twin, message.parameters)
        alone = protocol.for_round(turn).for_client(1).transmit(twin, clients[1].images, clients[1].labels)
        assert all(torch.equal(message.payload[name], p) for name, p in alone.items())


def test_what_couples_images_or_draws_in_private_runs_one_by_one(clients):
    mlp, resnet = models.build("mlp", clients[0]), models.build("resnet8", clients[0], width=2)
    dropout = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10)).eval()
    dropout.classes = 10
    noisy = gl.defenses.Defended(FedAvg(), gl.defenses.get("gaussian_noise", sigma=0.1))
    assert all(together.possible(p, mlp, 10) for p in (FedSGD(), FedAvg(), ZerothOrder()))
    assert not any(together.possible(FedSGD(), model, 10) for model in (resnet, dropout))
    assert not together.possible(noisy, mlp, 10) and not together.possible(FedAvg(), mlp, 3)
    large = models.build("mlp", clients[0], hidden=(4000,))
    assert not together.possible(FedAvg(), large, 10) and together.possible(FedSGD(), large, 10)
    run = gl.federation.train(FedAvg(lr=0.01), resnet, clients, rounds=1, record=[])
    assert run.states[1] is not None and run.took_part == (tuple(range(7)),)
