"""A reconstruction's score, beside what is reached without any attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from .. import _validate
from ..data.batch import Batch
from . import pixels
from .measured import Control, Metrics
from .yardsticks import YARDSTICKS


@runtime_checkable
class Reconstructed(Protocol):
    """What can be scored: an attack's :class:`~glutils.attacks.Reconstruction`, a Batch, anything that holds both."""

    @property
    def images(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...


@dataclass(frozen=True, eq=False, repr=False)
class Score(Metrics):
    """Metrics of one reconstruction, per image, in the order of the truth.

    Attributes:
        psnr, ssim, mse, lpips, cells, numeric_error, exact, token_accuracy, secrets, edit_distance: see `Metrics`.
        label_accuracy: share of records whose label was found, 0 to 1; ``label_hits``: (B,) bool, which. Of texts whose
            labels are their pieces, those that are exact.
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
        """Each metric's mean over the records (PSNR as in `mean_psnr`, secrets over texts with any), and the label
        accuracy."""
        means = {name: float(getattr(self, name).double().nanmean()) for name in self.measured if name == "secrets"}
        means |= {name: float(getattr(self, name).double().mean()) for name in self.measured if name != "secrets"}
        means |= {"psnr": self.mean_psnr} if "psnr" in self.measured else {}
        return means | {"label_accuracy": self.label_accuracy}

    @property
    def beaten_by(self) -> tuple[str, ...]:
        """The controls at least as good in mean PSNR (of texts, in tokens in place), over the images a control has; a
        failed attack loses to all."""
        return tuple(name for name, control in self.controls.items() if self._loses_to(control))

    def _loses_to(self, control: Control) -> bool:
        known = ~control.leading.isnan()  # the class mean of a class without public images is NaN
        mean = pixels.mean_psnr if self.token_accuracy is None else torch.mean
        wins = bool(mean(self.leading[known]) > mean(control.leading[known]))  # False where self is NaN
        return bool(known.any()) and not wins

    def __repr__(self) -> str:
        if self.token_accuracy is not None:
            return "\n  note: ".join([self._of_texts(), *self.notes])
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

    def _of_texts(self) -> str:
        """The score of texts in print."""
        means, count = self.mean(), len(self)
        right = 0 if self.exact is None else int(self.exact.sum())
        text = f"{right} of {count} exact, tokens in place {means['token_accuracy']:.1%}, "
        text += f"secrets {means['secrets']:.1%}, edit distance {means['edit_distance']:.3g}; "
        text += f"mean of {count} text{'s' * (count > 1)}"
        for name, control in self.controls.items():
            reached = f"tokens in place {float(control.leading.mean()):.1%}"
            text += f"\n  control {name}: {reached}{' (not beaten)' * self._loses_to(control)}"
        return text


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

    Of tables: cells that are right, the error of the numbers, and their PSNR. Of texts: which are exact, tokens in
    place, secrets, edit distance. See `Metrics`.

    Args:
        result: a Reconstruction: ``.images`` (B, C, H, W), (B, columns), or tokens (B, any length), ``.labels`` (B,)
            int64. What its adversary would have said without the message, ``.controls``, is scored beside it.
        batch: the private `Batch`, of the same size and shape.
        public: a `Batch` of public records with the same classes and shape; adds the controls "class_mean" (mean public
            record of the true class, NaN where there is none) and "nearest_public"; of tables and texts also
            "random_public" (texts have no class mean).
        controls: name to a further Reconstruction or image stack (wrong seed, zero gradient), scored by the same rule.
        lpips_net: backbone of LPIPS, "alex", "vgg" or "squeeze"; by default "alex". Without its weights LPIPS is NaN;
            the reason is in ``notes``, and whoever named a network is also warned. Of images alone.
        tolerance: how many standard deviations a number of a table may be off and still count as right, above 0; by
            default 0.1. Of tables alone.

    Returns:
        A `Score`. Its controls always hold "mean_colour" (each image painted in its own mean colour) and "grey" (0.5);
        those of a table "public_means" (every number the public mean, every level the most frequent one); those of an
        embedded set of texts "nearest_public" and "random_public", among 500; those of a text attack "model_guess".

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
    own = getattr(result, "controls", None) if batch.kind == "tokens" else None
    for name, other in {**(own if isinstance(own, Mapping) else {}), **_by_name(controls)}.items():
        if name in stacks:
            raise ValueError(f"controls must not be called {name!r}: that control is always there")
        guess = other if isinstance(other, Tensor) else _images_and_labels(f"controls[{name!r}]", other, batch)[0]
        stacks[name] = guess[yardstick.match(guess)]

    matching = yardstick.match(images)
    measured = yardstick.measure(images[matching])
    if batch.kind == "tokens" and batch.labels.ndim == 2:
        hits = measured["exact"]
    else:
        hits = (found.cpu()[matching] == batch.labels.cpu()).view(len(matching), -1).all(1)
    return Score(
        **measured,
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
    if batch.kind == "tokens":
        return _tokens(name, images, batch), labels.detach()
    if images.shape != batch.images.shape:
        raise ValueError(f"{name}.images must have shape {tuple(batch.images.shape)}, got {tuple(images.shape)}")
    if labels.dtype != torch.int64 and not batch.labels.is_floating_point():
        raise TypeError(f"{name}.labels must be int64 class indices, got {labels.dtype}")
    if labels.shape != batch.labels.shape:
        raise ValueError(f"{name}.labels must have shape {tuple(batch.labels.shape)}, got {tuple(labels.shape)}")
    return images.detach(), labels.detach()


def _tokens(name: str, images: Tensor, batch: Batch) -> Tensor:
    """Texts that may be of another length than the private ones."""
    if images.is_floating_point() or images.ndim != 2 or len(images) != len(batch):
        raise ValueError(
            f"{name}.images must be whole numbers of shape ({len(batch)}, L), got {images.dtype} of shape "
            f"{tuple(images.shape)}"
        )
    return images.detach().cpu()


def _by_name(controls: Mapping[str, Reconstructed | Tensor] | None) -> Mapping[str, Reconstructed | Tensor]:
    """``controls`` as a mapping from strings; empty for ``None``."""
    controls = {} if controls is None else controls
    if not isinstance(controls, Mapping) or not all(isinstance(name, str) for name in controls):
        raise TypeError(f"controls must map names to Reconstructions, got {type(controls).__name__}")
    return controls


def _public(public: Batch, batch: Batch) -> Batch:
    """``public``, if it holds records like the private ones; ``ValueError`` otherwise."""
    _validate.instance("public", public, Batch)
    if (public.shape != batch.shape and batch.kind != "tokens") or public.classes != batch.classes:
        raise ValueError(
            f"public must have image shape {batch.shape} and classes {batch.classes!r} like the private batch, "
            f"got {public.shape} and {public.classes!r}"
        )
    return public
