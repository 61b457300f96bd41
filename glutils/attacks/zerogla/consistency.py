"""Do all messages of a transcript come from one client? What only a reconstruction can tell.

Two clients of equal size whose payloads were exchanged in a round leave no trace in the training run: the mean of their
scalars is the same. But one set of images does not explain both. So find the images, look at the misfit of each round,
and leave out those that do not fit.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from ... import _validate
from ...observation import Observation
from ...priors import smoothness
from ...solvers import Tally, Trace, gauss_newton
from ..base import Reconstruction
from .equations import ScalarEquations

NOISE, OUTLIER = 10.0, 5.0
"""A message fits if its misfit is within this many times the expected noise; it is strange if, beyond that, it lies
more than so many robust standard deviations above the median message."""

MOST, REFIT_STEPS = 0.3, 20
"""Largest part of the messages that may be dropped, and Gauss-Newton steps of each refit, unless told otherwise."""

FLOOR = 1e-6
"""Misfit relative to the scalars' spread that counts as none where the expected noise is even smaller, and nothing was
left out to reach it. Almost as many unknowns as equations can be bent to almost anything: what leaves messages out must
reach the noise itself."""

UNCHECKED = "time was up before the rounds had been compared with each other"
"""The note on a transcript in which rounds of another client may not have been found."""


def misfits(seen: Observation, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
    """How badly images explain each message, shape (messages,), and how badly the true ones would.

    Root mean squares of simulated minus observed scalars, in units of the standard deviation of all scalars observed.
    The second number is the client's round-off, which the attacker finds by running the client's arithmetic itself.

    Args:
        seen: an observation of scalars.
        images: (B, C, H, W).
        labels: (B,) int64, or (B, classes) probabilities.

    Example:
        >>> import glutils as gl
        >>> batch = gl.data.sample("digits", count=2, seed=0, distinct=True, device="cpu")
        >>> model = gl.models.build("mlp", batch, seed=0)
        >>> protocol = gl.protocols.ZerothOrder(directions=20, mu=1e-4, dtype="float64", seed=0)
        >>> payload = protocol.transmit(model, batch.images, batch.labels)
        >>> seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
        >>> values, floor = gl.attacks.misfits(seen, batch.images, batch.labels)
        >>> bool((values <= 1e-6).all())
        True
    """
    return _misfits(_equations(seen, labels), seen, images)


def inconsistent_rounds(seen: Observation, images: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """Numbers of the rounds whose scalars do not follow from these images, although most rounds' scalars do.

    A message is strange if its misfit is above ten times the noise that the attacker expects and more than five robust
    standard deviations (of the logarithm, by median and quartiles) above the median message. Images that explain no
    round accuse none: look at the attacker's loss first, or let :func:`without_strangers` find better ones.

    Args:
        seen, images, labels: see :func:`misfits`.

    Raises:
        ValueError: an observation that does not hold scalars.
    """
    found, noise = misfits(seen, images, labels)
    strange = _strange(found, noise)
    return sorted({message.number for message, odd in zip(seen.rounds, strange.tolist(), strict=True) if odd})


def without_strangers(
    seen: Observation,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    most: float = MOST,
    iterations: int = REFIT_STEPS,
) -> tuple[torch.Tensor, list[int]]:
    """Refit without the rounds that fit worst, until what is left fits: trimmed least squares (Rousseeuw 1984).

    Messages of another client are gross errors: least squares spreads them over all rounds, but they still stick out.
    The worst are dropped, the images solved again from where they are, and so on. In the end every round is judged by
    the images that the consistent ones gave, so an honest round that was dropped on the way comes back.

    Args:
        seen: an observation of scalars, several messages.
        images: (B, C, H, W), where an attack on all of ``seen`` ended.
        labels: (B,) int64, or (B, classes) probabilities; they stay as they are.
        most: largest part of the messages that may be dropped, in (0, 0.5).
        iterations: most Gauss-Newton steps of each refit.

    Returns:
        Images (B, C, H, W), float64, and the numbers of the inconsistent rounds. The given images and no rounds, if all
        rounds fit already, or if no set of images was found that explains the rest: then nothing is known.

    Raises:
        ValueError: not scalars, ``most`` out of range, or so few scalars that any round could be explained away.
    """
    most = _validate.number("most", most, above=0, at_most=0.5)
    iterations = _validate.integer("iterations", iterations, at_least=1)
    return _without_strangers(seen, images, labels, most, iterations, Tally())


def _without_strangers(
    seen: Observation, images: torch.Tensor, labels: torch.Tensor, most: float, iterations: int, tally: Tally,
    deadline: float = math.inf,
) -> tuple[torch.Tensor, list[int]]:  # fmt: skip
    equations = _equations(seen, labels, tally)
    u = images.detach().to(equations.targets).flatten()
    if equations.count <= len(u):
        raise ValueError(
            f"seen must hold more scalars than the {len(u)} unknowns to accuse a round, got {equations.count}"
        )
    found, noise = _misfits(equations, seen, images)
    if _fits(found, noise):
        return images, []
    blank, best = seen.blank.flatten().to(u), u
    prior = lambda v: smoothness(seen.shape, v.view(seen.shape)).to(v)  # noqa: E731
    kept = torch.ones(len(seen.rounds), dtype=torch.bool)
    while True:
        kept = _trimmed(found, kept)
        rest = tuple(message for message, keep in zip(seen.rounds, kept.tolist(), strict=True) if keep)
        if sum(len(message.payload) for message in rest) <= len(u) or (~kept).sum() > most * len(kept):
            return images, []
        some = _equations(replace(seen, rounds=rest), labels, tally)
        trace = Trace(iterations, "last", deadline)
        solution = gauss_newton(some, best, trace, iterations=iterations, prior=prior, centre=blank)
        if solution.ending:
            return images, []
        best = solution.u
        found, noise = _misfits(equations, seen, best.view(seen.shape))
        if _fits(found[kept], noise, floor=0.0):
            break
    strange = _strange(found, noise)
    return best.view(seen.shape), sorted({seen.rounds[i].number for i in strange.nonzero()[:, 0].tolist()})


def check_rounds(result: Reconstruction, seen: Observation, deadline: float = math.inf) -> Reconstruction:
    """A reconstruction that explains all rounds as it is; another with a note that names the rounds that do not fit.

    For the end of an attack on a transcript. Where a consistent majority of rounds was found, the images are those that
    explain it, and the loss is that of the consistent rounds. Where none was found, only the note is added. What this
    computes is added to the reconstruction's evaluations.

    Args:
        deadline: of :func:`time.monotonic`. After it nothing more is computed: a note says that the rounds were not
            compared, or not to the end.
    """
    unknowns, scalars = result.images.numel(), seen.scalars
    if scalars <= unknowns:
        return result
    if len(seen.rounds) < 3 or seen.local_batch is not None:
        return _judged_by_its_loss(result, scalars)
    if time.monotonic() > deadline:
        return _judged_by_its_loss(replace(result, notes=(*result.notes, UNCHECKED)), scalars)
    tally = Tally(result.evaluations or 0, result.pullbacks or 0)
    equations = _equations(seen, result.labels, tally)
    found, noise = _misfits(equations, seen, result.images)
    if _fits(found, noise):
        return _counting(result, tally)
    total = float(found.square().mean().sqrt())
    images, rounds = result.images, []
    if total < 0.7 * math.sqrt(1 - unknowns / scalars):  # better than random numbers in place of scalars are explained
        images, rounds = _without_strangers(seen, result.images, result.labels, MOST, REFIT_STEPS, tally, deadline)
    if not rounds:
        if time.monotonic() > deadline:
            result = replace(result, notes=(*result.notes, UNCHECKED))
        return _counting(_unexplained(result, total, f"{noise:.1g} expected from round-off"), tally)
    found, _ = _misfits(equations, seen, images)
    fits = torch.tensor([message.number not in rounds for message in seen.rounds])
    note = f"left out rounds {rounds}: their scalars do not follow from the images that explain all others"
    cleaned = replace(
        result,
        images=images,
        loss=float(found[fits].square().mean()),
        notes=(*result.notes, note),
        diagnostics=result.diagnostics | {"left out": float(len(rounds))},
    )
    return _counting(cleaned, tally)


def _judged_by_its_loss(result: Reconstruction, scalars: int) -> Reconstruction:
    """With a note if the loss in which the search ended is far above the noise, although scalars outnumber unknowns."""
    noise, misfit = result.diagnostics.get("noise", 0.0), math.sqrt(max(result.loss, 0.0))
    if scalars <= result.diagnostics.get("unknowns", 0.0) or not misfit > NOISE * max(noise, FLOOR):
        return result
    return _unexplained(result, misfit, f"{noise:.1g} expected from round-off" if noise else "far above any round-off")


def _unexplained(result: Reconstruction, misfit: float, expected: str) -> Reconstruction:
    note = f"the scalars are not explained: misfit {misfit:.2g} of their spread, {expected}"
    return replace(result, notes=(*result.notes, note))


def _counting(result: Reconstruction, tally: Tally) -> Reconstruction:
    if result.evaluations is None:
        return result
    return replace(result, evaluations=tally.evaluations, pullbacks=tally.pullbacks)


def _equations(seen: Observation, labels: torch.Tensor, tally: Tally | None = None) -> ScalarEquations:
    _validate.instance("seen", seen, Observation)
    if seen.kind != "scalars":
        raise ValueError(f"seen must hold scalars, got a payload of kind {seen.kind!r}")
    if seen.local_batch is not None:
        raise ValueError("seen must hold messages about all images of the client, got mini-batches")
    return ScalarEquations(seen, lambda u: (u.view(seen.shape), labels), math.prod(seen.shape), tally=tally)


def _misfits(equations: ScalarEquations, seen: Observation, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """See :func:`misfits`; the equations are those of all of ``seen``."""
    u = images.detach().to(equations.targets).flatten()
    found = equations.calibrate(u)
    return _by_message(seen, found.problem.residual(u)), found.noise


def _by_message(seen: Observation, r: torch.Tensor) -> torch.Tensor:
    return torch.stack([part.square().mean().sqrt() for part in r.split([len(m.payload) for m in seen.rounds])])


def _fits(found: torch.Tensor, noise: float, floor: float = FLOOR) -> bool:
    return float(found.max()) < NOISE * max(noise, floor)


def _score(found: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Robust standard deviations above the median of ``among``, on a logarithmic scale."""
    logs, typical = found.clamp_min(1e-300).log(), among.clamp_min(1e-300).log()
    low, middle, high = typical.quantile(torch.tensor([0.25, 0.5, 0.75]).to(typical))
    return (logs - middle) / ((high - low) / 1.35).clamp_min(0.05)


def _strange(found: torch.Tensor, noise: float) -> torch.Tensor:
    return (found > NOISE * max(noise, FLOOR)) & (_score(found, found) > OUTLIER)


def _trimmed(found: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The messages within 2.5 robust standard deviations of those kept; at least a fiftieth more is dropped."""
    now = _score(found, found[kept]) < 2.5
    least = int((~kept).sum()) + math.ceil(len(found) / 50)
    if int((~now).sum()) < least:
        now = torch.ones_like(kept)
        now[found.topk(min(least, len(found))).indices] = False
    return now
