"""DLG with Adam, on the squared distance and on the cosine: the variants of a reproduction of DLG.

They come from the readme of a project that reimplements DLG (Zhu et al. 2019) with three solvers. It is no paper; the
cards name the papers that the ideas are from.
"""

from __future__ import annotations

import torch

from ... import _validate
from ...observation import Observation
from ...solvers import Tally, adam, search
from ..base import Card, Reconstruction, reconstruction, register
from .objective import Distance, Tensors, cosine, matching, squared


@register(
    "dlg_adam",
    Card(
        title="DLG-Adam",
        kinds=("gradient",),
        simulates="FedSGD",
        variable="pixels, soft labels",
        distance="squared",
        prior="box",
        solver="Adam",
        labels="optimised",
        source="zhu2019dlg",
    ),
)
def dlg_adam(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 2000,
    restarts: int = 1,
    lr: float | int = 0.03,
    box: bool = True,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """DLG's objective, ``min |grad l(f(x), softmax(v)) - g|^2`` over pixels x and soft labels v, descended by Adam.

    Constant step, 2,000 iterations, pixels start uniform in [0, 1]. The reported iterate is the one with the lowest
    loss, since a constant step never settles. float32 arithmetic.

    Args:
        box: project the pixels to [0, 1] after every step.

    Deviations: step 0.03 instead of 0.1, and the box, which the source lacks: together they are worth about 9 dB
    (median of three 32 x 32 photographs through ``lenet``). One restart instead of up to ten.
    """
    return _descend(seen, squared, "dlg_adam", seed, iterations, restarts, lr, box, seconds, progress)


@register(
    "dlg_cosine",
    Card(
        title="DLG-cosine",
        kinds=("gradient",),
        simulates="FedSGD",
        variable="pixels, soft labels",
        distance="cosine",
        prior="box",
        solver="Adam",
        labels="optimised",
        source="geiping2020ig",
    ),
)
def dlg_cosine(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 2000,
    restarts: int = 1,
    lr: float | int = 0.03,
    box: bool = True,
    magnitude: float | int = 0.0,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """As DLG-Adam with the distance of IG: min 1 - cos(grad l(f(x), softmax(v)), g).

    The cosine does not see how long the gradient is; ``magnitude`` times ``(log |grad| - log |g|)^2`` is added to it.

    Args:
        box: project the pixels to [0, 1] after every step.
        magnitude: weight of that term, 0 or more.

    Deviations: step 0.03 instead of 0.01, and the box: together about 5 dB. One restart. The source says that matching
    the magnitude helps, and not how; the logarithm is ours.
    """
    magnitude = _validate.number("magnitude", magnitude, at_least=0)
    return _descend(seen, _with_length(magnitude), "dlg_cosine", seed, iterations, restarts, lr, box, seconds, progress)


def _descend(seen, distance, label, seed, iterations, restarts, lr, box, seconds, progress) -> Reconstruction:
    """Pixels and soft labels by Adam, whatever the distance."""
    _validate.number("lr", lr, above=0)
    _validate.instance("box", box, bool)
    tally = Tally()
    objective = matching(seen, lambda v: (v[0], v[1].softmax(-1)), distance=distance, tally=tally)
    device = next(seen.model.parameters()).device

    def solve(trace, generator):
        images = torch.rand(seen.shape, generator=generator)
        logits = torch.randn(seen.shape[0], seen.classes, generator=generator)
        adam(objective, (images.to(device), logits.to(device)), trace, iterations=iterations, lr=lr, box=box)

    found = search(
        solve, iterations=iterations, restarts=restarts, seed=seed, seconds=seconds, progress=progress, label=label
    )
    images, logits = found.variables
    return reconstruction(found, images, logits.argmax(-1), tally=tally)


def _with_length(weight: float) -> Distance:
    """``1 - cosine + weight (log |found| - log |target|)^2``, and its derivative in ``found``."""
    if not weight:
        return cosine

    def distance(found: Tensors, target: Tensors) -> tuple[torch.Tensor, Tensors]:
        value, slopes = cosine(found, target)
        square, other = (torch.stack([(a * a).sum() for a in ts]).sum().clamp_min(1e-30) for ts in (found, target))
        apart = 0.5 * (square.log() - other.log())
        longer = torch._foreach_mul(found, 2 * weight * apart / square)
        return value + weight * apart**2, torch._foreach_add(slopes, longer)

    return distance
