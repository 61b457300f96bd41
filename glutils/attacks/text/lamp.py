"""LAMP: texts from one gradient, with a language model that says what people write (Balunović et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import _validate, models
from ...observation import Observation
from ...solvers import Tally, adam, search
from ..base import Card, Reconstruction, register
from .tag import apart
from .vectors import Gradient, Vectors, result

DISTANCES = ("cosine", "tag")
DECAY = 0.89
"""Factor of the step size from round to round, as the paper's code has it every 50 steps."""
STARTS = 20
"""Random starts of which the one of the lowest loss goes on. The paper draws 500."""
CANDIDATES = 20
"""Rearranged texts that each round looks at. The paper has 200."""


@register(
    "lamp",
    Card(
        title="LAMP",
        kinds=("gradient",),
        simulates="FedSGD",
        variable="vectors of tokens, soft labels",
        distance="cosine; or squared and absolute",
        prior="the attacked model, length of vectors",
        solver="Adam, and rearrangements between its rounds",
        labels="optimised",
        source="balunovic2022lamp",
        records=("tokens",),
    ),
)
def lamp(
    seen: Observation,
    *,
    seed: int = 0,
    rounds: int = 12,
    iterations: int = 50,
    restarts: int = 1,
    lr: float | int = 0.05,
    distance: str = "cosine",
    length: float | int = 0.1,
    perplexity: float | int = 0.2,
    lengths: Sequence[int] | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Texts whose gradient points the observed way, likely ones first, by turns of two searches.

    1. Vectors and labels descend the distance of gradients, with a term that keeps the mean length of the vectors near
       that of the table's.
    2. Tokens and spans of a text are exchanged and moved, at random; of these texts and the old one the one counts that
       has the lowest distance plus ``perplexity`` times its surprise a token.

    Differs from the paper, which attacks classifiers whose labels are known: the labels are the next tokens here, and
    are optimised with the vectors, each as a softmax of numbers of its own. The prior is the attacked model itself and
    not another one. A text's surprise is in nats a token, since a perplexity of an untrained model would outweigh every
    gradient; Adam begins anew with each round; fewer starts and candidates. The gradient of the table of vectors is
    left out, as in the paper: its rows name the tokens by themselves. The attack knows how long each text is.

    Args:
        rounds: turns of the two searches.
        iterations: steps of the first one in each turn.
        lr: step size at first, in units of the vectors.
        distance: ``"cosine"``, of every layer by itself and averaged; or ``"tag"``, TAG's.
        length: weight of the length of vectors, 0 or more.
        perplexity: weight of a text's surprise, 0 or more.
        lengths: next tokens that count in each text; needed for several texts of different lengths.
        seconds: time budget.

    Returns:
        ``tokens`` (B, L), ``texts``; ``diagnostics``: ``misfit`` of the tokens' gradient, a share of the observed one,
        and how often a rearranged text was taken, ``rearranged``.

    Raises:
        ValueError: a model without a table of vectors of its own; texts of different lengths that nobody told.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.from_texts(["The code is 48."])
        >>> model, protocol = gl.models.build("gpt", batch, seed=0), gl.protocols.FedSGD()
        >>> seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        >>> gl.attack("lamp", seen, rounds=4).texts
        ('The code is 48.',)
    """
    rounds = _validate.integer("rounds", rounds, at_least=1)
    iterations = _validate.integer("iterations", iterations, at_least=1)
    _validate.choice("distance", distance, DISTANCES)
    length, perplexity = (
        _validate.number(name, value, at_least=0) for name, value in (("length", length), ("perplexity", perplexity))
    )
    searched, tally = Vectors.of(seen, "lamp", lengths), Tally()
    typical, taken = searched.rows.norm(dim=-1).mean(), []

    def loss_of(vectors: Tensor, labels: Tensor) -> Tensor:
        tally.add()
        found = searched.gradient(vectors, labels.softmax(-1))
        off = directions(found, searched.target) if distance == "cosine" else apart(found, searched.target, 0.01)
        return off + length * (vectors.norm(dim=-1).mean() - typical).square()

    def objective(variables: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        loss = loss_of(*variables)
        return loss.detach(), torch.autograd.grad(loss, variables)

    def judged(variables: tuple[Tensor, ...]) -> float:
        return float(loss_of(*variables).detach()) + perplexity * surprise(seen, searched, variables[0])

    def solve(trace, generator):
        starts = [searched.start(generator) for _ in range(STARTS)]
        best = min(starts, key=lambda start: float(loss_of(*start).detach()))
        for turn in range(rounds):
            stage = trace.stage()
            if adam(objective, best, stage, iterations=iterations, lr=lr * DECAY**turn):
                return
            best = stage.best
            if turn + 1 < rounds:
                others = [rearranged(best, searched.told, generator) for _ in range(CANDIDATES)]
                chosen = min([best, *others], key=judged)
                taken.append(chosen is not best)
                best = chosen

    found = search(
        solve, iterations=rounds * (iterations + 1), restarts=restarts, seed=seed, seconds=seconds, keep="last",
        progress=progress, label="lamp", view=lambda variables: searched.nearest(variables[0]),
    )  # fmt: skip
    return result(seen, found, searched, tally, rearranged=float(sum(taken)))


def directions(found: Gradient, target: Gradient) -> Tensor:
    """1 - cosine of the angle between two layers' gradients, averaged over layers."""
    apart = [1 - (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12) for a, b in zip(found, target, strict=True)]
    return torch.stack(apart).mean()


def surprise(seen: Observation, searched: Vectors, vectors: Tensor) -> float:
    """Nats a token of the nearest texts, under the attacked model."""
    tokens = searched.nearest(vectors)
    with torch.no_grad():
        outputs = models.logits(seen.model, models.parameters(seen.model), tokens)[:, :-1].log_softmax(-1)
        nats = -outputs.gather(-1, tokens[:, 1:, None])[..., 0]
    return float((nats * searched.told).sum() / searched.told.sum())


def rearranged(variables: tuple[Tensor, ...], told: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """One text of the batch in another order, vectors with their labels: two tokens exchanged, one token or a span
    moved elsewhere, or the beginning moved behind the rest. The first token stays where it is."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    vectors, labels = (part.clone() for part in variables)
    text = draw(0, len(vectors) - 1)
    last = int(told[text].sum())
    order, kind = list(range(1, last + 1)), draw(0, 3)
    a, b = sorted((draw(0, last - 1), draw(0, last - 1)))
    if kind == 0:
        order[a], order[b] = order[b], order[a]
    else:
        cut = order[a : a + 1] if kind == 1 else order[a : b + 1] if kind == 2 else order[: b + 1]
        rest = [place for place in order if place not in cut]
        at = len(rest) if kind == 3 else draw(0, len(rest))
        order = rest[:at] + cut + rest[at:]
    index = torch.tensor(order, device=vectors.device)
    vectors[text, 1 : last + 1] = vectors[text, index]
    labels[text, :last] = labels[text, index - 1]
    return vectors, labels
