"""The ZeroGLA objective by first-order solvers: the published attack's Adam (Zheng et al. 2025), and L-BFGS."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ... import _validate, models, priors, zo
from ...data.kinds import Kind
from ...observation import Observation
from ...solvers import Tally, adam, lbfgs, search
from ...solvers.adam import Objective
from ..base import Reconstruction, need_labels, reconstruction
from ..matching import batchnorm
from ..matching.objective import matching, normal_start, size, start
from .rank import count_equations

SCALAR_WEIGHTS = ("relative", "d")
QUIRKS = {
    "schedule": "50 steps of warm-up and half a cosine of 20,000 steps, however many iterations there are",
    "noise": "noise of 0.2 step sizes after every step, the last one included",
    "late": "the image kept is the one after the step and noise that follow the lowest loss",
    "start": "starts at N(0, 1) instead of N(0.5, 0.25)",
    "no_clamp": "pixels may leave [0, 1]",
}
"""What the reference code does and this book does not, by the names that ``quirks`` takes."""

PUBLISHED = {
    "solver": "adam",
    "iterations": 5000,
    "scalar_weight": 1.0,
    "bn": "exact",
    "tv_weight": 1e-4,
    "tv_kind": "l1sum",
    "l2_weight": 1e-6,
}
"""Options of the published setting, as in ``gl.attack("zerogla", seen, **gl.attacks.PUBLISHED, quirks=True)``."""


UNEXPLAINED = 0.3
"""Share of the squared scalars above which a search that had enough of them has explained nothing; in-between it may
only have ended too early."""


def lbfgs_attack(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 60,
    restarts: int = 1,
    scalar_weight: str | float | int = "relative",
    bn: str | None = None,
    bn_weight: float | int | None = None,
    tv_weight: float | int | None = None,
    tv_kind: str = "l1mean",
    l2_weight: float | int = 0.0,
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """The reconstruction with the lowest ZeroGLA objective that L-BFGS finds, in float64 and with a line search.

    Args:
        iterations: outer steps of 20.
        scalar_weight, bn, bn_weight, tv_weight, tv_kind, l2_weight: the terms of the objective, see
            :func:`adam_attack`.

    Raises:
        ValueError: as :func:`adam_attack`.
    """
    terms = Terms(scalar_weight, bn, bn_weight, tv_weight, tv_kind, l2_weight)

    def descent(objective: Objective) -> Callable:
        def solve(trace, generator):
            lbfgs(objective, (start(seen, generator, torch.float64),), trace, iterations=iterations, line_search=True)

        return solve

    how = {"seed": seed, "iterations": iterations, "restarts": restarts, "seconds": seconds, "progress": progress}
    return _minimised(seen, terms, descent, torch.float64, keep="lowest", label="zerogla lbfgs", **how)


def adam_attack(
    seen: Observation,
    *,
    seed: int = 0,
    iterations: int = 2000,
    restarts: int = 1,
    scalar_weight: str | float | int = "relative",
    bn: str | None = None,
    bn_weight: float | int | None = None,
    tv_weight: float | int | None = None,
    tv_kind: str = "l1mean",
    l2_weight: float | int = 0.0,
    lr: float | int = 0.1,
    noise: float | int = 0.0,
    quirks: bool | Iterable[str] = (),
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """The reconstruction that Adam finds for the ZeroGLA objective (step 0.1, warm-up, cosine to 1e-5).

    ``min over x of w sum_i (<grad l(f(x), y), z_i> - s_i)^2 + bn_weight sum over batch norm layers of (|mean(x) -
    mean|^2 + |var(x) - var|^2) + tv_weight TV(x) + l2_weight |x|``. The statistics of x come from the forward pass that
    the scalars need anyway. Adam warms up for 50 steps, or a quarter of the iterations if that is less, and keeps
    pixels in [0, 1].

    Args:
        scalar_weight: w. ``"relative"``: one over the sum of squared scalars, so that the other weights mean the same
            at any K and d. ``"d"``: the number of parameters for unit directions, one for Gaussian ones: then the term
            is about K times the squared distance of gradients. A number: that (reference code: 1; no scalars: 0).
        bn: batch norm statistics to match: ``"exact"`` ones of the private batch, which no zeroth-order protocol sends
            and the adversary must have been told (``knows={"batch_stats"}``); the model's ``"running"`` ones, which
            everybody has; ``"none"``. None: exact if told, else none.
        bn_weight: None: 0.1 where statistics are matched.
        tv_weight, tv_kind: total variation, see :func:`glutils.priors.tv` (reference code: 1e-4, ``"l1sum"``). Default
            weight: 1e-4 for images, 0 for tables, which allow no other.
        l2_weight: weight of the length of x, not squared (reference code: 1e-6).
        lr: step size.
        noise: standard deviation of the noise added after each step, in units of the step size.
        quirks: what to copy of the reference code's oddities: names from :data:`QUIRKS`, or True for all.

    :data:`PUBLISHED` holds the weights of the reference code.

    Deviations from the reference code: the quirks, unless asked for; statistics from a clean forward pass of the model
    instead of the first perturbed one; directions by this package's law of seeds; running statistics are left alone. By
    default, no statistics unless the adversary was told them, the scalars' weight relative and total variation in mean
    form. The last iterate is reported where the step size has decayed, else the one with the lowest loss.

    Raises:
        ValueError: exact statistics that were not told, statistics of a model without batch norm, a weight for
            statistics that are not matched, unknown quirks.
    """
    terms = Terms(scalar_weight, bn, bn_weight, tv_weight, tv_kind, l2_weight)
    quirks, lr = _quirks(quirks), _validate.number("lr", lr, above=0)
    noise, box = _noise(noise, quirks), "no_clamp" not in quirks and seen.record.bounds is not None

    def descent(objective: Objective) -> Callable:
        def solve(trace, generator):
            first = normal_start(seen, generator) if "start" in quirks else start(seen, generator)
            first = first.clamp(0, 1) if box else first
            how = {"warmup": 50, "period": 20_000} if "schedule" in quirks else {"warmup": min(50, iterations // 4)}
            how |= {"lr": lr, "schedule": "cosine", "box": box, "late": "late" in quirks}
            adam(objective, (first,), trace, iterations=iterations, noise=noise, generator=generator, **how)

        return solve

    keep = "lowest" if noise or {"schedule", "late"} & quirks else "last"
    how = {"seed": seed, "iterations": iterations, "restarts": restarts, "seconds": seconds, "progress": progress}
    return _minimised(seen, terms, descent, torch.float32, keep=keep, label="zerogla adam", **how)


@dataclass(frozen=True)
class Terms:
    """The terms of the objective, by the names of :func:`adam_attack`'s options."""

    scalar_weight: str | float | int
    bn: str | None
    bn_weight: float | int | None
    tv_weight: float | int | None
    tv_kind: str
    l2_weight: float | int

    def priors(self, record: Kind) -> list[tuple[float, Callable]]:
        """Those on pixels alone, with their weights."""
        _validate.choice("tv_kind", self.tv_kind, priors.TV_KINDS)
        return [
            (record.weight("tv_weight", self.tv_weight, 1e-4), lambda x: priors.tv(x, self.tv_kind)),
            (_validate.number("l2_weight", self.l2_weight, at_least=0), torch.linalg.vector_norm),
        ]


def _minimised(
    seen: Observation, terms: Terms, descent: Callable[[Objective], Callable], dtype: torch.dtype, **how: Any
) -> Reconstruction:
    """Search with what ``descent`` makes of the objective; ``how`` is handed to :func:`glutils.solvers.search`."""
    parts = terms.priors(seen.record)
    labels = need_labels(seen, "zerogla")
    target, factor = batchnorm.to_match(seen, terms.bn, terms.bn_weight)
    weight = _scalar_weight(seen, terms.scalar_weight)
    notes, extra = count_equations(seen, labels.new_empty(seen.shape).numel())
    tally = Tally()
    with priors.record_batchnorm_statistics(seen.model) if factor else contextlib.nullcontext({}) as noted:
        parts.append((factor, batchnorm.Statistics(seen.model, target, noted)))
        parts = [part for part in parts if part[0]]
        if not weight and not parts:
            raise ValueError("scalar_weight must be above 0 where nothing else is to be minimised, got 0")
        rounds = seen.rounds if weight else ()  # no scalars, no gradients to simulate
        held = dataclasses.replace(seen, rounds=rounds)
        goal = {"weight": weight, "priors": parts, "dtype": dtype, "tally": tally}
        found = search(descent(matching(held, lambda v: (v[0], labels), **goal)), **how)
    squares = weight * sum(float(entry.payload.double().square().sum()) for entry in seen.rounds)
    if not notes and not factor and squares > 0 and found.loss > UNEXPLAINED * squares:
        notes.append(f"the scalars are not explained: {found.loss / squares:.2g} of their sum of squares is left")
    return reconstruction(found, found.variables[0].view(seen.shape), labels, *notes, tally=tally, **extra)


def _scalar_weight(seen: Observation, value: Any) -> float:
    if not isinstance(value, str):
        return _validate.number("scalar_weight", value, at_least=0)
    if _validate.choice("scalar_weight", value, SCALAR_WEIGHTS) == "relative":
        return 1 / max(size(seen), 1e-30)
    unit = zo.find_law(seen.protocol.law).unit
    return float(sum(p.numel() for p in models.parameters(seen.model).values())) if unit else 1.0


def _quirks(value: Any) -> frozenset[str]:
    if isinstance(value, bool):
        return frozenset(QUIRKS if value else ())
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"quirks must be True, False or a collection of names, got {value!r}")
    return frozenset(_validate.choice("quirks", name, QUIRKS) for name in value)


def _noise(value: Any, quirks: frozenset[str]) -> float:
    noise = _validate.number("noise", value, at_least=0)
    if "noise" not in quirks:
        return noise
    if noise not in (0.0, 0.2):
        raise ValueError(f"noise must be left alone with the quirk 'noise', which is noise of 0.2; got {value!r}")
    return 0.2
