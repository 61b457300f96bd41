"""The one table of strengths: every value makes a defence, and panels offer what fits what clients send."""

import pytest

from glutils import defenses
from glutils.experiments import defended, live
from glutils.experiments.strengths import STRENGTHS

FEWER_IS_STRONGER = {"bound", "keep", "bits", "levels"}


@pytest.mark.parametrize("name", list(STRENGTHS))
def test_every_value_makes_the_defence_and_the_order_is_from_weak_to_strong(name):
    entry = STRENGTHS[name]
    for values in (entry.grid, *entry.panels.values()):
        assert list(values) == sorted(set(values), reverse=entry.option in FEWER_IS_STRONGER)
        for value in values:
            made = defended.defense_of(name, value)
            assert getattr(made, entry.option) == value and type(made) is type(defenses.get(name, **vars(made)))
            assert all(getattr(made, option) == fixed for option, fixed in entry.fixed.items())


def test_panels_offer_defences_of_what_is_sent():
    for kind, levels in live.LEVELS.items():
        assert set(levels) == {name for name, entry in STRENGTHS.items() if kind in entry.panels}
        assert all(kind in defended.DEFENSES.get(name).kinds for name in levels)
