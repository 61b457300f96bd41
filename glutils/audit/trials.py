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
from ..attacks.zerogla.verified import VerifiedLeak, certify, hold_out
from ..data.batch import Batch
from ..observation import Observation, as_gradient, tamper
from . import evidence, planted, verdicts
from .checks import ODD, Check
from .plan import Planned, default
from .report import Row, best_of
from .verdicts import Planted

LEAST = 1.0
"""Seconds that a search gets at least."""
PLANTED, SEVERAL = 3, 2
"""Planted messages at most, and as many of them as a search's time is planned for where there is enough."""
PROBE, ROOM = 4, 0.7
"""Iterations that are timed first, and the share of its time that a search plans for."""
OUTSIDE = 0.05
"""Pixels that fit and lie so far beyond 0 and 1 are of a client that changes its inputs before the model."""


@dataclass
class Bench:
    """Where attacks are tried.

    Attributes:
        seen: the observation. batches: stand-in records; the first are planted. truth: for scoring alone.
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

        Up to :data:`PLANTED` messages are planted, one after the other. How many depends on time, and on nothing that
        was found, but for this: the rest is left out once the verdict is "leaks" beside one that was recovered, which
        no more of them change.

        ``searching``: how many attacks that search are left, this one among them if it does.
        """
        begin = time.monotonic()
        options, least, share = dict(plan.options), PLANTED, math.inf
        if plan.searches:
            share = (self.deadline - begin) / max(1, searching)
            least = SEVERAL if share / (2 + SEVERAL) >= LEAST else 1
            options["seconds"] = max(LEAST, share / (2 + least))
            options = self._fitted(plan, options)
        self._say(plan, "the message", options)
        started = time.monotonic()
        try:
            result = attacks.attack(plan.name, self.seen, seed=self.seed, **options)
        except (ValueError, TypeError) as error:
            return Row(plan.name, plan.title, verdicts.NOT_RUN, f"refuses: {_line(error)}"), False
        each, cut = time.monotonic() - started, interrupted(result)
        misfit = self._misfit(self.seen, result)
        tolerance = evidence.tolerance(self.seen, result.images, labels_of(self.seen, result))
        pictures = {"found": result.images.detach().cpu()}
        controls = self._unrelated(self.seen, self.batches, result)
        if not cut:
            misled, cut = self._misled(plan, options)
            controls |= misled
        told = {
            "surplus": evidence.surplus(self.seen), "odd": any(check.outcome == ODD for check in self.checks),
            "empty": self.empty, "chance": max(0.0, 1 - controls.get(SPOILED, 1.0) ** 2),
        }  # fmt: skip
        known: list[Planted] = []
        verdict, reason = verdicts.judged(misfit, tolerance, controls, known, **told)
        for number in range(0 if cut else min(PLANTED, len(planted.apart(self.batches)))):
            if number >= least and time.monotonic() - begin + each > share:
                break
            found, more, cut = self._planted(plan, options, number)
            known.append(found)
            if more and found == best_of(known):
                pictures |= more
            verdict, reason = verdicts.judged(misfit, tolerance, controls, known, **told)
            if cut or (verdict == verdicts.LEAKS and any(one.passed for one in known)):
                break
        held = None if cut or verdict != verdicts.LEAKS else self._certificate(plan, options)
        row = Row(
            plan.name, plan.title, verdict, reason, misfit, tolerance, controls, tuple(known),
            time.monotonic() - begin, self._scored(result), pictures, result.notes, held,
        )  # fmt: skip
        return row, cut

    def _certificate(self, plan: Planned, options: dict[str, Any]) -> VerifiedLeak | None:
        """Whether the same attack on four fifths of the scalars predicts the others; None where none can be held out.

        It decides no verdict: with few more scalars than numbers, four fifths cannot find what all of them do.
        """
        if plan.name != "zerogla" or self.seen.whole or self.seen.kind != "scalars":
            return None
        self._say(plan, "four fifths of the scalars", options)
        try:
            fit, held = hold_out(self.seen, seed=self.seed)
            result = attacks.attack(plan.name, fit, seed=self.seed, **options)
            return None if interrupted(result) else certify(result, fit, held)
        except (ValueError, TypeError):  # a defended message, or one whose scalars cannot be parted
            return None

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
            others = [evidence.text_fit(seen, batch.images, batch.labels) for batch in batches]
            return {"other texts": min(others)} if others else {}
        others = [evidence.fit(seen, batch.images, labels).misfit for batch in batches]
        blank = {"a blank card": evidence.fit(seen, seen.blank, labels).misfit}
        return blank | ({"stand-in records": min(others)} if others else {})

    def _planted(
        self, plan: Planned, options: dict[str, Any], number: int
    ) -> tuple[Planted, dict[str, torch.Tensor], bool]:
        """A positive control, pictures of it, and whether it was interrupted."""
        self._say(plan, "planted records", options)
        batch = planted.apart(self.batches)[number]
        known = planted.sent(self.seen, batch, seed=self.seed + number * len(self.seen.rounds))
        try:
            result = attacks.attack(plan.name, known, seed=self.seed, **options)
        except (ValueError, TypeError):
            return verdicts.UNFINISHED, {}, False
        pictures = {"planted": batch.images.detach().cpu(), "found of planted": result.images.detach().cpu()}
        if interrupted(result):
            return verdicts.UNFINISHED, pictures, True
        score = metrics.score(result, batch)
        pictures["found of planted"] = result.images.detach().cpu()[score.matching]
        labels = labels_of(known, result)
        if self.seen.whole:
            misfit = evidence.text_fit(known, result.images, labels)
            reached = float(score.token_accuracy.mean()) if score.token_accuracy is not None else 0.0
            gain = self._gain(known, batch, result, misfit)
            return Planted(misfit, reached, verdicts.TOKENS, "of the pieces", gain), pictures, False
        misfit = evidence.fit(known, result.images, labels).misfit
        gain = self._gain(known, batch, result, misfit)
        cards = [control.psnr for name, control in score.controls.items() if name in BLANKS]
        level = max(metrics.mean_psnr(card) for card in cards) + verdicts.LEVEL
        reached = score.mean_psnr if math.isfinite(misfit) else -math.inf
        return Planted(misfit, reached, level, gain=gain), pictures, False

    def _gain(self, known: Observation, batch: Batch, result: Reconstruction, misfit: float) -> float:
        """What was found explains of the planted message beyond all other stand-in records and a blank card."""
        others = [other for other in self.batches if not planted.shares(batch, other)]
        controls = self._unrelated(known, others, result)
        return min(controls.values()) ** 2 - misfit**2 if controls else 0.0

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
