"""What an audit found: rows, checks and a verdict, as text, as JSON and as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import _files, _validate
from ..attacks.zerogla.verified import VerifiedLeak
from ..data.vocabulary import Vocabulary
from ..runs import records
from . import verdicts
from .checks import MENDED, ODD, Check
from .verdicts import Planted


@dataclass(frozen=True, eq=False)
class Row:
    """One attack.

    Attributes:
        attack, title: its name, and in print.
        verdict: one of ``"leaks"``, ``"not found by these attacks"``, ``"inconclusive"``, ``"not run"``.
        reason: why, in a sentence.
        misfit: ``|m - m'| / |m|`` of what was sent, m, and what the records found would send, m'; NaN if not run.
        tolerance: the misfit that the right records may have: round-off and stated noise.
        controls: the same for records, or an attack, that know nothing of the message.
        plants: the positive controls, in their order; ``planted``: the one that was recovered best, or None.
        seconds: of attack and controls.
        psnr: in dB, where the auditor gave the truth.
        pictures: what was found, of the message and of the controls, by name, each (B, ...).
        notes: the attack's own.
        certificate: of an exact attack on scalars that leaks: whether the same attack on four fifths of them predicts
            the fifth that it has not seen, see :func:`glutils.attacks.certify`; None where there is none.
    """

    attack: str
    title: str
    verdict: str
    reason: str
    misfit: float = float("nan")
    tolerance: float = float("nan")
    controls: dict[str, float] = field(default_factory=dict)
    plants: tuple[Planted, ...] = ()
    seconds: float = 0.0
    psnr: tuple[float, ...] = ()
    pictures: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    certificate: VerifiedLeak | None = None

    @property
    def certified(self) -> str:
        """What the certificate says, in a sentence; empty where there is none."""
        if self.certificate is None:
            return ""
        held = self.certificate
        head = "certified" if held.certified else "not certified"
        return (
            f"{head}: fitted to the other scalars, the attack predicts {held.held} that it has not seen with a misfit "
            f"of {held.misfit:.1g} (rounding: up to {held.tolerance:.1g}), and those it was fitted to determine "
            f"{held.rank} of {held.unknowns} numbers"
        )

    @property
    def planted(self) -> Planted | None:
        """The positive control that came nearest to its level, or went farthest above it."""
        return best_of(self.plants) if self.plants else None


def best_of(plants: Sequence[Planted]) -> Planted:
    """The first of those that are farthest above their level."""
    return max(plants, key=lambda found: -math.inf if math.isnan(found.level) else found.reached - found.level)


@dataclass(frozen=True, eq=False)
class Report:
    """What :func:`glutils.audit.run` found.

    Attributes:
        verdict: ``"leaks"``: what an attack found explains the message, and no control does. ``"not found by these
            attacks"``: they found all planted records. ``"inconclusive"``: neither can be said.
        reason: why, in a sentence; ``advice``: what to do next.
        rows: one for each attack, those that were run first.
        checks: what was asked of the message before.
        about: what was audited, by name: model, protocol, shape, labels told, minutes, seed, stand-in records.
        seconds: of everything. stopped: why not all was done, or None.
        vocabulary: which pieces tokens stand for; None for other records.
    """

    verdict: str
    reason: str
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]
    about: dict[str, Any]
    seconds: float
    stopped: str | None = None
    vocabulary: Vocabulary | None = None

    @property
    def advice(self) -> str:
        """What to do next."""
        if self.verdict == verdicts.LEAKS:
            return ("Defend the message and audit it again; chapters 15 to 18 measure what each defence costs and "
                    "withstands.")  # fmt: skip
        if self.verdict == verdicts.NOT_FOUND:
            return ("This holds for these attacks, this budget and records like the planted ones. Audit other clients "
                    "and rounds, and bound what any attack can find with differential privacy.")  # fmt: skip
        odd = [check for check in self.checks if check.outcome == ODD]
        if odd:
            return f"Clear up what a check found odd first: {odd[0].says}."
        if "unexplained" in self.reason:
            return (
                "Check weights (of which round?), order of arrays, batch norm mode, normalisation of inputs (it "
                "belongs into the model), labels, loss, learning rate, law and seeds; then audit again."
            )
        if "undecided" in self.reason:
            return "Less was found than of planted records, and more than nothing: give more minutes; then audit again."
        if self.about.get("defences"):
            return (
                "Through this defence the attacks do not surely find planted records either. That is no proof: audit "
                "the undefended message to see that they would, and state the defence's guarantee beside it."
            )
        return "Give more minutes, stand-in records of the same kind, or fewer records in a message; then audit again."

    @property
    def exit_status(self) -> int:
        """For scripts: 0 not found, 1 leaks, 2 inconclusive."""
        return {verdicts.NOT_FOUND: 0, verdicts.LEAKS: 1}.get(self.verdict, 2)

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.reason}", self.advice]
        lines += [f"check, {check.outcome}: {check.name}: {check.says}" for check in self.checks]
        for row in self.rows:
            if row.verdict != verdicts.NOT_RUN:
                lines.append(f"{row.attack}: {row.verdict}, {row.reason} ({row.seconds:.0f} s)")
        left = [row for row in self.rows if row.verdict == verdicts.NOT_RUN]
        lines += [f"not run: {row.attack} ({row.reason})" for row in left]
        return "\n".join(lines + ([] if self.stopped is None else [self.stopped]))

    @property
    def mended(self) -> tuple[Check, ...]:
        """Checks that recognised another form of the message and put it right."""
        return tuple(check for check in self.checks if check.outcome == MENDED)

    def save(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs no network, and its record beside it as ``.json``.

        Args:
            path: ending in ``.html``; its name before that is the record's.

        Returns:
            The path of the HTML file.

        Raises:
            ValueError: another ending, or a name that no file of ours may have. OSError: a folder that cannot be
            written.
        """
        from .page import page  # with what draws pictures

        path = Path(path)
        if path.suffix != ".html":
            raise ValueError(f"path must end in .html, got {str(path)!r}")
        _validate.file_name("path", path.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        _files.write(path, page(self))
        parameters = {"audit": self.about, "verdict": self.verdict, "reason": self.reason, "advice": self.advice}
        parameters["checks"] = [{"name": c.name, "outcome": c.outcome, "says": c.says} for c in self.checks]
        records.record(
            path.stem, parameters=parameters, rows=[_row(row) for row in self.rows], seeds=self.about.get("seed", 0),
            seconds=self.seconds, folder=path.parent,
        )  # fmt: skip
        return path


def _row(row: Row) -> dict[str, Any]:
    kept = ("attack", "title", "verdict", "reason", "misfit", "tolerance", "seconds")
    found: dict[str, Any] = {name: getattr(row, name) for name in kept}
    found |= {"control misfits": row.controls, "psnr": list(row.psnr), "notes": list(row.notes), "planted": None}
    found["plants"] = []
    if row.certificate is not None:
        kept = ("certified", "misfit", "tolerance", "held", "error", "rank", "unknowns", "within")
        found["certificate"] = {name: getattr(row.certificate, name) for name in kept}
    if row.planted is not None:
        names = ("misfit", "reached", "level", "unit", "passed")
        told = {id(one): {name: getattr(one, name) for name in names} for one in row.plants}
        found |= {"planted": told[id(row.planted)], "plants": [told[id(one)] for one in row.plants]}
    return found
