"""No attack is missing where a reader looks for one: laboratory, leaderboard, map, reference, records, claims."""

import functools
import re
from pathlib import Path

import pytest

import glutils as gl
from glutils.attacks.base import ATTACKS, OBSERVATION
from glutils.experiments import conditions, forms, leaderboard

ROOT = Path(__file__).resolve().parent.parent
NAMES = gl.attacks.names()
READERS = [name for name in NAMES if ATTACKS.get(name).takes == OBSERVATION]
ON_IMAGES = [name for name in READERS if "images" in ATTACKS.get(name).records]
RECORDS = ROOT / "benchmarks" / "results"
SPELLED = {"zerogla_text": "text_cpu"}
"""What names an attack in a claim that does not call it by its name: its record."""
NO_CLAIM = {
    "april": "a closed form of 2022 for a network that none of the claims is about",
    "fishing": "no claim is about secure sums of many clients with a malicious server's head",
    "gifd": "beside GGL, GIAS and IGIMS, of whom the claims are, in chapter 10",
    "inverter": "no claim is about a map that is learned for one network",
    "lamp": "beside TAG: claims about texts are judged by the attacks that win",
    "tag": "as lamp",
    "zerogla_label_word": "no claim is about classifiers that read a prompt",
}
"""Attacks that bear on no claim of the six sources, and why."""


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_has_a_place_on_the_map_and_in_the_reference(name, tool):
    pages = tool("pages")
    card = ATTACKS.get(name)
    assert name in pages.grouped()[pages.family(card)]
    assert pages.short(card.title) in pages.picture()
    assert f".. autofunction:: {pages.path(card.run)}\n" in pages.attacks_reference(pages.family(card))
    assert card.title in pages.threat_table() and f"`{card.source}`" in pages.map_tables()
    assert f"{{{card.source}," in (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    chapter = (ROOT / "notebooks" / f"{pages.CHAPTERS[name]}.ipynb").read_text(encoding="utf-8")
    assert re.search(rf"\b{name}\b", chapter) or card.title in chapter, "its chapter does not name it"


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_is_in_the_laboratory_or_takes_part_itself(name):
    assert (name in conditions.CONDITIONS, name in conditions.PLAYERS) == (name in READERS, name not in READERS)


@pytest.mark.parametrize("name", ON_IMAGES)
def test_every_attack_on_images_may_enter_the_leaderboard_in_a_stated_form(name):
    assert any(name in leaderboard.able(arena) for arena in leaderboard.ARENAS.values())
    assert name in forms.FORMS and forms.FORMS[name][0] != forms.UNKNOWN


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_is_in_a_published_record(name):
    assert any(re.search(rf"\b({name}|{re.escape(ATTACKS.get(name).title)})", text, re.I) for text in records())


@functools.cache
def records():
    """What the published records say, each with the script that made it: some of these name an attack in the script."""
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")}
    made = {}
    for path in RECORDS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        script = re.search(r'"script": "benchmarks/(\w+)\.py"', text)
        made[path.stem] = text + (scripts.get(script[1], "") if script else "")
    return list(made.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_bears_on_a_claim_or_it_is_said_why_not(name):
    claims = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "book" / "claims").glob("*.yaml")))
    title = ATTACKS.get(name).title
    named = re.search(rf"\b({name}|{re.escape(SPELLED.get(name, title))})\b", claims, re.I) is not None
    assert named != (name in NO_CLAIM), NO_CLAIM.get(name, "no claim names it")
