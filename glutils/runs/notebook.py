"""A notebook as a function of its parameters: read what it takes, check what it is given, run it.

papermill runs the notebook; what it lacks is added here. It only warns about a parameter that the notebook does not
have (so a typing error runs the defaults, for hours perhaps), it knows no types, and it overwrites its output.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import io
import json
import os
import tempfile
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import provenance

PROFILES = ("fast", "gpu", "paper")
_KEY = "glutils"  # where an executed notebook keeps what it was run with


@dataclass(frozen=True)
class Parameter:
    """One line of a ``parameters`` cell: ``name: annotation = default  # comment``."""

    name: str
    annotation: str
    default: Any
    comment: str

    def check(self, value: Any) -> Any:
        """Return ``value`` if the annotation allows it (an integer becomes a float where one is asked for)."""
        annotation = ast.parse(self.annotation, mode="eval").body
        if not _fits(value, annotation):
            hint = ""
            if isinstance(value, str) and _fits(_literal(value), annotation):
                hint = "; it is a string (YAML reads 1e-4 as a word, 1.0e-4 as a number)"
            raise TypeError(f"{self.name} must be {self.annotation}, got {value!r} ({type(value).__name__}){hint}")
        return float(value) if self.annotation == "float" else value

    def parse(self, text: str) -> Any:
        """The value that ``text`` from a command line stands for, checked."""
        annotation = ast.parse(self.annotation, mode="eval").body
        value = _literal(text)
        if not _fits(value, annotation) and _fits(text, annotation):
            value = text  # a word, or digits where a string is asked for
        return self.check(value)


def find(notebook: str | Path) -> Path:
    """The notebook at a path, or the one of that name (with or without ``.ipynb``) in ``notebooks/``."""
    given = Path(notebook)
    for path in (given, Path("notebooks") / given.name, Path("notebooks") / f"{given.name}.ipynb"):
        if path.is_file():
            return path
    here = sorted(path.stem for path in Path("notebooks").glob("*.ipynb"))
    raise FileNotFoundError(f"no notebook {str(notebook)!r}; in notebooks/: {', '.join(here) or 'none'}")


def parameters(notebook: str | Path) -> dict[str, Parameter]:
    """What the notebook's one cell tagged ``parameters`` declares, in its order."""
    path = Path(notebook)
    cells = _read_notebook(path)["cells"]
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path.name} must have exactly one cell tagged 'parameters', found {len(tagged)}")
    source = "".join(tagged[0]["source"])
    comments = _comments(source)
    found = {}
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            raise ValueError(
                f"{path.name}: each line of the parameters cell must read 'name: type = literal  # comment', "
                f"found {ast.unparse(node)!r}"
            )
        try:
            default = ast.literal_eval(node.value)
        except ValueError as error:
            raise ValueError(f"{path.name}: {ast.unparse(node)!r} is not a literal") from error
        name, line = node.target.id, node.end_lineno or node.lineno
        found[name] = Parameter(name, _annotation(node.annotation), default, comments.get(line, ""))
    return found


def _read_notebook(path: Path) -> dict[str, Any]:
    """The notebook in a file; ``ValueError``, which names the file, if there is none in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(found.get("cells"), list):
            raise ValueError("it holds no list of cells")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a notebook: {error}") from error
    return found


def check(declared: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` with every name known and every value of its type; ``ValueError`` or ``TypeError`` otherwise."""
    unknown = [name for name in given if name not in declared]
    if unknown:
        raise ValueError(
            f"unknown parameter{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}; "
            f"valid names: {', '.join(declared) or 'none'}"
        )
    return {name: declared[name].check(value) for name, value in given.items()}


def profile(notebook: str | Path, name: str) -> dict[str, Any]:
    """The parameters that ``book/profiles/<name>.yaml`` sets for this notebook; empty where it sets none."""
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(map(repr, PROFILES))}; got {name!r}")
    path = Path(notebook)
    source = path.resolve().parent.parent / "book" / "profiles" / f"{name}.yaml"
    if not source.is_file():
        raise FileNotFoundError(f"no profile {name!r} beside {path}: {source} does not exist")
    return load(source).get(path.stem) or {}


def load(source: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    yaml = _import("yaml")
    try:
        values = yaml.safe_load(Path(source).read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict | None):
        raise TypeError(f"{source} must hold a mapping, got {type(values).__name__}")
    return values or {}


def output_path(notebook: str | Path, given: Mapping[str, Any]) -> Path:
    """Where a run goes by default: ``_build/runs/<notebook>[-<digest of the parameters>].ipynb``."""
    told = f"-{digest(json.dumps(given, sort_keys=True))}" if given else ""
    return Path("_build") / "runs" / f"{Path(notebook).stem}{told}.ipynb"


def run(
    notebook: str | Path,
    given: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    records: str | Path | None = None,
) -> Path:
    """Execute ``notebook`` with the ``given`` parameters, in its own folder, and return the path of the result.

    An output that exists is never overwritten: ``FileExistsError``, or, with ``resume``, that output if it came from
    the same notebook and the same parameters. A run that fails leaves ``<out>.partial.ipynb`` to look at.
    Records go to the folder ``records``; by default to one beside the output, named after it.
    """
    path = find(notebook)
    given = check(parameters(path), given or {})
    out = Path(out) if out is not None else output_path(path, given)
    stamp = {"notebook": path.name, "source": digest(path.read_text(encoding="utf-8")), "parameters": given}
    if out.exists():
        return _reuse(out, stamp) if resume else _refuse(out)
    papermill = _import("papermill")
    if records is None:
        records = os.environ.get("GLUTILS_RECORDS") or out.with_suffix("") / "records"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise OSError(f"{out.parent} cannot be written ({error.strerror}); choose another --out") from error
    partial = out.with_suffix(".partial.ipynb")
    told = {
        "GLUTILS_RECORDS": str(Path(records).resolve()),
        provenance.COMMAND: provenance.notebook_command(path, given),
    }
    with _environment(**told):
        try:
            papermill.execute_notebook(
                str(path), str(partial), parameters=given, cwd=str(path.parent), progress_bar=progress,
                kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=40"],
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            where = f"cell {error.cell_index} of {path.name}"
            raise RuntimeError(f"{where} failed with {error.ename}: {error.evalue}; see {partial}") from error
    executed = json.loads(partial.read_text(encoding="utf-8"))
    executed["metadata"][_KEY] = stamp
    partial.write_text(json.dumps(executed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if out.exists():  # appeared while we ran
        _refuse(out)
    partial.rename(out)
    return out


def _reuse(out: Path, stamp: dict[str, Any]) -> Path:
    before = json.loads(out.read_text(encoding="utf-8")).get("metadata", {}).get(_KEY)
    if before is None:
        raise FileExistsError(f"{out} exists and was not written by this runner; choose another --out")
    if before != json.loads(json.dumps(stamp)):
        what = next(key for key in ("notebook", "parameters", "source") if before.get(key) != stamp[key])
        raise FileExistsError(f"{out} exists and was made with another {what}; choose another --out")
    return out


def _refuse(out: Path) -> Path:
    raise FileExistsError(f"{out} exists and is never overwritten; choose another --out, remove it, or use --resume")


def digest(text: str) -> str:
    """Ten letters that tell texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        how = "pip install 'leaky-scalars[book]'"
        raise ImportError(f"running notebooks needs {name}, which comes with: {how}") from error


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for the kernels that are started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _annotation(node: ast.expr) -> str:
    """An annotation as text. In quotes it may use names that are not imported, and papermill reads it, which takes no |
    for a type: ``"Optional[str]"`` is ``str | None``."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def _literal(text: str) -> Any:
    """``text`` as a Python literal, with YAML's spellings of true, false and null allowed; itself if it is a word."""
    words = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _fits(value: Any, annotation: ast.expr) -> bool:
    """Whether ``value`` is allowed by an annotation built from plain types, ``Optional``, ``|``, lists and dicts."""
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="Any"):
            return True
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id=("str" | "bool" | "list" | "dict") as kind):
            return type(value).__name__ == kind
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return value is None or _fits(value, inner)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return isinstance(value, list) and all(_fits(item, inner) for item in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, inner])):
            return isinstance(value, dict) and all(_fits(k, key) and _fits(v, inner) for k, v in value.items())
    raise ValueError(
        f"cannot check a parameter annotated {ast.unparse(annotation)!r}; use plain types, Optional[...], |, list[...] "
        "and dict[...]"
    )
