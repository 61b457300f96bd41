"""Networks with switches: expected slopes, and the search that carries an ensemble of images through the kinks."""

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.attacks.zerogla.equations import ScalarEquations
from glutils.models import switches


def told(size=8, seed=0, ratio=1.2, **network):
    """A photograph, and what its scalars show to an attacker that knows its label."""
    batch = gl.data.sample("photos", size=size, seed=seed, content=18.0)
    model = gl.models.build("convnet", batch, seed=seed, **{"channels": (8, 16), "hidden": None} | network)
    count = round(ratio * batch.images.numel())
    client = gl.protocols.ZerothOrder(directions=count, mu=1e-4, scheme="central", dtype="float64", seed=seed)
    return batch, gl.observe(model, client, client.transmit(model, batch.images, batch.labels), batch, knows={"labels"})


def test_a_photograph_comes_back_exactly_through_relu_from_few_more_scalars_than_pixels():
    seed = 2
    batch, seen = told(seed=seed)
    found = gl.attack("zerogla", seen, seed=seed, restarts=1)
    assert float(gl.score(found, batch).psnr[0]) >= 100 and found.loss**0.5 < 1e-9
    plain = gl.attack("zerogla", seen, seed=seed, restarts=1, ensemble=0, soften=False, iterations=20)
    assert float(gl.score(plain, batch).psnr[0]) < 40


def test_permuted_scalars_give_nothing_and_the_misfit_says_so():
    batch, seen = told()
    fooled = gl.attack("zerogla", gl.tamper(seen, "permuted", seed=1), restarts=1, iterations=5)
    score = gl.score(fooled, batch)
    assert float(score.psnr[0] - score.controls["mean_colour"][0]) < 2 and fooled.loss**0.5 > 0.01


def test_max_pooling_is_stepped_through_as_well(monkeypatch):
    monkeypatch.setattr(gl.attacks.zerogla.ensemble, "STEPS", 6)
    batch = gl.data.sample("photos", size=8, seed=0, content=18.0)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.Tanh(),
        nn.Flatten(), nn.Linear(256, 9),
    )  # fmt: skip
    client = gl.protocols.ZerothOrder(directions=400, mu=1e-4, dtype="float64", seed=0)
    sent = client.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, client, sent, batch, knows={"labels"})
    found = gl.score(gl.attack("zerogla", seen, restarts=1, iterations=5), batch)
    plain = gl.score(gl.attack("zerogla", seen, restarts=1, iterations=11, ensemble=0), batch)
    assert float(found.psnr[0]) > float(plain.psnr[0]) + 3 and float(found.psnr[0]) > 20


@pytest.mark.parametrize(
    "switch", [nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d((2, 1))]
)
def test_from_afar_a_network_has_its_own_values_and_slopes(switch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), switch).double()
    images = torch.randn(20, 2, 1, 6, 6, dtype=torch.float64)
    afar = switches.with_expected_switching(model, dict(model.named_parameters()), images)
    torch.testing.assert_close(afar(images[0]), model(images[0]), rtol=0, atol=0)
    slopes = [torch.autograd.grad(net(images[0]).square().sum(), model[0].weight)[0] for net in (model, afar)]
    torch.testing.assert_close(slopes[1], slopes[0])


def test_the_expected_change_of_slope_is_the_mean_change_over_a_spread():
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).view(9, 1)
    guesses = x + 0.3 * torch.randn(4000, 9, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    afar = switches.with_expected_switching(nn.Sequential(nn.ReLU()), {}, guesses)

    def slope(v):
        return torch.func.grad(lambda u: afar(u).sum())(v)

    change = torch.func.vjp(slope, x)[1]
    expected = torch.exp(-((x / 0.3) ** 2) / 2) / (0.3 * (2 * torch.pi) ** 0.5)
    torch.testing.assert_close(change(torch.ones_like(x))[0], expected, rtol=0.1, atol=0.08)


def test_an_ensemble_is_carried_where_only_images_are_unknown():
    batch, seen = told()
    with pytest.raises(ValueError, match="ensemble must be 0 here .soften"):
        gl.attack("zerogla", seen, soften=True, ensemble=40)
    blind = gl.observe(seen.model, seen.protocol, seen.payload, batch)
    with pytest.raises(ValueError, match="ensemble must be 0 here .only images"):
        gl.attack("zerogla", blind, ensemble=40)
    assert switches.has_switches(seen.model)
    assert not switches.has_switches(gl.models.build("mlp", batch, activation="tanh"))


def test_one_state_stands_for_a_block_of_rounds():
    clients = gl.data.partition("digits", clients=2, per_client=1, seed=0)
    model = gl.models.build("mlp", clients[0], hidden=(8,), seed=0)
    protocol = gl.protocols.ZerothOrder(directions=4, mu=1e-4, dtype="float64", seed=7)
    transcript = gl.federation.train(protocol, model, clients, rounds=5, lr=1e-6)
    seen = gl.observe(transcript, client=0, knows={"labels"})
    equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), 64)
    u = torch.rand(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (block,) = equations.blocks
    params, directions = block.one_state()
    images, labels = block.decode(u)
    gradient = gl.models.flatten(torch.func.grad(lambda p: block.loss(p, images, labels))(params))
    slopes = torch.cat([rows.double() @ gradient for rows in directions()])
    torch.testing.assert_close(slopes, block.evaluate(u, torch.zeros(block.count))[0], rtol=1e-3, atol=1e-5)
