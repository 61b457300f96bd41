"""One source, two editions: stubs are the solutions without their bodies, and the solutions pass the checks."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

import glutils as gl

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
sys.path.insert(0, str(ROOT / "tools"))
import editions  # noqa: E402

sys.path.remove(str(ROOT / "tools"))
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def exercises(path):
    """By label: the kind and text of each exercise, and the cells of its solution."""
    found, label, inside = {}, None, None
    for piece in editions.pieces(read(path)["cells"], path.stem):
        if fence := piece.get("fence"):
            kind, part = fence["kind"].split("-")
            inside = kind if part == "start" else None
            if fence["kind"] == "exercise-start":
                label = re.search(r":label: (\S+)", fence["options"])[1]
                found[label] = {"title": fence["title"].strip(), "text": "", "solution": []}
            elif fence["kind"] == "solution-start":
                assert fence["title"].strip() == label, "a solution follows its exercise"
                assert ":class: dropdown" in fence["options"], "solutions are folded"
        elif inside == "exercise":
            found[label]["text"] += editions.source(piece)
        elif inside == "solution":
            found[label]["solution"].append(piece)
    return found


def solutions(path):
    """The solution cells of a chapter that end with a check."""
    cells = [cell for entry in exercises(path).values() for cell in entry["solution"] if cell["cell_type"] == "code"]
    return [text for text in map(editions.source, cells) if editions.checks(text)]


def imported(path, text):
    """What the chapter imports, as far as a text uses it."""
    space, used = {}, {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse(editions.source(cell))
            tree.body = [
                node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
                and used & {name.asname or name.name.split(".")[0] for name in node.names}
            ]  # fmt: skip
            exec(compile(tree, path.name, "exec"), space)
    return space


def functions(text):
    """Top-level functions by name: arguments, docstring, and the rest of the body."""
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {n.name: (ast.unparse(n.args), ast.get_docstring(n), [ast.unparse(s) for s in n.body[1:]]) for n in nodes}


@each_chapter
def test_a_chapter_has_two_to_four_exercises_of_code_and_of_thought(path):
    entries = exercises(path)
    assert 2 <= len(entries) <= 4
    kinds = [re.match(r"\*\*(Code|Try|Think)\.\*\* ", entry["text"])[1] for entry in entries.values()]
    assert "Code" in kinds and "Think" in kinds
    for label, entry in entries.items():
        assert entry["title"], f"{label} has no title"
        checked = [name for cell in entry["solution"] for name in editions.checks(editions.source(cell))]
        assert bool(checked) == (kinds[list(entries).index(label)] == "Code"), label
        marking = [cell for cell in entry["solution"] if "marking" in editions.tags(cell)]
        assert len(marking) == 1 and "remove-cell" in editions.tags(marking[0]), f"{label} has no hint for marking"


@each_chapter
def test_the_text_of_a_code_exercise_names_what_to_write_and_how_to_check_it(path):
    for entry in exercises(path).values():
        for cell in entry["solution"]:
            for name in editions.checks(editions.source(cell)):
                arguments, _, _ = functions(editions.source(cell))[name]
                assert f"`{name}({arguments})`" in entry["text"] and f"`gl.exercises.{name}({name})`" in entry["text"]
                assert getattr(gl.exercises, name).task.startswith(f"{name}({arguments})")


@each_chapter
def test_stubs_are_the_solutions_without_their_bodies(path):
    for text in solutions(path):
        stub = editions.stub(text)
        whole, bare = functions(text), functions(stub)
        assert {name: about[:2] for name, about in bare.items()} == {name: about[:2] for name, about in whole.items()}
        assert all(body == ["raise NotImplementedError"] for *_, body in bare.values())
        assert editions.checks(stub) == editions.checks(text)
        assert len(ast.parse(stub).body) == len(bare) + len(editions.checks(stub))


@each_chapter
def test_solutions_pass_the_checks_and_stubs_are_told_to_be_written(path):
    for text in solutions(path):
        space = imported(path, text)
        exec(compile(text, path.name, "exec"), space)
        for name in editions.checks(text):
            verdict = getattr(gl.exercises, name)(space[name])  # other cases: tests/test_autograded.py
            assert verdict, verdict.message
        exec(compile(editions.stub(text), path.name, "exec"), space)
        for name in editions.checks(text):
            assert getattr(gl.exercises, name)(space[name]).message.startswith(f"Not written yet: {name}(")


def test_every_check_belongs_to_one_exercise():
    used = [name for path in CHAPTERS for text in solutions(path) for name in editions.checks(text)]
    assert sorted(used) == sorted(gl.exercises.names())


def test_every_notebook_and_both_editions_of_a_chapter_are_valid():
    import nbformat  # here, in one test: it costs seconds, in every process that collects

    broken = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        books = [editions.make(read(path), path.stem, edition) for edition in editions.EDITIONS if path in CHAPTERS]
        for book in (read(path), *books):
            try:
                nbformat.validate(nbformat.from_dict(book))
            except nbformat.ValidationError as error:
                broken[path.name] = str(error)
    assert not broken


@each_chapter
def test_students_see_no_solution_and_instructors_see_all(path):
    student, instructor = (editions.make(read(path), path.stem, edition) for edition in editions.EDITIONS)
    shown = {name: [editions.source(cell) for cell in book["cells"]] for name, book in
             (("student", student), ("instructor", instructor))}  # fmt: skip
    for texts in shown.values():
        assert not re.search(r"\{(exercise|solution|term|cite)", "".join(texts))
    entries = exercises(path)
    for entry in entries.values():
        for cell in entry["solution"]:
            text = editions.source(cell)
            assert text not in shown["student"]
            assert text in shown["instructor"] or cell["cell_type"] == "markdown"
    assert sum("**Marking.**" in text for text in shown["instructor"]) == len(entries)
    assert not [text for text in shown["student"] if "**Marking.**" in text or "**Solution**" in text]
    answers = [text for text in shown["student"] if "Your answer here" in text or "raise NotImplementedError" in text]
    assert len(answers) >= len(entries)
    kept = [text for text in shown["student"] if text.startswith("### Exercise ")]
    assert kept == [text for text in shown["instructor"] if text.startswith("### Exercise ")]
    assert len(kept) == len(entries)


def test_one_command_writes_both_editions_of_every_notebook(tmp_path, capsys):
    assert editions.main(["--to", str(tmp_path)]) == 0
    for edition in editions.EDITIONS:
        names = [path.name for path in sorted((tmp_path / edition).glob("*.ipynb"))]
        assert names == [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
        assert sorted((tmp_path / edition).glob("quiz_*.md"))
    said = capsys.readouterr().out
    assert re.search(r"student: \d+ notebooks, \d+ exercises, \d+ quizzes", said) and "instructor" in said
    first = (tmp_path / "student" / CHAPTERS[0].name).read_text(encoding="utf-8")
    editions.main(["--to", str(tmp_path)])
    assert (tmp_path / "student" / CHAPTERS[0].name).read_text(encoding="utf-8") == first


def test_a_stub_keeps_signature_docstring_and_check_only():
    solution = (
        'limit = 3\n\ndef add(one, other=2):\n    """Sum\n    of two."""\n    return one + other\n\n'
        "gl.exercises.add(add)\nprint(add(1, limit))\n"
    )
    assert editions.stub(solution) == (
        'def add(one, other=2):\n    """Sum\n    of two."""\n    raise NotImplementedError  # your code here\n\n\n'
        "gl.exercises.add(add)"
    )
    with pytest.raises(ValueError, match="add must have a docstring"):
        editions.stub("def add(one, other):\n    return one + other\n")


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["exercise-start", "solution-start"], "solution-start where exercise is open"),
        (["solution-end"], "solution-end where nothing is open"),
        (["exercise-start", "solution-end"], "solution-end where exercise is open"),
        (["exercise-start"], "exercise is never closed"),
    ],
)
def test_fences_that_do_not_match_are_refused(kinds, said):
    text = "\n".join(f"```{{{kind}}} x\n```" for kind in kinds)
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}
    with pytest.raises(ValueError, match=said):
        editions.make({"cells": [cell]}, "01_x", "student")
    with pytest.raises(ValueError, match="edition must be one of student, instructor, got 'teacher'"):
        editions.make({"cells": []}, "01_x", "teacher")


def test_roles_become_words():
    text = "a {term}`round`, {term}`clients <client>`, {cite}`zhu2019dlg,geiping2020ig` and {cite:t}`x`"
    assert editions.plain(text) == "a round, clients, [zhu2019dlg, geiping2020ig] and [x]"


def given(path):
    """What a student is given of the solutions of a notebook: stubs, as their lines."""
    texts = [editions.source(cell) for cell in editions.make(read(path), path.stem, "student")["cells"]]
    return {line.strip() for text in texts for line in text.splitlines()}


def answers(path):
    """The lines of every solution, in a piece or in several, that are long enough to be told from others."""
    inside, lines = None, set()
    for piece in editions.pieces(read(path)["cells"], path.stem):
        if fence := piece.get("fence"):
            inside = fence["kind"] == "solution-start"
        elif inside and "marking" not in editions.tags(piece):
            text = editions.source(piece)
            stub = editions.stub(text).splitlines() if editions.checks(text) else []
            left = [line.strip() for line in text.splitlines() if line not in stub]
            lines |= {line for line in left if len(line) > 25 and not line.startswith("for ")}
    return lines


def test_no_line_of_a_solution_is_in_what_students_get():
    """Student notebooks, exercises alone, pages and quizzes: compared line by line with every solution there is."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    solved = {path.stem: answers(path) for path in notebooks}
    assert {"choose_a_defence", "lab_dials"} < {name for name, lines in solved.items() if lines}
    shown = {path.stem: given(path) for path in notebooks}
    for page in sorted((ROOT / "book").rglob("*.md")):
        shown[page.stem] = {line.strip() for line in page.read_text(encoding="utf-8").splitlines()}
    found = [(who, where, line) for who, lines in solved.items() for where, seen in shown.items()
             for line in lines & seen]  # fmt: skip
    assert not found


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("quiz_*.md")), ids=lambda path: path.stem)
def test_quizzes_keep_their_options_and_lose_their_reasons(path):
    page = path.read_text(encoding="utf-8")
    options = [(found["option"], found["reason"]) for found in editions.OPTION.finditer(page)]
    student, instructor = (editions.quiz(page, edition) for edition in editions.EDITIONS)
    assert page.count(":::{dropdown}") == len(options) and ":::" not in student + instructor
    for option, reason in options:
        assert f"- {option}\n" in student and f"- {option} {reason}\n" in instructor
        assert reason not in student
    assert not re.search(r"\*\*(Right|Wrong)|open the answer", student)
    assert re.findall(r"^## .+$", student, flags=re.M) == re.findall(r"^## .+$", page, flags=re.M)
