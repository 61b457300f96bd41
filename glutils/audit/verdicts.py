"""Verdicts that cannot flatter: what may be said of an attack on a message whose truth nobody here has."""

from __future__ import annotations

from dataclasses import dataclass

LEAKS, NOT_FOUND, INCONCLUSIVE, NOT_RUN = "leaks", "not found by these attacks", "inconclusive", "not run"
MARGIN = 2.0
"""A reconstruction's misfit times this must not exceed that of any control."""
CLEAR = 10.0
"""The same where no positive control stands behind it."""
LEVEL = 6.0
"""Decibels above the best blank card at which a planted record counts as recovered; of texts see TOKENS."""
TOKENS = 0.9
"""Share of a planted text's pieces in place at which it counts as recovered."""
STRONG = 5.0
"""The same where the planted records' message was explained better than this one."""
AS_GOOD = 1.25
"""A misfit up to so many times the planted one's is as well explained."""
SHARP = 0.3
"""Misfit of a recovered planted record above which an attack says nothing about a message in which it found nothing."""
SURPLUS = 1.5
"""Numbers in the messages for each number of the records, below which many records explain a message to round-off."""


@dataclass(frozen=True)
class Planted:
    """The positive control: how the same attack fared on a message about records that the auditor knows.

    Attributes:
        misfit: of what it found. reached: its PSNR in dB, or share of pieces in place.
        level: that it had to reach. unit: of the two.
    """

    misfit: float
    reached: float
    level: float
    unit: str = "dB"

    @property
    def passed(self) -> bool:
        """Whether the planted records were recovered."""
        return self.reached >= self.level

    def __str__(self) -> str:
        return f"{self.reached:.3g} {self.unit} of {self.level:.3g} needed"


def judged(
    misfit: float,
    tolerance: float,
    controls: dict[str, float],
    planted: Planted | None,
    *,
    surplus: float,
    odd: bool = False,
    empty: bool = False,
) -> tuple[str, str]:
    """Verdict and reason for one attack.

    Args:
        misfit: of the reconstruction, relative to the message. tolerance: round-off and stated noise.
        controls: misfits of what knows nothing of the message.
        planted: the positive control, if it was run.
        surplus: numbers in the messages for each number of the records.
        odd: whether a check found something odd. empty: whether the message was shown to hold next to nothing.
    """
    rival = min(controls, key=controls.__getitem__) if controls else None
    beaten = controls[rival] / max(misfit, 1e-300) if rival else 0.0
    against = f"{beaten:.2g} times better than {rival}" if rival else "no control"
    passed = planted is not None and planted.passed
    explained = misfit <= tolerance
    loose = planted is not None and not passed and planted.misfit <= tolerance
    if explained and surplus >= SURPLUS and beaten >= CLEAR and not loose:
        return LEAKS, f"what was found explains the message to round-off (misfit {misfit:.2g}), {against}"
    as_good = planted is not None and misfit <= max(tolerance, AS_GOOD * planted.misfit)
    if planted is not None and passed and beaten >= (MARGIN if as_good else STRONG):
        return LEAKS, (
            f"what was found explains the message (misfit {misfit:.2g}) {against}, and the same attack recovered "
            f"planted records ({planted}) with misfit {planted.misfit:.2g}"
        )
    if planted is None:
        return INCONCLUSIVE, f"misfit {misfit:.2g}, and no positive control was run"
    if not passed:
        also = " although it explains their message: a message like this does not fix the records" * loose
        return INCONCLUSIVE, f"the positive control failed{also}: planted records were found at {planted}"
    if odd:
        return INCONCLUSIVE, f"a check found something odd, and misfit {misfit:.2g} may come from that"
    if empty:
        return NOT_FOUND, f"the message holds next to nothing; planted records were found at {planted}"
    if as_good and planted.misfit <= max(SHARP, AS_GOOD * tolerance):
        return NOT_FOUND, f"misfit {misfit:.2g} is no better than chance ({against}); planted records at {planted}"
    return INCONCLUSIVE, (
        f"the misfit {misfit:.2g} is unexplained: planted records were found at {planted} with misfit "
        f"{planted.misfit:.2g}. The message may not be what it is said to be"
    )


def overall(verdicts: list[tuple[str, str]]) -> tuple[str, str]:
    """The verdict on a message, and why, from those of all attacks, best explained first: the worst news counts."""
    for verdict, reason in verdicts:
        if verdict == LEAKS:
            return LEAKS, reason
    unexplained = [reason for verdict, reason in verdicts if verdict == INCONCLUSIVE and "unexplained" in reason]
    nothing = [reason for verdict, reason in verdicts if verdict == NOT_FOUND]
    if nothing and not unexplained:
        return NOT_FOUND, nothing[0]
    doubts = unexplained or [reason for verdict, reason in verdicts if verdict == INCONCLUSIVE]
    return INCONCLUSIVE, doubts[0] if doubts else "no attack was run to its end"
