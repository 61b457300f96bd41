"""The index of published records: what made each of ``benchmarks/results``, and which pages read it.

Read from the records, from the benchmarks' docstrings, and from the sources of notebooks, claims and pages.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "benchmarks/results"
UNREAD = "no page"
ANY = r"[\w-]+"


def names() -> list[str]:
    """Names of the published records."""
    return sorted(path.stem for path in (ROOT / RESULTS).glob("*.json"))


@functools.cache
def docstrings() -> dict[str, str]:
    """Path of each benchmark from the root to its docstring."""
    paths = sorted((ROOT / "benchmarks").glob("*.py"))
    found = {path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) for path in paths}
    return {path.relative_to(ROOT).as_posix(): doc or "" for path, doc in found.items()}


def documented(name: str) -> tuple[str, str]:
    """Script and command of a record, as the script's docstring names them.

    Raises:
        ValueError: no benchmark names the record, or several do.
    """
    line = re.compile(rf"^    {re.escape(name)}: (python (?:\\\n|.)*)$", flags=re.M)
    found = {}
    for path, doc in docstrings().items():
        if match := line.search(doc):
            found[path] = re.sub(r"\s*\\\n\s*", " ", match[1])
    if len(found) != 1:
        raise ValueError(f"record {name!r} must be named by one benchmark's docstring, got {sorted(found) or 'none'}")
    return found.popitem()


def claims_of(text: str) -> set[str]:
    """The records that a file of claims takes numbers from."""
    rows = yaml.safe_load(text)["rows"]
    return {value[0] for row in rows for value in row.get("values", {}).values()}


def read_by(notebook: dict, available: list[str]) -> set[str]:
    """The records that a notebook names, as it is or put together from its parameters.

    A name counts where a string of a code cell, or an f-string with the parameters' defaults filled in, is made of it;
    what is filled in by other variables has to be a word of some string in the notebook.
    """
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    nodes, defaults = [], {}
    for cell in cells:
        tree = ast.parse("".join(cell["source"]))
        nodes += ast.walk(tree)
        if "parameters" in cell["metadata"].get("tags", []):
            defaults = {node.target.id: node.value for node in tree.body if isinstance(node, ast.AnnAssign)}
    given = {name: str(node.value) for name, node in defaults.items() if isinstance(node, ast.Constant)}
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    words = {word.removesuffix(".json") for text in strings for word in re.split(r"[\s/]+", text)}
    patterns = []
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [filled(part, given) for part in node.values]
            if re.search(r"[a-z]\w*", re.sub(re.escape(ANY), "", "".join(parts))):
                patterns.append(re.compile("".join(f"({part})" if part == ANY else part for part in parts)))
    made = {
        name for name in available for pattern in patterns
        if (match := pattern.fullmatch(name)) and all(group in words for group in match.groups())
    }  # fmt: skip
    return {name for name in available if name in words} | made


def filled(part: ast.expr, given: dict[str, str]) -> str:
    """A piece of an f-string as a regular expression."""
    if isinstance(part, ast.Constant):
        return re.escape(str(part.value))
    name = part.value.id if isinstance(part.value, ast.Name) else ""
    return re.escape(given[name]) if name in given else ANY


@functools.cache
def readers() -> dict[str, list[str]]:
    """Record to the files that read it: notebooks, files of claims, pages; paths from the root."""
    available = names()
    found: dict[str, list[str]] = {name: [] for name in available}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for name in sorted(read_by(json.loads(path.read_text(encoding="utf-8")), available)):
            found[name].append(path.relative_to(ROOT).as_posix())
    for path in sorted((ROOT / "book" / "claims").glob("*.yaml")):
        for name in sorted(claims_of(path.read_text(encoding="utf-8"))):
            found.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    for path in sorted((ROOT / "book").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for name in available:
            if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
                found[name].append(path.relative_to(ROOT).as_posix())
    return found


def links(paths: list[str]) -> str:
    """Readers as the page shows them: notebooks and pages, then the documents of the claims page by their numbers."""
    pages = [path for path in paths if not path.endswith(".yaml")]
    made = [f"[{Path(path).stem}]({f'../{path}' if path.endswith('.ipynb') else Path(path).name})" for path in pages]
    documents = [Path(path).stem.partition("_")[0] for path in paths if path.endswith(".yaml")]
    made += [f"[claims](../notebooks/claims.ipynb) {', '.join(documents)}"] if documents else []
    return "; ".join(made) or UNREAD


def lines() -> list[dict[str, str]]:
    """One line for each record, by column."""
    import glutils as gl

    read, made = readers(), []
    for name in names():
        book = gl.runs.load(ROOT / RESULTS / f"{name}.json")
        script, command = documented(name)
        told = f"`{book.command}`" if book.command else f"not recorded; its script says `{command}`"
        made.append({
            "Record": f"`{name}`",
            "Script": f"`{book.script or script}`",
            "Command line": told,
            "Commit": book.made_from + (f", some rows before: {shortened(book.earlier)}" if book.earlier else ""),
            "Changes": f"`{book.changes}`" if book.changes else "not recorded" if book.clean is False else "",
            "Written": book.written[:10],
            "Device": book.device,
            "Seconds": "not recorded" if book.seconds is None else f"{book.seconds:,.0f}",
            "Read by": links(read[name]),
        })  # fmt: skip
    return made


def shortened(commits: list[str]) -> str:
    """Commits as tables show them."""
    return ", ".join(commit if commit == "not known" else commit[:7] for commit in commits)
