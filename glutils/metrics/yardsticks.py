"""How each kind of records is measured: its metrics, its matching, and what is reached without any attack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .. import _validate, data
from ..data.batch import Batch
from . import perceptual, pixels, tables, texts


class Yardstick(Protocol):
    """What a score needs of a kind of records, for one private batch.

    Attributes:
        notes: what a reader of the numbers must know.
    """

    notes: list[str]

    def measure(self, stack: Tensor) -> dict[str, Tensor]:
        """Metrics of a stack in the order of the truth, by the names of :class:`~glutils.metrics.Metrics`."""
        ...

    def match(self, stack: Tensor) -> Tensor:
        """Which of the stack belongs to which truth, (B,) int64."""
        ...

    def blanks(self) -> dict[str, Tensor]:
        """Stacks that anybody could have drawn, by the names of the controls that they are."""
        ...

    def public(self, public: Batch) -> dict[str, Tensor]:
        """Stacks made of public records of the same classes and shape."""
        ...


class Pixels:
    """Of images."""

    def __init__(self, batch: Batch, lpips_net: str | None, tolerance: float | None):
        if tolerance is not None:
            raise ValueError(f"tolerance must be left alone for images: it is about tables' cells; got {tolerance!r}")
        self.batch, self.truth = batch, batch.images.cpu()
        self.net, self.notes = _backbone(lpips_net, self.truth.shape[1])

    def measure(self, stack: Tensor) -> dict[str, Tensor]:
        truth, missing = self.truth, torch.full((len(self.truth),), math.nan, dtype=torch.float64)
        far = pixels.lpips(stack, truth, net=self.net) if self.net else missing
        return {name: getattr(pixels, name)(stack, truth) for name in ("psnr", "ssim", "mse")} | {"lpips": far}

    def match(self, stack: Tensor) -> Tensor:
        return pixels.match(stack, self.truth)

    def blanks(self) -> dict[str, Tensor]:
        colour = self.truth.double().mean((2, 3), keepdim=True).expand_as(self.truth)
        return {"mean_colour": colour, "grey": torch.full_like(self.truth, 0.5)}

    def public(self, public: Batch) -> dict[str, Tensor]:
        nearest = pixels.nearest(public.images.cpu().double(), self.truth)
        return {"class_mean": class_means(public, self.batch), "nearest_public": nearest}


class Cells:
    """Of tables."""

    def __init__(self, batch: Batch, lpips_net: str | None, tolerance: float | None):
        if lpips_net is not None:
            raise ValueError(f"lpips_net must be left alone for tables: LPIPS is about images; got {lpips_net!r}")
        assert batch.columns is not None, "a table describes its columns"
        self.batch, self.truth, self.columns = batch, batch.images.cpu(), batch.columns
        asked = tables.TOLERANCE if tolerance is None else tolerance
        self.tolerance, self.notes = _validate.number("tolerance", asked, above=0), []

    def measure(self, stack: Tensor) -> dict[str, Tensor]:
        square = tables.square_error(stack, self.truth, self.columns)
        return {
            "psnr": -10 * square.log10(),
            "mse": square,
            "ssim": torch.full_like(square, math.nan),
            "lpips": torch.full_like(square, math.nan),
            "cells": tables.cells(stack, self.truth, self.columns, tolerance=self.tolerance),
            "numeric_error": tables.numeric_error(stack, self.truth, self.columns),
        }

    def match(self, stack: Tensor) -> Tensor:
        return tables.match_records(stack, self.truth, self.columns)

    def blanks(self) -> dict[str, Tensor]:
        return {"public_means": self.columns.card.expand(self.truth.shape)}

    def public(self, public: Batch) -> dict[str, Tensor]:
        if public.columns != self.columns:
            raise ValueError("public must have the columns of the private batch")
        records = public.images.cpu().double()
        draw = torch.Generator().manual_seed(0)
        random = records[torch.randint(len(records), (len(self.truth),), generator=draw)]
        return {
            "class_mean": class_means(public, self.batch),
            "nearest_public": pixels.nearest(records, self.truth),
            "random_public": random[self.match(random)],
        }


class Pieces:
    """Of tokens."""

    def __init__(self, batch: Batch, lpips_net: str | None, tolerance: float | None):
        for name, value in (("lpips_net", lpips_net), ("tolerance", tolerance)):
            if value is not None:
                raise ValueError(f"{name} must be left alone for tokens, got {value!r}")
        if batch.vocabulary is None:
            raise ValueError("batch must have a vocabulary to be scored: Batch(..., vocabulary=...)")
        self.batch, self.truth, self.vocabulary, self.notes = batch, batch.images.cpu(), batch.vocabulary, []

    def measure(self, stack: Tensor) -> dict[str, Tensor]:
        missing = torch.full((len(self.truth),), math.nan, dtype=torch.float64)
        names = ("exact", "token_accuracy", "secrets", "edit_distance")
        found = {name: getattr(texts, name)(stack, self.truth, self.vocabulary) for name in names}
        return dict.fromkeys(("psnr", "ssim", "mse", "lpips"), missing) | found

    def match(self, stack: Tensor) -> Tensor:
        return texts.match_texts(stack.cpu(), self.truth, self.vocabulary)

    def blanks(self) -> dict[str, Tensor]:
        """Of an embedded set, its public texts are there for anybody."""
        known = self.batch.source.split(",")[0] in data.texts.names()
        return self.public(data.public(self.batch, count=PUBLIC_TEXTS, device="cpu")) if known else {}

    def public(self, public: Batch) -> dict[str, Tensor]:
        if public.vocabulary != self.vocabulary:
            raise ValueError("public must have the vocabulary of the private batch")
        shown = public.images.cpu()
        held = [texts.pieces(row, self.vocabulary) for row in shown]
        nearest = [int(texts.distances(held, texts.pieces(row, self.vocabulary)).argmin()) for row in self.truth]
        draw = torch.Generator().manual_seed(0)
        random = shown[torch.randint(len(shown), (len(self.truth),), generator=draw)]
        return {"nearest_public": shown[nearest], "random_public": random[self.match(random)]}


PUBLIC_TEXTS = 500
"""Of an embedded set, that are looked through for the one nearest to a private text."""
YARDSTICKS: dict[str, Callable[[Batch, str | None, float | None], Yardstick]] = {
    "images": Pixels, "tables": Cells, "tokens": Pieces,
}  # fmt: skip


def class_means(public: Batch, batch: Batch) -> Tensor:
    """For each private record the mean public record of its class; NaN where there is none."""
    shown, labels = public.images.cpu().double(), public.labels.cpu()
    return torch.stack([shown[labels == label].mean(0) for label in batch.labels.cpu()])


def _backbone(asked: str | None, channels: int) -> tuple[str | None, list[str]]:
    """The network to take LPIPS with, or ``None`` and the reason; who asked for one by name is also warned."""
    net = _validate.choice("lpips_net", "alex" if asked is None else asked, perceptual.BACKBONES)
    if perceptual.find(net) is not None and channels in (1, 3):
        return net, []
    unfit = f"LPIPS is nan: it takes images of 1 or 3 channels, not {channels}."
    reason = perceptual.why_missing(net) if channels in (1, 3) else unfit
    if asked is not None:
        pixels.warn_once(reason)
    return None, [reason]
