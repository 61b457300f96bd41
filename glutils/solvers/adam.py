"""Adam on images, with the step schedules, sign, box and noise that the first-order attacks ask for."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .. import _validate
from .engine import Ending, Recorder

SCHEDULES = ("constant", "steps", "cosine")
Objective = Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, tuple[torch.Tensor, ...]]]


def rate(step: int, iterations: int, lr: float, schedule: str, warmup: int = 0, period: int | None = None) -> float:
    """Step size at ``step`` (from 0).

    ``"steps"`` divides by ten at 3/8, 5/8 and 7/8 of the iterations (IG, Geiping et al. 2020); ``"cosine"`` rises
    linearly over ``warmup`` steps and falls to 1e-5 along half a cosine of ``period`` steps, by default the iterations
    (GradInversion, Yin et al. 2021; ZeroGLA's code fixes the period at 20,000 whatever the iterations).
    """
    if step < warmup:
        return lr * step / warmup
    if schedule == "steps":
        return lr * 0.1 ** sum(step >= part * iterations / 8 for part in (3, 5, 7))
    if schedule == "cosine":
        span = max(1, (iterations if period is None else period) - warmup)
        return 1e-5 + 0.5 * (lr - 1e-5) * (1 + math.cos(math.pi * min(1.0, (step - warmup) / span)))
    return lr


def adam(
    objective: Objective,
    start: tuple[torch.Tensor, ...],
    trace: Recorder,
    *,
    iterations: int,
    lr: float = 0.1,
    schedule: str = "constant",
    warmup: int = 0,
    period: int | None = None,
    sign: bool = False,
    box: bool = False,
    noise: float = 0.0,
    late: bool = False,
    project: Callable[[tuple[torch.Tensor, ...]], None] | None = None,
    generator: torch.Generator | None = None,
) -> Ending:
    """Minimise ``objective`` by Adam (Kingma and Ba 2015), reporting every evaluated iterate to ``trace``.

    Args:
        objective: variables to (loss, gradients).
        start: the first variable is the images.
        schedule: see ``rate``; ``warmup`` steps and ``period`` belong to ``"cosine"``.
        sign: feed Adam the sign of the images' gradient (IG).
        box: project the images to [0, 1] after every step.
        noise: after every step add normal noise of standard deviation ``noise`` x step size to the images.
        late: report with each loss the tensors after that loss's step and noise, not those it was evaluated at (as
            ZeroGLA's code does).
        project: called with the variables after every step, to move them back, in place, to where they may be.

    Returns:
        What the trace said last: whether the restart has ended before its last step.
    """
    _validate.choice("schedule", schedule, SCHEDULES)
    _validate.number("lr", lr, above=0)
    variables = tuple(v.detach().clone().contiguous().requires_grad_() for v in start)
    optimiser = torch.optim.Adam(variables, lr=lr)
    ending = Ending.NONE
    for step in range(iterations if late else iterations + 1):
        loss, grads = objective(variables)
        if not late:
            ending = trace.report(step, loss, variables)
        if ending or step == iterations:
            break
        for variable, grad in zip(variables, grads, strict=True):
            variable.grad = grad
        if sign:
            variables[0].grad = grads[0].sign()
        now = optimiser.param_groups[0]["lr"] = rate(step, iterations, lr, schedule, warmup, period)
        optimiser.step()
        with torch.no_grad():
            if noise:
                xi = torch.randn(variables[0].shape, generator=generator)
                variables[0].add_(xi.to(variables[0]), alpha=noise * now)
            if box:
                variables[0].clamp_(0, 1)
            if project is not None:
                project(variables)
        if late and (ending := trace.report(step, loss, variables)):
            break
    return ending
