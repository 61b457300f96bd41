"""Every client's own training and test images; batches joined."""

from dataclasses import replace

import pytest
import torch

from glutils import data, federation, models, protocols
from glutils.data.batch import Batch


def toy(count, offset=0.0, classes="abc"):
    """Images that can be told apart."""
    images = (offset + torch.arange(count) / 100).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return Batch(images, torch.arange(count) % 3, tuple(classes), "digits, private split")


def marks(batches):
    return sorted(float(image.mean()) for batch in batches for image in batch.images)


def test_each_client_keeps_a_fifth_of_its_images_and_no_image_is_lost():
    clients = [toy(10), toy(2, 0.2), toy(17, 0.3), toy(5, 0.5)]
    train, test = data.hold_out(clients)
    assert [len(b) for b in test] == [2, 1, 3, 1] and [len(b) for b in train] == [8, 1, 14, 4]
    for own, kept, client in zip(train, test, clients, strict=True):
        assert marks([own, kept]) == marks([client]) and own.classes == client.classes and kept.source == client.source
    again, other = data.hold_out(clients)[1], data.hold_out(clients, seed=1)[1]
    assert marks(again) == marks(test) != marks(other)
    most = data.hold_out(clients, share=0.99)
    assert [len(b) for b in most[0]] == [1, 1, 1, 1]


def test_joined_batches_keep_images_and_labels_together():
    whole = data.concatenate([toy(4), toy(3, 0.5)])
    assert torch.equal(whole.images[4:], toy(3, 0.5).images) and whole.labels.tolist() == [0, 1, 2, 0, 0, 1, 2]
    with pytest.raises(ValueError, match="batch 1 differs from batch 0"):
        data.concatenate([toy(4), toy(3, classes="abx")])


@pytest.mark.parametrize(
    ("clients", "options", "error", "text"),
    [
        ([toy(4), toy(1)], {}, ValueError, "2 images or more each, client 1 holds 1"),
        ([], {}, ValueError, "clients must hold at least one Batch, got none"),
        (toy(4), {}, TypeError, "clients must be a list of Batches, got Batch"),
        ([3], {}, TypeError, "clients must be a Batch, got int"),
        ([toy(4)], {"share": 0}, ValueError, "share must be greater than 0"),
        ([toy(4)], {"share": 1.0}, ValueError, "share must be between 0 and 1, exclusive, got 1.0"),
        ([toy(4)], {"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_bad_arguments(clients, options, error, text):
    with pytest.raises(error, match=text):
        data.hold_out(clients, **options)


@pytest.mark.parametrize(("name", "change", "told"), [
    ("photos", lambda records: records.mean(1, keepdim=True), "1x8x8, those of the set 3x8x8"),
    ("photos", lambda records: records[..., :6, :], "3x6x8, those of the set 3x8x8"),
    ("digits", lambda records: records.repeat(1, 3, 1, 1), "3x8x8, those of the set 1x8x8"),
])  # fmt: skip
def test_public_records_of_another_shape_are_refused_before_any_round(name, change, told):
    """They would fail in the network, or, where it takes any size, be another task."""
    drawn = data.sample(name, count=4, size=8, seed=0, device="cpu")
    own = replace(drawn, images=change(drawn.images))
    with pytest.raises(ValueError, match=told):
        data.public(own)
    model = models.build("mlp", own, seed=0)
    how = {"rounds": 1, "lr": 0.1, "progress": False}
    with pytest.raises(ValueError, match=r"^test must be given .* " + told):
        federation.train(protocols.FedSGD(), model, [own], **how)
    with pytest.raises(ValueError, match="test must hold records like the clients'"):
        federation.train(protocols.FedSGD(), model, [own], test=drawn, **how)
    assert len(federation.train(protocols.FedSGD(), model, [own], test=own, **how).accuracy) == 1
