"""A pool: one split of a set of labelled records, read one at a time; and how images are fitted, records chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn import functional as F

from .. import _validate
from .batch import Batch
from .columns import Columns

SPLITS = ("private", "public")
MOST_SEED = 2**62


@dataclass(frozen=True, eq=False)
class Pool:
    """One split of a set.

    Attributes:
        name: the set.
        split: ``"private"`` or ``"public"``.
        classes: the names of the classes.
        targets: shape (N,), int64, the class of every record.
        read: record number -> float32 tensor: an image (C, H, W) in [0, 1], at the size it is stored in, or (columns,).
        native: the size that ``size=None`` stands for; None for records that have no size.
        columns: of a table.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    targets: Int64[Tensor, " images"]
    read: Callable[[int], Tensor]
    native: int | None
    columns: Columns | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: list[int], size: int | None) -> Batch:
        """The chosen records, images fitted to ``size``."""
        side = size or self.native
        records = [self.read(i) for i in indices]
        if side is not None:
            records = [image if image.shape[1:] == (side, side) else fit(image, side) for image in records]
        where = source(self.name, self.split)
        return Batch(torch.stack(records), self.targets[indices], self.classes, where, self.columns)


def source(name: str, split: str) -> str:
    """What a Batch's ``source`` says; the name of the set comes first, up to the comma."""
    return f"{name}, {split} split"


def fit(
    image: Float32[Tensor, "channel height width"], size: int
) -> Float32[Tensor, "channel {size} {size}"]:
    """Resize ``image`` (C, H, W) so that its shorter side is ``size``, antialiased, and cut out the centre square.

    Interpolation is bilinear, which cannot leave the range of its input; the clamp takes off its rounding error only.
    """
    height, width = image.shape[-2:]
    short = min(height, width)
    if short != size:
        tall, wide = (size * height + short // 2) // short, (size * width + short // 2) // short
        image = F.interpolate(image[None], (tall, wide), mode="bilinear", align_corners=False, antialias=True)[0]
        image = image.clamp(0, 1)
    top, left = (image.shape[-2] - size) // 2, (image.shape[-1] - size) // 2
    return image[:, top : top + size, left : left + size].contiguous()


def generator(seed: int, split: str) -> torch.Generator:
    """The one generator behind a draw; the two splits of one seed draw differently."""
    _validate.choice("split", split, SPLITS)
    seed = _validate.integer("seed", seed, at_least=0, at_most=MOST_SEED)
    return torch.Generator().manual_seed(2 * seed + SPLITS.index(split))


def class_indices(classes: Iterable[str | int] | None, names: tuple[str, ...]) -> list[int]:
    """The indices of ``classes`` (names, or indices, or None for all) among ``names``, in rising order."""
    if classes is None:
        return list(range(len(names)))
    if isinstance(classes, str) or not hasattr(classes, "__iter__"):
        raise TypeError(f"classes must be a list of class names or indices, or None, got {classes!r}")
    found = set()
    for entry in classes:
        if isinstance(entry, str) and entry in names:
            found.add(names.index(entry))
        elif not isinstance(entry, (str, bool)) and hasattr(entry, "__index__") and 0 <= int(entry) < len(names):
            found.add(int(entry))
        else:
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise ValueError(f"classes must be names or indices 0..{len(names) - 1} of: {shown}; got {entry!r}")
    if not found:
        raise ValueError("classes must name at least one class, got none")
    return sorted(found)


def draw_indices(
    pool: Pool, count: int, draw: torch.Generator, classes: Iterable[str | int] | None, distinct: bool
) -> list[int]:
    """Numbers of ``count`` images, uniformly without replacement; a longer draw begins with the shorter one.

    With ``distinct`` the shuffled pool is reordered: first the first image of every class, then the second of every
    class, and so on. So labels repeat only when no class is left.
    """
    keep = torch.zeros(len(pool.classes), dtype=torch.bool)
    keep[class_indices(classes, pool.classes)] = True
    order = torch.randperm(len(pool), generator=draw)
    order = order[keep[pool.targets[order]]]
    if count > len(order):
        part = f"{pool.name}'s {pool.split} split" + ("" if classes is None else " in these classes")
        what = "records" if pool.native is None else "images"
        raise ValueError(f"count must be at most {len(order)}, the {what} of {part}; got {count}")
    if distinct:
        labels, by_class = torch.sort(pool.targets[order], stable=True)
        starts = torch.searchsorted(labels, labels)
        occurrence = torch.empty_like(labels)
        occurrence[by_class] = torch.arange(len(labels)) - starts
        order = order[torch.argsort(occurrence, stable=True)]
    return order[:count].tolist()
