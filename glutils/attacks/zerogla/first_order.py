"""The ZeroGLA objective by first-order solvers: the published attack's Adam (Zheng et al. 2025), and L-BFGS."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from ... import _validate, models, priors
from ...observation import Observation
from ...solvers import adam, lbfgs, search
from ..base import Reconstruction, need_labels, reconstruction
from ..matching import batchnorm
from ..matching.objective import matching, normal_start, size
from .rank import count_equations

ITERATIONS = {"lbfgs": 60, "adam": 2000}
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


def first_order(
    seen: Observation,
    *,
    solver: str,
    seed: int = 0,
    iterations: int | None = None,
    restarts: int | None = None,
    scalar_weight: str | float | int = "relative",
    bn: str | None = None,
    bn_weight: float | int | None = None,
    tv_weight: float | int = 1e-4,
    tv_kind: str = "l1mean",
    l2_weight: float | int = 0.0,
    lr: float | int = 0.1,
    noise: float | int = 0.0,
    quirks: bool | Iterable[str] = (),
    seconds: float | int | None = None,
    progress: bool | None = None,
) -> Reconstruction:
    """The ZeroGLA objective by ``"adam"`` (step 0.1, warm-up, cosine to 1e-5) or ``"lbfgs"``.

    ``min over x of w sum_i (<grad l(f(x), y), z_i> - s_i)^2 + bn_weight sum over batch norm layers of (|mean(x) -
    mean|^2 + |var(x) - var|^2) + tv_weight TV(x) + l2_weight |x|``. The statistics of x come from the forward pass that
    the scalars need anyway. Adam warms up for 50 steps, or a quarter of the iterations if that is less, and keeps
    pixels in [0, 1].

    Args:
        iterations: default 60 (outer steps of 20) for L-BFGS, 2,000 for Adam.
        restarts: default 1.
        scalar_weight: w. ``"relative"``: one over the sum of squared scalars, so that the other weights mean the same
            at any K and d. ``"d"``: the number of parameters for unit directions, one for Gaussian ones: then the term
            is about K times the squared distance of gradients. A number: that (reference code: 1; no scalars: 0).
        bn: batch norm statistics to match: ``"exact"`` ones of the private batch, which no zeroth-order protocol sends
            and the adversary must have been told (``knows={"batch_stats"}``); the model's ``"running"`` ones, which
            everybody has; ``"none"``. Default: exact if told, else none.
        bn_weight: default 0.1.
        tv_weight, tv_kind: total variation, see :func:`glutils.priors.tv` (reference code: 1e-4, ``"l1sum"``).
        l2_weight: weight of the length of x, not squared (reference code: 1e-6).
        lr: step size of Adam.
        noise: for Adam, standard deviation of the noise added after each step, in units of the step size.
        quirks: for Adam, what to copy of the reference code's oddities: names from :data:`QUIRKS`, or True for all.

    :data:`PUBLISHED` holds the weights of the reference code.

    Deviations from the reference code: the quirks, unless asked for; statistics from a clean forward pass of the model
    instead of the first perturbed one; directions by this package's law of seeds; running statistics are left alone. By
    default, no statistics unless the adversary was told them, the scalars' weight relative and total variation in mean
    form. The last iterate is reported where the step size has decayed, else the one with the lowest loss.

    Raises:
        ValueError: exact statistics that were not told, statistics of a model without batch norm, a weight for
            statistics that are not matched, unknown quirks.
    """
    _validate.choice("tv_kind", tv_kind, priors.TV_KINDS)
    terms = [
        (_validate.number("tv_weight", tv_weight, at_least=0), lambda x: priors.tv(x, tv_kind)),
        (_validate.number("l2_weight", l2_weight, at_least=0), torch.linalg.vector_norm),
    ]
    quirks, lr = _quirks(quirks), _validate.number("lr", lr, above=0)
    noise = _noise(noise, quirks)
    labels = need_labels(seen, "zerogla")
    target, factor = batchnorm.to_match(seen, bn, bn_weight)
    weight = _scalar_weight(seen, scalar_weight)
    iterations = ITERATIONS[solver] if iterations is None else iterations
    notes, extra = count_equations(seen, labels.new_empty(seen.shape).numel())
    dtype = torch.float64 if solver == "lbfgs" else torch.float32
    box = solver == "adam" and "no_clamp" not in quirks

    with priors.record_batchnorm_statistics(seen.model) if factor else contextlib.nullcontext({}) as noted:
        terms.append((factor, batchnorm.Statistics(seen.model, target, noted)))
        terms = [term for term in terms if term[0]]
        if not weight and not terms:
            raise ValueError("scalar_weight must be above 0 where nothing else is to be minimised, got 0")
        rounds = seen.rounds if weight else ()  # no scalars, no gradients to simulate
        objective = matching(
            dataclasses.replace(seen, rounds=rounds), lambda v: (v[0], labels), weight=weight, priors=terms, dtype=dtype
        )

        def solve(trace, generator):
            noise_like = normal_start(seen, generator, dtype)
            start = noise_like if "start" in quirks else 0.5 + 0.25 * noise_like
            if solver == "lbfgs":
                lbfgs(objective, (start,), trace, iterations=iterations, line_search=True)
                return
            start = start.clamp(0, 1) if box else start
            how = {"warmup": 50, "period": 20_000} if "schedule" in quirks else {"warmup": min(50, iterations // 4)}
            how |= {"lr": lr, "schedule": "cosine", "box": box, "late": "late" in quirks}
            adam(objective, (start,), trace, iterations=iterations, noise=noise, generator=generator, **how)

        found = search(
            solve,
            iterations=iterations,
            restarts=1 if restarts is None else restarts,
            seed=seed,
            seconds=seconds,
            keep="last" if solver == "adam" and not noise and not {"schedule", "late"} & quirks else "lowest",
            progress=progress,
            label=f"zerogla {solver}",
        )
    return reconstruction(found, found.variables[0].view(seen.shape), labels, *notes, **extra)


def _scalar_weight(seen: Observation, value: Any) -> float:
    if not isinstance(value, str):
        return _validate.number("scalar_weight", value, at_least=0)
    if _validate.choice("scalar_weight", value, SCALAR_WEIGHTS) == "relative":
        return 1 / max(size(seen), 1e-30)
    unit = seen.protocol.law == "unit"
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
