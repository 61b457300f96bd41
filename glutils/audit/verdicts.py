"""Verdicts that cannot flatter: what may be said of an attack on a message whose truth nobody here has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAKS, NOT_FOUND, INCONCLUSIVE, NOT_RUN = "leaks", "not found by these attacks", "inconclusive", "not run"
CLEAR = 10.0
"""A misfit at round-off is evidence where that of every control is so many times larger."""
STRONG = 5.0
"""The same for any misfit, where the planted records were recovered."""
ALIKE, NOTHING = 0.75, 0.25
"""Of what a record explains beyond every control, as a share of what the recovered planted record explained: from the
first on the record was found as the planted one was; up to the second nothing was found."""
DOUBTS = ("unexplained", "undecided")
"""Words of reasons that forbid the verdict that nothing was found."""
LEVEL = 6.0
"""Decibels above the best blank card at which a planted record counts as recovered; of texts see TOKENS."""
TOKENS = 0.9
"""Share of a planted text's pieces in place at which it counts as recovered."""
SURPLUS = 1.5
"""Numbers in the messages for each number of the records, below which many records explain a message to round-off."""


@dataclass(frozen=True)
class Planted:
    """The positive control: how the same attack fared on a message about records that the auditor knows.

    Attributes:
        misfit: of what it found. reached: its PSNR in dB, or share of pieces in place.
        level: that it had to reach. unit: of the two.
        gain: the squared misfit of the best control on the planted message, less that of what was found.
    """

    misfit: float
    reached: float
    level: float
    unit: str = "dB"
    gain: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the planted records were recovered."""
        return self.reached >= self.level

    def __str__(self) -> str:
        if math.isnan(self.level):
            return "refused or interrupted"
        return f"{self.reached:.3g} {self.unit} of {self.level:.3g} needed"


UNFINISHED = Planted(math.inf, -math.inf, math.nan)
"""A positive control that was refused or interrupted: nothing was recovered."""


def listed(planted: Sequence[Planted]) -> str:
    """Positive controls in words: how many of them were recovered, and how well."""
    return f"{sum(p.passed for p in planted)} of {len(planted)} recovered: {'; '.join(map(str, planted))}"


def judged(
    misfit: float,
    tolerance: float,
    controls: dict[str, float],
    planted: Sequence[Planted],
    *,
    surplus: float,
    odd: bool = False,
    empty: bool = False,
    chance: float = 0.0,
) -> tuple[str, str]:
    """Verdict and reason for one attack.

    Noise in a message is part of every misfit. In a difference of squared misfits it cancels, so that is what is
    compared with the planted records'.

    Of several planted messages, "leaks" may lean on any that was recovered, so that one hard record cannot hide a good
    attack. "not found" needs all of them: each recovered, each explained beyond its controls, and none of which what
    was found explains more than a little. Some recovered and some not is inconclusive unless it leaks.

    Args:
        misfit: of the reconstruction, relative to the message. tolerance: round-off and stated noise.
        controls: misfits of what knows nothing of the message.
        planted: the positive controls that were run.
        surplus: numbers in the messages for each number of the records.
        odd: whether a check found something odd. empty: whether the message was shown to hold next to nothing.
        chance: what the attack explains of a message that no record sent, as a squared share of it.
    """
    rival = min(controls, key=controls.__getitem__) if controls else None
    best = controls[rival] if rival else 0.0
    beaten = best / max(misfit, 1e-300)
    against = f"{beaten:.2g} times better than {rival}" if rival else "no control"
    if any(p.passed for p in planted):
        return _beside(misfit, tolerance, best**2 - misfit**2, beaten, against, planted, odd, empty, chance)
    loose = any(p.misfit <= tolerance for p in planted)
    if misfit <= tolerance and surplus >= SURPLUS and beaten >= CLEAR and not loose:
        return LEAKS, f"what was found explains the message to round-off (misfit {misfit:.2g}), {against}"
    if all(p == UNFINISHED for p in planted):
        return INCONCLUSIVE, f"misfit {misfit:.2g}, and no positive control was run to its end"
    return INCONCLUSIVE, f"the positive control failed: of planted messages, {listed(planted)}"


def _beside(
    misfit: float, tolerance: float, gain: float, beaten: float, against: str, planted: Sequence[Planted], odd: bool,
    empty: bool, chance: float,
) -> tuple[str, str]:  # fmt: skip
    """The rule where planted records were recovered."""
    recovered = [p for p in planted if p.passed]
    share = max((gain / p.gain for p in recovered if p.gain > 0), default=0.0)
    alike = share >= ALIKE and gain > 2 * chance
    told = f"planted messages: {listed(planted)}"
    much = "as much as a recovered planted record or more"  # of which the hardest to find explains the least
    if share < 1:
        much = f"{max(share, 0):.0%} of what recovered planted records do"
    if beaten >= STRONG or alike or (misfit <= tolerance and beaten >= CLEAR):
        return LEAKS, f"what was found explains the message (misfit {misfit:.2g}) {against}, {much} ({told})"
    if odd:
        return INCONCLUSIVE, f"a check found something odd, and misfit {misfit:.2g} may come from that"
    whole = len(recovered) == len(planted)
    if empty and whole:
        return NOT_FOUND, f"the message holds next to nothing ({told})"
    if misfit > tolerance and not empty:
        return INCONCLUSIVE, (
            f"the misfit {misfit:.2g} is unexplained ({told}; the best with misfit "
            f"{min(p.misfit for p in recovered):.2g}). The message may not be what it is said to be"
        )
    if share > NOTHING and not empty:
        return INCONCLUSIVE, f"undecided: what was found explains {much} ({told})"
    if not whole:
        return INCONCLUSIVE, f"nothing was found, but planted records were not always found either ({told})"
    if any(p.gain <= 0 for p in planted):
        return INCONCLUSIVE, f"undecided: a planted message is explained no better than by its controls ({told})"
    return NOT_FOUND, (
        f"stated noise or round-off explains what is left (misfit {misfit:.2g}), what was found explains {much} "
        f"({told})"
    )


def overall(verdicts: list[tuple[str, str]]) -> tuple[str, str]:
    """The verdict on a message, and why, from those of all attacks, best explained first: the worst news counts."""
    for verdict, reason in verdicts:
        if verdict == LEAKS:
            return LEAKS, reason
    open_ = [reason for verdict, reason in verdicts if verdict == INCONCLUSIVE]
    unexplained = [reason for reason in open_ if any(word in reason for word in DOUBTS)]
    nothing = [reason for verdict, reason in verdicts if verdict == NOT_FOUND]
    if nothing and not unexplained:
        return NOT_FOUND, nothing[0]
    doubts = unexplained or open_
    return INCONCLUSIVE, doubts[0] if doubts else "no attack was run to its end"
