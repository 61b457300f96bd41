"""A reconstruction's score, beside what is reached without any attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from .. import _validate
from ..data.batch import Batch
from . import pixels
from .yardsticks import YARDSTICKS

METRICS = ("psnr", "ssim", "mse", "lpips")
OF_TABLES = ("cells", "numeric_error")


@runtime_checkable
class Reconstructed(Protocol):
    """What can be scored: an attack's :class:`~glutils.attacks.Reconstruction`, a Batch, anything that holds both."""

    @property
    def images(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...


@dataclass(frozen=True, eq=False, repr=False)
class Metrics:
    """How close each record of a batch comes to its truth.

    Attributes:
        psnr: (B,) float64, dB, infinite for an exact record. Of a table, -10 log10 MSE: a peak of one public standard
            deviation, so 0 dB is what guessing every mean reaches on average.
        ssim: at most 1. NaN for tables.
        mse: 0 to 1. Of a table, in squared standard deviations, see `square_error`.
        lpips: 0 and up, or NaN.
        cells: of a table, the share of its cells that are right, see `cells`; None for images.
        numeric_error: of a table, the root mean square error of its numbers in standard deviations; None for images.
    """

    psnr: Float64[Tensor, " batch"]
    ssim: Float64[Tensor, " batch"]
    mse: Float64[Tensor, " batch"]
    lpips: Float64[Tensor, " batch"]
    cells: Float64[Tensor, " batch"] | None = field(default=None, kw_only=True)
    numeric_error: Float64[Tensor, " batch"] | None = field(default=None, kw_only=True)

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of the metrics that this kind of record has: `METRICS`, and for tables two more."""
        return METRICS + tuple(name for name in OF_TABLES if getattr(self, name) is not None)

    def __len__(self) -> int:
        return len(self.psnr)


class Control(Metrics):
    """What is reached without the attack: the same metrics, per record.

    Tables set a control's PSNR beside the attack's, so a control also answers like its ``psnr``: what a tensor has
    (``mean()``, ``shape``), its entries, comparisons, sums and differences, all as plain tensors. It is no tensor:
    where a function of torch is to take it, name the metric, ``control.psnr``.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in (*METRICS, *OF_TABLES):  # a copy asks before there is a psnr
            raise AttributeError(name)
        return getattr(self.psnr, name)

    def __repr__(self) -> str:
        return f"Control({self.psnr})"

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.psnr)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        return self.psnr[index]

    def __float__(self) -> float:
        return float(self.psnr)

    def __add__(self, other: Tensor | float) -> Tensor:
        return self.psnr + other

    def __radd__(self, other: Tensor | float) -> Tensor:
        return other + self.psnr

    def __sub__(self, other: Tensor | float) -> Tensor:
        return self.psnr - other

    def __rsub__(self, other: Tensor | float) -> Tensor:
        return other - self.psnr

    def __lt__(self, other: Tensor | float) -> Tensor:
        return self.psnr < other

    def __le__(self, other: Tensor | float) -> Tensor:
        return self.psnr <= other

    def __gt__(self, other: Tensor | float) -> Tensor:
        return self.psnr > other

    def __ge__(self, other: Tensor | float) -> Tensor:
        return self.psnr >= other


@dataclass(frozen=True, eq=False, repr=False)
class Score(Metrics):
    """Metrics of one reconstruction, per image, in the order of the truth.

    Attributes:
        psnr, ssim, mse, lpips, cells, numeric_error: see `Metrics`.
        label_accuracy: share of records whose label was found, 0 to 1; ``label_hits``: (B,) bool, which.
        matching: (B,) int64; reconstruction ``matching[i]`` was compared with truth ``i``.
        controls: name to `Control`.
        notes: what a reader of the numbers must know (why LPIPS is NaN, which images failed).
    """

    label_accuracy: float
    label_hits: Bool[Tensor, " batch"]
    matching: Int64[Tensor, " batch"]
    controls: Mapping[str, Control]
    notes: tuple[str, ...] = ()

    @property
    def mean_psnr(self) -> float:
        """Mean over images in dB, each capped at 100 dB where there are several."""
        return pixels.mean_psnr(self.psnr)

    def mean(self) -> dict[str, float]:
        """Each metric's mean over the records (PSNR as in `mean_psnr`), and the label accuracy."""
        means = {name: float(getattr(self, name).mean()) for name in self.measured}
        return means | {"psnr": self.mean_psnr, "label_accuracy": self.label_accuracy}

    @property
    def beaten_by(self) -> tuple[str, ...]:
        """The controls at least as good in mean PSNR, over the images a control has; a failed attack loses to all."""
        return tuple(name for name, control in self.controls.items() if self._loses_to(control))

    def _loses_to(self, control: Control) -> bool:
        known = ~control.psnr.isnan()  # the class mean of a class without public images is NaN
        wins = pixels.mean_psnr(self.psnr[known]) > pixels.mean_psnr(control.psnr[known])  # False where self is NaN
        return bool(known.any()) and not wins

    def __repr__(self) -> str:
        means, count = self.mean(), len(self)
        capped = " (each capped at 100)" if count > 1 and bool((self.psnr > pixels.CAP).any()) else ""
        text, what = f"PSNR {means['psnr']:.3g} dB{capped}, ", "image" if self.cells is None else "record"
        if self.cells is None:
            text += f"SSIM {means['ssim']:.3g}, LPIPS {means['lpips']:.3g}, "
        else:
            text += f"cells right {means['cells']:.1%}, numbers off by {means['numeric_error']:.2g} deviations, "
        text += f"labels {int(self.label_hits.sum())} of {count}; mean of {count} {what}{'s' * (count > 1)}"
        for name, control in self.controls.items():
            known = ~control.psnr.isnan()
            cells = "" if control.cells is None else f", cells right {float(control.cells[known].mean()):.1%}"
            reached = pixels.mean_psnr(control.psnr[known])
            text += f"\n  control {name}: {reached:.3g} dB{cells}{' (not beaten)' * self._loses_to(control)}"
        return "\n  note: ".join([text, *self.notes])


def score(
    result: Reconstructed,
    batch: Batch,
    *,
    public: Batch | None = None,
    controls: Mapping[str, Reconstructed | Tensor] | None = None,
    lpips_net: str | None = None,
    tolerance: float | int | None = None,
) -> Score:
    """A reconstruction's PSNR, SSIM, MSE, LPIPS and label accuracy, beside those of controls that did not attack.

    Of tables: cells that are right, the error of the numbers, and their PSNR; see `Metrics`.

    Args:
        result: a Reconstruction: ``.images`` (B, C, H, W) or (B, columns), ``.labels`` (B,) int64.
        batch: the private `Batch`, of the same size and shape.
        public: a `Batch` of public records with the same classes and shape; adds the controls "class_mean" (mean public
            record of the true class, NaN where there is none) and "nearest_public"; of tables also "random_public".
        controls: name to a further Reconstruction or image stack (wrong seed, zero gradient), scored by the same rule.
        lpips_net: backbone of LPIPS, "alex", "vgg" or "squeeze"; by default "alex". Without its weights LPIPS is NaN;
            the reason is in ``notes``, and whoever named a network is also warned. Of images alone.
        tolerance: how many standard deviations a number of a table may be off and still count as right, above 0; by
            default 0.1. Of tables alone.

    Returns:
        A `Score`. Its controls always hold "mean_colour" (each image painted in its own mean colour) and "grey" (0.5);
        those of a table "public_means" (every number the public mean, every level the most frequent one).

    Raises:
        TypeError, ValueError: naming the argument of a wrong type, size, shape or range.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, device="cpu")
        >>> score = gl.score(batch, batch)  # as good as an attack can be
        >>> score.psnr, score.label_accuracy, sorted(score.controls)
        (tensor([inf, inf], dtype=torch.float64), 1.0, ['grey', 'mean_colour'])
        >>> bool((score.psnr > score.controls["mean_colour"].psnr).all())
        True
    """
    _validate.instance("batch", batch, Batch)
    images, found = _images_and_labels("result", result, batch)
    yardstick = YARDSTICKS[batch.kind](batch, lpips_net, tolerance)
    notes = list(yardstick.notes)
    failed = int(images.isnan().flatten(1).any(1).sum())
    if failed:
        notes.append(f"{failed} of {len(images)} reconstructions contain NaN; their metrics are NaN.")
    stacks = yardstick.blanks()
    stacks |= yardstick.public(_public(public, batch)) if public is not None else {}
    for name, other in _by_name(controls).items():
        if name in stacks:
            raise ValueError(f"controls must not be called {name!r}: that control is always there")
        guess = other if isinstance(other, Tensor) else _images_and_labels(f"controls[{name!r}]", other, batch)[0]
        stacks[name] = guess[yardstick.match(guess)]

    matching = yardstick.match(images)
    hits = (found.cpu()[matching] == batch.labels.cpu()).view(len(matching), -1).all(1)
    return Score(
        **yardstick.measure(images[matching]),
        label_accuracy=float(hits.double().mean()),
        label_hits=hits,
        matching=matching,
        controls={name: Control(**yardstick.measure(stack)) for name, stack in stacks.items()},
        notes=tuple(notes),
    )


def _images_and_labels(name: str, result: Reconstructed, batch: Batch) -> tuple[Tensor, Tensor]:
    """Images and labels of a reconstruction that fits ``batch``."""
    images, labels = getattr(result, "images", None), getattr(result, "labels", None)
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise TypeError(f"{name} must hold tensors .images and .labels, got {type(result).__name__}")
    if images.shape != batch.images.shape:
        raise ValueError(f"{name}.images must have shape {tuple(batch.images.shape)}, got {tuple(images.shape)}")
    if labels.dtype != torch.int64 and not batch.labels.is_floating_point():
        raise TypeError(f"{name}.labels must be int64 class indices, got {labels.dtype}")
    if labels.shape != batch.labels.shape:
        raise ValueError(f"{name}.labels must have shape {tuple(batch.labels.shape)}, got {tuple(labels.shape)}")
    return images.detach(), labels.detach()


def _by_name(controls: Mapping[str, Reconstructed | Tensor] | None) -> Mapping[str, Reconstructed | Tensor]:
    """``controls`` as a mapping from strings; empty for ``None``."""
    controls = {} if controls is None else controls
    if not isinstance(controls, Mapping) or not all(isinstance(name, str) for name in controls):
        raise TypeError(f"controls must map names to Reconstructions, got {type(controls).__name__}")
    return controls


def _public(public: Batch, batch: Batch) -> Batch:
    """``public``, if it holds records like the private ones; ``ValueError`` otherwise."""
    _validate.instance("public", public, Batch)
    if public.shape != batch.shape or public.classes != batch.classes:
        raise ValueError(
            f"public must have image shape {batch.shape} and classes {batch.classes!r} like the private batch, "
            f"got {public.shape} and {public.classes!r}"
        )
    return public
