"""Losses that clients minimise. Each is a mean over a batch of the records' own losses, so that scalars add up.

A loss is found by :func:`find` from what a protocol was given: a name of :data:`NAMES`, an object of a class here, or a
function of the caller. Whoever must know more than its value asks what it declares (:attr:`Loss.targets`,
:attr:`Loss.plain`), never its type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _validate
from . import targets
from .targets import IGNORED


class Loss:
    """Base of all losses: outputs (B, ...) and targets, what a client calls its labels, to one number.

    The value for a batch is sum_i share_i own_i / sum_i share_i over its records; in most losses all shares are equal.

    Attributes:
        targets: what stands for the labels: ``"classes"`` (B,) int64, or (B, C) probabilities; ``"tokens"`` (B, L)
            int64; ``"several"`` (B, C), each from 0 to 1; ``"numbers"`` (B, n), or (B,) for one output; ``"any"``.
    """

    targets: str = "any"

    def own(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Every record's own loss, (B,): what the loss of a batch of this record alone is."""
        raise NotImplementedError

    def shares(self, labels: Tensor, like: Tensor) -> Tensor | None:
        """How much each record counts, (B,), in the dtype of ``like``; None: all alike."""
        return None

    def mean(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of the batch, ()."""
        own = self.own(outputs, labels)
        shares = self.shares(labels, own)
        return own.mean() if shares is None else (own * shares).sum() / shares.sum()

    def weighted(self, outputs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The sum of own losses with ``weights`` (B,); records that count differently do so within these weights.

        With 1 / n for the n members of a batch, and 0 for all others, it is the loss of that batch.
        """
        own = self.own(outputs, labels)
        shares = self.shares(labels, own)
        if shares is None:
            return weights @ own
        counted = weights * shares
        return (counted @ own) * (weights.sum() / counted.sum())

    def hits(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """Of every target whether the model is right, as a flat tensor; None: there is no right and wrong."""
        return None

    @property
    def plain(self) -> bool:
        """Whether it is the cross entropy of classes as it stands, what label rules and closed forms stand on."""
        return False

    @property
    def solvable(self) -> bool:
        """Whether probabilities of classes may stand for labels that an attacker does not know, and solves for."""
        return False

    def check(self, outputs: tuple[int, ...], labels: Tensor) -> None:
        """Refuse outputs of this shape (B, ...), or these labels.

        Raises:
            TypeError, ValueError: naming ``labels``, or the model's outputs.
        """
        if len(labels) != outputs[0]:
            raise ValueError(f"labels must have one entry per record ({outputs[0]}), got {len(labels)}")


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross entropy: of classes where the model gives (B, C), of every next token where it gives (B, L, V).

    Args:
        label_smoothing: from 0 to below 1, as in ``torch.nn.CrossEntropyLoss``.
        class_weights: a weight above 0 for each class; the loss of a batch is then divided by the sum of its records'
            weights, as torch does. Of class indices alone.
        mixed: whether clients' labels are probabilities of the classes (of a teacher, or of mixed images), not indices.
            It computes nothing else; attackers who know it expect no whole images of a class.

    Example:
        >>> import glutils as gl, torch
        >>> loss = gl.models.losses.CrossEntropy(label_smoothing=0.1)
        >>> round(float(loss.mean(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))), 4)
        0.2269
    """

    label_smoothing: float | int = 0.0
    class_weights: Sequence[float] | None = None
    mixed: bool = False
    targets = "classes"

    def __post_init__(self) -> None:
        if _validate.number("label_smoothing", self.label_smoothing, at_least=0) >= 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing}")
        if self.class_weights is not None:
            given = self.class_weights
            if isinstance(given, str) or not isinstance(given, (Sequence, Tensor)):
                raise TypeError(f"class_weights must be a sequence of numbers, got {type(given).__name__}")
            checked = tuple(_validate.number("class_weights", weight, above=0) for weight in given)
            object.__setattr__(self, "class_weights", checked)
        if _validate.instance("mixed", self.mixed, bool) and self.class_weights is not None:
            raise ValueError("class_weights must be None with mixed=True: they belong to class indices")

    def _how(self, like: Tensor) -> dict[str, Any]:
        weight = None if self.class_weights is None else like.new_tensor(self.class_weights)
        return {"weight": weight, "label_smoothing": float(self.label_smoothing)}

    def own(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.ndim == 3:
            return targets.of_tokens(outputs, labels, **self._how(outputs))
        found = F.cross_entropy(outputs, labels, reduction="none", **self._how(outputs))
        shares = self.shares(labels, found)
        return found if shares is None else found / shares

    def shares(self, labels: Tensor, like: Tensor) -> Tensor | None:
        if labels.ndim == 2 and not labels.is_floating_point():
            return targets.counted(labels, like)
        if self.class_weights is None or labels.is_floating_point():
            return None
        return like.new_tensor(self.class_weights)[labels]

    def mean(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.ndim == 3:
            return super().mean(outputs, labels)
        return F.cross_entropy(outputs, labels, **self._how(outputs))

    def hits(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.ndim == 3:
            kept = labels[:, 1:] != IGNORED
            return (outputs[:, :-1].argmax(-1) == labels[:, 1:])[kept]
        return outputs.argmax(1) == (labels.argmax(1) if labels.is_floating_point() else labels)

    @property
    def plain(self) -> bool:
        return not self.label_smoothing and self.class_weights is None and not self.mixed

    @property
    def solvable(self) -> bool:
        return self.class_weights is None

    def check(self, outputs: tuple[int, ...], labels: Tensor) -> None:
        if len(outputs) == 3:
            targets.tokens(outputs, labels)
            if self.class_weights is not None:
                raise ValueError("class_weights must be None where the model predicts tokens, got weights of classes")
            return
        targets.two_axes(outputs, "cross entropy", at_least=2)
        _validate.class_labels(labels, outputs[0], outputs[1])
        if self.class_weights is not None and len(self.class_weights) != outputs[1]:
            raise ValueError(f"class_weights must have an entry for each of the {outputs[1]} classes, "
                             f"got {len(self.class_weights)}")  # fmt: skip


@dataclass(frozen=True)
class NextToken(CrossEntropy):
    """Cross entropy of every next token, as causal language models are trained: outputs (B, L, V), labels (B, L).

    Position i predicts the label at i + 1; labels of -100 count for nothing, and the mean is over all others of the
    batch. So a label word at the last position alone, all others -100, is classification as MeZO and DeComFL run it.
    """

    targets = "tokens"

    @property
    def plain(self) -> bool:
        return False

    @property
    def solvable(self) -> bool:
        return False

    def check(self, outputs: tuple[int, ...], labels: Tensor) -> None:
        if len(outputs) != 3:
            raise ValueError(f"model must give outputs (B, L, V) for the loss of next tokens, gives {outputs}")
        super().check(outputs, labels)


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """A yes or no for each of C labels (``torch.nn.BCEWithLogitsLoss``): outputs (B, C), labels (B, C) from 0 to 1.

    Args:
        pos_weight: a weight above 0 of every label's yes, or None: 1.
    """

    pos_weight: Sequence[float] | None = None
    targets = "several"

    def __post_init__(self) -> None:
        if self.pos_weight is not None:
            checked = tuple(_validate.number("pos_weight", weight, above=0) for weight in self.pos_weight)
            object.__setattr__(self, "pos_weight", checked)

    def own(self, outputs: Tensor, labels: Tensor) -> Tensor:
        weight = None if self.pos_weight is None else outputs.new_tensor(self.pos_weight)
        targets = labels.to(outputs.dtype).view_as(outputs)
        each = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weight, reduction="none")
        return each.flatten(1).mean(1)

    def hits(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return ((outputs > 0) == (labels.view_as(outputs) > 0.5)).flatten()

    def check(self, outputs: tuple[int, ...], labels: Tensor) -> None:
        targets.two_axes(outputs, "binary cross entropy")
        targets.same_shape(outputs, labels)
        if bool((labels < 0).any()) or bool((labels > 1).any()):
            raise ValueError(
                f"labels must lie between 0 and 1, got {float(labels.min()):.3g} to {float(labels.max()):.3g}"
            )
        if self.pos_weight is not None and len(self.pos_weight) != outputs[1]:
            raise ValueError(
                f"pos_weight must have {outputs[1]} entries, one for each label, got {len(self.pos_weight)}"
            )


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """Mean squared error over all outputs: outputs (B, n), labels (B, n), or (B,) where n = 1."""

    targets = "numbers"

    def own(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - labels.to(outputs.dtype).view_as(outputs)).square().flatten(1).mean(1)

    def check(self, outputs: tuple[int, ...], labels: Tensor) -> None:
        targets.two_axes(outputs, "mean squared error")
        targets.same_shape(outputs, labels)


@dataclass(frozen=True)
class Given(Loss):
    """A function of the caller: outputs and labels to every record's loss, (B,), differentiable in the outputs."""

    function: Callable[..., Any]

    def own(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.function(outputs, labels.to(outputs.dtype) if labels.is_floating_point() else labels)

    def check(self, outputs: tuple[int, ...], labels: Tensor) -> None:
        super().check(outputs, labels)
        try:
            found = self.function(torch.zeros(outputs, device=labels.device), labels)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"loss must take outputs {outputs} and labels {tuple(labels.shape)}: {said}") from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != (outputs[0],):
            raise ValueError(
                f"loss must give every record's own loss, ({outputs[0]},): reduction='none', and a mean over what one "
                f"record has several of; got {shape}"
            )


NAMES: dict[str, Loss] = {
    "cross_entropy": CrossEntropy(), "next_token": NextToken(), "binary_cross_entropy": BinaryCrossEntropy(),
    "mse": MeanSquaredError(),
}  # fmt: skip
"""Losses by name."""
DEFAULT = NAMES["cross_entropy"]


def find(loss: object = None) -> Loss:
    """The loss that a name, an object of a class here, or a function stands for; None: cross entropy.

    Raises:
        ValueError: an unknown name. TypeError: something else.

    Example:
        >>> import glutils as gl
        >>> gl.models.losses.find("mse").targets
        'numbers'
    """
    if loss is None:
        return DEFAULT
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        return NAMES[_validate.choice("loss", loss, tuple(NAMES))]
    if callable(loss):
        return Given(loss)
    raise TypeError(
        f"loss must be one of {', '.join(map(repr, NAMES))}, a loss of glutils.models.losses, a function of outputs "
        f"and labels, or None; got {type(loss).__name__}"
    )
