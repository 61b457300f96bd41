"""How annotations are checked under pytest: after a function has had its say.

:func:`install` lets every function and dataclass of glutils's rooms be decorated with :func:`checked` as it is
imported. After each call a stand-in, which has the function's parameters and its answer as one more, is called with
both; beartype checks it, and jaxtyping's axes mean the same in all of them.

So the annotations of a public call may be honest (``count: int``, ``Float[Tensor, "batch channel height width"]``)
although the call refuses what does not fit with a better message of its own: it runs, it raises, and that is the error
which a test sees. A function that is called against its annotations and does *not* refuse gets jaxtyping's
``TypeCheckError``. Nothing has to be listed or marked, and no annotation has to be ``Any`` to let a message through.

What this asks of the code: functions have a return annotation (one without has its parameters checked before it
runs); a generator, of which nothing runs when it is called, gets its arguments from a function that has refused bad
ones. As everywhere in typed Python, ``float`` takes an ``int``.

jaxtyping's own hook and decorator would do as well, at several times the cost: they bind the arguments of every call
by :mod:`inspect`, and build the stand-ins of a nested function again whenever the outer one runs. Both happen a
million times in these tests. Its decorator is still what words an error.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import typing
import zlib
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation

ANSWER = "the_answer_"
_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))
_axes = jaxtyping.jaxtyped("context")
_nested: dict[tuple[str, str, int], Callable[..., Any]] = {}


# --- the check


def checked(made: Any) -> Any:
    """A function whose calls are checked; a dataclass whose ``__init__`` is."""
    if isinstance(made, type):
        if dataclasses.is_dataclass(made) and not hasattr(made.__init__, "__wrapped__"):
            made.__init__ = checked(made.__init__)
        return made
    if not made.__annotations__:
        return made
    says = "return" in made.__annotations__
    stand_in = None

    @functools.wraps(made)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal stand_in
        answer = made(*args, **kwargs) if says else None
        stand_in = stand_in or _stand_in(made)
        try:
            with _axes:
                stand_in(*args, **kwargs, **{ANSWER: answer})
        except BeartypeCallHintViolation as violation:
            _refuse(made, answer, args, kwargs, violation)
        return answer if says else made(*args, **kwargs)

    return wrapped


def _stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    """The stand-in of a function; all functions that one line inside another function makes have the same."""
    key = (function.__module__, function.__qualname__, function.__code__.co_firstlineno)
    if key in _nested:
        return _nested[key]
    signature = _resolved(function)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    parameters += [inspect.Parameter(ANSWER, inspect.Parameter.KEYWORD_ONLY), *rest]
    scope: dict[str, Any] = {}

    def named(value: Any) -> Any:
        """A word for a value, as it can be written in a line of code."""
        if value is inspect.Parameter.empty:
            return value
        scope[word := f"value_{len(scope)}_"] = value
        return _Word(word)

    parameters = [p.replace(annotation=named(p.annotation), default=named(p.default)) for p in parameters]
    line = inspect.Signature(parameters, return_annotation=named(signature.return_annotation))
    exec(compile(f"def stand_in{line}: return {ANSWER}", "<stand-in>", "exec", dont_inherit=True), scope)
    made = scope.pop("stand_in")
    for name in ("__module__", "__name__", "__qualname__"):
        setattr(made, name, getattr(function, name))
    made = _strict(made)
    if "{" in str(list(made.__annotations__.values())):
        made = jaxtyping.jaxtyped(made, typechecker=None)  # an axis is computed from arguments: bind them
    if "<locals>" in function.__qualname__:
        _nested[key] = made
    return made


class _Word(str):
    """Text that a signature shows as it is."""

    def __repr__(self) -> str:
        return str(self)


def _resolved(function: Callable[..., Any]) -> inspect.Signature:
    """The signature with annotations as objects; ``Any`` where one names what is imported for type checkers only."""
    signature, space = inspect.signature(function), function.__globals__

    def found(annotation: Any) -> Any:
        if annotation is inspect.Signature.empty:
            return annotation
        holder = type("Holder", (), {"__annotations__": {"it": annotation}})
        try:
            return typing.get_type_hints(holder, space, include_extras=True)["it"]
        except Exception:  # not a NameError alone: what is subscripted may be missing a part
            return Any

    parameters = [p.replace(annotation=found(p.annotation)) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=found(signature.return_annotation))


def _refuse(function: Callable[..., Any], answer: Any, args: tuple, kwargs: dict, violation: Exception) -> None:
    """Raise jaxtyping's error, which names the argument and the axes, for a call that has been found wrong."""
    __tracebackhide__ = True

    @functools.wraps(function)
    def again(*args: Any, **kwargs: Any) -> Any:
        return answer

    again.__signature__ = _resolved(function)
    jaxtyping.jaxtyped(again, typechecker=_strict)(*args, **kwargs)
    raise violation


# --- the import


class _Decorate(ast.NodeTransformer):
    """Puts the check next to each function, below other decorators, and around each class, above them."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, self._check(node))
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list.append(self._check(node))
        return self.generic_visit(node)

    def _check(self, node: ast.AST) -> ast.expr:
        call = ast.parse("__import__('_typecheck').checked", mode="eval").body
        return ast.fix_missing_locations(ast.copy_location(call, node))


class _Loader(SourceFileLoader):
    """Reads a module with the check in it, and keeps the compiled code under a name of its own."""

    tag = f".checked-{zlib.crc32(Path(__file__).read_bytes()):08x}.pyc"

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        tree = _Decorate().visit(ast.parse(data, path))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path: str) -> bytes:
        return super().get_data(self._own(path))

    def set_data(self, path: str, data: Any, **options: Any) -> None:
        super().set_data(self._own(path), data, **options)

    def _own(self, path: str) -> str:
        return path.removesuffix(".pyc") + self.tag if path.endswith(".pyc") else path


class _Finder:
    """Finds the modules of rooms, which are the folders of a package; not the small private modules beside them."""

    def __init__(self, package: str, rooms: set[str]):
        self.package, self.rooms = package, rooms

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        if package != self.package or rest.partition(".")[0] not in self.rooms:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install(folder: Path) -> None:
    """Let every room of the package in ``folder`` be checked as it is imported; before the first import of it."""
    assert not [name for name in sys.modules if name.startswith(f"{folder.name}.")], "imported before it is checked"
    sys.meta_path.insert(0, _Finder(folder.name, {path.parent.name for path in folder.glob("*/__init__.py")}))
