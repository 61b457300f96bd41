"""Weights that never meet a pixel, and small convolutions without oneDNN: faster, and nothing else changes."""

import pytest
import torch
from torch import nn

import glutils as gl
from glutils import models, priors
from glutils.attacks.matching.objective import matching
from glutils.models import convolutions


def whole(model, images, labels):
    return models.flatten(models.gradient(model, None, images, labels))


def check(model, shape, seed=0):
    """Cut the network; compare gradients where something is left, and find zeros where nothing is. How much is left."""
    draw = torch.Generator().manual_seed(seed)
    images, labels = torch.rand(shape, generator=draw, dtype=torch.float64), torch.arange(shape[0]) % 3
    model = model.double().eval()
    cut = convolutions.trimmed(model, shape, convolutions.sizes(model, shape))
    full = whole(model, images, labels)
    torch.testing.assert_close(whole(cut.model, images, labels), full[cut.columns], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(cut.model(images), model(images))
    dead = torch.ones(len(full), dtype=torch.bool)
    dead[cut.columns] = False
    assert full[dead].abs().max() == 0
    return len(cut.columns) / len(full)


def net(*layers, features):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 3))


@pytest.mark.parametrize("how", [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 5, "padding": 2, "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": (3, 5), "padding": (1, 2)},
    {"kernel_size": 3, "padding": 1, "groups": 2},
])  # fmt: skip
def test_taps_on_a_single_pixel(how):
    left = check(net(nn.Conv2d(2, 4, **how), nn.Sigmoid(), nn.Conv2d(4, 4, 3, padding=1), features=4), (2, 2, 1, 1))
    assert left < 0.5


def test_one_side_of_a_kernel():
    layer = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    model = net(layer, features=4).double()
    cut = convolutions.trimmed(model, (1, 2, 2, 2), convolutions.sizes(model, (1, 2, 2, 2)))
    assert cut.kept == {"0.weight": (slice(None), slice(None), slice(1, 3), slice(1, 3))}
    assert cut.model[0].padding == (0, 0) and layer.padding == (1, 1) and layer.weight.shape[2:] == (3, 3)
    check(model, (1, 2, 2, 2))


def test_resnet18_keeps_less_than_half():
    batch = gl.data.sample("photos", size=32, seed=0)
    model = gl.models.build("resnet18", batch, seed=0)
    cut = convolutions.trimmed(model, batch.images.shape, convolutions.sizes(model, batch.images.shape))
    assert len(cut.columns) / sum(p.numel() for p in model.parameters()) == pytest.approx(0.379, abs=0.001)
    found = models.gradient(cut.model, None, batch.images, batch.labels)
    expected = cut.params(models.gradient(model, None, batch.images, batch.labels))
    for name, part in found.items():
        torch.testing.assert_close(part, expected[name], rtol=1e-3, atol=1e-5)
    assert cut.model[1].layer1[0].bn1 is model[1].layer1[0].bn1  # so that what looks at it still sees it


def shared():
    layer = nn.Conv2d(2, 2, 3, padding=1)
    return net(layer, nn.Sigmoid(), layer, features=2)


class Listed(nn.Module):
    """Calls its layers by a list of its own."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3)
        self.order = [self.layer, nn.Flatten(), self.head]

    def forward(self, x):
        for layer in self.order:
            x = layer(x)
        return x


@pytest.mark.parametrize("model", [
    net(nn.Conv2d(2, 2, 3, padding=1), features=2 * 16),
    net(nn.Conv2d(2, 2, 3, padding="same"), features=2),
    net(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), features=2),
    shared(),
    Listed(),
], ids=["all taps meet pixels", "same", "circular", "called twice", "listed"])  # fmt: skip
def test_left_as_it_is(model):
    size = 4 if isinstance(model, nn.Sequential) and model[-1].in_features == 32 else 1
    shape = (1, 2, size, size)
    assert convolutions.trimmed(model, shape, convolutions.sizes(model, shape)) is None


def test_sizes_and_work():
    model = net(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, padding=1), features=4 * 16)
    model.train()
    first, second = convolutions.sizes(model, (2, 2, 8, 8))
    assert (first.name, first.entered, first.left, first.work) == ("0", (8, 8), (8, 8), 2 * 4 * 64 * 18)
    assert second.left == (4, 4) and second.layer is model[2] and model.training
    assert convolutions.little([first, second]) and not convolutions.little([]), "no convolutions, nothing to do"


def test_sizes_leave_no_trace():
    batch = gl.data.sample("photos", size=8, seed=0)
    model = gl.models.build("resnet8", batch, seed=0).train()
    before = {name: b.clone() for name, b in model.named_buffers()}
    with priors.record_batchnorm_statistics(model) as noted:
        convolutions.sizes(model, batch.images.shape)
    assert not noted
    for name, b in model.named_buffers():
        assert torch.equal(b, before[name])


def test_a_model_that_cannot_be_copied_is_left_alone():
    model = net(nn.Conv2d(2, 4, 3, padding=1), features=4)
    model.last = model(torch.rand(1, 2, 1, 1))  # with its graph
    assert convolutions.sizes(model, (1, 2, 1, 1)) == []
    assert convolutions.trimmed(model, (1, 2, 1, 1), []) is None


def test_direct_restores():
    before = torch.backends.mkldnn.enabled
    with pytest.raises(KeyError), convolutions.direct(True):
        assert not torch.backends.mkldnn.enabled
        raise KeyError
    assert torch.backends.mkldnn.enabled == before
    with convolutions.direct(False):
        assert torch.backends.mkldnn.enabled == before


@pytest.mark.parametrize("memory", [2**31, 0])
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_objective_is_the_same(memory, rounds):
    """Against autograd through the whole network and all entries of V."""
    batch = gl.data.sample("photos", size=8, seed=0)
    model = gl.models.build("lenet", batch, seed=0)
    assert convolutions.trimmed(model, (1, 3, 8, 8), convolutions.sizes(model, (1, 3, 8, 8))) is not None
    protocol = gl.protocols.ZerothOrder(directions=7, scheme="exact", dtype="float64", memory=memory)
    if rounds == 1:
        scalars = protocol.transmit(model, batch.images, batch.labels)
        seen = gl.observe(model, protocol, scalars, batch, knows={"labels"})
    else:
        transcript = gl.federation.train(protocol, model, [batch], rounds=rounds, lr=0.1, progress=False)
        seen = gl.observe(transcript, client=0, knows={"labels"})
    x = torch.rand(batch.images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    value, (slope,) = matching(seen, lambda v: (v[0], batch.labels), dtype=torch.float64)((x,))
    total = 0
    for entry in seen.rounds:
        params = {n: p.double() for n, p in (models.parameters(model) | (entry.parameters or {})).items()}
        slopes = gl.zo.exact_slopes(model, x, batch.labels, entry.protocol.draw(model), dtype=x.dtype, params=params)
        total = total + (slopes - entry.payload).square().sum()
    torch.testing.assert_close(value, total.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(slope, torch.autograd.grad(total, x)[0], rtol=1e-7, atol=1e-12)
