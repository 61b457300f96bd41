"""Sets that a reader keeps in a folder of their own (``root``), read through torchvision.

Every loader returns a :class:`Pool` and decodes an image only when it is asked for. Missing files are reported before
anything long begins. Images that are not in the RGB mode are converted; alpha channels are dropped; a photograph is
turned as its EXIF data say. What a picture may be is in :mod:`glutils.data.picture_files`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from .. import _torchvision
from .._registry import Registry
from .image_folder import image_folder
from .picture_files import open_picture
from .pool import Pool

if TYPE_CHECKING:
    from PIL import Image

_torchvision.prepare()  # torchvision is imported inside the loaders, and only after this

Opens = TypeVar("Opens", bound="Callable[..., Pool]")
NATIVE_LARGE = 224  # size=None for sets whose images differ in size


@dataclass(frozen=True)
class Loader:
    """How a set is opened: ``open(root, split) -> Pool``, or ``open(root, split, download)`` if ``downloads``."""

    open: Callable[..., Pool]
    files: str
    downloads: bool

    @property
    def needs(self) -> str:
        """What a reader has to bring."""
        return self.files + (" (or download=True)" if self.downloads else "")


loaders = Registry[Loader]("external set")


def _loader(name: str, files: str, downloads: bool = False) -> Callable[[Opens], Opens]:
    def add(function: Opens) -> Opens:
        loaders.register(name)(Loader(function, files, downloads))
        return function

    return add


def pool(name: str, root: str | os.PathLike[str] | None, split: str, download: bool = False) -> Pool:
    """One split of an external set.

    Raises:
        TypeError: ``root`` is not a path, or ``download`` not a bool.
        ValueError: ``root`` is missing, or ``download`` asked of a set that cannot be downloaded.
        FileNotFoundError: ``root`` does not hold what the set needs; the message says what that is.
        ConnectionError: the download failed.
    """
    loader = loaders.get(name)
    if not isinstance(download, bool):
        raise TypeError(f"download must be True or False, got {download!r} ({type(download).__name__})")
    if download and not loader.downloads:
        raise ValueError(f"download must be False for {name!r}, got True: bring {loader.needs}")
    if root is None or root == "":
        raise ValueError(f"root must name a folder for {name!r}, got {root!r}; it needs {loader.needs}")
    if not isinstance(root, (str, os.PathLike)):
        raise TypeError(f"root must be a path, got {root!r} ({type(root).__name__})")
    folder = Path(root).expanduser()
    if not download and not folder.is_dir():
        raise FileNotFoundError(f"root {str(root)!r} is not a folder; {name!r} needs {loader.needs}")
    try:
        return loader.open(folder, split, download) if loader.downloads else loader.open(folder, split)
    except (
        OSError,
        RuntimeError,
        ValueError,
        AssertionError,
    ) as error:  # as torchvision raises for absent, broken files
        reason = " ".join(str(error).split())  # on one line
        if download:
            raise ConnectionError(
                f"could not download {name!r} to {str(root)!r} ({reason}); by hand it needs {loader.files}"
            ) from error
        raise FileNotFoundError(
            f"root {str(root)!r} does not hold {name!r} ({reason}); it needs {loader.needs}"
        ) from error


def _pixels(picture: Image.Image, mode: str = "RGB") -> Float32[Tensor, "channel height width"]:
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    array = np.array(picture.convert(mode))
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).float() / 255


def _read(path: str) -> Float32[Tensor, "3 height width"]:
    return _pixels(open_picture(path))


def _pool_of_items(
    name: str, split: str, found: Any, targets: Any, classes: Sequence[str], native: int, mode: str = "RGB"
) -> Pool:
    """A pool over a torchvision set whose items are (PIL image, label)."""
    labels = torch.as_tensor(targets, dtype=torch.int64)
    return Pool(name, split, tuple(classes), labels, lambda i: _pixels(found[i][0], mode), native)


def _pool_of_files(
    name: str, split: str, samples: Sequence[tuple[str, int]], classes: Sequence[str], native: int
) -> Pool:
    """A pool over a list of (path, label)."""
    if not samples:
        raise FileNotFoundError(f"no images for the {split} split")
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    return Pool(name, split, tuple(classes), labels, lambda i: _read(samples[i][0]), native)


def _require(*paths: Path) -> None:
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"missing: {', '.join(missing)}")


@contextmanager
def _ignore_form_of_pickles() -> Iterator[None]:
    """CIFAR's pickles were written by a NumPy of long ago; NumPy 2.4.0 to 2.4.4 warn about their form, in vain."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*align.*")
        yield


@_loader("mnist", "root/MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte", downloads=True)
def _mnist(root: Path, split: str, download: bool) -> Pool:
    """Handwritten digits, (1, 28, 28). Private: the 10,000 test images; public: the 60,000 training images."""
    from torchvision.datasets import MNIST

    found = MNIST(root, train=split == "public", download=download)
    return _pool_of_items("mnist", split, found, found.targets, tuple("0123456789"), 28, "L")


def _cifar(name: str, kind: Callable[..., Any], root: Path, split: str, download: bool) -> Pool:
    with _ignore_form_of_pickles():
        found = kind(root, train=split == "public", download=download)
    return _pool_of_items(name, split, found, found.targets, found.classes, 32)


@_loader("cifar10", "root/cifar-10-batches-py with its original files", downloads=True)
def _cifar10(root: Path, split: str, download: bool) -> Pool:
    """Ten kinds of objects, (3, 32, 32). Private: the 10,000 test images; public: the 50,000 training images."""
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, root, split, download)


@_loader("cifar100", "root/cifar-100-python with its original files", downloads=True)
def _cifar100(root: Path, split: str, download: bool) -> Pool:
    """A hundred kinds of objects, fine labels, (3, 32, 32). Private: test images; public: training images."""
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, root, split, download)


@_loader("caltech256", "root/caltech256/256_ObjectCategories/<number.class>/*.jpg", downloads=True)
def _caltech256(root: Path, split: str, download: bool) -> Pool:
    """257 classes of photographs, 224 pixels unless told. It has no parts of its own: in every class the fifth, tenth,
    fifteenth ... image is private, the others are public."""
    from torchvision.datasets import Caltech256

    if not download:
        _require(root / "caltech256" / "256_ObjectCategories")  # torchvision would create folders first
    found = Caltech256(str(root), download=download)
    mine = [i for i, number in enumerate(found.index) if (number % 5 == 0) == (split == "private")]
    names = [category.split(".", 1)[-1] for category in found.categories]
    targets = [found.y[i] for i in mine]
    if not mine:
        raise FileNotFoundError(f"no images for the {split} split")
    return _pool_of_items("caltech256", split, torch.utils.data.Subset(found, mine), targets, names, NATIVE_LARGE)


@_loader("tinyimagenet", "root/tiny-imagenet-200 with wnids.txt, words.txt (optional), train/ and val/ as unpacked")
def _tinyimagenet(root: Path, split: str) -> Pool:
    """200 classes of photographs, (3, 64, 64); ``root`` may also be the folder tiny-imagenet-200 itself. Private: the
    10,000 of val/, labelled by val_annotations.txt; public: the 100,000 of train/. Classes are numbered in the
    alphabetical order of their WordNet ids, as in ImageNet."""
    from torchvision.datasets import ImageFolder

    top = root if (root / "wnids.txt").exists() else root / "tiny-imagenet-200"
    _require(top / "wnids.txt", top / "train", top / "val" / "val_annotations.txt")
    wnids = sorted((top / "wnids.txt").read_text().split())
    if split == "public":
        found = ImageFolder(str(top / "train"))
        if found.classes != wnids:
            raise FileNotFoundError("the folders of train/ are not those of wnids.txt")
        samples = found.samples
    else:
        rows = [row.split("\t") for row in (top / "val" / "val_annotations.txt").read_text().splitlines() if row]
        number = {wnid: i for i, wnid in enumerate(wnids)}
        unknown = sorted({row[1] for row in rows} - set(number))
        if unknown:
            raise FileNotFoundError(
                f"val_annotations.txt names classes absent from wnids.txt: {', '.join(unknown[:5])}"
            )
        samples = [(str(top / "val" / "images" / row[0]), number[row[1]]) for row in rows]
        _require(*[Path(path) for path, _ in samples[:1]])
    words = {}
    if (top / "words.txt").exists():
        words = dict(row.split("\t", 1) for row in (top / "words.txt").read_text().splitlines() if "\t" in row)
    return _pool_of_files("tinyimagenet", split, samples, _class_words(wnids, words), 64)


@_loader(
    "imagenet",
    "the ILSVRC2012 folders root/train/<wnid>/*.JPEG and root/val/<wnid>/*.JPEG; class names come from "
    "root/meta.bin or root/ILSVRC2012_devkit_t12.tar.gz where there is one, else they are the wnids",
)
def _imagenet(root: Path, split: str) -> Pool:
    """1,000 classes of photographs, 224 pixels unless told. Private: val/; public: train/. Archives of images are not
    unpacked here (that takes hours): the folder of the asked split has to be there. Classes are numbered in the
    alphabetical order of their WordNet ids, which is the numbering of the usual pretrained models."""
    from torchvision.datasets import ImageFolder, ImageNet

    part = "val" if split == "private" else "train"
    _require(root / part)
    if (root / "meta.bin").exists() or (root / "ILSVRC2012_devkit_t12.tar.gz").exists():
        found = ImageNet(root, split=part)
        words = {wnid: ", ".join(names) for wnid, names in zip(found.wnids, found.classes, strict=True)}
        return _pool_of_files("imagenet", split, found.samples, _class_words(found.wnids, words), NATIVE_LARGE)
    found = ImageFolder(str(root / part))
    return _pool_of_files("imagenet", split, found.samples, found.classes, NATIVE_LARGE)


@_loader(
    "folder",
    "one folder of images per class: root/<class>/*.jpg (png, webp, ...), at least two images in each, or "
    "root/private/<class>/* and root/public/<class>/*",
)
def _folder(root: Path, split: str) -> Pool:
    """The reader's own images, 224 pixels unless told. Without folders ``private`` and ``public`` the images of every
    class, in alphabetical order, are private and public in turn."""
    return _pool_of_files("folder", split, *image_folder(root, split), NATIVE_LARGE)


def _class_words(wnids: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """The first word for every WordNet id; the id is added where that word stands for several classes."""
    first = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return [word if first.count(word) == 1 else f"{word} ({wnid})" for word, wnid in zip(first, wnids, strict=True)]
