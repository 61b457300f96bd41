"""DLG, Deep Leakage from Gradients (Zhu, Liu, Han, NeurIPS 2019), and what differs from it in one choice each.

iDLG (Zhao, Mopuri, Bilen, arXiv 2001.02610) infers the label. DLG-Adam and DLG-cosine, another solver and another
distance, come from the readme of a project that reimplements DLG with three solvers. It is no paper; their cards name
the papers that the ideas are from.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ... import _validate, labels
from ...observation import Observation
from ...solvers import Tally, adam, lbfgs, search
from ..base import ANY, ANY_LOSS, PLAIN, Card, Reconstruction, reconstruction, register
from .objective import Distance, Tensors, cosine, matching, size, squared, start

CONVERGED = 1e-8
"""A restart has converged when the squared distance is below this times the payload's own sum of squares."""
HOPELESS = 1e-2
"""... and is given up if after 20 outer steps it is still above this."""
CARD = Card(
    title="DLG",
    kinds=("gradient",),
    several=("gradient",),
    simulates="FedSGD",
    variable="pixels, soft labels",
    distance="squared",
    prior="none",
    solver="L-BFGS",
    labels="optimised",
    source="zhu2019dlg",
    records=ANY,
    losses=ANY_LOSS,
)
"""DLG's; of the others it says what is the same."""


@register("dlg", CARD)
def dlg(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 100,
    restarts: int = 3,
    lr: float | int = 1.0,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """Pixels and soft labels whose gradient is the one observed: ``min |grad l(f(x), softmax(v)) - g|^2``.

    L-BFGS, 20 inner steps an iteration (section 3 and algorithm 1). The network has to be twice differentiable: with
    ReLU almost every second derivative is zero.

    Deviations, each of which saves restarts: a strong Wolfe line search, without which about half of all starts
    diverge; pixels start at N(0.5, 0.25) instead of N(0, 1); float64 arithmetic; a restart that has not come near the
    payload after 20 iterations is given up, and the next begins. The reported iterate is the one with the lowest loss.
    Labels are optimised even where they were told, as in the paper; but not where the client's loss takes other targets
    than classes.
    """
    how = {"iterations": iterations, "restarts": restarts, "seed": seed, "seconds": seconds, "progress": progress}
    tally = Tally()
    known = _targets(seen)
    found = _by_lbfgs(seen, known, "dlg", lr, tally, how)
    shown = found.variables[1].argmax(-1) if known is None else known
    return reconstruction(found, found.variables[0], shown, tally=tally)


@register("dlg_adam", replace(CARD, title="DLG-Adam", prior="box", solver="Adam"))
def dlg_adam(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 2000,
    restarts: int = 1,
    lr: float | int = 0.03,
    box: bool | None = None,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """DLG's objective, ``min |grad l(f(x), softmax(v)) - g|^2`` over pixels x and soft labels v, descended by Adam.

    Constant step, 2,000 iterations, pixels start uniform in [0, 1]. The reported iterate is the one with the lowest
    loss, since a constant step never settles. float32 arithmetic.

    Args:
        box: project the pixels to [0, 1] after every step. Default: for images, which alone have bounds.

    Deviations: step 0.03 instead of 0.1, and the box, which the source lacks: together they are worth about 9 dB
    (median of three 32 x 32 photographs through ``lenet``). One restart instead of up to ten.
    """
    how = {"iterations": iterations, "restarts": restarts, "seed": seed, "seconds": seconds, "progress": progress}
    return _by_adam(seen, squared, "dlg_adam", lr, box, how)


@register(
    "dlg_cosine",
    replace(CARD, title="DLG-cosine", distance="cosine", prior="box", solver="Adam", source="geiping2020ig"),
)
def dlg_cosine(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 2000,
    restarts: int = 1,
    lr: float | int = 0.03,
    box: bool | None = None,
    magnitude: float | int = 0.0,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """As DLG-Adam with the distance of IG: min 1 - cos(grad l(f(x), softmax(v)), g).

    The cosine does not see how long the gradient is; ``magnitude`` times ``(log |grad| - log |g|)^2`` is added to it.

    Args:
        box: project the pixels to [0, 1] after every step. Default: for images, which alone have bounds.
        magnitude: weight of that term, 0 or more.

    Deviations: step 0.03 instead of 0.01, and the box: together about 5 dB. One restart. The source says that matching
    the magnitude helps, and not how; the logarithm is ours.
    """
    magnitude = _validate.number("magnitude", magnitude, at_least=0)
    how = {"iterations": iterations, "restarts": restarts, "seed": seed, "seconds": seconds, "progress": progress}
    return _by_adam(seen, cosine_with_length(magnitude), "dlg_cosine", lr, box, how)


@register(
    "idlg",
    replace(CARD, title="iDLG", variable="pixels", labels="inferred (one image)", losses=PLAIN, source="zhao2020idlg"),
)
def idlg(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 100,
    restarts: int = 3,
    lr: float | int = 1.0,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """DLG with the label read off the last layer's gradient first (eq. 5); one image only.

    Deviations: as for DLG.
    """
    if seen.shape[0] != 1:
        raise ValueError(f"attack 'idlg' reads the label of one image, got a batch of {seen.shape[0]}")
    known = labels.infer("idlg", seen).labels
    how = {"iterations": iterations, "restarts": restarts, "seed": seed, "seconds": seconds, "progress": progress}
    tally = Tally()
    found = _by_lbfgs(seen, known, "idlg", lr, tally, how)
    return reconstruction(found, found.variables[0], known, tally=tally)


def cosine_with_length(weight: float) -> Distance:
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


def _decode(variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and soft labels."""
    return variables[0], variables[1].softmax(-1)


def _targets(seen: Observation) -> torch.Tensor | None:
    """None: labels are optimised. Those that were told, where no softmax of unknowns can stand for them."""
    solvable = all(entry.protocol.criterion.solvable for entry in seen.rounds)
    return None if solvable else seen.labels


def _by_lbfgs(seen: Observation, known: torch.Tensor | None, attack: str, lr: float, tally: Tally, how: dict):
    """Pixels by L-BFGS, and soft labels where none are known. A hopeless start is given up, and the first that has
    converged ends the search."""
    scale = size(seen)
    objective = matching(seen, _decode if known is None else lambda v: (v[0], known), dtype=torch.float64, tally=tally)

    def solve(trace, generator):
        first = (start(seen, generator, torch.float64),)
        if known is None:
            first += (torch.randn(seen.shape[0], seen.classes, generator=generator).to(first[0]),)
        lbfgs(
            objective, first, trace, iterations=how["iterations"], lr=lr, line_search=True,
            should_stop=lambda step, loss: step == 20 and loss > HOPELESS * scale,
        )  # fmt: skip

    return search(solve, success=lambda loss: loss < CONVERGED * scale, label=attack, **how)


def _by_adam(
    seen: Observation, distance: Distance, attack: str, lr: float, box: bool | None, how: dict
) -> Reconstruction:
    """Pixels and soft labels by Adam, whatever the distance."""
    _validate.number("lr", lr, above=0)
    box = seen.record.box(box)
    tally, known = Tally(), _targets(seen)
    decode = _decode if known is None else lambda v: (v[0], known)
    objective = matching(seen, decode, distance=distance, tally=tally)
    device = next(seen.model.parameters()).device

    def solve(trace, generator):
        bounded = seen.record.bounds is not None  # then anywhere between them
        images = torch.rand(seen.shape, generator=generator) if bounded else start(seen, generator)
        first = (images.to(device),)
        if known is None:
            first += (torch.randn(seen.shape[0], seen.classes, generator=generator).to(device),)
        adam(objective, first, trace, iterations=how["iterations"], lr=lr, box=box)

    found = search(solve, label=attack, **how)
    shown = found.variables[1].argmax(-1) if known is None else known
    return reconstruction(found, found.variables[0], shown, tally=tally)
