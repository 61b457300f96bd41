"""The result of a label rule, the registry of rules, and the rounding of fractional counts to whole ones."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from .. import _validate
from .._registry import Registry
from ..observation import Observation

SUM = 1e3
"""Weight of the equation that shares add up to one, relative to the others."""


@dataclass(frozen=True, eq=False)
class LabelEstimate:
    """Estimated labels of one batch.

    Attributes:
        counts: (C,) int64, images of each class; they add up to the batch size.
        labels: (B,) int64, the same as a sorted list of labels; which image has which is not known.
        confidence: (C,) float64 between 0 and 1. Of a rule that counts: 1 where the fraction was whole, 0 where it lay
            half-way between two counts. Of a rule that ranks classes: distance from the line between the chosen and
            the others, relative to the largest. No probability: it does not know when an assumption fails.
        fractional: (C,) float64, the counts before they were rounded, or None for a rule that ranks.
        rule: its name.
        notes: assumptions that do not hold here, as far as the attacker can tell.
    """

    counts: Int64[Tensor, " classes"]
    labels: Int64[Tensor, " batch"]
    confidence: Float64[Tensor, " classes"]
    fractional: Float64[Tensor, " classes"] | None = None
    rule: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """What a rule is, for the table of rules and for refusals.

    Attributes:
        title: name in print. source: key in the bibliography.
        needs: what the attacker holds beside the payload. assumes: what has to hold for the count to be exact.
        kinds: payload kinds that it reads. other: the rule to name where the payload is of another kind.
        run: ``(seen, **options) -> LabelEstimate``.
    """

    title: str
    source: str
    needs: str
    assumes: str
    kinds: tuple[str, ...] = ("gradient", "delta")
    other: str = "ilrg"
    run: Callable[..., LabelEstimate] | None = None


_RULES = Registry[Card]("label rule")
Rule = TypeVar("Rule", bound="Callable[..., LabelEstimate]")


def register(name: str, card: Card) -> Callable[[Rule], Rule]:
    """A decorator that files a rule under ``name`` with its card."""

    def add(run: Rule) -> Rule:
        _RULES.register(name)(dataclasses.replace(card, run=run))
        return run

    return add


def names() -> list[str]:
    """Names that :func:`infer` accepts.

    Example:
        >>> import glutils as gl
        >>> gl.labels.names()[:3]
        ['idlg', 'alr', 'llg']
    """
    return _RULES.names()


def table() -> list[dict[str, str]]:
    """The rules side by side, one row each, generated from their cards.

    Example:
        >>> import glutils as gl
        >>> gl.labels.table()[0]["needs"]
        'one image'
    """
    cards = [(name, _RULES.get(name)) for name in names()]
    return [
        {"rule": c.title, "name": name, "reads": ", ".join(c.kinds), "needs": c.needs, "assumes": c.assumes}
        for name, c in cards
    ]


def infer(name: str, seen: Observation, **options: Any) -> LabelEstimate:
    """The label counts that a rule finds in an observation, from its first message; ``seen.labels`` is never read.

    Args:
        name: one of :func:`names`.
        seen: what the adversary holds. Of a transcript, ``observe(..., rounds=[t])`` picks the message.
        options: the rule's own; see its docstring.

    Raises:
        ValueError: an unknown rule, or an observation that the rule cannot read: the message says why, and which rule
            could. TypeError: an option that the rule does not have.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", seed=0)
        >>> model, protocol = gl.models.build("mlp", batch, seed=0), gl.protocols.FedSGD()
        >>> seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        >>> estimate = gl.labels.infer("idlg", seen)
        >>> estimate.counts.shape, estimate.labels.tolist() == batch.labels.tolist()
        (torch.Size([10]), True)
    """
    card = _RULES.get(name)
    assert card.run is not None, "register() puts it there"
    _validate.instance("seen", seen, Observation)
    allowed = [option for option in inspect.signature(card.run).parameters if option != "seen"]
    for option in options:
        if option not in allowed:
            known = ", ".join(allowed) or "none"
            raise TypeError(f"label rule {name!r} has no option {option!r}; its options: {known}")
    if seen.kind not in card.kinds:
        reads = " or ".join(f"a {kind}" for kind in card.kinds)
        could = f"label rule {card.other!r} reads it"
        if seen.kind == "scalars":
            could = "no entry of the last layer was sent; gl.attack('zerogla', seen) solves for labels and pixels"
        raise ValueError(f"label rule {name!r} reads {reads}, got a payload of kind {seen.kind!r}; {could}")
    if not seen.protocol.sums_gradients:
        raise ValueError(
            f"label rule {name!r} reads the gradients that a difference is the sum of: the protocol must take steps of "
            f"SGD for that, got {seen.protocol.undefended}"
        )
    if seen.whole:
        raise ValueError(f"label rule {name!r} reads labels of images and tables, got tokens, which are the labels")
    if not seen.protocol.criterion.plain:
        raise ValueError(
            f"label rule {name!r} reads the gradient of the cross entropy of class indices, got clients with the loss "
            f"{seen.protocol.criterion}"
        )
    return dataclasses.replace(card.run(seen, **options), rule=name)


def round_counts(fractional: Float[Tensor, " classes"], total: int) -> Int64[Tensor, " classes"]:
    """Whole counts (C,) int64 that add up to ``total``: negative ones become 0, the largest remainders get the rest.

    The counts are rounded down; while images are missing the class that is furthest below its fraction gets one, and
    while there are too many the class that is furthest above its own loses one. So a sum that is far off is spread out
    evenly (iLRG's reference code adds one to almost every class instead).

    Raises:
        ValueError: fractions that are not finite.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> gl.labels.round_counts(torch.tensor([1.6, 0.9, 0.5]), total=3)
        tensor([2, 1, 0])
    """
    fractional = _validate.finite("fractional", fractional.double()).clamp(min=0)
    counts = fractional.floor()
    while (missing := total - int(counts.sum())) > 0:
        step = torch.zeros_like(counts)
        step[(fractional - counts).sort(descending=True, stable=True).indices[:missing]] = 1
        counts = counts + step
    return _without(sum(map(int, counts.tolist())) - total, counts, fractional)


def _without(
    excess: int, counts: Float[Tensor, " classes"], fractional: Float[Tensor, " classes"]
) -> Int64[Tensor, " classes"]:
    """Counts (C,) less ``excess``, one at a time from the class furthest above its fraction that still has any.

    Every class loses as many as it has, or ``level``, and the last few one more. They are found by level and not one by
    one, as ill-conditioned rules count to 1e15 and more; in whole numbers of Python, which hold them exactly.
    """
    held, level, left = [int(count) for count in counts.tolist()], 0, max(excess, 0)
    most = sorted(held)
    for number, count in enumerate(most):
        rise = min(count - level, left // (len(most) - number))
        level, left = level + rise, left - rise * (len(most) - number)
        if level < count:
            break
    short = torch.tensor([float(count > level) for count in held], device=counts.device)
    last = torch.where(short > 0, fractional - counts, torch.inf).sort(stable=True).indices[:left].tolist()
    kept = [count - min(count, level) - (place in last) for place, count in enumerate(held)]
    return torch.tensor(kept, dtype=torch.int64, device=counts.device)


def count_estimate(fractional: Float[Tensor, " classes"], total: int, notes: tuple[str, ...] = ()) -> LabelEstimate:
    """The estimate of a rule that counts, from its fractional counts (C,)."""
    fractional = fractional.double()
    counts = round_counts(fractional, total)
    confidence = 1 - 2 * (fractional - counts).abs().clamp(max=0.5)
    return LabelEstimate(counts, labels_from_counts(counts), confidence, fractional, notes=notes)


def rank_estimate(scores: Float[Tensor, " classes"], total: int, notes: tuple[str, ...] = ()) -> LabelEstimate:
    """The estimate of a rule that ranks: the ``total`` classes with the smallest scores (C,), once each."""
    order = scores.double().sort(stable=True)
    counts = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    counts[order.indices[:total]] = 1
    confidence = torch.ones_like(order.values)
    if total < len(scores):
        far = (scores.double() - order.values[total - 1 : total + 1].mean()).abs()
        confidence = far / far.max().clamp(min=torch.finfo(far.dtype).tiny)
    return LabelEstimate(counts, labels_from_counts(counts), confidence, notes=notes)


def labels_from_counts(counts: Int64[Tensor, " classes"]) -> Int64[Tensor, " batch"]:
    """The labels (B,) int64, ascending, that have these counts (C,)."""
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


def solve_class_shares(
    matrix: Float64[Tensor, "equations classes"], target: Float64[Tensor, " equations"]
) -> Float64[Tensor, " classes"]:
    """The class shares z (C,), non-negative and of sum 1, that minimise |H z - v|.

    Args:
        matrix: H (C, C), float64. target: v (C,).
    """
    scale = SUM * float(matrix.abs().max().clamp(min=torch.finfo(torch.float64).tiny))
    system = torch.cat((matrix, torch.full_like(matrix[:1], scale)))
    known = torch.cat((target, torch.full_like(target[:1], scale)))
    from scipy.optimize import nnls  # here, because most rules solve nothing

    found, _ = nnls(system.cpu().numpy(), known.cpu().numpy())
    return torch.from_numpy(found).to(target)
