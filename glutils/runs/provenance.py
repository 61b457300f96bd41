"""What made a record: the command line, its script, the commit, and whether files differed from that commit."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import _files

SOURCE = Path(__file__).resolve().parents[2]
"""What holds the package: a checkout, or site-packages."""
COMMAND = "GLUTILS_COMMAND"
"""Environment variable by which the runner of notebooks tells a kernel what it was started with."""
WATCHED = ("glutils", "benchmarks")
"""Folders in which a file that git does not know counts as a change."""
WRITTEN = "benchmarks/results"
"""What benchmarks write: it is no change, so that a benchmark which is stopped can go on."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """The state of the checkout.

    Attributes:
        commit: git's name of it, 40 digits; ``None`` outside a checkout.
        changes: a digest (16 digits) of all that differs from the commit; ``None`` where nothing does.
        files: the files that differ.
    """

    commit: str | None
    changes: str | None = None
    files: tuple[str, ...] = ()


@functools.cache
def tree(root: Path | None = None) -> Tree:
    """The checkout as it is when this is first called; later changes are not those that a running program was made of.

    Tracked files count, and new ones below :data:`WATCHED`; the records that benchmarks write (:data:`WRITTEN`) do not.
    """
    root = SOURCE if root is None else root
    if not (root / "pyproject.toml").is_file():
        return Tree(None)
    here = ["--", ".", f":(exclude){WRITTEN}"]
    try:
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        changed = _git(root, "diff", "HEAD", "--name-only", "-z", *here).split(b"\0")
        new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", *here).split(b"\0")
        new = sorted(name for name in new if name.split(b"/")[0].decode() in WATCHED)
        difference = _git(root, "diff", "HEAD", "--binary", *here)
    except (OSError, subprocess.SubprocessError):
        return Tree(None)
    files = tuple(os.fsdecode(name) for name in [*changed, *new] if name)
    if not files:
        return Tree(commit)
    digest = hashlib.sha256(difference)
    for name in new:
        digest.update(name + b"\0" + (root / os.fsdecode(name)).read_bytes() + b"\0")
    return Tree(commit, digest.hexdigest()[:16], files)


def _git(root: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout


def started_by(told: str | None = None) -> tuple[str | None, str | None]:
    """The command line of this process and its script, as they can be typed at the root of the script's project.

    A notebook that the runner executes has the runner's command; one that is open in Jupyter has its name and no
    command. ``(None, None)`` where there is nothing that could be typed again, as in an interactive session.

    Args:
        told: the command line, where the caller knows better; by default what the runner of notebooks has told.
    """
    if told := told or os.environ.get(COMMAND):
        return told, next((word for word in shlex.split(told) if word.endswith((".ipynb", ".py"))), None)
    if "ipykernel" in sys.modules:
        name = Path(os.environ.get("JPY_SESSION_NAME", "")).name
        return None, name or None
    return _typed(sys.argv, sys.orig_argv)


def notebook_command(path: str | Path, given: Mapping[str, Any]) -> str:
    """``glutils run`` with a notebook's path, below its project, and its parameters."""
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    path = Path(path).resolve()
    return shlex.join(["glutils", "run", _portable(str(path), _files.project_root(path.parent)), *words])


def _typed(argv: Sequence[str], original: Sequence[str]) -> tuple[str | None, str | None]:
    """What was typed, from ``sys.argv`` and ``sys.orig_argv``, and the script."""
    if not argv or argv[0] in ("", "-", "-c"):
        return None, None
    path = Path(argv[0]).resolve()
    root = _files.project_root(path.parent)
    rest = [_portable(argument, root) for argument in argv[1:]]
    typed = len(original) - len(argv) + 1
    # arguments that a program set itself, for a script that it calls, say nothing about how the process was started
    options = list(original[1:typed]) if list(original[typed:]) == list(argv[1:]) else []
    if "-m" in options:
        return shlex.join(["python", "-m", options[options.index("-m") + 1], *rest]), None
    if path.suffix != ".py":  # a command that an installer has put there, such as "glutils"
        return shlex.join([path.name, *rest]), None
    script = _portable(str(path), root)
    return shlex.join(["python", script, *rest]), script


def _portable(argument: str, root: Path) -> str:
    """An argument without what belongs to one machine: a path below the root from there, another one by its name."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    path = Path(value)
    if path.is_absolute():
        value = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return f"{option}{equals}{value}"
