"""How images are dealt to clients."""

import pytest
import torch

from glutils import data
from glutils.data.batch import Batch

CPU = {"device": "cpu"}


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.classes == b.classes


def toy(labels, channels=1, size=8) -> Batch:
    """A Batch in which every image is a constant of its own, so images can be told apart."""
    values = torch.arange(len(labels), dtype=torch.float32) / max(len(labels), 1)
    images = values[:, None, None, None].expand(-1, channels, size, size).contiguous()
    return Batch(images, torch.tensor(labels), tuple("abcdefghij"), "digits, private split")


def marks(parts) -> list[float]:
    return [float(image.mean()) for part in parts for image in part.images]


def test_an_iid_partition_is_equal_and_disjoint():
    parts = data.partition("digits", clients=5, per_client=10, seed=0, **CPU)
    assert [len(part) for part in parts] == [10] * 5
    rows = [tuple(image.flatten().tolist()) for part in parts for image in part.images]
    assert len(set(rows)) == 50
    again = data.partition("digits", clients=5, per_client=10, seed=0, **CPU)
    assert all(same(a, b) for a, b in zip(parts, again, strict=True))
    assert not same(parts[0], data.partition("digits", clients=5, per_client=10, seed=1, **CPU)[0])
    everything = data.partition("digits", clients=3, **CPU)
    assert sorted(len(part) for part in everything) == [333, 333, 334]


def test_a_batch_can_be_dealt():
    batch = toy([i % 10 for i in range(40)])
    parts = data.partition(batch, clients=4, per_client=5)
    assert len(set(marks(parts))) == 20 and parts[0].classes == batch.classes and parts[0].source == batch.source
    whole = data.partition(batch, clients=4)
    assert sorted(marks(whole)) == sorted(marks([batch]))
    for extra in ({"size": 16}, {"root": "/tmp"}, {"download": True}, {"split": "public"}):
        with pytest.raises(ValueError, match="left alone"):
            data.partition(batch, clients=2, **extra)


def test_photos_are_dealt_as_different_crops():
    parts = data.partition("photos", clients=3, per_client=6, size=8, split="public", **CPU)
    assert len({tuple(image.flatten().tolist()) for part in parts for image in part.images}) == 18


def test_a_dirichlet_partition_is_skewed_capped_and_complete():
    batch = toy([i // 100 for i in range(1000)])
    even = data.partition(batch, clients=5, law="dirichlet", beta=1000.0, seed=1)
    skewed = data.partition(batch, clients=5, law="dirichlet", beta=0.1, min_samples=15, seed=1)

    def spread(parts):
        return torch.stack([part.labels.bincount(minlength=10) / len(part) for part in parts]).std(0).mean()

    assert spread(skewed) > 5 * spread(even)
    for parts in (even, skewed):
        assert sorted(marks(parts)) == sorted(marks([batch]))  # every image once
        assert all(15 <= len(part) < 200 + 100 for part in parts)  # a client at its share takes no further class
    assert not torch.equal(skewed[0].labels, skewed[0].labels.sort().values)  # shuffled within the client
    again = data.partition(batch, clients=5, law="dirichlet", beta=0.1, min_samples=15, seed=1)
    assert all(same(a, b) for a, b in zip(skewed, again, strict=True))
    tiny = data.partition(
        batch, clients=2, law="dirichlet", beta=1e-6, seed=0
    )  # all mass on one client, often a full one
    assert sum(map(len, tiny)) == 1000
    digits = data.partition("digits", clients=10, per_client=20, law="dirichlet", seed=4, **CPU)
    assert sum(map(len, digits)) == 200 and len({len(part) for part in digits}) > 1


def test_a_pathological_partition_gives_few_classes():
    batch = toy([i % 10 for i in range(400)])
    parts = data.partition(batch, clients=10, law="pathological", classes_per_client=2)
    assert [len(part) for part in parts] == [40] * 10 and sorted(marks(parts)) == sorted(marks([batch]))
    assert max(part.labels.unique().numel() for part in parts) <= 4


BAD_PARTITIONS = [
    ({"clients": 0}, ValueError, "clients must be at least 1"),
    ({"clients": "5"}, TypeError, "clients"),
    ({"per_client": 0}, ValueError, "per_client"),
    ({"per_client": 2.0}, TypeError, "per_client"),
    ({"clients": 101, "per_client": 10}, ValueError, "count must be at most 1000.*1010"),
    ({"law": "zipf"}, ValueError, "law must be one of 'iid', 'dirichlet', 'pathological'"),
    ({"beta": 0}, ValueError, "beta"),
    ({"beta": float("nan")}, ValueError, "beta"),
    ({"min_samples": 0}, ValueError, "min_samples"),
    ({"min_samples": 11}, ValueError, "min_samples must be at most 10"),
    ({"law": "pathological", "classes_per_client": 11}, ValueError, "classes_per_client must be at most 10"),
    ({"clients": 10, "law": "dirichlet", "beta": 0.01, "min_samples": 10}, ValueError, "none of 1000 draws"),
    ({"seed": -1}, ValueError, "seed"),
    ({"split": "test"}, ValueError, "split"),
    ({"of": "mnits"}, ValueError, "name must be one of"),
    ({"of": 5}, ValueError, "name must be one of"),
    ({"device": "tpu"}, ValueError, "device"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), BAD_PARTITIONS)
def test_bad_partitions(arguments, error, text):
    with pytest.raises(error, match=text):
        data.partition(**{"of": "digits", "clients": 3, "per_client": 10} | arguments)


def test_a_batch_with_too_few_images_is_refused():
    with pytest.raises(ValueError, match="at most 4.*got 6"):
        data.partition(toy([0, 1, 2, 3]), clients=2, per_client=3)
    with pytest.raises(ValueError, match="clients must be at most 2, one for each image; got 3"):
        data.partition(toy([0, 1]), clients=3)
