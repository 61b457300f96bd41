"""What the text says about the code is so: names, parameters and values in pages and notebooks are ones that exist.

Read are the inline literals and the fenced Python of ``book/``, README, CONTRIBUTING and the notebooks' text.
"""

import ast
import functools
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import pytest

import glutils as gl
from glutils.solvers import search

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").rglob("*.md")), *NOTEBOOKS]
SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").glob("*.py")])
FENCE = re.compile(r"^ *```(?:python)?\n(.*?)^ *```", flags=re.S | re.M)
NAME = re.compile(r"\b(?:gl|glutils)(?:\.[A-Za-z_]\w*)+")
PLACEHOLDERS = {"gl.exercises.NAME"}
STILL = {"gl.live", "glutils.latent", "glutils.decoder", "glutils.imprint", "glutils.attacks.zerogla",
         "glutils.attacks.generative", "glutils.attacks.fc", "glutils.attacks.rtf"}  # fmt: skip
"""Old names in the changelog that lead somewhere still: a shorter way, or a folder where a module was."""
TORCH = {"create_graph", "dim"}
"""Parameters of PyTorch that the text explains."""


def cells(path, kind):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.suffix == ".ipynb" else []
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def prose(path):
    return "\n\n".join(cells(path, "markdown")) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


def literals(text):
    """Inline literals, roles such as ``{term}`...``` left out."""
    return re.findall(r"(?<![}`])`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.S))


def resolve(name):
    """The object behind ``gl.room.thing``; ``AttributeError`` if there is none."""
    found = gl
    for part in name.split(".")[1:]:
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(f"{found.__name__}.{part}")
            except (ImportError, AttributeError):
                raise AttributeError(f"{name}: there is no {part!r} in {found!r}") from None
    return found


@pytest.mark.parametrize("path", TEXTS + SCRIPTS, ids=lambda path: path.name)
def test_names_of_the_package_exist(path):
    text = prose(path)
    code = [text] if path in SCRIPTS else [*literals(text), *FENCE.findall(text), *cells(path, "code")]
    gone = []
    for name in {name for part in code for name in NAME.findall(part)} - PLACEHOLDERS:
        try:
            None if name.endswith(".py") else resolve(name)
        except AttributeError as error:
            gone.append(str(error))
    assert not gone


def test_a_name_that_is_gone_is_found():
    assert NAME.findall("gl.runs.record(x) and `glutils.zo`") == ["gl.runs.record", "glutils.zo"]
    for name in ("gl.check", "gl.runs.leaderboard", "gl.hidden.as_slopes", "gl.observation.Observation.colour"):
        with pytest.raises(AttributeError, match=f"{name}: there is no"):
            resolve(name)


# --- parameters and their values


@pytest.fixture(scope="module")
def parameters():
    """Parameter to the modules of the functions, classes and methods of the package that have it."""
    found = {}
    for info in pkgutil.walk_packages(gl.__path__, "glutils."):
        module = importlib.import_module(info.name)
        for thing in vars(module).values():
            if getattr(thing, "__module__", "").startswith("glutils") and callable(thing):
                methods = [part for part in vars(thing).values() if inspect.isfunction(part)] if isinstance(
                    thing, type) else []  # fmt: skip
                for function in (thing, *methods):
                    for name in _signature(function):
                        found.setdefault(name, set()).add(thing.__module__)
    return found


def _signature(thing):
    try:
        return inspect.signature(thing).parameters
    except (TypeError, ValueError):
        return {}


def arguments(literal):
    """Function (``None`` if it is not named) and keyword arguments of ``name=value`` or ``f(name=value)``."""
    try:
        tree = ast.parse(literal if re.match(r"[\w.]+\(", literal) else f"_({literal.rstrip('=') + '=...'})"
                         if literal.endswith("=") else f"_({literal})", mode="eval").body  # fmt: skip
    except SyntaxError:
        return None, {}
    if not isinstance(tree, ast.Call):
        return None, {}
    function = ast.unparse(tree.func)
    return None if function == "_" else function, {word.arg: word.value for word in tree.keywords if word.arg}


@functools.cache
def own(path):
    """Names that a notebook binds itself: its parameters, and the arguments of functions that it defines."""
    found = set()
    for cell in cells(path, "code"):
        try:
            tree = ast.parse(re.sub(r"^[%!].*$", "", cell, flags=re.M))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found


def complaints(path, text, parameters):
    """What literals of a text say of parameters that no function has, or of words that their modules do not know."""
    found = []
    for literal in literals(text):
        function, given = arguments(literal)
        if function and function.startswith(("gl.", "glutils.")) and function not in PLACEHOLDERS:
            allowed = _signature(resolve(function))
            found += [f"{literal}: no {name!r}" for name in given if name not in allowed and not _open(allowed)]
        for name, value in given.items():
            if name in TORCH or name in own(path) or name.isupper():  # capitals: a variable of the environment
                continue
            if name not in parameters:
                found.append(f"{literal}: no function has a parameter {name!r}")
            elif isinstance(value, ast.Constant) and isinstance(value.value, str):
                if not any(value.value in words(module) for module in parameters[name]):
                    found.append(f"{literal}: nothing that has {name!r} knows the word {value.value!r}")
    return found


def _open(allowed):
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in allowed.values())


@functools.cache
def words(module):
    """Strings in a module, and the names of the registries, for functions that take one of those."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return found | {*gl.attacks.names(), *gl.models.names(), *gl.labels.names(), *gl.defenses.names()}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_parameters_and_their_words_exist(path, parameters):
    assert not complaints(path, prose(path), parameters)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ask for `keep="best"`', "knows the word 'best'"),
        ("with `flavour=2`", "no function has a parameter 'flavour'"),
        ("`gl.protocols.FedAvg(rate=0.1)`", "no 'rate'"),
        ('`keep="last"`, `gl.protocols.FedAvg(epochs=10, lr=0.01)`, {term}`x=y`', None),
    ],
)
def test_wrong_literals_are_found(text, said, parameters):
    found = complaints(ROOT / "README.md", text, parameters)
    assert (said in found[0]) if said else not found


def test_values_on_the_page_about_attacks_are_accepted_by_the_search_it_describes():
    """Each ``keyword="value"`` of `search` on the page is passed to it; what is said to be refused, is."""
    given = [arguments(literal)[1] for literal in literals(prose(ROOT / "book" / "add_an_attack.md"))]
    given = [(name, value.value) for words in given for name, value in words.items()]
    assert len(given) >= 2 and {name for name, _ in given} <= set(inspect.signature(search).parameters)

    def solve(trace, generator):
        trace.report(0, 1.0, (gl.data.sample("digits", count=1).images,))

    for name, value in given:
        assert search(solve, iterations=0, progress=False, **{name: value}).loss == 1.0
    with pytest.raises(ValueError, match="keep must be one of"):
        search(solve, iterations=0, keep="best")


# --- files


PATH = re.compile(r"(?<![\w/.])(?:glutils|tests|book|notebooks|tools|benchmarks)/[\w./-]*\w/?")
LATER = {"glutils/attacks/matching/coarse.py", "tests/test_coarse.py"}
"""What the page about attacks asks the reader to write."""


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_files_that_the_text_names_exist(path):
    for literal in literals(prose(path)):
        for name in PATH.findall(re.sub(r"\S*[<*]\S*", "", literal)):
            assert name in LATER or (ROOT / name).exists(), f"{path.name}: {name}"


# --- the list of renamed words


def renamed():
    """Old and new names with a path, row by row, from the tables of the changelog."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", text, flags=re.M)
    return [tuple(re.findall(r"`((?:gl|glutils)\.[\w.]+)`", cell) for cell in row) for row in rows]


def test_renamed_words_are_gone_and_their_new_names_are_there():
    assert sum(bool(new) for _, new in renamed()) > 15
    for old, new in renamed():
        for name in new:
            resolve(name)
        for name in set(old) - STILL:
            with pytest.raises(AttributeError, match="there is no"):
                pytest.fail(f"{name} is still {resolve(name)}")


def formulas(text):
    """Formulas in a text, inline and displayed."""
    return re.findall(r"\$\$(.*?)\$\$", text, flags=re.S) + re.findall(r"(?<!\$)\$([^$\n]+)\$(?!\$)", text)


def test_an_equation_that_is_named_has_a_number():
    """Every reference to an equation finds the one label of that name; no label stands twice."""
    texts = {path.name: prose(path) for path in NOTEBOOKS}
    labels = [name for text in texts.values() for name in re.findall(r"\$\$\s*\((eq-[a-z-]+)\)", text)]
    named = {name for text in texts.values() for name in re.findall(r"\{eq\}`([^`]+)`", text)}
    assert named and named <= set(labels), named - set(labels)
    assert len(labels) == len(set(labels)), "a label stands twice"


MEANINGS = {  # a letter of the table, and a word of its meaning: a page that uses the one says the other
    r"\\lambda": "damping",
    r"\\alpha": "prior",
    r"\\eta": "step",
    r"(?<![\\A-Za-z])R(?![A-Za-z])": "prior",
    r"(?<![\\A-Za-z])G(?![A-Za-z])": "generator|decoder",
    r"(?<![\\A-Za-z])v(?![A-Za-z])": "direction",
    r"(?<![\\A-Za-z])z_": "generator|recipe",
}


@pytest.mark.parametrize("letter", MEANINGS)
def test_a_letter_stands_where_its_meaning_is_told(letter):
    """The letters that once had two meanings, outside words of formulas such as ``\\mathrm{...}``."""
    strangers, found = [], 0
    for path in NOTEBOOKS:
        text = prose(path)
        plain = [re.sub(r"\\(?:mathrm|text|operatorname|mathbb)\{[^}]*\}", "", formula) for formula in formulas(text)]
        used = [formula for formula in plain if re.search(letter, formula)]
        found += len(used)
        if used and not re.search(MEANINGS[letter], text):
            strangers.append(f"{path.name}: {used[0]}")
    assert found and not strangers, strangers


def test_a_symbol_means_the_same_in_every_chapter():
    """The Greek letters that once had two meanings; the table of symbols in ``book/how_to_use.md`` has them."""
    listed = formulas(prose(ROOT / "book" / "how_to_use.md").partition("## Notation")[2])
    assert {r"\sigma_j", r"\sigma", r"\tau", r"\delta x", r"\varepsilon", r"\mu", r"\lambda"} <= set(listed)
    for path in NOTEBOOKS:
        text = prose(path)
        for formula in formulas(text):
            for name, after in re.findall(r"\\(delta|sigma|tau)(?![a-z])(.{0,3})", formula, flags=re.S):
                where = f"{path.name}: {formula}"
                if name == "delta" and not re.match(r" [xs]", after):
                    assert r"\varepsilon" in text and not after.startswith("_"), f"{where}: a change is delta x"
                if name == "sigma" and not after.startswith("_"):
                    assert "noise multiplier" in text or r"\sigma C" in text, f"{where}: noise on a message is tau"
                assert name != "tau" or not after.startswith("_"), where
