"""The welcome page lists every chapter, with its number in the book and with what it claims itself."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_numbers_run_through_the_numbered_parts_alone(tool):
    contents = tool("contents")
    toc = {"parts": [
        {"caption": "A", "chapters": [{"file": "book/x"}]},
        {"caption": "B", "numbered": True, "chapters": [{"file": "notebooks/a"}, {"file": "notebooks/b"}]},
        {"chapters": [{"file": "book/quiz"}]},
        {"numbered": True, "chapters": [{"file": "notebooks/after"}]},
        {"caption": "C", "numbered": True, "chapters": [{"file": "notebooks/c"}]},
    ]}  # fmt: skip
    assert contents.chapters(toc) == [("B", 1, "notebooks/a"), ("B", 2, "notebooks/b"),
                                       ("B", 3, "notebooks/after"), ("C", 4, "notebooks/c")]  # fmt: skip


def test_exercises_and_attacks_go_by_the_chapters_number_in_the_book(tool):
    """Not by the number in a file's name: one chapter has none there, so that later ones are one behind."""
    contents, editions, pages = tool("contents"), tool("editions"), tool("pages")
    numbers = contents.numbers()
    assert numbers["18_defending_zeroth_order"] == 18 and numbers["19_records_that_are_not_images"] == 20
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        made = editions.make(json.loads(path.read_text(encoding="utf-8")), path.stem, "student")
        heads = re.findall(r"^### Exercise ([\d.]+)", "\n".join(map(editions.source, made["cells"])), flags=re.M)
        before = f"{numbers[path.stem]}." if path.stem in numbers else ""
        assert heads == [f"{before}{number}" for number in range(1, len(heads) + 1)], path.stem
    assert pages.chapter("dager") == "[chapter 22](../notebooks/21_a_sentence_in_192_numbers.ipynb)"
    assert set(pages.CHAPTERS.values()) <= set(numbers)
    assert pages.chapter("no such attack") == "no chapter"


def test_every_chapter_is_listed_with_its_claim(tool):
    contents = tool("contents")
    table, found = contents.table(), contents.chapters()
    lines = re.findall(r"^Chapter (\d+): \{doc\}`\.\./(notebooks/\w+)`\n: (.+)$", table, flags=re.M)
    assert [(int(number), file) for number, file, _ in lines] == [(number, file) for _, number, file in found]
    assert [int(number) for number, *_ in lines] == list(range(1, len(lines) + 1)) and len(lines) >= 22
    assert all(claim[-1] in ".!?" and not claim.startswith("*") for *_, claim in lines)
    assert re.findall(r"^### (.+)$", table, flags=re.M) == list(dict.fromkeys(part for part, *_ in found))


def test_the_tour_is_the_first_page_after_the_welcome(tool):
    welcome = (ROOT / "book" / "welcome.md").read_text(encoding="utf-8")
    assert "% made from the code: contents" in welcome and "{doc}`../notebooks/fifteen_minutes`" in welcome
    listed = re.findall(r"- file: (\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert listed[0] == "notebooks/fifteen_minutes"


def test_links_call_a_chapter_by_its_number_in_the_book(tool):
    """Files have numbers too, and one chapter has none in its name: chapter 21 is not the file 21."""
    number = {Path(file).name: number for _, number, file in tool("contents").chapters()}
    pages = [*(ROOT / "book").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb"), ROOT / "README.md"]
    link = re.compile(r"\[[^\]]*?[Cc]hapters? (\d+)(?:[^\]\d]*(\d+))?\]\([^)]*?(\w+)\.(?:ipynb|md|html)[^)]*\)")
    read = [(page.name, *found) for page in pages for found in link.findall(page.read_text(encoding="utf-8"))]
    known = [(page, {first, last}, number[file]) for page, first, last, file in read if file in number]
    assert len(known) > 20
    assert [row for row in known if str(row[2]) not in row[1]] == []
