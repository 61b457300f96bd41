"""L-BFGS on images, as DLG uses it, with or without a line search."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .. import _validate
from .adam import Objective
from .engine import Ending, Recorder


def lbfgs(
    objective: Objective,
    start: tuple[torch.Tensor, ...],
    trace: Recorder,
    *,
    iterations: int,
    lr: float = 1.0,
    inner: int = 20,
    history: int = 100,
    line_search: bool = False,
    should_stop: Callable[[int, float], bool] | None = None,
) -> Ending:
    """Minimise ``objective`` by L-BFGS (Liu and Nocedal 1989), reporting the best iterate after every outer step.

    Args:
        iterations: outer steps of at most ``inner`` inner ones each.
        line_search: search for a step with the strong Wolfe conditions. Without it a step may raise the loss, even to
            infinity; the restart is then abandoned.
        should_stop: called with (outer step, loss); True abandons the restart.

    Returns:
        What the trace said last: whether the restart has ended before its last step. The trace is asked between outer
        steps only: torch's optimiser calls the objective back, and cannot be left from inside.
    """
    _validate.number("lr", lr, above=0)
    variables = tuple(v.detach().clone().contiguous().requires_grad_() for v in start)
    optimiser = torch.optim.LBFGS(
        variables,
        lr=lr,
        max_iter=inner,
        history_size=history,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe" if line_search else None,
    )

    evaluated: tuple[float, tuple[torch.Tensor, ...]] = (math.inf, ())

    def closure() -> torch.Tensor:
        nonlocal evaluated
        loss, grads = objective(variables)
        if float(loss) < evaluated[0]:  # inner iterates count too
            evaluated = (float(loss), tuple(v.detach().clone() for v in variables))
        for variable, grad in zip(variables, grads, strict=True):
            variable.grad = grad.contiguous()  # of a network in channels_last it is not
        return loss

    closure()
    ending = trace.report(0, evaluated[0], evaluated[1] or variables)
    for step in range(1, iterations + 1):
        if ending:
            break
        before = evaluated[0]
        last = optimiser.step(closure)
        if not math.isfinite(float(last)) or not all(torch.isfinite(v).all() for v in variables):
            return trace.abandon(f"the variables diverged at step {step}")
        ending = trace.report(step, evaluated[0], evaluated[1])
        if not ending and should_stop is not None and should_stop(step, evaluated[0]):
            return trace.abandon(f"the loss is still {evaluated[0]:.3g} at step {step}")
        if line_search and evaluated[0] == before:  # the line search found nothing better: machine precision
            break
    return ending
