"""RLU: Recovering Labels from Local Updates in Federated Learning (Chen, Vikalo, ICML 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from .. import _validate
from ..data.batch import Batch
from ..models import Parameters
from ..observation import Observation
from .base import Card, LabelEstimate, count_estimate, register, solve_class_shares
from .head import Head, need_bias, need_public, read_head, responses
from .llg import require_every_class

BETWEEN = ("drift", "path")


@register(
    "rlu",
    Card(
        title="RLU",
        source="chen2024rlu",
        needs="bias, public labelled images of every class",
        assumes="on average the model is as unsure of the images as of public ones",
    ),
)
def rlu(seen: Observation, *, between: str = "drift", draws: int = 1000, seed: int = 0) -> LabelEstimate:
    """Counts from how confident the model is in wrong classes, which public labelled images of every class show.

    Let z be the classes' shares, and S[c, k] the mean probability of class k for images of class c. The bias moves by
    -lr g, and on average -g_k = z_k sum_{j != k} S[k, j] - sum_{c != k} z_c S[c, k]. That is H z = -g (survey, eq. 14),
    solved by least squares with z >= 0 and sum z = 1. S is the mean softmax of draws from a normal law with the mean
    and covariance of a class's logits.

    For E > 1 epochs H is the mean over epochs. S of the first is measured before training, S of the last after it. In
    between, the mean logits are moved by ``b^e |a|^2``: b^e is the bias's move in one epoch, taken as equal for all,
    and a the mean input of the last layer, the vector for which weight gradient = bias gradient x a fits best. (From
    the paper's formulas; no reference code is public. The paper takes a from each row by division, which explodes where
    the bias hardly moves.)

    Args:
        between: ``"drift"``, as above; ``"path"`` measures S in the middle of each epoch on the straight line from the
            first to the last state, also for one epoch (not in the paper).
        draws: logits drawn for each class.
        seed: of the draws.

    Raises:
        ValueError: no public images, or a class of which there is none.
    """
    _validate.choice("between", between, BETWEEN)
    _validate.integer("draws", draws, at_least=1)
    head = read_head(seen)
    bias = need_bias(head, "rlu", "llg_plus")
    public = need_public(seen, "label rule 'rlu'")
    require_every_class(public.labels, seen.classes, "rlu", "ilrg")
    generator = torch.Generator().manual_seed(_validate.integer("seed", seed, at_least=0))
    laws = _epoch_laws(seen, head, bias, public) if between == "drift" else _laws_on_the_path(seen, head, public)
    nothing = bias.new_zeros(())
    matrices = (wrong_confidence_matrix(_softmax_means(law, draws, generator)) for law in laws)
    matrix = sum(matrices, start=nothing) / len(laws)
    shares = solve_class_shares(matrix, -bias)  # survey, eq. (15)
    return count_estimate(head.size * shares, head.size, head.notes)


def wrong_confidence_matrix(confidence: Float64[Tensor, "classes classes"]) -> Float64[Tensor, "classes classes"]:
    """H (C, C) from S (C, C): row k is the bias entry, column c the class of the images (survey, below eq. 15)."""
    wrong = confidence - torch.diag(confidence.diagonal())
    return torch.diag(wrong.sum(1)) - wrong.T


Law = tuple[list[torch.Tensor], list[torch.Tensor]]  # for each class: mean logits (C,), a root of the covariance (n, C)


def _fit_law(seen: Observation, head: Head, public: Batch, state: Parameters) -> Law:
    _, logits = responses(seen, head, state, public.images)
    groups = [logits[public.labels == c] for c in range(seen.classes)]
    means = [group.mean(0) for group in groups]
    roots = [(group - mean) / max(1, len(group) - 1) ** 0.5 for group, mean in zip(groups, means, strict=True)]
    return means, roots


def _epoch_laws(seen: Observation, head: Head, bias: Float64[Tensor, " classes"], public: Batch) -> list[Law]:
    """One law an epoch, as in the paper: measured before the first and after the last, extrapolated in between."""
    first = _fit_law(seen, head, public, head.start)
    laws = [first]
    if head.epochs > 1:
        inputs = (bias[:, None] * head.weight).sum(0) / bias.square().sum().clamp(min=1e-300)
        last, key = _fit_law(seen, head, public, head.end), f"{head.name}.bias"
        move = (head.end[key] - head.start[key]).double() / head.epochs * inputs.square().sum()
        laws += [([mean + e * move for mean in first[0]], first[1]) for e in range(1, head.epochs - 1)] + [last]
    return laws


def _laws_on_the_path(seen: Observation, head: Head, public: Batch) -> list[Law]:
    """One law an epoch, measured in the middle of each on the straight line between the two known states."""
    way = [(e + 0.5) / head.epochs for e in range(head.epochs)]
    states = ({name: p + t * (head.end[name] - p) for name, p in head.start.items()} for t in way)
    return [_fit_law(seen, head, public, state) for state in states]


def _softmax_means(law: Law, draws: int, generator: torch.Generator) -> Float64[Tensor, "laws classes"]:
    """S (C, C): mean softmax of normal logits, class by class."""
    rows = []
    for mean, root in zip(*law, strict=True):
        noise = torch.randn(draws, len(root), generator=generator, dtype=torch.float64).to(root)
        rows.append((mean + noise @ root).softmax(1).mean(0))  # survey, eq. (16)
    return torch.stack(rows)
