"""``glutils run`` and ``glutils sweep``: notebooks from the command line, their parameters checked before work.

Commands of rooms above this one are named in :data:`OTHERS`, and loaded when they are called.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glutils.runs import notebook as runner
from glutils.runs.sweep import sweep

OTHERS = {"audit": ("glutils.audit.command", "audit a client's message as a YAML file says")}
"""Commands that a module's ``main`` carries out by itself: the module, and a line of help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``glutils`` command; returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] and arguments[0] in OTHERS:
        return importlib.import_module(OTHERS[arguments[0]][0]).main(arguments[1:])
    parser, commands = _parsers()
    rest, given = _take_parameters(arguments, parser, commands)
    if rest[:1] and rest[0] in commands and {"-h", "--help"} & set(rest):
        commands[rest[0]].print_help()
        return _help_of_notebook(rest[1:])
    options = parser.parse_args(rest)
    options.p = given
    try:
        return _sweep(options) if options.command == "sweep" else _run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"glutils: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"glutils: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = "no run was finished" if options.command == "sweep" else "the cells that ran are in the .partial.ipynb"
        print(f"glutils: interrupted; {kept}", file=sys.stderr)
        return 130


def _take_parameters(
    arguments: list[str], parser: argparse.ArgumentParser, commands: dict[str, argparse.ArgumentParser]
) -> tuple[list[str], list[list[str]]]:
    """What is left of the arguments without ``-p NAME VALUE``, and those.

    argparse takes a value that begins with a minus, such as -1e-4, for an option; here it is what stands in its place.
    """
    if arguments[:1] and arguments[0] not in commands:
        return arguments, []
    several = arguments[:1] == ["sweep"]
    known = {text for command in commands.values() for action in command._actions for text in action.option_strings}
    rest, given, place = [], [], 0
    while place < len(arguments):
        place += 1
        if arguments[place - 1] != "-p":
            rest.append(arguments[place - 1])
            continue
        end = place + (1 if several else 2)
        while several and end < len(arguments) and arguments[end] not in known:
            end += 1
        if end > len(arguments):
            parser.error(f"argument -p: expected a NAME and a VALUE, got {' '.join(arguments[place:]) or 'nothing'}")
        given.append(arguments[place:end])
        place = end
    return rest, given


def table(declared: dict[str, runner.Parameter]) -> str:
    """The parameters of a notebook as lines of text: name, type, default, comment."""
    rows = [(p.name, p.annotation or "?", repr(p.default), p.comment) for p in declared.values()]
    rows = [("name", "type", "default", ""), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog="glutils", description="Tools of the book Leaky Scalars.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        add_help=False,
        help="execute a notebook with other parameters",
        description="Execute a notebook with other parameters. Later sources win: profile, then -f, then -p.",
    )
    run.add_argument("notebook", help="path of a notebook, or the name of one in notebooks/")
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set one parameter")
    run.add_argument("-f", dest="file", metavar="FILE", help="take parameters from a YAML file: name: value")
    run.add_argument("--profile", choices=runner.PROFILES, help="take parameters from book/profiles/PROFILE.yaml")
    run.add_argument("--out", metavar="PATH", help="where the executed notebook goes (default: under _build/runs)")
    run.add_argument("--resume", action="store_true", help="reuse an output made with the same parameters")
    run.add_argument("--list", action="store_true", help="print the notebook's parameters and stop")
    run.add_argument("-h", "--help", action="store_true", help="print this, and the parameters of NOTEBOOK")
    found = {"run": run, "sweep": _sweep_parser(commands)}
    for name, (_, text) in OTHERS.items():
        commands.add_parser(name, add_help=False, help=text)
    return parser, found


def _sweep_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    sweep = commands.add_parser(
        "sweep",
        add_help=False,
        help="execute a notebook for every combination of parameters",
        description="Execute a notebook once for every combination of the values given, side by side. Every run leaves "
        "its record in the folder and is never repeated; call the command again to go on, or with more values. Later "
        "sources win: profile, then -f, then -p.",
    )
    sweep.add_argument("notebook", help="path of a notebook, or the name of one in notebooks/")
    sweep.add_argument("-p", nargs="+", action="append", default=[], metavar=("NAME", "VALUE"),
                       help="the values of one parameter")  # fmt: skip
    sweep.add_argument("-f", dest="file", metavar="FILE", help="take values from a YAML file: name: [value, value]")
    sweep.add_argument("--profile", choices=runner.PROFILES, help="take other parameters from book/profiles")
    sweep.add_argument("--workers", type=int, metavar="N", help="worker processes (default: one a core; 0: none)")
    sweep.add_argument("--cluster", metavar="ADDRESS", help="use the workers of this dask scheduler: tcp://host:8786")
    sweep.add_argument("--timeout", type=float, default=5.0, help="seconds it has to answer (default 5)")
    sweep.add_argument("--out", metavar="FOLDER", help="where the records go (default: data/sweeps/NOTEBOOK)")
    sweep.add_argument("-h", "--help", action="store_true", help="print this, and the parameters of NOTEBOOK")
    return sweep


def _help_of_notebook(arguments: Sequence[str]) -> int:
    for argument in arguments:
        if not argument.startswith("-"):
            try:
                path = runner.find(argument)
                print(f"\nparameters of {path.name}:\n{table(runner.parameters(path))}")
            except (ValueError, OSError) as error:
                print(f"glutils: {error}", file=sys.stderr)
                return 2
            break
    return 0


def _run(options: argparse.Namespace) -> int:
    path = runner.find(options.notebook)
    declared = runner.parameters(path)
    if options.list:
        print(table(declared))
        return 0
    given = _given(options, path, declared)
    out = Path(options.out) if options.out else runner.output_path(path, given)
    known = out.exists()
    print(f"{path.name} -> {out}" + "".join(f"\n  {name} = {value!r}" for name, value in given.items()), flush=True)
    runner.run(path, given, out=out, resume=options.resume)
    print(f"{'kept' if known else 'wrote'} {out}")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    path = runner.find(options.notebook)
    declared = runner.parameters(path)
    grid: dict[str, Any] = {}
    if options.profile:
        grid |= {name: [value] for name, value in runner.profile(path, options.profile).items()}
    if options.file:
        grid |= runner.load(options.file)
    runner.check(declared, dict.fromkeys(name for name, *_ in options.p if name not in declared))
    for name, *values in options.p:
        if not values:
            raise ValueError(f"-p {name} needs at least one value")
        grid[name] = [declared[name].parse(value) for value in values]
    found = sweep(
        path, grid, options.cluster, workers=options.workers, folder=options.out, timeout=options.timeout
    )  # fmt: skip
    for failure in found.failures:
        given = ", ".join(f"{name} = {value!r}" for name, value in failure.parameters.items())
        print(f"failed: {given}: {failure.error}", file=sys.stderr)
    before = sum(one is not None for one in found.records) - found.fresh
    print(f"{len(found.parameters)} runs of {path.name}: {found.fresh} new, {before} there before, "
          f"{len(found.failures)} failed -> {found.folder}")  # fmt: skip
    if found.stopped:
        print(f"glutils: {found.stopped}; call again to go on", file=sys.stderr)
        return 130
    return 1 if found.failures else 0


def _given(options: argparse.Namespace, path: Path, declared: dict[str, runner.Parameter]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if options.profile:
        given |= runner.check(declared, runner.profile(path, options.profile))
    if options.file:
        given |= runner.check(declared, runner.load(options.file))
    runner.check(declared, dict.fromkeys((name for name, _ in options.p if name not in declared)))
    return given | {name: declared[name].parse(value) for name, value in options.p}


if __name__ == "__main__":
    sys.exit(main())
