"""Which attacks apply to a message, with which settings, and why the others do not."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import _validate
from ..attacks.base import ATTACKS, OBSERVATION
from ..observation import Observation

SEARCHES = {"gradient": ("ig", "dlg"), "delta": ("ig", "dlf"), "scalars": ("zerogla", "zerogla_text")}
"""Attacks that search, by the kind of message, where nothing else is asked for; beside all closed forms."""
LEARNS = ("fgla", "ggl", "gias", "gifd", "igims", "inverter")
"""Attacks that need something learned from public records first."""


@dataclass(frozen=True)
class Planned:
    """An attack's name and title, its settings, and why it is not run; an empty reason: it is."""

    name: str
    title: str
    options: dict[str, Any]
    reason: str = ""

    @property
    def searches(self) -> bool:
        """Whether it takes a limit of time."""
        return "seconds" in takes(self.name)


def takes(name: str) -> list[str]:
    """Names of the options of an attack."""
    run = ATTACKS.get(name).run
    return [] if run is None else [option for option in inspect.signature(run).parameters if option != "seen"]


def default(name: str, option: str) -> Any:
    """The default of an option of an attack; None if it has none, or no such option."""
    run = ATTACKS.get(name).run
    found = None if run is None else inspect.signature(run).parameters.get(option)
    return None if found is None or found.default is found.empty else found.default


def planned(
    seen: Observation, chosen: Iterable[str] | None, options: Mapping[str, Mapping[str, Any]] | None
) -> list[Planned]:
    """Every attack of this package: those that are run first, closed forms before searches, then the others.

    Args:
        chosen: names of attacks to run; None: all closed forms that read such a message, and :data:`SEARCHES`.
        options: an attack's name to settings of its own.

    Raises:
        TypeError, ValueError: an unknown attack or setting.
    """
    if isinstance(chosen, str):
        raise TypeError(f"attacks must be a collection of names, got the string {chosen!r}")
    names = ATTACKS.names()
    wanted = None if chosen is None else [_validate.choice("attacks", name, names) for name in chosen]
    given = dict(options or {})
    for name, own in given.items():
        _validate.choice("options", name, names)
        for option in own:
            if option not in takes(name) or option in ("seed", "seconds", "progress"):
                raise ValueError(f"options of {name!r} must be among its own ({', '.join(takes(name))}; seed, minutes "
                                 f"and progress are the audit's), got {option!r}")  # fmt: skip
    found = [_one(name, seen, wanted, dict(given.get(name, {}))) for name in names]
    order = {name: place for place, name in enumerate(SEARCHES[seen.kind])}
    return sorted(found, key=lambda plan: (bool(plan.reason), plan.searches, order.get(plan.name, len(order))))


def _one(name: str, seen: Observation, wanted: list[str] | None, options: dict[str, Any]) -> Planned:
    card = ATTACKS.get(name)
    reason = ""
    if card.takes != OBSERVATION:
        reason = "its adversary takes part in the rounds and reads no client's message"
    elif card.adversary != "honest-but-curious server":
        reason = f"needs a {card.adversary}, who changes the model that is sent out"
    elif seen.kind not in card.kinds:
        reason = f"reads {' or '.join(card.kinds)}, not {seen.kind}"
    elif seen.record.name not in card.records:
        reason = f"reconstructs {' and '.join(card.records)}, not {seen.record.name}"
    elif wanted is not None:
        reason = "" if name in wanted else "was not asked for"
    elif name in LEARNS:
        reason = "needs something learned from public records: run it by name, with its options"
    elif "iterations" in takes(name) and name not in SEARCHES[seen.kind]:
        reason = "searches, and is not among those run by default: name it in attacks"
    if name == "ig" and seen.labels is None and seen.shape[0] > 1:
        options = {"labels": "joint"} | options
    if "progress" in takes(name):
        options = {"progress": False} | options
    return Planned(name, card.title, options, reason)
