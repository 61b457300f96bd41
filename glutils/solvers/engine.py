"""The engine that every optimising attack shares: restarts, best iterate, history, time budget, progress, Ctrl-C."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm

from .. import _validate

FRAMES = 24
"""Most reconstructions that a history keeps for the scrubber, the first and the last among them."""


@dataclass(frozen=True)
class History:
    """How the reported restart went.

    Attributes:
        steps: iteration numbers at which the attacker's loss is known.
        loss: the attacker's loss there.
        frame_steps: iteration numbers of the kept reconstructions.
        frames: the reconstructions, each (B, C, H, W) float32 on the CPU.
        restarts: attacker's loss of what every restart had to offer, in order; ``inf`` for one that diverged before
            it had found anything, or at all where the last iterate is the one to report.
    """

    steps: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    frame_steps: tuple[int, ...] = ()
    frames: tuple[torch.Tensor, ...] = ()
    restarts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a search brings back: the reported variables, their loss, the history, and whether it was cut short."""

    variables: tuple[torch.Tensor, ...]
    loss: float
    history: History
    stopped: str | None = None


class Abandon(Exception):
    """Raised by a trace to end this restart: it diverged (``final`` is False) or time is up (``final`` is True)."""

    def __init__(self, reason: str, final: bool):
        super().__init__(reason)
        self.reason, self.final = reason, final


@dataclass
class Trace:
    """The notebook of one restart: solvers call :meth:`note` with every evaluated iterate.

    ``keep`` is the rule, fixed per method in advance, for the iterate that is reported: ``"lowest"`` attacker's loss,
    or ``"last"`` where the step size has decayed. The tensor that was evaluated is the tensor that is kept.
    """

    iterations: int
    keep: str = "lowest"
    deadline: float = math.inf
    bar: tqdm | None = None
    view: Callable[[tuple[torch.Tensor, ...]], torch.Tensor] = lambda variables: variables[0]
    loss: float = math.inf
    best: tuple[torch.Tensor, ...] | None = None
    best_step: int = 0
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    frame_steps: list[int] = field(default_factory=list)
    frames: list[torch.Tensor] = field(default_factory=list)

    def note(self, step: int, loss: float | int | torch.Tensor, variables: tuple[torch.Tensor, ...]) -> None:
        """Note iterate ``step`` (from 0). Raises ``Abandon`` if the loss is not finite or time is up."""
        loss = float(loss)
        if not math.isfinite(loss):
            raise Abandon(f"the loss became {loss} at step {step}", final=False)
        self.steps.append(step)
        self.losses.append(loss)
        if self.keep == "last" or loss < self.loss:
            self.loss, self.best, self.best_step = loss, tuple(v.detach().clone() for v in variables), step
        if step % max(1, math.ceil(self.iterations / (FRAMES - 1))) == 0:
            self._frame(step, variables)
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix_str(f"loss {loss:.3g}", refresh=False)
        if time.monotonic() > self.deadline:
            raise Abandon(f"time is up at step {step}", final=True)

    def _frame(self, step: int, variables: tuple[torch.Tensor, ...]) -> None:
        self.frame_steps.append(step)
        self.frames.append(self.view(variables).detach().to("cpu", torch.float32, copy=True))

    def history(self) -> History:
        """The frozen record; its last frame is the reported iterate or a later one."""
        if self.best is not None and self.best_step > self.frame_steps[-1]:
            self._frame(self.best_step, self.best)
        return History(tuple(self.steps), tuple(self.losses), tuple(self.frame_steps), tuple(self.frames))


class Continued(Trace):
    """What a later stage of the same restart notes in: its steps count on from the stage before.

    ``lift`` turns the variables of the stage into those of the restart, where a stage knows only some of them.
    """

    def __init__(
        self, trace: Trace, lift: Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]] = lambda v: v
    ):
        self.trace, self.lift = trace, lift
        self.begin = trace.steps[-1] + 1 if trace.steps else 0

    def note(self, step: int, loss: float | int | torch.Tensor, variables: tuple[torch.Tensor, ...]) -> None:
        """See :meth:`Trace.note`."""
        self.trace.note(self.begin + step, loss, self.lift(variables))


def search(
    solve: Callable[[Trace, torch.Generator], None],
    *,
    iterations: int,
    restarts: int = 1,
    seed: int = 0,
    seconds: float | int | None = None,
    keep: str = "lowest",
    good: Callable[[float], bool] | None = None,
    progress: bool | None = None,
    label: str = "attack",
    view: Callable[[tuple[torch.Tensor, ...]], torch.Tensor] | None = None,
) -> Found:
    """Run ``solve`` up to ``restarts`` times from different random starts; report the lowest attacker's loss.

    Args:
        solve: called with a fresh trace and a CPU generator for its random start.
        iterations: steps of one restart; what the progress bar counts.
        restarts: number of starts; restart k draws from seed ``seed`` and k alone.
        seconds: budget for all restarts together; what was found by then is reported.
        keep: the reported iterate of a restart, ``"lowest"`` loss or ``"last"``.
        good: if given, the search ends at the first restart whose loss satisfies it.
        progress: True or False; default: a bar in notebooks and terminals, none where ``CI`` is set or output is piped.
        view: variables to images, for the history's frames.

    Returns:
        What was found. Ctrl-C ends the search and reports what was found so far; only if nothing was evaluated yet does
        the interrupt propagate.

    Raises:
        RuntimeError: every restart diverged before its first step.
    """
    iterations = _validate.integer("iterations", iterations, at_least=0)
    restarts = _validate.integer("restarts", restarts, at_least=1)
    seed = _validate.integer("seed", seed, at_least=0)
    _validate.choice("keep", keep, ("lowest", "last"))
    deadline = math.inf if seconds is None else time.monotonic() + _validate.number("seconds", seconds, above=0)
    show = wanted(progress)
    best: Trace | None = None
    finals: list[float] = []
    stopped = diverged = None
    for k in range(restarts):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + k)
        name = label if restarts == 1 else f"{label} {k + 1}/{restarts}"
        with tqdm(total=iterations, desc=name, disable=not show, leave=False) as bar:
            trace = Trace(iterations, keep, deadline, bar if show else None)
            if view is not None:
                trace.view = view
            try:
                solve(trace, generator)
            except Abandon as reason:
                stopped = reason.reason if reason.final else stopped
                diverged = reason.reason
                if not reason.final and keep == "last":
                    trace.loss = math.inf  # the last iterate of a diverged run is no candidate
            except KeyboardInterrupt:
                if trace.best is None and best is None:
                    raise
                stopped = f"interrupted at step {trace.steps[-1] if trace.steps else 0}"
        finals.append(trace.loss)
        if trace.best is not None and (best is None or trace.loss < best.loss):
            best = trace
        if stopped is not None or (good is not None and best is not None and good(best.loss)):
            break
    if best is None:
        raise RuntimeError(f"{label}: every one of {restarts} restarts diverged before its first step")
    if best.loss == math.inf and stopped is None:
        stopped = diverged  # keep="last", and no restart came to its end
    history = best.history()
    return Found(best.best, best.loss, History(**{**history.__dict__, "restarts": tuple(finals)}), stopped)


def wanted(progress: bool | None) -> bool:
    """Whether to show a bar: as asked, else where somebody may be watching: a kernel or a terminal, and no CI."""
    if progress is not None:
        return progress
    if os.environ.get("CI") or os.environ.get("TQDM_DISABLE"):
        return False
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None or sys.stderr.isatty()
