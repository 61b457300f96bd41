"""What a lecturer takes along: points, minutes, exercises by themselves, a lesson, slides without a network."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def cell(kind, text, **metadata):
    more = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": f"c{abs(hash(text)) % 10**6}", "metadata": metadata, "source": text} | more


def test_every_exercise_of_a_chapter_says_its_points(tool):
    editions = tool("editions")
    for path in CHAPTERS:
        book = json.loads(path.read_text(encoding="utf-8"))
        worth = editions.points(list(editions.pieces(book["cells"], path.stem)))
        assert not worth or all(2 <= one <= 5 for one in worth), f"{path.stem}: {worth}"
        student = editions.make(book, path.stem, "student")
        told = re.findall(r"### Exercise [^\n]*\((\d+) points\)", "\n".join(map(editions.source, student["cells"])))
        assert list(map(int, told)) == worth
        if worth:
            assert f"{len(worth)}, {sum(worth)} points in all" in editions.source(student["cells"][0])


@pytest.mark.parametrize(
    ("marking", "worth"),
    [
        ("**Marking.** 2 points for a division, 1 for a reason. A mere measurement is worth 1.", 3),
        ("**Marking.** 1 point for each of the three pools, 1 for strangers.", 4),
        ("**Marking.** 1 point for 24, 1 for 19, 1 for 768 combinations.", 3),
    ],
)
def test_points_are_read_from_the_hint(tool, marking, worth):
    editions = tool("editions")
    start = cell("markdown", "```{exercise-start} A\n:label: a\n```\n\nDo it.\n\n```{exercise-end}\n```")
    found = list(editions.pieces([start, cell("markdown", marking, tags=["marking"])], "x"))
    assert editions.points(found) == [worth]


def test_an_exercise_in_one_piece_loses_its_solution_too(tool):
    editions = tool("editions")
    text = "```{exercise} A title\n:label: a\n\nAsk.\n```\n\n"
    text += "```{solution} a\n:class: dropdown\n\nThe secret.\n```\n\nAfter."
    student, instructor = (editions.make({"cells": [cell("markdown", text)]}, "x", who) for who in editions.EDITIONS)
    shown = [[editions.source(one) for one in book["cells"]] for book in (student, instructor)]
    assert shown[0][1:] == ["### Exercise 1: A title", "Ask.", "*Your answer here.*", "After."]
    assert shown[1][1:] == ["### Exercise 1: A title", "Ask.", "**Solution**", "The secret.", "After."]
    alone = "```{exercise}\n:label: a\n\nAsk.\n```"
    unsolved = editions.make({"cells": [cell("markdown", alone)]}, "x", "student")
    assert [editions.source(one) for one in unsolved["cells"]][1:] == ["### Exercise 1", "Ask.", "*Your answer here.*"]


def test_exercises_stand_by_themselves_with_what_they_import(tool):
    editions = tool("editions")
    for path in CHAPTERS:
        book = json.loads(path.read_text(encoding="utf-8"))
        for edition in editions.EDITIONS:
            alone = editions.alone(book, path.stem, edition)
            if alone is None:
                continue
            texts = [editions.source(one) for one in alone["cells"]]
            whole = [editions.source(one) for one in editions.make(book, path.stem, edition)["cells"]]
            assert texts[0].startswith("# ") and "import glutils as gl" in texts[2]
            assert sum(text.startswith("### Exercise ") for text in texts) == sum("### Exercise " in t for t in whole)
            assert not [text for text in texts[3:] if text not in whole]
            assert any("raise NotImplementedError" in text for text in texts) == (edition == "student")


def test_minutes_of_sections_add_up_to_what_the_chapter_says(tool):
    course = tool("course")
    found = course.chapters()
    assert len(found) >= 21
    for one in found:
        assert sum(one.sections.values()) == one.minutes and "Exercises" not in one.sections
    *rows, total = course.lines()
    assert int(total[1]) == sum(int(row[1]) for row in rows) and int(total[4]) == sum(int(row[4]) for row in rows)
    assert course.shared(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}


def test_schedules_add_up_and_name_notebooks_that_are_there(tool):
    lesson = tool("lesson")
    found = lesson.schedules()
    assert {name: one.minutes for name, one in found.items()} == {
        "one-lecture-of-90-minutes": 90, "a-laboratory-afternoon": 240, "a-week": 0,
    }  # fmt: skip
    for one in found.values():
        assert one.notebooks
        assert not [name for name in one.notebooks if not (ROOT / "notebooks" / f"{name}.ipynb").is_file()]
    assert lesson.find("one-lecture") == found["one-lecture-of-90-minutes"]
    with pytest.raises(ValueError, match="lesson must be the beginning of one of one-lecture-of-90-minutes, .*'two'"):
        lesson.find("two")
    with pytest.raises(ValueError, match="got 'a'"):
        lesson.find("a")


def test_a_lesson_is_laid_out_from_executed_notebooks(tool, tmp_path, monkeypatch, capsys):
    """Without executing them: the cache holds the notebooks as they are stored."""
    lesson, asked = tool("lesson"), []

    def executed(paths, profile, records):
        asked.extend(path.stem for path in paths)
        return [(path, ROOT / "notebooks", f"{path.stem} unchanged") for path in paths]

    monkeypatch.setattr(lesson.stage, "executed", executed)
    assert lesson.main(["--lesson", "one-lecture", "--to", str(tmp_path)]) == 0
    assert asked == list(lesson.find("one-lecture").notebooks)
    to = tmp_path / "one-lecture"
    for folder, ending in (("shown", ".ipynb"), ("student", ".ipynb"), ("slides", ".html")):
        assert {path.stem for path in (to / folder).glob(f"*{ending}")} == set(asked)
    assert (to / "plan.md").read_text(encoding="utf-8").startswith("# One lecture of 90 minutes\n")
    monkeypatch.setattr(lesson.stage, "executed", lambda paths, *_: [(paths[0], None, "it failed")])
    assert lesson.main(["--lesson", "one-lecture", "--to", str(tmp_path)]) == 1
    assert "it failed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        lesson.main(["--lesson", "no-such"])


def test_slides_hold_figures_formulas_and_no_code_and_need_no_network(tool):
    slides = tool("slides")
    figure = {"output_type": "display_data", "data": {"image/png": "QUJD"},
              "metadata": {"image/png": {"alt": 'a "plot"'}, "caption": "What <it> shows."}}  # fmt: skip
    table = {"output_type": "display_data", "data": {"text/html": "<table></table>"}, "metadata": {}}
    book = {"cells": [
        cell("markdown", "# A title\n\n*A motto.*"), cell("code", "seed: int = 0", tags=["parameters"]),
        cell("markdown", "## A section\n\nOne. Two. Three. Four, by {term}`round-off`.\n\n$$\na_1 < b\n$$"),
        cell("code", "secret_code()") | {"outputs": [figure, table]},
        cell("markdown", "```{exercise-start} Try\n:label: t\n```\n\n**Think.** Why?\n\n```{exercise-end}\n```"),
        cell("markdown", "```{solution-start} t\n```\n\nBecause.\n\n```{solution-end}\n```"),
    ]}  # fmt: skip
    title, section = slides.slides(book, "x")
    assert len(title) == 1 and "<h1>A title</h1>" in title[0]
    assert [re.search(r"<h2>|<figure>|<table>|\\\[|<h3>", slide)[0] for slide in section] == [
        "<h2>", "\\[", "<figure>", "<table>", "<h3>",
    ]  # fmt: skip
    assert "<p>One. Two. Three.</p><aside" in section[0].replace("\n", "") and "by round-off" in section[0]
    assert "a_1 &lt; b" in section[1] and "alt=\"a &quot;plot&quot;\"" in section[2] and "What &lt;it&gt;" in section[2]
    page = slides.page(book, "x")
    assert "secret_code" not in page and "Because." not in page and "Why?" in page
    assert not re.findall(r'(?:src|href)="https?:', page) and "Reveal.initialize" in page
    figure["metadata"] = {}
    with pytest.raises(ValueError, match="x: a figure has no alt text"):
        slides.slides(book, "x")
    with pytest.raises(ValueError, match="x must begin with a title"):
        slides.slides({"cells": [cell("markdown", "## No title")]}, "x")
