"""The exercises as a course that nbgrader marks by itself, made from the same source as the other editions.

    python tools/autograded.py --to _build/editions/autograded

The folder holds ``source/<chapter>/<chapter>.ipynb`` and a configuration. There ``nbgrader generate_assignment
<chapter>`` makes what students get: without the solutions, and without the hidden tests. A *Code* exercise is marked by
the book's own check, on the cases that students see and on hidden ones, and earns all of its points or none. Written
answers and experiments wait for a reader, who finds solution and hint for marking in the source. Points are those of
the hints. What an exercise continues from its chapter is not there, so experiments are made in the student edition.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import sys
from pathlib import Path

import editions

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (1, 2, 3)
"""Of the hidden cases; students see those of seed 0."""
BEGIN, END = "BEGIN SOLUTION", "END SOLUTION"
CONFIG = f'''# Run nbgrader in this folder: it looks for source/ here.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "leaky-scalars"
c.ClearSolutions.code_stub = {{"python": "{editions.STUB}"}}
c.ClearSolutions.text_stub = "*Your answer here.*"
c.ExecutePreprocessor.timeout = 300
'''
NOTE = """*Autograded edition, made from `notebooks/{stem}.ipynb` with `make editions`.* {count} exercises, {points} \
points in all, {automatic} of them for code that is checked by itself. Run all cells before you hand this in."""


def main(arguments: list[str] | None = None) -> int:
    """Write the course; an existing one at that place is replaced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    to = ROOT / "_build" / "editions" / "autograded"
    parser.add_argument("--to", type=Path, default=to, help="folder for the course")
    to = parser.parse_args(arguments).to
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    (to / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    made = 0
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if notebook := make(json.loads(path.read_text(encoding="utf-8")), path.stem):
            folder = to / "source" / path.stem
            folder.mkdir(parents=True)
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            (folder / path.name).write_text(text, encoding="utf-8")
            made += 1
    print(f"autograded: {made} notebooks, in {to}")
    return 0


def make(notebook: dict, stem: str) -> dict | None:
    """The exercises of a notebook as nbgrader's source; ``None`` where none has points."""
    worth = editions.points(list(editions.pieces(notebook["cells"], stem)))
    if not sum(worth):
        return None
    whole = editions.alone(notebook, stem, "instructor")
    title, imports = whole["cells"][0], whole["cells"][2]
    cells, automatic = [], 0
    for number, points in enumerate(worth, 1):
        block = [cell for cell in whole["cells"] if cell["metadata"].get("exercise") == number]
        at = [editions.source(cell) for cell in block].index("**Solution**")
        asked, solution = block[:at], block[at + 1 :]
        cells += [about(cell, f"exercise-{number}-text-{n}", locked=True) for n, cell in enumerate(asked)]
        answers = [cell for cell in solution if cell["cell_type"] == "code" and editions.checks(editions.source(cell))]
        if answers:
            automatic += points
            for n, cell in enumerate(answers):
                answer = editions.code(cell, marked(editions.source(cell)))
                cells.append(about(answer, f"exercise-{number}-answer-{n}", solution=True))
            names = [name for cell in answers for name in editions.checks(editions.source(cell))]
            cells.append(about(editions.code(block[0], test(names)), f"exercise-{number}-test", points, locked=True))
        else:
            cells.append(about(written(solution), f"exercise-{number}-answer", points, solution=True))
    told = NOTE.format(stem=stem, count=len(worth), points=sum(worth), automatic=automatic)
    head = [title, editions.markdown({"id": "edition"}, told), about(imports, "imports", locked=True)]
    return whole | {"cells": [*head, *cells]}


def marked(solution: str) -> str:
    """A solution's functions, each with its body between the marks by which nbgrader takes it out."""
    lines, parts = solution.splitlines(), []
    for node in ast.parse(solution).body:
        if isinstance(node, ast.FunctionDef):
            indent, last = " " * node.body[0].col_offset, node.body[0].end_lineno
            body = lines[last : node.end_lineno]
            parts.append([*lines[node.lineno - 1 : last], f"{indent}### {BEGIN}", *body, f"{indent}### {END}"])
    return "\n\n\n".join("\n".join(part) for part in parts)


def test(names: list[str]) -> str:
    """The cell that earns the points: the check as students see it, and hidden ones on other cases."""
    seen = [line for name in names for line in (f"verdict = gl.exercises.{name}({name})", "assert verdict, verdict")]
    hidden = ["### BEGIN HIDDEN TESTS", f"for seed in {SEEDS}:"]
    for name in names:
        hidden += [f"    verdict = gl.exercises.{name}({name}, seed=seed)", "    assert verdict, verdict"]
    return "\n".join([*seen, *hidden, "### END HIDDEN TESTS"])


def written(solution: list[dict]) -> dict:
    """A cell for an answer in words; the solution and the hint for marking stand between nbgrader's marks."""
    told = [
        editions.source(cell) if cell["cell_type"] == "markdown" else f"```python\n{editions.source(cell)}\n```"
        for cell in solution
    ]
    return editions.markdown(solution[0], "\n\n".join([f"<!-- {BEGIN} -->", *told, f"<!-- {END} -->"]))


def about(cell: dict, name: str, points: int = 0, *, solution: bool = False, locked: bool = False) -> dict:
    """A cell with what nbgrader keeps about it (its schema 3)."""
    kept = {"grade": bool(points), "grade_id": name, "locked": locked, "schema_version": 3, "solution": solution}
    kept |= {"task": False} | ({"points": points} if points else {})
    return cell | {"id": name, "metadata": {"nbgrader": kept}}


if __name__ == "__main__":
    sys.exit(main())
