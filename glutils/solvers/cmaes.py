"""CMA-ES: descent without derivatives, for searches in a few dozen numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from .. import _validate
from .engine import Recorder

Population = Callable[[torch.Tensor], torch.Tensor]


def population_size(unknowns: int) -> int:
    """Candidates of one generation by default: 4 + 3 ln n, rounded down (Hansen 2016)."""
    return 4 + int(3 * math.log(unknowns))


def cmaes(
    objective: Population,
    start: torch.Tensor,
    trace: Recorder,
    *,
    evaluations: int,
    generator: torch.Generator,
    spread: float | int = 1.0,
    population: int | None = None,
) -> int:
    """Minimise ``objective`` by covariance matrix adaptation (Hansen 2016; the ``cma`` package by its author).

    Every generation is drawn from a normal distribution and evaluated at once, and the distribution is moved towards
    its better half. One step of the trace is one generation: its best candidate. The last step is the mean of the final
    distribution, which is usually better than any candidate drawn from it. The search ends early where ``cma`` finds
    that nothing moves any more. A candidate whose loss is NaN is ranked last; a whole generation of them abandons
    the restart.

    Args:
        objective: (P, n) candidates, in the dtype and on the device of ``start``, to (P,) losses.
        start: (n,), the mean of the first generation; n at least 2, which ``cma`` needs.
        evaluations: of the objective at most, counted in candidates; at least one generation and the mean.
        generator: of the candidates; numpy's global state is neither read nor changed.
        spread: standard deviation of the first generation.
        population: candidates in a generation, at least 2; default 4 + 3 ln n.

    Returns:
        How many candidates were evaluated.
    """
    import cma  # half a second, which only those who search this way should wait for

    unknowns = start.numel()
    if unknowns < 2:
        raise ValueError(f"start must hold at least 2 numbers for CMA-ES, got {unknowns}")
    size = population_size(unknowns) if population is None else _validate.integer("population", population, at_least=2)
    evaluations = _validate.integer("evaluations", evaluations, at_least=size + 1)
    options = {
        "popsize": size,
        "seed": math.nan,  # leave numpy's generator alone
        "randn": lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).numpy(),
        "verbose": -9,
        "verb_log": 0,
    }
    search = cma.CMAEvolutionStrategy(
        start.detach().double().cpu().numpy(), _validate.number("spread", spread, above=0), options
    )
    step = used = 0
    while used + size < evaluations and not search.stop():
        drawn = search.ask()
        candidates = torch.from_numpy(np.stack(drawn)).to(start)
        losses = objective(candidates).detach()
        used += size
        best = int(losses.nan_to_num(nan=math.inf).argmin())
        if trace.report(step, losses[best], (candidates[best],)):
            return used
        search.tell(drawn, losses.double().nan_to_num(nan=math.inf).tolist())
        step += 1
    mean = torch.from_numpy(search.mean.copy()).to(start)
    trace.report(step, objective(mean[None]).detach()[0], (mean,))
    return used + 1
