"""What the last layer's gradient says about the labels."""

import pytest
import torch
from torch import nn

import glutils as gl
from glutils import labels, models
from glutils.data.batch import Batch
from glutils.protocols import FedAvg, FedSGD, ZerothOrder


@pytest.fixture(scope="module")
def hundred():
    return gl.data.sample("digits", count=100, seed=5, device="cpu")


def hits(batch, model):
    """On how many single images the rule finds the label; the labels are not told."""
    found = 0
    for one in batch:
        seen = gl.observe(model, FedSGD(), FedSGD().transmit(model, one.images, one.labels), one)
        estimate = labels.infer("idlg", seen)
        assert estimate.labels.shape == (1,) and estimate.counts.tolist() == [
            int(c == estimate.labels) for c in range(10)
        ]
        found += int(estimate.labels == one.labels)
    return found


@pytest.mark.parametrize(("name", "activation"), [("mlp", "tanh"), ("mlp", "relu"), ("lenet", "sigmoid")])
def test_idlg_finds_the_label_of_every_single_image(hundred, name, activation):
    assert len(set(hundred.labels.tolist())) == 10
    assert hits(hundred, models.build(name, hundred, activation=activation)) == 100


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_idlg_needs_no_bias_where_activations_are_not_negative(hundred, activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), activation(), nn.Linear(32, 10, bias=False))
    assert hits(hundred, model) == 100


def test_idlg_finds_unlikely_and_likely_labels(digit):
    """A model that is sure of class 7, asked about every class."""
    model = models.build("mlp", digit)
    with torch.no_grad():
        model[-1].bias[7] = 8.0
    for label in range(10):
        batch = Batch(digit.images, torch.tensor([label]), digit.classes)
        seen = gl.observe(model, FedSGD(), FedSGD().transmit(model, batch.images, batch.labels), batch)
        assert labels.infer("idlg", seen).labels.tolist() == [label]


def test_what_idlg_cannot_read_is_refused(digit, digits):
    def seen(batch, protocol, model=None):
        model = models.build("mlp", batch) if model is None else model
        return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)

    with pytest.raises(ValueError, match="one image, got a batch of 5"):
        labels.infer("idlg", seen(digits, FedSGD()))
    for protocol, kind in ((FedAvg(), "delta"), (ZerothOrder(directions=2), "scalars")):
        with pytest.raises(ValueError, match=f"reads a gradient, got a payload of kind '{kind}'"):
            labels.infer("idlg", seen(digit, protocol))
    with pytest.raises(ValueError, match="unknown label rule 'idgl'; valid names: idlg"):
        labels.infer("idgl", seen(digit, FedSGD()))
    with pytest.raises(TypeError, match="seen"):
        labels.infer("idlg", digit)
    headless = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(ValueError, match="no trainable linear layer"):
        labels.infer("idlg", seen(digit, FedSGD(), headless))


def test_names():
    assert "idlg" in labels.names() and gl.labels is labels
