"""One attack under audit: on the message, on a planted one, and on a spoiled one, with the same settings and time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import attacks, metrics
from .. import labels as rules
from ..attacks.base import Reconstruction
from ..data.batch import Batch
from ..observation import Observation, as_gradient, tamper
from . import evidence, planted, verdicts
from .checks import ODD, Check
from .plan import Planned, default
from .report import Row
from .verdicts import Planted

LEAST = 1.0
"""Seconds that a search gets at least."""
PROBE, ROOM = 4, 0.7
"""Iterations that are timed first, and the share of its time that a search plans for."""
OUTSIDE = 0.05
"""Pixels that fit and lie so far beyond 0 and 1 are of a client that changes its inputs before the model."""


@dataclass
class Bench:
    """Where attacks are tried.

    Attributes:
        seen: the observation. batches: stand-in records; the first is planted. truth: for scoring alone.
        deadline: on the monotonic clock. empty: whether the message was shown to hold next to nothing.
        checks: what was found before.
    """

    seen: Observation
    batches: list[Batch]
    truth: Batch | None
    deadline: float
    seed: int
    progress: bool
    empty: bool
    checks: list[Check]

    def row(self, plan: Planned, searching: int) -> tuple[Row, bool]:
        """The row of one attack, and whether it was interrupted.

        ``searching``: how many attacks that search are left, this one among them if it does.
        """
        begin = time.monotonic()
        options = dict(plan.options)
        if plan.searches:
            options["seconds"] = max(LEAST, (self.deadline - begin) / max(1, 3 * searching))
            options = self._fitted(plan, options)
        self._say(plan, "the message", options)
        try:
            result = attacks.attack(plan.name, self.seen, seed=self.seed, **options)
        except (ValueError, TypeError) as error:
            return Row(plan.name, plan.title, verdicts.NOT_RUN, f"refuses: {_line(error)}"), False
        cut = interrupted(result)
        misfit = self._misfit(self.seen, result)
        tolerance = evidence.tolerance(self.seen, result.images, labels_of(self.seen, result))
        pictures = {"found": result.images.detach().cpu()}
        controls = self._unrelated(self.seen, self.batches, result)
        control, more = (None, {}) if cut else self._planted(plan, options)
        pictures |= more
        if control is None:
            cut = cut or bool(more)
        elif not cut:
            misled, stopped = self._misled(plan, options)
            controls |= misled
            cut = stopped
        odd = any(check.outcome == ODD for check in self.checks)
        spoiled = controls.get(SPOILED, 1.0)
        verdict, reason = verdicts.judged(
            misfit, tolerance, controls, control, surplus=evidence.surplus(self.seen), odd=odd, empty=self.empty,
            chance=max(0.0, 1 - spoiled**2),
        )  # fmt: skip
        row = Row(
            plan.name, plan.title, verdict, reason, misfit, tolerance, controls, control, time.monotonic() - begin,
            self._scored(result), pictures, result.notes,
        )  # fmt: skip
        return row, cut

    def _fitted(self, plan: Planned, options: dict[str, Any]) -> dict[str, Any]:
        """Settings with so few iterations that their schedule ends in time, as a few of them on the message show.

        Only where the attack's own number is a plain one, and nobody asked for another.
        """
        own = default(plan.name, "iterations")
        if not isinstance(own, int) or "iterations" in options:
            return options
        taken = []
        try:
            for _ in range(2):  # what is loaded at the first call is loaded once
                begin = time.monotonic()
                attacks.attack(plan.name, self.seen, seed=self.seed, **options | {"iterations": PROBE})
                taken.append(time.monotonic() - begin)
        except (ValueError, TypeError):  # it is said when the attack is run
            return options
        each = min(taken) / PROBE  # of all restarts
        fit = int(ROOM * options["seconds"] / max(each, 1e-9))
        return options if fit >= own else options | {"iterations": max(PROBE, fit)}

    def _say(self, plan: Planned, what: str, options: dict[str, Any]) -> None:
        if self.progress:
            limit = f", up to {options['seconds']:.0f} s" if "seconds" in options else ""
            print(f"{plan.name} on {what}{limit}", flush=True)

    def _misfit(self, seen: Observation, result: Reconstruction) -> float:
        labels = labels_of(seen, result)
        if seen.whole:
            return evidence.text_fit(seen, result.images, labels)
        return evidence.fit(seen, result.images, labels).misfit

    def _unrelated(self, seen: Observation, batches: list[Batch], result: Reconstruction) -> dict[str, float]:
        """Misfits of records that know nothing of the message, with the labels that the attack has."""
        labels = labels_of(seen, result)
        if seen.whole:
            return {"other texts": min(evidence.text_fit(seen, b.images, b.labels) for b in batches)}
        others = [evidence.fit(seen, batch.images, labels).misfit for batch in batches]
        return {"a blank card": evidence.fit(seen, seen.blank, labels).misfit, "stand-in records": min(others)}

    def _planted(self, plan: Planned, options: dict[str, Any]) -> tuple[Planted | None, dict[str, torch.Tensor]]:
        """The positive control; None if it was refused or interrupted: then pictures are there only if the latter."""
        self._say(plan, "planted records", options)
        batch = self.batches[0]
        known = planted.sent(self.seen, batch, seed=self.seed)
        try:
            result = attacks.attack(plan.name, known, seed=self.seed, **options)
        except (ValueError, TypeError):
            return None, {}
        pictures = {"planted": batch.images.detach().cpu(), "found of planted": result.images.detach().cpu()}
        if interrupted(result):
            return None, pictures
        score = metrics.score(result, batch)
        pictures["found of planted"] = result.images.detach().cpu()[score.matching]
        labels = labels_of(known, result)
        if self.seen.whole:
            misfit = evidence.text_fit(known, result.images, labels)
            reached = float(score.token_accuracy.mean()) if score.token_accuracy is not None else 0.0
            gain = self._gain(known, result, misfit)
            return Planted(misfit, reached, verdicts.TOKENS, "of the pieces", gain), pictures
        misfit = evidence.fit(known, result.images, labels).misfit
        gain = self._gain(known, result, misfit)
        cards = [control.psnr for name, control in score.controls.items() if name in BLANKS]
        level = max(metrics.mean_psnr(card) for card in cards) + verdicts.LEVEL
        reached = score.mean_psnr if math.isfinite(misfit) else -math.inf
        return Planted(misfit, reached, level, gain=gain), pictures

    def _gain(self, known: Observation, result: Reconstruction, misfit: float) -> float:
        """What was found explains of the planted message beyond the other stand-in records and a blank card."""
        return min(self._unrelated(known, self.batches[1:], result).values()) ** 2 - misfit**2

    def _misled(self, plan: Planned, options: dict[str, Any]) -> tuple[dict[str, float], bool]:
        """How well the attack explains a message that no record sent; and whether it was interrupted."""
        how = "wrong_seed" if self.seen.kind == "scalars" else "permuted"
        self._say(plan, "a spoiled message", options)
        spoiled = tamper(self.seen, how, seed=self.seed)
        try:
            result = attacks.attack(plan.name, spoiled, seed=self.seed, **options)
        except (ValueError, TypeError):
            return {}, False
        if interrupted(result):
            return {}, True
        return {SPOILED: self._misfit(spoiled, result)}, False

    def _scored(self, result: Reconstruction) -> tuple[float, ...]:
        if self.truth is None or self.seen.whole:
            return ()
        return tuple(metrics.score(replace(result), self.truth).psnr.tolist())


SPOILED = "the same attack on a spoiled message"
BLANKS = ("mean_colour", "grey", "public_means")
"""Controls of a score that say nothing."""


def labels_of(seen: Observation, result: Reconstruction) -> torch.Tensor:
    """Labels as told, else as the message shows them where an attack does not look, else as the attack found them."""
    if seen.labels is not None:
        return seen.labels
    if seen.kind == "delta" and seen.shape[0] == 1:
        try:
            return rules.infer("idlg", as_gradient(seen)).labels
        except (ValueError, TypeError):  # no last layer to read them from
            pass
    return result.labels


def interrupted(result: Reconstruction) -> bool:
    """Whether somebody pressed Ctrl-C during the search."""
    return any(note.startswith("interrupted") for note in result.notes)


def afterwards(seen: Observation, rows: list[Row]) -> list[Check]:
    """What the records that were found say about the message: how the client prepares its inputs."""
    if seen.whole or not seen.record.neighbours:
        return []
    name = "records that explain the message are pictures between 0 and 1"
    fitting = [row for row in rows if row.verdict != verdicts.NOT_RUN and row.misfit <= row.tolerance]
    for row in fitting:
        low, high = float(row.pictures["found"].min()), float(row.pictures["found"].max())
        if low < -OUTSIDE or high > 1 + OUTSIDE:
            says = f"{row.attack} found values from {low:.2g} to {high:.2g}: the client normalises its inputs outside"
            return [Check(name, ODD, f"{says} the model; put that into the model as its first layer")]
    return [Check(name, "passed", "they are")] if fitting else []


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
