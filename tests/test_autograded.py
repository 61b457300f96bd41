"""The autograded edition: solutions earn every point of code, an empty notebook none, and nbgrader's format is kept."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = [
    path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if '"marking"' in path.read_text(encoding="utf-8")
]
"""Those whose exercises have points."""
HIDDEN = re.compile(r"^[^\n]*BEGIN (SOLUTION|HIDDEN TESTS)\b.*?END \1[^\n]*$", flags=re.M | re.S)
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


@pytest.fixture
def autograded(tool):
    return tool("autograded")


def made(autograded, path):
    return autograded.make(json.loads(path.read_text(encoding="utf-8")), path.stem)


def kept(notebook, **wanted):
    """The cells of which nbgrader keeps these facts."""
    cells = [cell for cell in notebook["cells"] if "nbgrader" in cell["metadata"]]
    return [cell for cell in cells if wanted.items() <= cell["metadata"]["nbgrader"].items()]


def released(notebook, stub="raise NotImplementedError"):
    """As students get it: what nbgrader does to a source, in four lines. The weekly workflow asks nbgrader itself."""

    def clear(found):
        return re.match(r"\s*", found[0])[0] + stub if found[1] == "SOLUTION" else ""

    return notebook | {"cells": [cell | {"source": HIDDEN.sub(clear, cell["source"])} for cell in notebook["cells"]]}


def earned(answers, source):
    """Points of a notebook: the answers' cells, and every other cell as the source has it, so that no test is lost."""
    answers = {cell["id"]: cell for cell in kept(answers, solution=True)}
    space, points = {}, 0
    for cell in source["cells"]:
        if cell["cell_type"] == "code":
            about = cell["metadata"]["nbgrader"]
            try:
                exec(answers.get(cell["id"], cell)["source"], space)
            except (AssertionError, NameError, NotImplementedError):
                continue
            points += about.get("points", 0)
    return points


@each_chapter
def test_solutions_earn_every_point_of_code_and_an_empty_notebook_none(autograded, tool, path):
    source, editions = made(autograded, path), tool("editions")
    if source is None:
        pytest.fail(f"{path.stem} has no points")
    worth = editions.points(list(editions.pieces(json.loads(path.read_text(encoding="utf-8"))["cells"], path.stem)))
    assert sum(cell["metadata"]["nbgrader"]["points"] for cell in kept(source, grade=True)) == sum(worth)
    automatic = sum(cell["metadata"]["nbgrader"]["points"] for cell in kept(source, grade=True, locked=True))
    assert automatic > 0 and f"{automatic} of them for code" in source["cells"][1]["source"]
    assert earned(source, source) == automatic
    assert earned(released(source), source) == 0


@each_chapter
def test_students_get_no_line_of_a_solution_and_no_hidden_case(autograded, path):
    source = made(autograded, path)
    given = released(source)
    text = "\n".join(cell["source"] for cell in given["cells"])
    assert not re.search(r"SOLUTION|HIDDEN|\*\*Marking|seed in", text)
    secret = {line.strip() for cell in source["cells"] for found in HIDDEN.finditer(cell["source"])
              for line in found[0].splitlines() if len(line.strip()) > 25}  # fmt: skip
    assert secret and not secret & {line.strip() for line in text.splitlines()}
    for cell in kept(given, solution=True):
        assert "raise NotImplementedError" in cell["source"]


@each_chapter
def test_cells_are_as_nbgrader_wants_them(autograded, path):
    source = made(autograded, path)
    names = [cell["metadata"]["nbgrader"]["grade_id"] for cell in kept(source)]
    assert len(set(names)) == len(names) and len({cell["id"] for cell in source["cells"]}) == len(source["cells"])
    for cell in kept(source):
        about = cell["metadata"]["nbgrader"]
        assert set(about) - {"points"} == {"grade", "grade_id", "locked", "schema_version", "solution", "task"}
        assert about["schema_version"] == 3 and about["grade"] == ("points" in about)
        assert cell["cell_type"] == "code" or about["grade"] == about["solution"], "a written answer is marked by hand"
        assert not (about["solution"] and about["locked"])


def test_a_wrong_answer_that_fits_the_cases_that_are_seen_earns_nothing(autograded):
    source = made(autograded, ROOT / "notebooks" / "04_how_many_scalars.ipynb")
    solution = next(cell for cell in kept(source, solution=True) if "def rounds_needed" in cell["source"])
    (test,) = (cell for cell in kept(source, grade=True, locked=True) if "rounds_needed" in cell["source"])
    space = {}
    exec(source["cells"][2]["source"] + "\n" + solution["source"], space)
    right, seen = space["rounds_needed"], {}
    space["rounds_needed"] = lambda *given: seen.setdefault(repr(given), right(*given))
    exec(test["source"].split("### BEGIN")[0], space)
    space["rounds_needed"] = lambda *given: seen.get(repr(given), 0)
    exec(test["source"].split("### BEGIN")[0], space)
    with pytest.raises(AssertionError):
        exec(test["source"], space)


def test_one_command_writes_the_course(autograded, tmp_path, capsys):
    assert autograded.main(["--to", str(tmp_path / "course")]) == 0
    there = sorted(path.stem for path in (tmp_path / "course" / "source").glob("*/*.ipynb"))
    assert there == [path.stem for path in CHAPTERS] and f"{len(there)} notebooks" in capsys.readouterr().out
    config = (tmp_path / "course" / "nbgrader_config.py").read_text(encoding="utf-8")
    compile(config, "nbgrader_config.py", "exec")


def test_only_the_bodies_of_functions_are_a_solution(autograded):
    solution = 'limit = 3\n\ndef add(one):\n    """Sum."""\n    return one + 2\n\ngl.exercises.add(add)\n'
    assert autograded.marked(solution) == (
        'def add(one):\n    """Sum."""\n    ### BEGIN SOLUTION\n    return one + 2\n    ### END SOLUTION'
    )
