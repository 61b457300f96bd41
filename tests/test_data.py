"""Batches, devices and the embedded sets."""

import numpy as np
import pytest
import torch

from glutils import _device, data
from glutils.data import embedded, pool
from glutils.data.batch import Batch

CPU = {"device": "cpu"}


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.classes == b.classes


# ---------------------------------------------------------------------------------------------------------- batches


def test_a_batch_checks_itself():
    images, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    Batch(images, labels, ("a", "b"))
    bad = [
        (images.double(), labels, ("a", "b"), TypeError, "float32"),
        (images[0], labels, ("a", "b"), ValueError, "shape"),
        (images + 2, labels, ("a", "b"), ValueError, r"\[0, 1\]"),
        (images + float("nan"), labels, ("a", "b"), ValueError, "finite"),
        (images, labels + 1, ("a", "b"), ValueError, r"0\.\.1"),
        (images, labels.int(), ("a", "b"), TypeError, "int64"),
        (images, labels[:1], ("a", "b"), ValueError, "one entry per image"),
        (images, torch.full((2, 2), 0.5).double(), ("a", "b"), TypeError, "int64 class indices, or float32"),
        (images, torch.full((2, 3), 0.5), ("a", "b"), ValueError, r"soft labels must have shape \(B, 2\)"),
        (images, torch.full((2, 2), float("inf")), ("a", "b"), ValueError, "labels must be finite"),
        (images, labels * 0, ("a",), ValueError, "at least two"),
    ]
    for wrong_images, wrong_labels, classes, error, text in bad:
        with pytest.raises(error, match=text):
            Batch(wrong_images, wrong_labels, classes)


def test_a_batch_is_indexed_by_number_slice_and_list():
    batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4), tuple("abcd"))
    assert batch.shape == (1, 8, 8) and len(batch) == 4
    for index in (2, np.int64(2), slice(2, 3), [2]):
        assert batch[index].labels.tolist() == [2] and batch[index].images.shape == (1, 1, 8, 8)
    assert batch[[3, 0]].labels.tolist() == [3, 0]
    assert len(list(batch)) == 4
    assert same(batch.to("cpu"), batch)


# --------------------------------------------------------------------------------------------------------- devices


def test_devices():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert _device.resolve(None).type == expected
    for name in ("cpu", "cpu:0", torch.device("cpu")):
        assert _device.resolve(name) == torch.device("cpu")
    for wrong in ("gpu", "cuda:99", "meta", "cpu:3", ""):
        with pytest.raises(ValueError, match="device must be one of cpu"):
            _device.resolve(wrong)
    with pytest.raises(TypeError, match="device"):
        _device.resolve(3)
    assert data.sample("digits").images.device.type == expected


# -------------------------------------------------------------------------------------------------------- sampling


def test_names_say_what_each_set_needs():
    found = data.names()
    assert list(found)[:2] == ["photos", "digits"]
    assert set(found) == {
        "photos",
        "digits",
        "mnist",
        "cifar10",
        "cifar100",
        "caltech256",
        "tinyimagenet",
        "imagenet",
        "folder",
        "wine",
        "breast_cancer",
        "diabetes",
        "adult_like",
        "messages",
    }
    inside = ("photos", "digits", "wine", "breast_cancer", "diabetes", "adult_like", "messages")
    assert all("embedded" in found[name] for name in inside)
    assert all("root" in text for name, text in found.items() if name not in inside)
    with pytest.raises(ValueError, match="photos, digits, .*mnist.*folder; got 'mnits'"):
        data.sample("mnits")


@pytest.mark.parametrize("size", [None, 8, 33, 128])
@pytest.mark.parametrize("split", ["private", "public"])
def test_photos(size, split):
    batch = data.sample("photos", size=size, count=11, split=split, **CPU)
    assert batch.images.shape == (11, 3, size or 32, size or 32)
    assert batch.classes == tuple(embedded.PHOTOS) and len(batch.classes) == 9
    assert sorted(batch.labels[:9].tolist()) == list(range(9))  # distinct until all had their turn
    assert batch.labels[9] != batch.labels[10]
    assert batch.source == f"photos, {split} split"


def test_digits():
    batch = data.sample("digits", count=20, **CPU)
    assert batch.images.shape == (20, 1, 8, 8) and batch.classes == tuple("0123456789")
    assert torch.equal(batch.images * 16, (batch.images * 16).round())  # untouched at their own size
    large = data.sample("digits", count=20, size=28, **CPU)
    assert large.images.shape == (20, 1, 28, 28) and torch.equal(large.labels, batch.labels)
    assert (large.images.mean((1, 2, 3)) - batch.images.mean((1, 2, 3))).abs().max() < 0.02


def test_resizing_keeps_the_centre_and_the_mean():
    image = torch.zeros(3, 20, 60)
    image[:, :, 20:40] = 1
    assert torch.equal(pool.fit(image, 20), torch.ones(3, 20, 20))
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    small = pool.fit(noise, 8)
    assert small.shape == (3, 8, 8) and small.std() < noise.std() / 3  # antialiased: pixels average what they cover
    assert abs(float(small.mean() - noise.mean())) < 0.01
    assert pool.fit(torch.rand(1, 37, 53), 37).shape == (1, 37, 37)
    assert pool.fit(torch.rand(1, 53, 37), 101).shape == (1, 101, 101)


@pytest.mark.parametrize("name", ["photos", "digits"])
def test_draws_repeat_and_a_longer_one_begins_with_the_shorter(name):
    few, many = data.sample(name, count=3, seed=5, **CPU), data.sample(name, count=12, seed=5, **CPU)
    assert same(few, data.sample(name, count=3, seed=5, **CPU))
    assert same(few, many[:3])
    assert not torch.equal(few.images, data.sample(name, count=3, seed=6, **CPU).images)
    assert not torch.equal(few.images, data.sample(name, count=3, seed=5, split="public", **CPU).images)


def test_private_and_public_crops_share_no_pixel_column():
    edges = {}
    for split in pool.SPLITS:
        for crop in embedded.crops(90, 8, 3, split, None, True):
            name = list(embedded.PHOTOS)[crop.label]
            _, height, width = embedded._photo(name).shape
            assert 0 <= crop.top and crop.top + crop.side <= height
            assert 0 <= crop.left and crop.left + crop.side <= width
            edges.setdefault((name, split), []).append((crop.left, crop.left + crop.side))
    for name in embedded.PHOTOS:
        ends = max(right for _, right in edges[name, "private"])
        begins = min(left for left, _ in edges[name, "public"])
        assert ends + embedded.GAP <= begins
        top, left, height, width = embedded._region(name, "public")
        assert left - embedded._region(name, "private")[3] == embedded.GAP
        assert min(height, width) >= embedded.LARGEST  # every allowed size has room


def test_a_crop_is_the_window_it_says_it_is():
    crop = next(embedded.crops(1, 16, 0, "private", ["china"], True))
    window = embedded._photo("china")[:, crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    assert torch.equal(crop.image, pool.fit(window.float() / 255, 16))
    assert torch.equal(crop.image, data.sample("photos", size=16, classes=["china"], **CPU).images[0])


def test_nearly_constant_crops_are_avoided(monkeypatch):
    for split in pool.SPLITS:
        contrast = torch.tensor(
            [embedded._contrast(crop.image) for crop in embedded.crops(90, 16, 0, split, None, True)]
        )
        assert (contrast >= embedded.MIN_CONTRAST).float().mean() > 0.95
    draw = torch.Generator().manual_seed(0)
    monkeypatch.setattr(embedded, "_photo", lambda name: torch.full((3, 300, 600), 7, dtype=torch.uint8))
    assert (
        embedded._crop("coffee", 2, 8, "private", draw).label == 2
    )  # a grey photograph still ends, with the best there is


def test_private_and_public_digits_share_no_image():
    private, public = (data.load("digits", split=split, **CPU) for split in pool.SPLITS)
    assert (len(private), len(public)) == (1000, 797)
    rows = {tuple(image.flatten().tolist()) for image in private.images}
    assert len(rows) == 1000
    assert not rows & {tuple(image.flatten().tolist()) for image in public.images}
    assert min(torch.bincount(private.labels).min(), torch.bincount(public.labels).min()) > 60


@pytest.fixture
def painted(monkeypatch):
    """Photographs whose pixels tell their place: red left of the border, green in the gap, blue right of it."""

    def photo(name):
        width = embedded.LARGEST * 4
        border, image = int(embedded.PRIVATE_PART * width), torch.zeros(3, 300, width, dtype=torch.uint8)
        image[0, :, :border] = image[1, :, border : border + embedded.GAP] = image[2, :, border + embedded.GAP :] = 255
        image[:, torch.arange(300) % 80 < 40] //= 3  # bands: a plain crop would be drawn again and again
        return image

    monkeypatch.setattr(embedded, "_photo", photo)
    monkeypatch.setattr(embedded, "CROPS_PER_PHOTO", 4)
    embedded._all_photos.cache_clear()
    yield
    embedded._all_photos.cache_clear()


RED, BLUE = [True, False, False], [False, False, True]


def colours(*batches: Batch) -> list[bool]:
    """Which of red, green and blue occur anywhere."""
    return torch.cat([batch.images for batch in batches]).amax((0, 2, 3)).gt(0).tolist()


def test_every_way_to_photographs_stays_on_its_side(painted):
    """What a client holds lies left of the border, what anyone may hold right of it, whatever function is asked."""
    for how in (CPU, {"split": "private", **CPU}):
        private = data.sample("photos", count=40, size=16, seed=3, **how)
        assert colours(private) == RED and private.source == "photos, private split"
        assert colours(data.load("photos", size=8, **how)) == RED
        assert colours(*data.partition("photos", clients=3, per_client=6, size=8, **how)) == RED
    assert colours(data.sample("photos", count=40, size=16, seed=3, split="public", **CPU)) == BLUE
    assert colours(data.load("photos", size=8, split="public", **CPU)) == BLUE
    assert colours(*data.partition("photos", clients=3, per_client=6, size=8, split="public", **CPU)) == BLUE
    clients = data.partition("photos", clients=2, per_client=4, size=8, **CPU)
    for public in (data.public("photos", size=8, **CPU), data.public(private, count=40), data.public(clients[0])):
        assert colours(public) == BLUE and public.source == "photos, public split"


def rows(*batches: Batch) -> set:
    return {tuple(image.flatten().tolist()) for batch in batches for image in batch.images}


def test_every_way_to_digits_stays_in_its_split():
    """The private thousand are those of a frozen stream, written here once more; the others are public."""
    from sklearn.datasets import load_digits

    order = np.random.RandomState(0).permutation(1797)
    images = load_digits().images.reshape(1797, -1) / 16
    mine, others = ({tuple(image.tolist()) for image in images[part]} for part in (order[:1000], order[1000:]))
    assert len(mine) == 1000 and not mine & others
    private = data.sample("digits", count=50, seed=2, **CPU)
    clients = data.partition("digits", clients=5, per_client=20, seed=1, **CPU)
    assert rows(private, data.load("digits", **CPU)) == mine and rows(*clients) < mine
    assert rows(*data.partition("digits", clients=2, split="public", **CPU)) == others
    for public in (data.public("digits", **CPU), data.public(private), data.public(clients[3])):
        assert rows(public) == others and public.source == "digits, public split"
    assert rows(data.public(private, count=30, seed=4)) < others
    assert rows(data.sample("digits", count=30, split="public", **CPU)) < others


def test_the_two_splits_of_a_seed_are_drawn_independently():
    private, public = (pool.generator(7, split) for split in pool.SPLITS)
    drawn = torch.randint(2**60, (2,), generator=private), torch.randint(2**60, (2,), generator=public)
    assert not torch.equal(*drawn)
    again = torch.Generator().manual_seed(14), torch.Generator().manual_seed(15)  # private draws from the even seeds
    assert all(torch.equal(d, torch.randint(2**60, (2,), generator=g)) for d, g in zip(drawn, again, strict=True))


def test_whole_splits():
    everything = data.sample("digits", count=1000, **CPU)
    assert len({tuple(image.flatten().tolist()) for image in everything.images}) == 1000  # without replacement
    assert same(data.sample("digits", count="all", size=8, **CPU), data.load("digits", **CPU))
    photos = data.load("photos", split="public", size=8, **CPU)
    assert torch.bincount(photos.labels).tolist() == [embedded.CROPS_PER_PHOTO] * 9
    photos.images.zero_(), photos.labels.zero_()  # nobody else's copy
    again = data.load("photos", split="public", size=8, **CPU)
    assert again.images.any() and same(again, embedded.photos(9 * embedded.CROPS_PER_PHOTO, 8, 0, "public"))


def test_public_images_for_a_batch():
    mine = data.sample("digits", size=12, count=2, **CPU)
    assert same(data.public(mine), data.load("digits", split="public", size=12, **CPU))
    clients = data.partition("photos", clients=2, per_client=2, size=16, **CPU)
    assert data.public(clients[1], count=5, seed=3).images.shape == (5, 3, 16, 16)
    assert same(
        data.public("digits", count=4, seed=1, **CPU), data.sample("digits", count=4, seed=1, split="public", **CPU)
    )
    with pytest.raises(ValueError, match="source"):
        data.public(Batch(mine.images, mine.labels, mine.classes, "my own"))


def test_chosen_classes_and_distinct_labels():
    batch = data.sample("photos", count=6, classes=["retina", "flower"], size=8, **CPU)
    assert set(batch.labels.tolist()) == {5, 8} and batch.labels.bincount()[8] == 3
    assert set(data.sample("digits", count=30, classes=[3, "7"], **CPU).labels.tolist()) == {3, 7}
    assert data.sample("digits", count=10, distinct=True, **CPU).labels.unique().numel() == 10
    assert data.sample("digits", count=40, distinct=True, seed=2, **CPU).labels.bincount().tolist() == [4] * 10
    repeats = data.sample("photos", count=40, size=8, distinct=False, **CPU).labels
    assert any(len(set(repeats[i : i + 9].tolist())) < 9 for i in range(0, 36, 9))


BAD_CALLS = [
    ({"count": 0}, ValueError, "count must be at least 1"),
    ({"count": 1.5}, TypeError, "count must be an integer"),
    ({"count": True}, TypeError, "count"),
    ({"count": "many"}, ValueError, "'all'"),
    ({"count": "all", "distinct": True}, ValueError, "count"),
    ({"size": 7}, ValueError, "size must be between 8 and 128"),
    ({"size": 129}, ValueError, "size must be between 8 and 128"),
    ({"size": "32"}, TypeError, "size"),
    ({"seed": -1}, ValueError, "seed"),
    ({"seed": 0.5}, TypeError, "seed"),
    ({"split": "test"}, ValueError, "split must be one of 'private', 'public'"),
    ({"classes": []}, ValueError, "classes"),
    ({"classes": "3"}, TypeError, "classes"),
    ({"classes": ["dog"]}, ValueError, "classes must be names or indices .*got 'dog'"),
    ({"classes": [10]}, ValueError, "classes"),
    ({"classes": [0.0]}, ValueError, "classes"),
    ({"distinct": 1}, TypeError, "distinct"),
    ({"root": "/tmp"}, ValueError, "root and download must be left alone"),
    ({"download": True}, ValueError, "root and download must be left alone"),
    ({"device": "tpu"}, ValueError, "device"),
]


@pytest.mark.parametrize("name", ["photos", "digits"])
@pytest.mark.parametrize(("arguments", "error", "text"), BAD_CALLS)
def test_bad_arguments(name, arguments, error, text):
    with pytest.raises(error, match=text):
        data.sample(name, **arguments)


def test_more_bad_arguments():
    with pytest.raises(ValueError, match="count must be at most 1000.*got 1001"):
        data.sample("digits", count=1001)
    with pytest.raises(ValueError, match="in these classes"):
        data.sample("digits", count=500, classes=[0])
    for wrong in (None, 3, "", ["photos"]):
        with pytest.raises(ValueError, match="name must be one of"):
            data.sample(wrong)
    with pytest.raises(ValueError, match="split"):
        data.load("digits", split="all")
    with pytest.raises(ValueError, match="size"):
        data.load("photos", size=4)


def test_a_photograph_that_is_not_shipped_is_named(monkeypatch):
    monkeypatch.setitem(embedded.PHOTOS, "atlantis", "skimage/data/atlantis.png")
    with pytest.raises(FileNotFoundError, match="'atlantis' should come with skimage"):
        embedded._photo("atlantis")


def test_photos_with_content_are_asked_for():
    def blank(batch):
        return -10 * (batch.images - batch.images.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).log10()

    plain = data.sample("photos", size=16, count=40, seed=0, device="cpu")
    full = data.sample("photos", size=16, count=12, seed=0, content=18, device="cpu")
    assert (blank(plain) >= 18).any() and (blank(full) < 18).all() and len(full) == 12
    first = plain.images[blank(plain) < 18][:3]
    assert torch.equal(data.sample("photos", size=16, count=3, seed=0, content=18, device="cpu").images, first)
    with pytest.raises(ValueError, match="content must leave photos to draw"):
        data.sample("photos", size=16, content=0.1, device="cpu")
    with pytest.raises(ValueError, match="content is for photos, not for 'digits'"):
        data.sample("digits", content=18, device="cpu")
