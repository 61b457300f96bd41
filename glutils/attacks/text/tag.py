"""TAG: texts from one gradient, as DLG takes images from it (Deng et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ... import _validate
from ...observation import Observation
from ...solvers import Tally, adam, search
from ..base import Card, Reconstruction, register
from .vectors import Gradient, Vectors, result

CARD = Card(
    title="TAG",
    kinds=("gradient",),
    simulates="FedSGD",
    variable="vectors of tokens, soft labels",
    distance="squared, and absolute",
    prior="none",
    solver="Adam",
    labels="optimised",
    source="deng2021tag",
    records=("tokens",),
)


@register("tag", CARD)
def tag(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 600,
    restarts: int = 1,
    lr: float | int = 0.03,
    absolute: float | int = 0.01,
    lengths: Sequence[int] | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Texts whose gradient is the one observed: ``min |g(x, y) - g|^2 + a |g(x, y) - g|_1``, vectors x and labels y.

    DLG with a vector in the place of each token, and with absolute differences beside the squared ones, so that small
    entries of a transformer's gradient count too. The nearest token stands for each vector at the end.

    Differs from the paper, which attacks classifiers: the labels are the next tokens here, and are optimised as its
    labels are, each as a softmax of numbers of its own; where labels and vectors disagree, whichever explains the
    gradient better counts. One weight ``absolute`` for all layers, where the paper's falls with depth. Adam with a
    step size that falls along a cosine. The gradient of the table of vectors is left out, as LAMP does: its rows name
    the tokens by themselves. The attack knows how long each text is.

    Args:
        iterations: steps of one start.
        lr: the largest step size, in units of the vectors.
        absolute: weight a, 0 or more; 0 is DLG.
        lengths: next tokens that count in each text; needed for several texts of different lengths.
        seconds: time budget.

    Returns:
        ``tokens`` (B, L), ``texts``; ``diagnostics``: ``misfit`` of the tokens' gradient, a share of the observed one.

    Raises:
        ValueError: a model without a table of vectors of its own; texts of different lengths that nobody told.

    Example:
        >>> import torch
        >>> import glutils as gl
        >>> tokens = torch.randint(32, (1, 6), generator=torch.Generator().manual_seed(0))
        >>> labels = torch.cat([torch.full((1, 1), -100), tokens[:, 1:]], 1)
        >>> batch = gl.data.Batch(tokens, labels, tuple(map(str, range(32))))
        >>> model, protocol = gl.models.build("gpt", batch, width=32, seed=0), gl.protocols.FedSGD()
        >>> seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
        >>> bool(gl.score(gl.attack("tag", seen, iterations=200), batch).exact)
        True
    """
    absolute = _validate.number("absolute", absolute, at_least=0)
    searched, tally = Vectors.of(seen, "tag", lengths), Tally()

    def objective(variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        tally.add()
        loss = apart(searched.gradient(variables[0], variables[1].softmax(-1)), searched.target, absolute)
        return loss.detach(), torch.autograd.grad(loss, variables)

    def solve(trace, generator):
        start = searched.start(generator)
        adam(objective, start, trace, iterations=iterations, lr=lr, schedule="cosine")

    found = search(
        solve, iterations=iterations, restarts=restarts, seed=seed, seconds=seconds, progress=progress, label="tag",
        view=lambda variables: searched.nearest(variables[0]),
    )  # fmt: skip
    return result(seen, found, searched, tally)


def apart(found: Gradient, target: Gradient, absolute: float) -> torch.Tensor:
    """TAG's distance over the target's sum of squares: squared differences and ``absolute`` times absolute ones."""
    differences = [a - b for a, b in zip(found, target, strict=True)]
    size = torch.stack([b.square().sum() for b in target]).sum().clamp_min(1e-30)
    return torch.stack([d.square().sum() + absolute * d.abs().sum() for d in differences]).sum() / size
