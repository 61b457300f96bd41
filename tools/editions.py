"""Make the editions of the notebooks from their one source: for students, for instructors, exercises, solutions.

    python tools/editions.py --to _build/editions

The notebooks hold every solution, folded on the built page. In the student edition a solution that ends with a check
(``gl.exercises.<name>(<name>)``) becomes a stub: signature, docstring, ``raise NotImplementedError``, and the check.
Other solutions, and the hints for marking, are left out. The instructor edition has all of them. Directives become
plain headings in both, so that exercises read well in any notebook program, and each says its points. Notebooks without
exercises are copied. ``exercises`` and ``solutions`` hold, for each chapter, its exercises alone: to hand in, and to
compare with; what an exercise continues from the chapter is not in them. Quizzes go with them, for students without
the answers.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import re
import shutil
import sys
from pathlib import Path

import contents

ROOT = Path(__file__).resolve().parent.parent
EDITIONS = ("student", "instructor")
ALONE = {"exercises": "student", "solutions": "instructor"}
"""Editions that hold the exercises alone, and the whole edition that each is a part of."""
STUB = "raise NotImplementedError  # your code here"
FENCE = re.compile(
    r"^(?P<fence>`{3,})\{(?P<kind>(?:exercise|solution)-(?:start|end))\}[ \t]*(?P<title>[^\n]*)\n"
    r"(?P<options>.*?)^(?P=fence)[ \t]*$\n?",
    flags=re.M | re.S,
)
WHOLE = re.compile(
    r"^(?P<fence>`{3,})\{(?P<kind>exercise|solution)\}[ \t]*(?P<title>[^\n]*)\n(?P<options>(?::[^\n]*\n)*)\n?"
    r"(?P<text>.*?)^(?P=fence)[ \t]*$\n?",
    flags=re.M | re.S,
)
"""An exercise or a solution that opens and closes in one cell."""
OPTION = re.compile(r"^:::\{dropdown\} (?P<option>[A-E]\. [^\n]+)\n(?P<reason>.*?)\n:::$\n?", flags=re.M | re.S)
OPENED = " Decide first, then open the answer you believe in. It tells whether it is right, and why."
"""What only the built page can do."""
POINT = re.compile(r"\b(\d+)(?: points?)? for (?:(each) of (?:the )?(two|three|four)\b)?")
WORDS = {"two": 2, "three": 3, "four": 4}


def main(arguments: list[str] | None = None) -> int:
    """Write the editions; existing ones at that place are replaced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=ROOT / "_build" / "editions", help="folder for the editions")
    to = parser.parse_args(arguments).to
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for edition in EDITIONS:
        shutil.rmtree(to / edition, ignore_errors=True)
        (to / edition).mkdir(parents=True)
        exercises = 0
        for path in notebooks:
            notebook = make(json.loads(path.read_text(encoding="utf-8")), path.stem, edition)
            exercises += sum("### Exercise " in source(cell) for cell in notebook["cells"])
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            (to / edition / path.name).write_text(text, encoding="utf-8")
        quizzes = sorted((ROOT / "book").glob("quiz_*.md"))
        for path in quizzes:
            (to / edition / path.name).write_text(quiz(path.read_text(encoding="utf-8"), edition), encoding="utf-8")
        told = f"{len(notebooks)} notebooks, {exercises} exercises, {len(quizzes)} quizzes"
        print(f"{edition}: {told}, in {to / edition}")
    for name, edition in ALONE.items():
        shutil.rmtree(to / name, ignore_errors=True)
        (to / name).mkdir(parents=True)
        kept = 0
        for path in notebooks:
            if notebook := alone(json.loads(path.read_text(encoding="utf-8")), path.stem, edition):
                kept += 1
                text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
                (to / name / path.name).write_text(text, encoding="utf-8")
        print(f"{name}: {kept} notebooks, in {to / name}")
    return 0


def make(notebook: dict, stem: str, edition: str) -> dict:
    """One notebook of an edition.

    Args:
        notebook: as read from its source.
        stem: its file name, by which ``_toc.yml`` tells the chapter's number in the book.
        edition: ``"student"`` or ``"instructor"``.

    Raises:
        ValueError: an edition that does not exist, or exercises and solutions that do not open and close in turn.
    """
    if edition not in EDITIONS:
        raise ValueError(f"edition must be one of {', '.join(EDITIONS)}, got {edition!r}")
    made, cells = copy.deepcopy(notebook), []
    found = list(pieces(made["cells"], stem))
    chapter, worth = f"{contents.numbers()[stem]}." if stem in contents.numbers() else "", points(found)
    number, open_block, answered, answer = 0, None, False, None
    for place, cell in enumerate(found):
        if fence := cell.get("fence"):
            kind, part = fence["kind"].split("-")
            if (part == "start") != (open_block is None) or (part == "end" and open_block != kind):
                raise ValueError(f"{stem}: {fence['kind']} where {open_block or 'nothing'} is open")
            open_block = kind if part == "start" else None
            if (kind, part) == ("exercise", "start"):
                title, told = fence["title"].strip(), worth[number]
                number, answered, answer = number + 1, False, markdown(cell, "*Your answer here.*")
                words = f": {title}" if title else ""
                told = f" ({told} point{'s' if told > 1 else ''})" if told else ""
                cells.append(markdown(cell, f"### Exercise {chapter}{number}{words}{told}", exercise=number))
            elif (kind, part) == ("exercise", "end") and edition == "student" and not solved(found[place + 1 :]):
                cells.append(markdown(cell, "*Your answer here.*", exercise=number))
            elif (kind, part) == ("solution", "start") and edition == "instructor":
                cells.append(markdown(cell, "**Solution**", exercise=number))
            elif (kind, part) == ("solution", "end") and edition == "student" and not answered:
                cells.append({**answer, "id": cell["id"], "metadata": {"exercise": number}})
            continue
        if open_block == "solution" and edition == "student":
            if cell["cell_type"] == "code" and checks(source(cell)):
                cells.append(code(cell, stub(source(cell))))
                cells[-1]["metadata"] = {"exercise": number}
                answered = True
            elif cell["cell_type"] == "code":
                answer = code(cell, "# Your answer here.")
            continue
        cells.append(markdown(cell, plain(source(cell))) if cell["cell_type"] == "markdown" else cell)
        if edition == "instructor" and "marking" in tags(cell):
            cells[-1]["metadata"] = {"tags": ["marking"]}
        if open_block:
            cells[-1]["metadata"] = {**cells[-1]["metadata"], "exercise": number}
    if open_block:
        raise ValueError(f"{stem}: {open_block} is never closed")
    made["cells"] = ([note(stem, edition, worth)] if number else []) + cells
    return made


def quiz(page: str, edition: str) -> str:
    """A quiz as plain Markdown: its options as a list, for instructors each with its reason."""
    shown = r"- \g<option>\n" if edition == "student" else r"- \g<option> \g<reason>\n"
    lines = OPTION.sub(shown, page.replace(OPENED, ""))
    return re.sub(r"^(- .*\n)\n(?=- )", r"\1", lines, flags=re.M)


def alone(notebook: dict, stem: str, edition: str) -> dict | None:
    """The exercises of a notebook by themselves, with its title and its imports; ``None`` where it has none."""
    whole = make(notebook, stem, edition)
    kept = [cell for cell in whole["cells"] if "exercise" in cell["metadata"]]
    if not kept:
        return None
    title = next(cell for cell in whole["cells"] if source(cell).startswith("# "))
    title = markdown(title, source(title).split("\n", 1)[0])
    lines = [
        ast.unparse(node)
        for cell in whole["cells"] if cell["cell_type"] == "code" and cell not in kept
        for node in ast.parse(source(cell)).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]  # fmt: skip
    imports = code({"id": "imports"}, "\n".join(dict.fromkeys(lines)))
    return whole | {"cells": [title, *[cell for cell in whole["cells"][:1] if cell["id"] == "edition"], imports, *kept]}


def points(found: list[dict]) -> list[int]:
    """What each exercise is worth: the points that its hint for marking gives; 0 where there is none."""
    worth = []
    for piece in found:
        if piece.get("fence", {}).get("kind") == "exercise-start":
            worth.append(0)
        elif "marking" in tags(piece) and worth:
            worth[-1] += sum(int(n) * WORDS.get(many, 1) for n, _, many in POINT.findall(source(piece)))
    return worth


def solved(rest: list[dict]) -> bool:
    """Whether a solution comes before the next exercise."""
    kinds = [piece["fence"]["kind"] for piece in rest if "fence" in piece]
    return bool(kinds) and kinds[0] == "solution-start"


def pieces(cells: list[dict], stem: str):
    """The cells, with Markdown cut before and after each exercise or solution fence; a fence's piece names it."""
    for cell in cells:
        if cell["cell_type"] != "markdown":
            yield cell
            continue
        text, start, count = WHOLE.sub(opened, source(cell)), 0, 0
        for match in [*FENCE.finditer(text), None]:
            between = text[start : match.start() if match else len(text)].strip()
            if between or (match is None and not count):
                yield {**cell, "id": cell["id"] + (f"-{count}" if count else ""), "source": between}
                count += 1
            if match:
                yield {**cell, "id": f"{cell['id']}-{count}", "source": "", "fence": match.groupdict()}
                start, count = match.end(), count + 1


def opened(found: re.Match) -> str:
    """A directive in one piece as one that starts and one that ends."""
    fence, kind = found["fence"], found["kind"]
    return (
        f"{fence}{{{kind}-start}} {found['title']}\n{found['options']}{fence}\n\n{found['text'].strip()}\n\n"
        f"{fence}{{{kind}-end}}\n{fence}\n"
    )


def stub(solution: str) -> str:
    """What is left of a solution for students: every function without its body, and the checks.

    Raises:
        ValueError: a function without a docstring, which alone would say what to write.
    """
    lines, parts = solution.splitlines(), []
    for node in ast.parse(solution).body:
        if isinstance(node, ast.FunctionDef):
            if ast.get_docstring(node) is None:
                raise ValueError(f"{node.name} must have a docstring: it is all that students see of it")
            head = lines[node.lineno - 1 : node.body[0].end_lineno]
            parts.append("\n".join([*head, " " * node.body[0].col_offset + STUB, "", ""]))
        elif checks(ast.get_source_segment(solution, node)):
            parts.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    return "\n".join(parts)


def checks(text: str) -> list[str]:
    """The names of the exercises that a piece of code checks."""
    return re.findall(r"^gl\.exercises\.(\w+)\(", text, flags=re.M)


def plain(text: str) -> str:
    """Markdown with the book's roles turned into words, for programs that do not know them."""
    text = re.sub(r"\{term\}`([^`<]*?)\s*(?:<[^>]*>)?`", r"\1", text)
    return re.sub(r"\{cite(?::\w+)?\}`([^`]*)`", lambda match: "[" + match[1].replace(",", ", ") + "]", text)


def note(stem: str, edition: str, worth: list[int]) -> dict:
    """The first cell of an edition; it says how many points there are."""
    what = {
        "student": "Solutions are left out. Complete the cells that end with `gl.exercises`; they say what differs.",
        "instructor": "Solutions and hints for marking are included.",
    }[edition]
    text = f"*{edition.capitalize()} edition, made from `notebooks/{stem}.ipynb` with `make editions`.* {what}"
    text += f" Exercises: {len(worth)}, {sum(worth)} points in all." if sum(worth) else ""
    return {"cell_type": "markdown", "id": "edition", "metadata": {}, "source": text}


def markdown(cell: dict, text: str, **metadata: object) -> dict:
    """A Markdown cell with another text."""
    return {"cell_type": "markdown", "id": cell["id"], "metadata": metadata, "source": text}


def code(cell: dict, text: str) -> dict:
    """A code cell without outputs."""
    return {
        "cell_type": "code", "id": cell["id"], "metadata": {}, "execution_count": None, "outputs": [], "source": text,
    }  # fmt: skip


def source(cell: dict) -> str:
    """A cell's text."""
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    """A cell's tags."""
    return cell["metadata"].get("tags", [])


if __name__ == "__main__":
    sys.exit(main())
