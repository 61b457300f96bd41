"""What every notebook of the book keeps to, so that readers know where to look and nothing runs by surprise."""

import ast
import json
import re
from pathlib import Path

import pytest

from glutils.runs import notebook as runner

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_WORDS, MAX_LINES = 2000, 60
TAGS = {
    "parameters", "hide-input", "hide-output", "hide-cell", "remove-input", "remove-output", "remove-cell",
    "nbval-ignore-output", "nbval-check-output", "solution", "marking",
}  # fmt: skip
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell", "parameters", "solution"}
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return set(cell["metadata"].get("tags", []))


def visible_code(path):
    """Code cells that a reader sees unfolded; those between solution-start and solution-end are folded away."""
    visible, solution = [], False
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            marks = re.findall(r"\{solution-(start|end)\}", source(cell))
            solution = marks[-1] == "start" if marks else solution
        elif not solution and not tags(cell) & FOLDED:
            visible.append(cell)
    return visible


def test_is_stored_without_outputs(path):
    """That it is a valid notebook is checked with its editions, in test_editions.py."""
    assert json.loads(path.read_text(encoding="utf-8"))["nbformat"] == 4
    for cell in cells(path, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None, "strip the outputs before you commit"
        assert not {"execution", "papermill"} & set(cell["metadata"])


def test_metadata_name_no_machine(path):
    about = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert about["kernelspec"]["name"] == "python3"
    assert set(about) <= {"kernelspec", "language_info"}
    assert set(about.get("language_info", {})) <= {"name"}, "a version of Python would change with every machine"


def test_one_cell_of_parameters_each_annotated_and_explained(path):
    declared = runner.parameters(path)
    assert declared
    for parameter in declared.values():
        assert parameter.comment, f"{parameter.name} has no comment"
        assert parameter.check(parameter.default) == parameter.default


def test_papermill_finds_every_parameter(path):
    """Else it warns about a right name, as about a misspelt one, and takes it all the same."""
    from papermill.translators import PythonTranslator  # here, because it loads much

    (cell,) = (cell for cell in cells(path, "code") if "parameters" in tags(cell))
    found = PythonTranslator.inspect({"source": source(cell)})
    assert [parameter.name for parameter in found] == list(runner.parameters(path))


def test_opens_with_title_and_a_claim_of_one_sentence(path):
    first = source(json.loads(path.read_text(encoding="utf-8"))["cells"][0]).strip()
    title, claim = re.split(r"\n\s*\n", first, maxsplit=2)[:2]
    assert re.fullmatch(r"# \S.*", title)
    plain = re.sub(r"\{[^}]*\}`[^`]*`|`[^`]*`|\$[^$]*\$", "it", claim).strip("*_ \n")
    assert len(re.findall(r"[.!?](?=\s|$|\*)", plain)) == 1 and plain[-1] in ".!?", f"not one sentence: {claim!r}"


def test_tells_objectives_prerequisites_and_time_before_any_code(path):
    opening = ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            break
        opening += source(cell) + "\n"
    for word in ("Objectives", "Prerequisites", "Time"):
        assert re.search(rf"\b{word}\b", opening), f"{word} is missing"


def words(texts):
    """Words of Markdown, formulas left out."""
    prose = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", " ", "\n".join(texts), flags=re.S)
    return len(re.findall(r"\b[A-Za-z][\w'’-]*", prose))


def test_is_short(path):
    """The chapter; and, counted apart from it, its exercises with their solutions and hints for marking."""
    chapter, exercises = [], []
    into = chapter
    for cell in cells(path, "markdown"):
        for part in re.split(r"^(?=## )", source(cell), flags=re.M):
            if part.startswith("## "):
                into = exercises if part.startswith("## Exercises") else chapter
            into.append(part)
    assert words(chapter) < MAX_WORDS, f"{words(chapter)} words"
    assert words(exercises) < MAX_WORDS // 2, f"{words(exercises)} words of exercises"
    lines = sum(bool(line.strip()) for cell in visible_code(path) for line in source(cell).splitlines())
    assert lines <= MAX_LINES, f"{lines} visible lines of code; what is longer belongs in glutils"


def test_set_up_is_folded(path):
    for cell in visible_code(path):
        assert not re.search(r"^\s*(import|from)\s", source(cell), flags=re.M), (
            "imports belong in the folded set-up cell"
        )


def test_tags_are_known(path):
    for cell in cells(path, "code") + cells(path, "markdown"):
        assert tags(cell) <= TAGS, f"unknown tags {sorted(tags(cell) - TAGS)}; known: {sorted(TAGS)}"


def test_figures_carry_alt_text(path):
    """Figures reach the page through glutils.show, which asks for alt text; tools/stage.py checks what was drawn."""
    for cell in cells(path, "code"):
        code = source(cell)
        if cell["metadata"].get("mystnb", {}).get("image", {}).get("alt"):
            continue
        assert not re.search(r"\bplt\.show\(|\bdisplay\(\s*fig|\.plot\(.*\);?\s*$", code), (
            "show it with gl.show.figure(fig, alt)"
        )
        if re.search(r"\bplt\.(subplots|figure)\(", code):
            assert "show.figure(" in code, "show it with gl.show.figure(fig, alt)"


def test_code_parses_and_reaches_nothing_outside(path):
    for cell in cells(path, "code"):
        code = source(cell)
        ast.parse(code)
        assert not re.search(r"https?://|download\s*=\s*True|urlopen|requests\.", code), "runs must need no network"
        assert not re.search(r"(?<![\w.])/(home|root|tmp|Users)/", code), "a path of one machine"


def test_errors_that_are_meant_are_caught(path):
    """papermill does not honour ``raises-exception``: catch the error in the cell and print it."""
    assert not any("raises-exception" in tag for cell in cells(path, "code") for tag in tags(cell))
