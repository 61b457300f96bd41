"""Batches by the name of a set: a few records (``sample``), a whole split (``load``), public records (``public``)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal

import torch

from .. import _device, _validate
from . import embedded, external, tables, texts
from .batch import Batch
from .pool import SPLITS, Pool, draw_indices, generator

EMBEDDED = {
    "photos": "embedded, needs nothing: colour crops of 9 photographs, size 8..128 (32 unless told)",
    "digits": "embedded, needs nothing: 1,797 handwritten digits, one channel, 8x8, or resized to 8..128",
}
EXTERNAL_LARGEST = 1024


def names() -> dict[str, str]:
    """Every set by name, with what it is or needs; ``root`` is an argument of ``sample``, ``load``, ``partition``.

    Example:
        >>> import glutils as gl
        >>> gl.data.names()["wine"]
        'embedded, needs nothing: a table of 178 wines, 13 numeric columns, 3 classes'
    """
    needs = {name: external.loaders.get(name).needs for name in external.loaders.names()}
    return EMBEDDED | tables.names() | texts.names() | {name: f"external, needs {text}" for name, text in needs.items()}


def sample(
    name: str,
    *,
    count: int | Literal["all"] = 1,
    size: int | None = None,
    seed: int = 0,
    split: str = "private",
    classes: Iterable[str | int] | None = None,
    distinct: bool | None = None,
    content: float | int | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    device: str | torch.device | None = None,
) -> Batch:
    """A few labelled records, images, rows of a table or texts, of the set called ``name``.

    The same arguments give the same records, and the first ones of a larger ``count`` are those of a smaller one.
    Stored images are fitted by resizing the shorter side to ``size`` (bilinear, antialiased) and cropping the centre.

    Args:
        name: a key of :func:`names`.
        count: how many records, or ``"all"`` (:func:`load`; then ``seed`` has no say).
        size: side of the images in pixels: 8..128 for embedded sets, 8..1024 for external ones. None: the set's own
            (photos 32, digits 8, mnist 28, cifar10 and cifar100 32, tinyimagenet 64, others 224). Tables and texts have
            no size.
        seed: at least 0; private and public draws of one seed are independent.
        split: ``"private"`` (a client's data; the test part of external sets) or ``"public"`` (what anyone may hold;
            the training part). No record, and no pixel of a photograph, is in both.
        classes: draw only from these classes, given by name or index; labels keep their numbers. None: from all. Of
            messages: from these topics, "bank", "card", "health", "home", "travel", "work".
        distinct: draw every class once before any comes again. None: True for ``photos``; False elsewhere, which
            draws images uniformly without replacement (labels of ``photos`` uniformly with replacement).
        content: draw only photos with something in them: those of which a blank card in their mean colour has less than
            so many dB (PSNR). Others are passed over, so classes may come again earlier. None: all; many crops are
            sky or cloth.
        root: the folder of an external set.
        download: let torchvision fetch an external set into ``root``, where it can.
        device: where the batch goes. None: a GPU where there is one, else the CPU.

    Returns:
        Batch: images (count, C, size, size) float32 in [0, 1], or records (count, columns) float32 of a table, labels
        (count,) int64, and the names of all classes. Of texts: pieces (count, L) int64, padded to the longest, and
        labels (count, L), see :func:`glutils.data.from_texts`.

    Raises:
        TypeError, ValueError: a bad argument, among them an unknown name (the message lists the valid ones), a ``root``
            that is missing or superfluous, a ``size`` for a table, and more records than there are.
        FileNotFoundError: ``root`` does not hold the set. ConnectionError: it could not be downloaded.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=3, seed=0)
        >>> batch.images.shape, batch.images.dtype, len(batch.labels), batch.classes[:3]
        (torch.Size([3, 1, 8, 8]), torch.float32, 3, ('0', '1', '2'))
    """
    device = _device.resolve(device)
    size = _size_of_set(name, size, split)
    if not (distinct is None or isinstance(distinct, bool)):
        raise TypeError(f"distinct must be True, False or None, got {distinct!r}")
    if isinstance(count, str) and count == "all":
        if classes is not None or distinct is not None:
            raise ValueError("count must be an integer where classes or distinct is given, got 'all'")
        return load(name, split=split, size=size, root=root, download=download, device=device)
    if isinstance(count, str):
        raise ValueError(f"count must be an integer of at least 1, or 'all'; got {count!r}")
    count = _validate.integer("count", count, at_least=1)
    draw = generator(seed, split)
    if content is not None and name != "photos":
        raise ValueError(f"content is for photos, not for {name!r}; got {content!r}")
    if name == "photos":
        _no_root(name, root, download)
        size = size or embedded.PHOTO_SIZE
        if content is not None:
            content = _validate.number("content", content, above=0)
            return _with_content(content, count, size, seed, split, classes, distinct is not False).to(device)
        return embedded.photos(count, size, seed, split, classes, distinct is not False).to(device)
    found = _pool(name, split, root, download)
    return found.batch(draw_indices(found, count, draw, classes, bool(distinct)), size).to(device)


def _with_content(content: float, count: int, *how: Any) -> Batch:
    """The first ``count`` photos of a longer draw of which a blank card has less than ``content`` dB."""
    for drawn in (4 * count, 32 * count, 256 * count):
        found = embedded.photos(drawn, *how)
        away = found.images - found.images.mean((2, 3), keepdim=True)
        card = -10 * away.square().mean((1, 2, 3)).clamp_min(1e-12).log10()
        kept = (card < content).nonzero().flatten()[:count]
        if len(kept) == count:
            return found[kept]
    raise ValueError(f"content must leave photos to draw: {len(kept)} of {drawn} are below {content:g} dB, not {count}")


def load(
    name: str,
    *,
    split: str = "private",
    size: int | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    device: str | torch.device | None = None,
) -> Batch:
    """A whole split, in the order of the set. ``photos`` have no last crop: 64 fixed ones of every photograph.

    Everything is held in memory: fine for ``digits`` and small images, not for all of ImageNet. Arguments and errors
    are those of :func:`sample`.

    Example:
        >>> import glutils as gl
        >>> len(gl.data.load("digits", split="public", device="cpu"))
        797
    """
    device = _device.resolve(device)
    size = _size_of_set(name, size, split)
    if name == "photos":
        _no_root(name, root, download)
        return embedded.all_photos(size or embedded.PHOTO_SIZE, split).to(device)
    found = _pool(name, split, root, download)
    return found.batch(list(range(len(found))), size).to(device)


def available(of: str | Batch, *, split: str = "public", root: str | os.PathLike[str] | None = None) -> int | None:
    """How many images a split of a set holds; None: as many as are asked for (crops of ``photos``).

    Nothing is decoded. ``of``, ``root`` and errors as in :func:`public`, ``split`` as in :func:`sample`.

    Example:
        >>> import glutils as gl
        >>> gl.data.available("digits"), gl.data.available("photos")
        (797, None)
    """
    name = _name_of_set(of)
    _size_of_set(name, None, split)
    if name == "photos":
        _no_root(name, root, False)
        return None
    return len(_pool(name, split, root, False))


def public(
    of: str | Batch,
    *,
    count: int | Literal["all"] = "all",
    size: int | None = None,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
) -> Batch:
    """Public records of the set called ``of``, or of the set that the Batch ``of`` was drawn from, at its images' size.

    For a Batch of an external set ``root`` has to be given again: a batch does not remember folders. Arguments and
    errors are otherwise those of :func:`sample`; a Batch that was not drawn from a set by name, or whose records were
    given another shape since, raises ``ValueError``.

    Example:
        >>> import glutils as gl
        >>> gl.data.public("digits", count=4, device="cpu").images.shape
        torch.Size([4, 1, 8, 8])
    """
    if not isinstance(of, Batch):
        return sample(of, count=count, size=size, seed=seed, split="public", root=root, device=device)
    same = size is None and of.kind != "tokens"  # texts may be of any length
    size = of.shape[-1] if size is None and of.kind == "images" else size
    device = of.images.device if device is None else device
    found = sample(_name_of_set(of), count=count, size=size, seed=seed, split="public", root=root, device=device)
    if same and found.shape != of.shape:
        ours, theirs = ("x".join(map(str, batch.shape)) for batch in (found, of))
        raise ValueError(
            f"of must be a Batch as its set gives it: its records are {theirs}, those of the set {ours}; change public "
            f"records as these were, glutils.data.public({_name_of_set(of)!r})"
        )
    return found


def _name_of_set(of: str | Batch) -> str:
    if not isinstance(of, Batch):
        return of
    name = of.source.split(",")[0]
    if name not in names():
        raise ValueError(f"of must be a set's name or a Batch drawn from one, got a Batch with source {of.source!r}")
    return name


def _size_of_set(name: str, size: int | None, split: str) -> int | None:
    if not isinstance(name, str) or name not in names():
        raise ValueError(f"name must be one of {', '.join(names())}; got {name!r}")
    _validate.choice("split", split, SPLITS)
    if name in (*tables.TABLES, *texts.names()) and size is not None:
        what = "table" if name in tables.TABLES else "texts"
        raise ValueError(f"size must be left alone for the {what} {name!r}, whose records are no images; got {size!r}")
    largest = embedded.LARGEST if name in EMBEDDED else EXTERNAL_LARGEST
    return None if size is None else _validate.integer("size", size, at_least=embedded.SMALLEST, at_most=largest)


def _no_root(name: str, root: str | os.PathLike[str] | None, download: bool) -> None:
    if root is not None or download is not False:
        raise ValueError(f"root and download must be left alone for the embedded {name!r}, got {root!r}, {download!r}")


def _pool(name: str, split: str, root: str | os.PathLike[str] | None, download: bool) -> Pool:
    if name == "digits":
        _no_root(name, root, download)
        return embedded.digits(split)
    if name in tables.TABLES:
        _no_root(name, root, download)
        return tables.pool(name, split)
    if name in texts.names():
        _no_root(name, root, download)
        return texts.pool(name, split)
    return external.pool(name, root, split, download)
