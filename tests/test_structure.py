"""The house: every import of the package goes down, and none goes round; read from the sources, without importing them.

The floors are declared once, in the table of CONTRIBUTING.md under "The house on one screen": rooms higher in the table
may import rooms lower in it. A room is a folder of ``glutils`` (of ``attacks``: a folder or module in it), and ``_*``
stands for the helper modules beside them.
"""

import ast
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "glutils"
SPLIT = ("attacks",)
"""Folders whose parts are rooms of their own; the folder itself, which only hands on names, is a room above them."""
LONGEST = 300
SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").glob("*.py")])


class Arrow(NamedTuple):
    """An import statement: from a module to a module, at a line; ``runs`` unless it is for type checkers only."""

    source: str
    target: str
    line: int
    runs: bool

    def __str__(self):
        return f"{self.source} (line {self.line}) -> {self.target}"


def modules(package):
    """Dotted name to file, of every module; a folder's name stands for its ``__init__``."""
    files = sorted(package.rglob("*.py"))
    dotted = [".".join((package.name, *file.relative_to(package).with_suffix("").parts)) for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(dotted, files, strict=True)}


def arrows(package):
    """Every import of a module of the package by another, wherever it stands: at the top, in a function, in a branch.

    ``from .room import name`` leads to the module ``room.name`` if there is one, to ``room`` otherwise. Python runs a
    folder's ``__init__`` before a module in it: entering a folder leads to its ``__init__``, too.
    """
    known, found = modules(package), []
    for name, file in known.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        guarded = {node for branch in ast.walk(tree) if _for_types(branch) for node in ast.walk(branch)}
        home = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(tree):
            for target in _targets(node, home, known):
                path = target.split(".")
                entered = [".".join(path[:count]) for count in range(2, len(path))]
                entered = [folder for folder in entered if not name.startswith(f"{folder}.") and folder != name]
                for module in (*entered, target):
                    found.append(Arrow(name, module, node.lineno, node not in guarded))
    return list(dict.fromkeys(found))


def _for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _targets(node, home, known):
    """Modules of the package that an import statement names; names that a module hands on lead to that module."""
    top = home.split(".")[0]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] == top]
    if not isinstance(node, ast.ImportFrom):
        return []
    path = home.split(".")[: len(home.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*path, *([node.module] if node.module else [])])
    if base.split(".")[0] != top:
        return []
    full = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in known else base for name in full]


def room(module):
    """The room of a module, such as ``models``, ``attacks/matching`` or ``_*``; the package itself is ``glutils``."""
    _, *path = module.split(".")
    if not path:
        return "glutils"
    if path[0].startswith("_"):
        return "_*"
    return "/".join(path[:2]) if path[0] in SPLIT else path[0]


def floors(text):
    """The rooms of CONTRIBUTING's table, each with the number of its floor, 0 at the bottom."""
    table = re.search(r"^## The house on one screen\n.*?\n((?:\|[^\n]*\n)+)", text, flags=re.S | re.M)[1]
    rows = [row.split("|")[1] for row in table.splitlines()[2:]]
    return {name: level for level, row in enumerate(reversed(rows)) for name in re.findall(r"`([^`]+)`", row)}


def upward(found, levels):
    """Arrows between rooms that do not lead to a lower floor. The package itself stands above all."""
    levels = {**levels, "glutils": len(levels)}
    return [
        str(arrow) for arrow in found
        if room(arrow.source) != room(arrow.target) and levels[room(arrow.source)] <= levels[room(arrow.target)]
    ]  # fmt: skip


def circles(found):
    """Groups of modules that import each other, each as the arrows inside of it."""
    leads = {}
    for arrow in found:
        leads.setdefault(arrow.source, set()).add(arrow.target)

    def reached(start):
        seen, queue = set(), [start]
        while queue:
            for target in leads.get(queue.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    queue.append(target)
        return seen

    reach = {name: reached(name) for name in leads}
    return [str(arrow) for arrow in found if arrow.source in reach.get(arrow.target, ())]


@pytest.fixture(scope="module")
def found():
    return arrows(PACKAGE)


@pytest.fixture(scope="module")
def levels():
    return floors((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def test_every_room_stands_on_one_floor_and_every_floor_has_rooms_that_exist(levels):
    there = {room(name) for name in modules(PACKAGE)} - {"glutils"}
    assert set(levels) == there, "the table in CONTRIBUTING.md and the folders of glutils differ"
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("## The house on one screen") :].split("\n## ")[0]
    assert all(len(re.findall(rf"^\|[^|]*`{re.escape(name)}`", table, flags=re.M)) == 1 for name in levels)


def test_no_room_imports_from_its_own_floor_or_from_a_higher_one(found, levels):
    assert len(found) > 300, "the imports were not found"
    assert not upward(found, levels)


def test_no_modules_import_each_other_not_even_late(found):
    assert not circles([arrow for arrow in found if arrow.runs])


def test_nothing_inside_the_package_imports_the_package_itself(found):
    assert not [str(arrow) for arrow in found if arrow.target == "glutils"]


def test_no_file_is_too_long_to_be_read_at_once():
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in modules(PACKAGE).items()}
    assert not {name: count for name, count in lengths.items() if count > LONGEST}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_names_that_exist(path):
    """Scripts are not run by the tests, so a name that moved would be missed only when a record is made again."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "glutils":
            module = importlib.import_module(node.module)
            for alias in node.names:
                there = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                assert there, f"{path.name}, line {node.lineno}: {node.module} has no {alias.name}"


# --- the checks themselves


HOUSE = {
    "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import high\n",
    "_help.py": "",
    "low/__init__.py": "from .base import thing\n",
    "low/base.py": "from .. import _help\nthing = 1\n",
    "high/__init__.py": "from .use import other\n",
    "high/use.py": "from ..low import thing\nother = thing\n",
}
TABLE = "## The house on one screen\n\nWords.\n\n| Rooms |\n|---|---|\n| `high` | `no` |\n| `low` | |\n| `_*` | |\n"


def built(folder, **changed):
    """A small package, with files added or replaced (``low__base`` is ``low/base.py``)."""
    for name, text in {**HOUSE, **{f"{key.replace('__', '/')}.py": text for key, text in changed.items()}}.items():
        (folder / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "house" / name).write_text(text, encoding="utf-8")
    return arrows(folder / "house")


def read(found):
    """As for the real house, whose name is another."""
    return upward(found, floors(TABLE)), circles([arrow for arrow in found if arrow.runs])


def test_a_house_in_order_passes(tmp_path):
    assert floors(TABLE) == {"high": 2, "low": 1, "_*": 0}
    assert read(built(tmp_path)) == ([], [])


@pytest.mark.parametrize(
    "statement",
    ["from ..high import other", "from .. import high", "import house.high.use", "from ..high.use import other"],
)
@pytest.mark.parametrize("late", [False, True])
def test_an_import_that_goes_up_is_named_with_its_line(tmp_path, statement, late):
    text = f"def f():\n    {statement}\n" if late else f"\n{statement}\n"
    up, round_ = read(built(tmp_path, low__odd=text))
    assert up[0] == "house.low.odd (line 2) -> house.high" and not round_


def test_a_circle_is_named_whether_it_is_closed_at_the_top_or_late(tmp_path):
    one, other = "from .two import x\n", "def f():\n    from . import one\n"
    up, round_ = read(built(tmp_path, low__one=one, low__two=other))
    assert not up
    assert round_ == ["house.low.one (line 1) -> house.low.two", "house.low.two (line 2) -> house.low.one"]


def test_a_module_that_imports_what_its_own_folder_hands_on_closes_a_circle(tmp_path):
    changed = {"low____init__": "from .base import thing\nfrom .late import f\n", "low__late": "from . import thing\n"}
    (tmp_path / "house" / "low").mkdir(parents=True)
    found = built(tmp_path, **{key: text for key, text in changed.items() if key != "low____init__"})
    assert not circles(found)
    (tmp_path / "house" / "low" / "__init__.py").write_text(changed["low____init__"], encoding="utf-8")
    assert "house.low.late (line 1) -> house.low" in circles(arrows(tmp_path / "house"))


def test_what_only_type_checkers_read_may_close_a_circle_but_not_go_up(tmp_path):
    guard = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    up, round_ = read(built(tmp_path, low__one="from . import two\n", low__two=f"{guard}from . import one\n"))
    assert (up, round_) == ([], [])
    up, _ = read(built(tmp_path, low__odd=f"{guard}from .. import high\n"))
    assert up == ["house.low.odd (line 3) -> house.high"]


def test_helpers_may_import_no_room(tmp_path):
    up, _ = read(built(tmp_path, _help="from .low import thing\n"))
    assert up == ["house._help (line 1) -> house.low"]
