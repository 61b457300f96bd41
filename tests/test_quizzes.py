"""Quizzes: every question has one right answer, and every answer its reason; no script is needed to take them."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
QUIZZES = sorted((ROOT / "book").glob("quiz_*.md"))
OPTION = re.compile(r"^:::\{dropdown\} ([A-E])\. ([^\n]+)\n(.*?)\n:::$", flags=re.M | re.S)


def questions(path):
    """Each question's heading, and its options: letter, text, reason."""
    parts = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.M)[1:]
    return [(part.split("\n", 1)[0], OPTION.findall(part)) for part in parts]


def test_a_quiz_follows_every_one_to_three_chapters():
    """Each in a list of its own after its chapters, so that it has no chapter's number."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    listed = [chapter["file"] for part in parts for chapter in part["chapters"] if "/quiz_" in chapter["file"]]
    assert sorted(listed) == [f"book/{path.stem}" for path in QUIZZES]
    for part in parts:
        if any("/quiz_" in chapter["file"] for chapter in part["chapters"]):
            assert len(part["chapters"]) == 1 and not part.get("numbered")
    number = 0
    told_of = [part for part in parts if part.get("numbered") or "/quiz_" in part["chapters"][0]["file"]]
    for chapters, after in itertools.pairwise(told_of):  # a page without a number may stand between them
        if chapters.get("numbered"):
            first, number = number + 1, number + len(chapters["chapters"])
            page = (ROOT / f"{after['chapters'][0]['file']}.md").read_text(encoding="utf-8")
            told = re.search(r"questions on chapters? (\d+)(?: (?:and|to) (\d+))?\.", page)
            assert (int(told[1]), int(told[2] or told[1])) == (first, number) and number - first < 3, after


@pytest.mark.parametrize("path", QUIZZES, ids=lambda path: path.stem)
def test_questions_have_one_right_answer_and_a_reason_for_each(path):
    asked = questions(path)
    assert 4 <= len(asked) <= 9
    spelled = ["Four", "Five", "Six", "Seven", "Eight", "Nine"][len(asked) - 4]
    assert f"\n{spelled} questions on chapter" in path.read_text(encoding="utf-8")
    for number, (heading, options) in enumerate(asked, 1):
        assert heading.startswith(f"{number}. "), heading
        assert [letter for letter, *_ in options] == list("ABCDE"[: len(options)]) and 3 <= len(options) <= 5, heading
        verdicts = [re.match(r"\*\*(Right|Wrong)\.\*\* (.+)", reason, flags=re.S) for *_, reason in options]
        assert all(verdicts), f"{heading}: a reason begins with **Right.** or **Wrong.**"
        assert [verdict[1] for verdict in verdicts].count("Right") == 1, heading
        assert all(len(verdict[2].split()) >= 4 for verdict in verdicts), f"{heading}: a reason is missing"
    assert path.read_text(encoding="utf-8").count(":::{dropdown}") == sum(len(options) for _, options in asked)


def test_the_form_of_an_answer_does_not_give_it_away():
    right = [(letter, len(text), [len(other) for _, other, _ in options])
             for path in QUIZZES for _, options in questions(path)
             for letter, text, reason in options if reason.startswith("**Right.**")]  # fmt: skip
    letters = [letter for letter, *_ in right]
    assert all(letters.count(letter) <= len(letters) // 2 for letter in "ABCD")
    for extreme in (max, min):
        assert sum(length == extreme(lengths) for _, length, lengths in right) <= len(right) // 2, extreme
