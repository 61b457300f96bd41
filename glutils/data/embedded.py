"""Sets that come inside this project's dependencies: nothing is downloaded, now or later.

``photos`` are square colour crops of nine photographs; the class of a crop is the photograph it was cut from.

========================  ============================================================================  =============
class                     photograph                                                                    licence
========================  ============================================================================  =============
astronaut                 Eileen Collins, NASA                                                          public domain
chelsea                   a cat, by Stefan van der Walt                                                 CC0
coffee                    a coffee cup, by Rachel Michetti, courtesy of Pikolo Espresso Bar             CC0
rocket                    launch of DSCOVR on Falcon 9, SpaceX                                          public domain
hubble_deep_field         Hubble eXtreme Deep Field, NASA                                               public domain
retina                    fundus of a left eye, by Mikael Häggström                                     CC0
immunohistochemistry      stained colonic glands, Center for Microscopy And Molecular Imaging           no known
                                                                                                        restrictions
china                     a pavilion in China, by danielbuechele (flickr.com/photos/danielbuechele)     CC BY 2.0
flower                    a dahlia, by vultilion (flickr.com/photos/vultilion)                          CC BY 2.0
========================  ============================================================================  =============

The first seven lie inside the wheel of scikit-image (0.24 and later; they are read from there, never through its
downloader), the last two inside that of scikit-learn. ``digits`` are scikit-learn's 1,797 handwritten digits of 8x8
pixels, the test part of the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, CC BY
4.0).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .batch import Batch
from .pool import Pool, fit, generator, source, wanted

PHOTOS = {
    "astronaut": "skimage/data/astronaut.png",
    "chelsea": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "rocket": "skimage/data/rocket.jpg",
    "hubble_deep_field": "skimage/data/hubble_deep_field.jpg",
    "retina": "skimage/data/retina.jpg",
    "immunohistochemistry": "skimage/data/ihc.png",
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
}
SMALLEST, LARGEST = 8, 128  # sizes of an embedded image
PHOTO_SIZE, DIGIT_SIZE = 32, 8  # what size=None means
CROPS_PER_PHOTO = 64  # "all" of a photograph, which has no last crop
PRIVATE_PART = 0.6  # of a photograph's width
GAP = 8  # pixels between the two parts
MIN_CONTRAST, TRIES = 0.04, 20
PRIVATE_DIGITS = 1000


class Crop(NamedTuple):
    """A square window of a photograph, and the image made of it."""

    label: int
    top: int
    left: int
    side: int
    image: torch.Tensor


@lru_cache(maxsize=len(PHOTOS))
def _photo(name: str) -> torch.Tensor:
    """A photograph, uint8 (3, H, W)."""
    from PIL import Image

    package, _, inside = PHOTOS[name].partition("/")
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / inside if spec is not None else Path(PHOTOS[name])
    if not path.is_file():
        raise FileNotFoundError(f"photograph {name!r} should come with {package}, but {path} is not there")
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def _region(name: str, split: str) -> tuple[int, int, int, int]:
    """Top, left, height, width of a split's part of a photograph: left 60 % private, the rest but a gap public."""
    _, height, width = _photo(name).shape
    border = int(PRIVATE_PART * width)
    return (0, 0, height, border) if split == "private" else (0, border + GAP, height, width - border - GAP)


def _contrast(image: torch.Tensor) -> float:
    """Standard deviation over the pixels, averaged over the channels."""
    return float(image.flatten(1).std(dim=1, correction=0).mean())


def _crop(name: str, label: int, size: int, split: str, draw: torch.Generator) -> Crop:
    """One crop. Near-constant ones are drawn again; after ``TRIES`` draws the one of highest contrast is taken."""
    top, left, height, width = _region(name, split)
    longest = min(height, width)
    shortest = max(size, longest // 2)
    best, best_contrast = None, -1.0
    for _ in range(TRIES):
        side = int(torch.randint(shortest, longest + 1, (), generator=draw))
        y = top + int(torch.randint(height - side + 1, (), generator=draw))
        x = left + int(torch.randint(width - side + 1, (), generator=draw))
        image = fit(_photo(name)[:, y : y + side, x : x + side].float() / 255, size)
        contrast = _contrast(image)
        if contrast > best_contrast:
            best, best_contrast = Crop(label, y, x, side, image), contrast
        if contrast >= MIN_CONTRAST:
            break
    return best


def crops(count: int, size: int, seed: int, split: str, classes: object, distinct: bool) -> Iterator[Crop]:
    """The crops behind ``photos``, one after the other from one generator: crop i does not depend on ``count``."""
    names = tuple(PHOTOS)
    allowed, draw = torch.tensor(wanted(classes, names)), generator(seed, split)
    for i in range(count):
        if distinct:
            if i % len(allowed) == 0:
                shuffled = allowed[torch.randperm(len(allowed), generator=draw)]
            label = int(shuffled[i % len(allowed)])
        else:
            label = int(allowed[torch.randint(len(allowed), (), generator=draw)])
        yield _crop(names[label], label, size, split, draw)


def photos(count: int, size: int, seed: int, split: str, classes: object = None, distinct: bool = True) -> Batch:
    """Crops of photographs as a Batch: images (count, 3, size, size).

    The private split sees the left 60 % of every photograph's width, the public split what lies right of a gap of 8
    pixels, so no pixel belongs to both. A square window with a side between half and all of its part's shorter side (at
    least ``size``) is cut out at a uniformly random place and reduced to ``size`` with antialiasing. Windows whose
    reduced image is nearly constant (standard deviation over the pixels, averaged over the channels, below 0.04) are
    drawn again, up to 20 times, then the best of the 20 is taken; the rule is the same for both splits. Windows of one
    split may overlap.
    """
    drawn = list(crops(count, size, seed, split, classes, distinct))
    labels = torch.tensor([crop.label for crop in drawn])
    return Batch(torch.stack([crop.image for crop in drawn]), labels, tuple(PHOTOS), source("photos", split))


@lru_cache(maxsize=2)
def _all_photos(size: int, split: str) -> Batch:
    return photos(CROPS_PER_PHOTO * len(PHOTOS), size, 0, split)


def all_photos(size: int, split: str) -> Batch:
    """The fixed crops that stand for the whole split: cut once and kept, as training tests its model on them."""
    kept = _all_photos(size, split)
    return replace(kept, images=kept.images.clone(), labels=kept.labels.clone())


@lru_cache(maxsize=1)
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    package = Path(importlib.util.find_spec("sklearn").origin).parent  # its own reader loads all of SciPy
    rows = torch.from_numpy(np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=","))
    return rows[:, :-1].float().unflatten(1, (1, 8, 8)) / 16, rows[:, -1].long()


def digits(split: str) -> Pool:
    """The handwritten digits, (1, 8, 8) in steps of 1/16: 1,000 of them private, the other 797 public.

    Which ones is fixed: the first 1,000 of NumPy's ``RandomState(0).permutation(1797)``, a stream that is frozen.
    """
    images, targets = _digits()
    order = np.random.RandomState(0).permutation(len(images))
    mine = torch.from_numpy(np.sort(order[:PRIVATE_DIGITS] if split == "private" else order[PRIVATE_DIGITS:]))
    images, targets = images[mine], targets[mine]
    return Pool("digits", split, tuple("0123456789"), targets, lambda i: images[i], DIGIT_SIZE)
