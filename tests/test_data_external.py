"""External sets, each read from a tiny set in the form in which the real one lies on disk."""

import hashlib
import pickle
import struct
import urllib.error
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from glutils import data
from glutils.data import external

CPU = {"device": "cpu"}
SETS = external.loaders.names()


def picture(path, value, shape=(20, 30), mode="RGB"):
    """An image file, of which most pixels have the grey ``value``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*shape, 3), value, dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def values(batch):
    return [round(float(image.mean()) * 255) for image in batch.images]


# ------------------------------------------------------------------------------------- sets in files of their own kind


def idx(path, array):
    """MNIST's own format: two zero bytes, type, rank, sizes (big endian), then the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    for part, count, value in (("train", 12, 200), ("t10k", 6, 100)):
        idx(raw / f"{part}-images-idx3-ubyte", np.full((count, 28, 28), value))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


def old_pickle(path, entry):
    """A pickle as the CIFAR sets hold it: protocol 2, a NumPy of that time, dtype flags 0 and 1; returns its md5."""
    content = pickle.dumps(entry, protocol=2).replace(b"numpy._core", b"numpy.core")
    content = content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")  # (False, True) -> (0, 1), the dtype's last arguments
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Both CIFAR sets. torchvision compares md5 sums with the real files', so its lists get those of the tiny files."""
    from torchvision.datasets import CIFAR10, CIFAR100

    def fill(kind, key, names_key, names):
        folder = tmp_path / kind.base_folder
        lists = {}
        for attribute, value in (("train_list", 200), ("test_list", 100)):
            lists[attribute] = []
            for number, (name, _) in enumerate(getattr(kind, attribute)):
                block = np.full((4, 3072), value, dtype=np.uint8)
                block[:, :1024] = 0  # rows are red, green, blue planes: red is 0
                md5 = old_pickle(folder / name, {"data": block, key: [number, 1, 2, 3]})
                lists[attribute].append([name, md5])
        meta = kind.meta | {"md5": old_pickle(folder / kind.meta["filename"], {names_key: names})}
        for attribute, value in {**lists, "meta": meta}.items():
            monkeypatch.setattr(kind, attribute, value)

    # CIFAR100 inherits from CIFAR10, but has lists of its own
    fill(CIFAR10, "labels", "label_names", [f"kind{i}" for i in range(10)])
    fill(CIFAR100, "fine_labels", "fine_label_names", [f"kind{i}" for i in range(100)])
    return tmp_path


@pytest.fixture
def caltech256(tmp_path):
    top = tmp_path / "caltech256" / "256_ObjectCategories"
    for number, name in enumerate(["ak47", "american-flag"], start=1):
        for i in range(1, 11):
            path = top / f"{number:03d}.{name}" / f"{number:03d}_{i:04d}.jpg"
            picture(path, 20 * i, mode="L" if i == 5 else "RGB")  # the real set has some grey images
    (top / "001.ak47" / "RENAME2").write_text("the real set has such a file")
    return tmp_path


@pytest.fixture
def tinyimagenet(tmp_path):
    top = tmp_path / "tiny-imagenet-200"
    wnids = ["n03444034", "n01443537", "n01629819"]  # as in the real file, not in alphabetical order
    rows = []
    for number, wnid in enumerate(wnids):
        for i in range(3):
            picture(top / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 200 + number, (64, 64), "L" if i else "RGB")
        (top / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
        picture(top / "val" / "images" / f"val_{number}.JPEG", 100 + number, (64, 64))
        rows.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (top / "val" / "val_annotations.txt").write_text("".join(rows))
    (top / "wnids.txt").write_text("\n".join(wnids) + "\n")
    words = [
        "n00001740\tentity",
        "n01443537\tgoldfish, Carassius auratus",
        "n01629819\tkart",
        "n03444034\tkart, go-kart",
    ]
    (top / "words.txt").write_text("\n".join(words) + "\n")
    return tmp_path


@pytest.fixture
def imagenet(tmp_path):
    for number, wnid in enumerate(["n01440764", "n01443537"]):
        for i in range(2):
            picture(tmp_path / "train" / wnid / f"{wnid}_{i}.JPEG", 200 + number)
            picture(tmp_path / "val" / wnid / f"ILSVRC2012_val_{2 * number + i:08d}.JPEG", 100 + number)
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["cats", "dogs"]):
        for i, kind in enumerate(["jpg", "png", "jpg", "png"]):
            picture(tmp_path / name / f"{i}.{kind}", 100 * number + 10 * i)
    return tmp_path


# ----------------------------------------------------------------------------------------------------------- reading


def test_mnist(mnist):
    private = data.load("mnist", root=mnist, **CPU)
    assert private.images.shape == (6, 1, 28, 28) and private.classes == tuple("0123456789")
    assert values(private) == [100] * 6 and private.labels.tolist() == list(range(6))
    public = data.sample("mnist", root=str(mnist), split="public", count=12, size=32, **CPU)
    assert public.images.shape == (12, 1, 32, 32) and set(values(public)) == {200}
    with pytest.raises(ValueError, match="at most 6"):
        data.sample("mnist", root=mnist, count=7)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(cifar, name, classes):
    private, public = (data.load(name, root=cifar, split=split, **CPU) for split in ("private", "public"))
    assert private.images.shape == (4, 3, 32, 32) and len(private.classes) == classes and private.classes[3] == "kind3"
    assert private.images.mean((0, 2, 3)).mul(255).round().tolist() == [0, 100, 100]
    assert public.images.mean((0, 2, 3)).mul(255).round().tolist() == [0, 200, 200]
    assert len(public) == {10: 20, 100: 4}[classes]


def test_a_changed_cifar_file_is_refused(cifar):
    path = cifar / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(FileNotFoundError, match="cifar10.*corrupted.*original files"):
        data.sample("cifar10", root=cifar)


def test_caltech256(caltech256):
    private, public = (
        data.load("caltech256", root=caltech256, size=16, split=split, **CPU) for split in ("private", "public")
    )
    assert private.classes == ("ak47", "american-flag")
    assert private.images.shape == (4, 3, 16, 16) and private.labels.tolist() == [0, 0, 1, 1]
    assert values(private) == [100, 200] * 2
    assert values(public) == [20, 40, 60, 80, 120, 140, 160, 180] * 2
    assert data.sample("caltech256", root=caltech256, **CPU).shape == (3, 224, 224)


def test_tinyimagenet(tinyimagenet):
    private, public = (
        data.load("tinyimagenet", root=tinyimagenet, split=split, **CPU) for split in ("private", "public")
    )
    assert private.classes == public.classes == ("goldfish", "kart (n01629819)", "kart (n03444034)")
    assert private.images.shape == (3, 3, 64, 64)
    assert private.labels.tolist() == [2, 0, 1] and values(private) == [100, 101, 102]
    assert public.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and values(public) == [201] * 3 + [202] * 3 + [200] * 3
    inner = tinyimagenet / "tiny-imagenet-200"
    (inner / "words.txt").unlink()
    assert data.sample("tinyimagenet", root=inner, **CPU).classes == ("n01443537", "n01629819", "n03444034")


def test_an_inconsistent_tinyimagenet_is_refused(tinyimagenet):
    (tinyimagenet / "tiny-imagenet-200" / "wnids.txt").write_text("n01443537\nn01629819\n")
    with pytest.raises(FileNotFoundError, match="absent from wnids.txt: n03444034"):
        data.sample("tinyimagenet", root=tinyimagenet)
    with pytest.raises(FileNotFoundError, match="not those of wnids.txt"):
        data.sample("tinyimagenet", root=tinyimagenet, split="public")


def test_imagenet(imagenet):
    private = data.load("imagenet", root=imagenet, size=16, **CPU)
    assert private.classes == ("n01440764", "n01443537")
    assert private.labels.tolist() == [0, 0, 1, 1] and values(private) == [100, 100, 101, 101]
    words = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish", "Carassius auratus")}
    torch.save((words, ["n01440764"] * 2 + ["n01443537"] * 2), imagenet / "meta.bin")  # as torchvision leaves it
    public = data.load("imagenet", root=imagenet, split="public", size=16, **CPU)
    assert public.classes == ("tench", "goldfish") and values(public) == [200, 200, 201, 201]
    assert data.sample("imagenet", root=imagenet, **CPU).shape == (3, 224, 224)
    for path in (imagenet / "val").rglob("*.JPEG"):
        path.rename(imagenet / "val" / path.name)  # as the archive unpacks, without folders of classes
    with pytest.raises(FileNotFoundError, match="does not hold 'imagenet'.*<wnid>"):
        data.sample("imagenet", root=imagenet)


def test_folder(folder):
    private, public = (data.load("folder", root=folder, split=split, size=16, **CPU) for split in ("private", "public"))
    assert private.classes == ("cats", "dogs") and private.images.shape == (4, 3, 16, 16)
    assert private.labels.tolist() == [0, 0, 1, 1]
    assert values(private) == [0, 20, 100, 120] and values(public) == [10, 30, 110, 130]
    clients = data.partition("folder", root=folder, clients=2, per_client=2, size=8, **CPU)
    assert sorted(values(clients[0]) + values(clients[1])) == [0, 20, 100, 120]


def test_folder_with_parts_of_its_own(tmp_path):
    for part, value in (("private", 100), ("public", 200)):
        for name in ("cats", "dogs"):
            picture(tmp_path / part / name / "a.png", value)
    assert values(data.load("folder", root=tmp_path, size=8, **CPU)) == [100, 100]
    assert values(data.load("folder", root=tmp_path, split="public", size=8, **CPU)) == [200, 200]
    picture(tmp_path / "public" / "birds" / "a.png", 0)
    with pytest.raises(FileNotFoundError, match="different classes"):
        data.sample("folder", root=tmp_path)


def test_all_kinds_of_image_files(tmp_path):
    for i, mode in enumerate(["L", "RGB", "RGBA", "P", "1", "CMYK"]):
        kind = "tif" if mode == "CMYK" else "png"
        picture(tmp_path / "a" / f"{i}.{kind}", 255, mode=mode)
        picture(tmp_path / "b" / f"{i}.{kind}", 255, mode=mode)
    # a palette with half-clear colours; its index 1 is nearly black
    Image.new("P", (9, 9), 1).save(tmp_path / "a" / "9.png", transparency=b"\x00\x80")
    batch = data.load("folder", root=tmp_path, size=8, **CPU)
    assert batch.images.shape[1:] == (3, 8, 8) and set(values(batch)) == {0, 255}
    data.load("folder", root=tmp_path, size=8, split="public", **CPU)
    Image.fromarray(np.full((9, 9), 40000, dtype=np.uint16)).save(tmp_path / "b" / "7.png")
    (tmp_path / "b" / "8.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="7.png.*8 bits a channel"):
        data.load("folder", root=tmp_path, size=8)
    with pytest.raises(ValueError, match="8.png"):
        data.load("folder", root=tmp_path, size=8, split="public")


def png(mode: int, bits: int, width: int, height: int, rows: bytes) -> bytes:
    """A PNG as other programs write it: Pillow itself has no 16 bits of colour."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    head = struct.pack(">IIBBBBB", width, height, bits, mode, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


WHOLE = png(2, 8, 4, 4, (b"\0" + bytes(12)) * 4)
NOISE = png(0, 8, 32, 32, b"".join(b"\0" + np.random.RandomState(row).bytes(32) for row in range(32)))
ODD = {
    "grey.png": (png(0, 16, 4, 4, (b"\0" + bytes(8)) * 4), "8 bits a channel, got mode 'I;16B'"),
    "colour.png": (png(2, 16, 4, 4, (b"\0" + bytes(24)) * 4), "8 bits a channel, got mode 'RGB;16B'"),
    "clear.png": (png(6, 16, 4, 4, (b"\0" + bytes(32)) * 4), "8 bits a channel, got mode 'RGBA;16B'"),
    "colour.ppm": (b"P6 4 4 65535\n" + bytes(96), "8 bits a channel, got mode 'RGB up to 65535'"),
    "grey.pgm": (b"P5 4 4 1023\n" + bytes(32), "8 bits a channel, got mode 'L up to 1023'"),
    "huge.png": (png(0, 1, 12_000, 12_000, b""), "at most 134,217,728 pixels, got 12000 x 12000"),
    "bomb.png": (png(0, 1, 60_000, 60_000, b""), "at most 134,217,728 pixels, this one has more"),
    "strip.png": (png(0, 8, 1, 65, b"\0\0" * 65), "must not be 64 times longer than wide, got 1 x 65"),
    "empty.png": (b"", "cannot identify"),
    "page.jpg": (b"<html>not found</html>", "cannot identify"),
    "cut.png": (NOISE[:300], "cut|truncated"),
    "foreign.png": (WHOLE.replace(b"IDAT", b"XDAT"), "broken|cannot|truncated"),
    "header.bmp": (b"BM" + bytes(100), "BMP header"),
    "empty.webp": (b"RIFF\0\0\0\0WEBPVP8 " + bytes(30), "could not create|cannot"),
    "short.qoi": (b"qoif" + bytes([0, 0, 0, 9, 0, 0, 0, 9, 3, 0]), "not enough"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_named_and_never_read_as_something_else(name, tmp_path):
    content, said = ODD[name]
    for label in ("a", "b"):
        picture(tmp_path / label / "z.png", 1)
    (tmp_path / "a" / name).write_bytes(content)
    picture(tmp_path / "b" / "0.png", 1)
    with pytest.raises(ValueError, match=f"cannot use the image '.*{name}': .*({said})"):
        data.load("folder", root=tmp_path, size=8, **CPU)
    assert len(data.load("folder", root=tmp_path, size=8, split="public", **CPU)) == 2  # the others can be used


def test_what_looks_odd_and_is_not_is_read(folder, recwarn, monkeypatch):
    (folder / "cats" / "0.jpg").write_bytes(b"P6 4 4 100\n" + bytes([100] * 48))  # fewer than 8 bits lose nothing
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # Pillow warns of larger ones, up to twice that
    found = data.load("folder", root=folder, size=8, **CPU)
    assert values(found)[0] == 255 and len(found) == 4 and not recwarn.list


def test_a_link_to_nothing_is_named(folder):
    (folder / "cats" / "0.jpg").unlink()
    (folder / "cats" / "0.jpg").symlink_to(folder / "gone.jpg")
    with pytest.raises(ValueError, match="cats/0.jpg.*No such file"):
        data.load("folder", root=folder, size=8, **CPU)


@pytest.mark.parametrize(
    "parts", [("train", "val"), ("a", "b"), ("Training", "Test")], ids=["known names", "the same classes", "others"]
)
def test_splits_are_not_taken_for_classes(parts, tmp_path):
    for part in parts:
        for name in ("cat", "dog") if parts != ("Training", "Test") else (f"only {part}",):
            picture(tmp_path / part / name / "0.png", 1)
            picture(tmp_path / part / name / "1.png", 2)
    with pytest.raises(FileNotFoundError, match=f"{min(parts)}.*look like splits.*give .*{min(parts)}"):
        data.sample("folder", root=tmp_path)


def test_what_programs_leave_behind_is_no_data(folder):
    before = [data.load("folder", root=folder, split=split, size=8, **CPU) for split in ("private", "public")]
    left = (".ipynb_checkpoints/x.png", "cats/.ipynb_checkpoints/0.png", "__MACOSX/cats/._0.jpg", "dogs/._1.png")
    for hidden in left:
        picture(folder / hidden, 255)
    (folder / ".empty").mkdir()
    after = [data.load("folder", root=folder, split=split, size=8, **CPU) for split in ("private", "public")]
    for old, new in zip(before, after, strict=True):
        assert old.classes == new.classes and values(old) == values(new)


def test_files_that_are_not_read_are_told(folder):
    (folder / "cats" / "a.heic").write_bytes(b"ftypheic")
    (folder / "dogs" / "notes.txt").write_text("two dogs")
    with pytest.warns(UserWarning, match=r"2 files in .* are not read as images: 'a.heic', 'notes.txt'"):
        assert len(data.load("folder", root=folder, size=8, **CPU)) == 4


def test_less_usual_endings_are_read(tmp_path):
    for name in ("cats", "dogs"):
        for i, kind in enumerate(("jfif", "gif")):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (9, 9), (200,) * 3).save(tmp_path / name / f"{i}.{kind}")
    assert values(data.load("folder", root=tmp_path, size=8, **CPU)) == [200, 200]


def test_a_photograph_is_turned_as_it_was_held(tmp_path):
    upright = np.zeros((16, 16, 3), dtype=np.uint8)
    upright[:8] = 255  # light above
    lying = Image.fromarray(np.rot90(upright).copy())  # the sensor lay on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            lying.save(tmp_path / name / f"{i}.png", exif=exif)
    image = data.sample("folder", root=tmp_path, size=16, **CPU).images[0]
    assert float(image[:, :8].mean()) == 1 and float(image[:, 8:].mean()) == 0


@pytest.mark.parametrize(
    "there, said",
    [
        (["private/a/0.png", "private/b/0.png"], "a folder 'private', but no folder 'public'"),
        (["private/a/0.png", "public/a/0.png", "c/0.png"], "beside the folders private and public there is 'c'"),
        (["a/0.png", "a/1.png", "b/0.png"], "the class 'b' has a single image"),
        (["a/0.png", "a/1.png", "b/0.txt"], "the class 'b' has no images"),
        (["0.png", "1.png"], "holds no folders"),
    ],
)
def test_folders_that_are_neither_are_refused(there, said, tmp_path):
    for name in there:
        picture(tmp_path / name, 1) if name.endswith("png") else (
            (tmp_path / name).parent.mkdir(exist_ok=True), (tmp_path / name).write_text(""))  # fmt: skip
    with pytest.raises(FileNotFoundError, match=said):
        data.sample("folder", root=tmp_path)


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("name", SETS)
def test_a_missing_root_is_one_clear_error(name, tmp_path):
    for nothing in (None, ""):
        with pytest.raises(ValueError, match=f"root must name a folder for '{name}'.*needs"):
            data.sample(name, root=nothing)
    with pytest.raises(TypeError, match="root must be a path"):
        data.sample(name, root=3)
    with pytest.raises(FileNotFoundError, match=f"nowhere.*{name}.*needs"):
        data.sample(name, root=tmp_path / "nowhere")
    for split in ("private", "public"):
        with pytest.raises(FileNotFoundError, match=f"does not hold '{name}'.*it needs"):
            data.sample(name, root=tmp_path, split=split)
    assert not any(tmp_path.iterdir())  # nothing was created on the way
    with pytest.raises(TypeError, match="download"):
        data.sample(name, root=tmp_path, download="yes")


@pytest.mark.parametrize("name", ["tinyimagenet", "imagenet", "folder"])
def test_sets_that_cannot_be_downloaded_say_so(name, tmp_path):
    with pytest.raises(ValueError, match="download must be False"):
        data.sample(name, root=tmp_path, download=True)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "caltech256"])
def test_an_offline_download_is_one_clear_error(name, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(ConnectionError, match=f"could not download '{name}'.*by hand"):
        data.sample(name, root=tmp_path, download=True)


def test_files_that_are_there_are_not_downloaded_again(mnist, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: pytest.fail("asked the network"))
    assert values(data.sample("mnist", root=mnist, download=True, **CPU)) == [100]


def test_broken_files_are_reported(mnist):
    (mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03 cut short")
    with pytest.raises(FileNotFoundError, match="mnist"):
        data.sample("mnist", root=mnist)


@pytest.mark.parametrize("size", [7, 1025])
def test_sizes_of_external_sets(mnist, size):
    with pytest.raises(ValueError, match="size must be between 8 and 1024"):
        data.sample("mnist", root=mnist, size=size)


def test_public_images_for_a_batch_of_an_external_set(mnist):
    mine = data.sample("mnist", root=mnist, **CPU)
    with pytest.raises(ValueError, match="root"):
        data.public(mine)
    assert len(data.public(mine, root=mnist)) == 12
