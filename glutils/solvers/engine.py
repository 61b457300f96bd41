"""The engine that every optimising attack shares: restarts, best iterate, history, time budget, progress, Ctrl-C."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

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


class Ending(Enum):
    """Whether a restart must end, and why. False while it may go on: ``if trace.report(...): return``."""

    NONE = "goes on"
    DIVERGED = "diverged"
    """The next restart may do better."""
    OUT_OF_TIME = "out of time"
    """There will be no next restart."""

    def __bool__(self) -> bool:
        return self is not Ending.NONE


@runtime_checkable
class Recorder(Protocol):
    """What a solver needs of a :class:`Trace`, or of a :class:`Stage` of one."""

    def report(self, step: int, loss: float | int | torch.Tensor, variables: tuple[torch.Tensor, ...]) -> Ending:
        """Record an iterate; whether the solver must end now."""
        ...

    def abandon(self, reason: str) -> Ending:
        """Give this restart up."""
        ...


@dataclass
class Trace:
    """The record of one restart: solvers call :meth:`report` with every evaluated iterate, and end when it says so.

    ``keep`` is the rule, fixed per method in advance, for the iterate that is reported: ``"lowest"`` attacker's loss,
    or ``"last"`` where the step size has decayed. The tensor that was evaluated is the tensor that is kept.
    ``ending`` and ``reason`` say how the restart ended, if it did not come to its own end; from then on nothing more is
    recorded.
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
    ending: Ending = Ending.NONE
    reason: str | None = None

    def report(self, step: int, loss: float | int | torch.Tensor, variables: tuple[torch.Tensor, ...]) -> Ending:
        """Record iterate ``step`` (from 0); whether the restart ends here, since the loss is not finite or time is up.

        A loss that is not finite is not recorded, an iterate at which time is up is.
        """
        if self.ending:
            return self.ending
        loss = float(loss)
        if not math.isfinite(loss):
            return self.abandon(f"the loss became {loss} at step {step}")
        self.steps.append(step)
        self.losses.append(loss)
        if self.keep == "last" or loss < self.loss:
            self.loss, self.best, self.best_step = loss, _copied(variables), step
        if step % max(1, math.ceil(self.iterations / (FRAMES - 1))) == 0:
            self._frame(step, variables)
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix_str(f"loss {loss:.3g}", refresh=False)
        if time.monotonic() > self.deadline:
            self.ending, self.reason = Ending.OUT_OF_TIME, f"time is up at step {step}"
        return self.ending

    def abandon(self, reason: str) -> Ending:
        """End this restart, which has diverged or leads nowhere; the search goes on with the next."""
        if not self.ending:
            self.ending, self.reason = Ending.DIVERGED, reason
        return self.ending

    def stage(self, lift: Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]] = lambda v: v) -> Stage:
        """The record of a further stage of this restart, whose steps count on from the last one recorded.

        ``lift`` turns the variables of the stage into those of the restart, where a stage knows only some of them.
        """
        return Stage(self, lift, first=self.steps[-1] + 1 if self.steps else 0)

    def _frame(self, step: int, variables: tuple[torch.Tensor, ...]) -> None:
        self.frame_steps.append(step)
        self.frames.append(self.view(variables).detach().to("cpu", torch.float32, copy=True))

    def history(self) -> History:
        """The frozen record; its last frame is the reported iterate or a later one."""
        if self.best is not None and self.best_step > self.frame_steps[-1]:
            self._frame(self.best_step, self.best)
        return History(tuple(self.steps), tuple(self.losses), tuple(self.frame_steps), tuple(self.frames))


@dataclass
class Stage:
    """One stage of a restart, made by :meth:`Trace.stage`: its iterates go to the trace, under the restart's numbers.

    Attributes:
        trace: of the restart, with its deadline and ending.
        lift: the stage's variables to the restart's.
        first: the restart's number of the stage's step 0.
        loss, best: of the iterate that this stage has to offer, by the trace's rule, in the stage's own variables.
        steps, losses: of this stage alone, from step 0.
    """

    trace: Trace
    lift: Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]
    first: int = 0
    loss: float = math.inf
    best: tuple[torch.Tensor, ...] | None = None
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def iterations(self) -> int:
        """Steps that are planned for the whole restart."""
        return self.trace.iterations

    @property
    def ending(self) -> Ending:
        """How the restart ended, if it did."""
        return self.trace.ending

    def report(self, step: int, loss: float | int | torch.Tensor, variables: tuple[torch.Tensor, ...]) -> Ending:
        """See :meth:`Trace.report`."""
        known = len(self.trace.steps)
        ending = self.trace.report(self.first + step, loss, self.lift(variables))
        if len(self.trace.steps) > known:  # it was recorded
            self.steps.append(step)
            self.losses.append(float(loss))
            if self.trace.keep == "last" or float(loss) < self.loss:
                self.loss, self.best = float(loss), _copied(variables)
        return ending

    def abandon(self, reason: str) -> Ending:
        """See :meth:`Trace.abandon`."""
        return self.trace.abandon(reason)


def _copied(variables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(v.detach().clone() for v in variables)


def search(
    solve: Callable[[Trace, torch.Generator], None],
    *,
    iterations: int,
    restarts: int = 1,
    seed: int = 0,
    seconds: float | int | None = None,
    keep: str = "lowest",
    success: Callable[[float], bool] | None = None,
    progress: bool | None = None,
    label: str = "attack",
    view: Callable[[tuple[torch.Tensor, ...]], torch.Tensor] | None = None,
) -> Found:
    """Run ``solve`` up to ``restarts`` times from different random starts; report the lowest attacker's loss.

    Args:
        solve: called with a fresh trace and a CPU generator for its random start. It leaves what it found in the trace,
            and returns when the trace says that the restart has ended.
        iterations: steps of one restart; what the progress bar counts.
        restarts: number of starts; restart k draws from seed ``seed`` and k alone.
        seconds: budget for all restarts together; what was found by then is reported.
        keep: the reported iterate of a restart, ``"lowest"`` loss or ``"last"``.
        success: if given, the search ends at the first restart whose loss satisfies it.
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
    deadline = deadline_after(seconds)
    show = show_progress(progress)
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
                if trace.ending:
                    diverged = trace.reason
                if trace.ending is Ending.OUT_OF_TIME:
                    stopped = trace.reason
                elif trace.ending is Ending.DIVERGED and keep == "last":
                    trace.loss = math.inf  # the last iterate of a diverged run is no candidate
            except KeyboardInterrupt:
                if trace.best is None and best is None:
                    raise
                stopped = f"interrupted at step {trace.steps[-1] if trace.steps else 0}"
        finals.append(trace.loss)
        if trace.best is not None and (best is None or trace.loss < best.loss):
            best = trace
        if stopped is not None or (success is not None and best is not None and success(best.loss)):
            break
    if best is None or best.best is None:
        raise RuntimeError(f"{label}: every one of {restarts} restarts diverged before its first step")
    if best.loss == math.inf and stopped is None:
        stopped = diverged  # keep="last", and no restart came to its end
    history = best.history()
    return Found(best.best, best.loss, History(**{**history.__dict__, "restarts": tuple(finals)}), stopped)


def deadline_after(seconds: float | int | None) -> float:
    """When a budget that begins now is spent, on the clock :func:`time.monotonic`; None: never."""
    return math.inf if seconds is None else time.monotonic() + _validate.number("seconds", seconds, above=0)


def show_progress(progress: bool | None) -> bool:
    """Whether to show a bar: as asked, else where somebody may be watching: a kernel or a terminal, and no CI."""
    if progress is not None:
        return progress
    if os.environ.get("CI") or os.environ.get("TQDM_DISABLE"):
        return False
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None or sys.stderr.isatty()
