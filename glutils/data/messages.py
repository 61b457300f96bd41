"""Made-up private messages: who owes whom what, who is ill, which card is lost; nobody in them exists.

A message is a template that is filled in: names, streets, days and numbers come from the ``faker`` package with the
message's own seed, towns, illnesses and medicines from the lists below. The two splits share neither a template nor a
person: a template, and a full name, belongs to the split that its checksum says. What is left in common is what two
strangers have in common: turns of phrase, first names, towns, illnesses.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faker import Faker

COUNTS = {"private": 1000, "public": 4000}
"""Messages of each split."""
PRIVATE_ONE_IN = 4
"""One template, and one full name, in so many is private."""

PATTERNS: dict[str, tuple[str, ...]] = {
    "bank": (
        "(Please send|Please pay|I owe you|{first} owes me) {amount} dollars(| by {day}), account {account}.",
        "(My account is|The new account is|The account of {name} is|The account of my son is) {account}"
        "(|, code {pin}).",
        "(Please close|I closed|The bank closed|Please check) (my account|the account|account) {account}.",
        "{name} (has|wants|sent me|lost|needs) {amount} dollars(|, please call {phone}|, account {account}).",
    ),
    "card": (
        "(My|The|Her|His) card {card} was (lost|stolen|found|blocked)(| in {town}| on {day}).",
        "(Please block|Please pay with|I lost|{first} found|{first} lost) (my card|the card|card) {card}.",
        "The code of (my|the|her|his) (card|new card|phone|bank card) is {pin}(|, please do not tell {first}).",
        "{name} (has|needs|lost|found) (a|my|the) (card|new card|bank card), the code is {pin}.",
    ),
    "health": (
        "{name} (has|has had|was told of|is ill with) {illness}"
        "(|, please call {phone}|, case {case}|, born on {birth}).",
        "(The doctor says|I was told|{first} says) that {name} has {illness}(|, case {case}| since {day}).",
        "(Please send|The doctor gave|Please give|{first} needs) {medicine} (for|against) {illness}, patient {case}.",
        "The (test|case|operation) of {name} (was|is) (positive|negative|paid|on {day}), case {case}.",
    ),
    "home": (
        "{name} (lives at|is at|is not at|is moving to|was at) {house}(|, phone {phone}| in {town}).",
        "(The door code|The alarm code|The code of the door|The code) (at {house}|of {first}|at home) is {pin}.",
        "(We are|Nobody is|I am|{first} is) (not at home|at home|away) (from|on) {day}, "
        "the (door|alarm) code is {pin}.",
        "(Please send|Please give|I gave) (the key|my key|the new key) to {name}, phone {phone}.",
    ),
    "travel": (
        "{name} (flies to|is in|was in|lives in) {town} (on|from) {day}, (passport {passport}|phone {phone}).",
        "(My passport is|The passport of {name} is|I lost my passport|{first} lost passport) {passport}"
        "(|, born on {birth}).",
        "(Please book|I paid|{first} paid for) (a room in|the room in|a house in|a flight to) {town}, "
        "(booking {case}|card {card}).",
        "(Please call me|Please call {first}|I am) in {town} (on|from) {day}, phone {phone}.",
    ),
    "work": (
        "{name} (is paid|was paid|wants) {amount} dollars (from|on|by) {day}, account {account}.",
        "(The|My|The new|Her|His) password (is|at work is|of the bank is) {first}{pin}.",
        "{name} (is leaving|has a new job|was born|is moving) (on|from) {day}, (please call {phone}|case {case}).",
        "(Please call|Please do not pay|Please pay) {name} (about|for) the (job|room|card|key|flight), phone {phone}.",
    ),
}
"""By topic; of what stands in round brackets, between bars, a template has one."""

ILLNESSES = (
    "asthma", "diabetes", "cancer", "depression", "epilepsy", "hepatitis", "a heart condition", "high blood pressure",
    "migraine", "pneumonia", "a broken arm", "an infection",
)  # fmt: skip
MEDICINES = ("insulin", "aspirin", "antibiotics", "morphine", "lithium", "a vaccine", "vitamins", "steroids")
TOWNS = (
    "Ashland", "Boston", "Denver", "Dover", "Fairfield", "Franklin", "Georgetown", "Houston", "Jackson", "Lincoln",
    "Madison", "Newport", "Orlando", "Oxford", "Portland", "Richmond", "Salem", "Springfield", "Trenton", "Winchester",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_SLOT, _CHOICE = re.compile(r"{(\w+)}"), re.compile(r"\((.*?)\)")


@lru_cache(maxsize=2)
def templates(split: str) -> dict[str, tuple[tuple[str, ...], ...]]:
    """The templates of a split, by topic and pattern."""
    mine = split == "private"
    return {
        topic: tuple(
            chosen for pattern in patterns if (chosen := tuple(t for t in expanded(pattern) if is_private(t) == mine))
        )
        for topic, patterns in PATTERNS.items()
    }


def expanded(pattern: str) -> list[str]:
    """All that a pattern can say, as far as there is a secret in it."""
    parts = _CHOICE.split(pattern)  # what is fixed and what may be chosen take turns
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    said = ("".join(chosen) for chosen in itertools.product(*choices))
    return [template for template in said if any(slot in SECRETS for slot in _SLOT.findall(template))]


def is_private(text: str) -> bool:
    """Whether a template or a full name is one of the private ones."""
    return zlib.crc32(text.encode()) % PRIVATE_ONE_IN == 0


def topic(split: str, number: int) -> str:
    """What a message is about."""
    return _begun(split, number)[0]


def text(split: str, number: int) -> str:
    """One message of a split, made when it is asked for; there are more than the set has, and other than those."""
    _, template, fake = _begun(split, number)
    return _SLOT.sub(lambda slot: SLOTS[slot[1]](fake, split), template)


def _begun(split: str, number: int) -> tuple[str, str, Faker]:
    """Topic and template, with the source of chance that goes on from there."""
    fake = _faker()
    fake.seed_instance(2 * number + (split == "private"))
    chosen = fake.random_element(tuple(PATTERNS))
    return chosen, fake.random_element(fake.random_element(templates(split)[chosen])), fake


@lru_cache(maxsize=1)
def _faker() -> Faker:
    from faker import Faker

    return Faker("en_US")


def _name(fake: Faker, split: str) -> str:
    while True:
        name = f"{fake.first_name()} {fake.last_name()}"
        if is_private(name) == (split == "private"):
            return name


def _digits(pattern: str) -> Callable[[Faker, str], str]:
    """A number: ``#`` is any digit, ``%`` one of 1 to 9."""
    return lambda fake, split: fake.numerify(pattern)


def _day(fake: Faker) -> str:
    return f"{fake.random_int(1, 28)} {fake.random_element(MONTHS)}"


SLOTS: dict[str, Callable[[Faker, str], str]] = {
    "name": _name,
    "first": lambda fake, split: fake.first_name(),
    "house": lambda fake, split: f"{fake.random_int(1, 99)} {fake.last_name()} Street",
    "town": lambda fake, split: fake.random_element(TOWNS),
    "day": lambda fake, split: _day(fake),
    "birth": lambda fake, split: f"{_day(fake)} {fake.random_int(1940, 2005)}",
    "amount": lambda fake, split: str(10 * fake.random_int(2, 99)),
    "account": _digits("%#######"),
    "card": lambda fake, split: fake.credit_card_number("visa16"),
    "pin": _digits("####"),
    "case": _digits("%####"),
    "phone": _digits("555####"),
    "passport": _digits("%########"),
    "illness": lambda fake, split: fake.random_element(ILLNESSES),
    "medicine": lambda fake, split: fake.random_element(MEDICINES),
}
"""What may stand in braces in a template."""
SECRETS = ("birth", "account", "card", "pin", "case", "phone", "passport")
"""Those that are four digits in a row or more: every template has one."""
