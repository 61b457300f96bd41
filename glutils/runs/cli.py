"""``glutils run``: a notebook from the command line, with its parameters checked before any work starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glutils.runs import notebook as runner


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``glutils`` command; returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, run = _parsers()
    if "run" in arguments[:1] and {"-h", "--help"} & set(arguments):
        run.print_help()
        return _help_of_notebook(arguments[1:])
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"glutils: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"glutils: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("glutils: interrupted; the cells that ran are in the .partial.ipynb", file=sys.stderr)
        return 130


def table(declared: dict[str, runner.Parameter]) -> str:
    """The parameters of a notebook as lines of text: name, type, default, comment."""
    rows = [(p.name, p.annotation or "?", repr(p.default), p.comment) for p in declared.values()]
    rows = [("name", "type", "default", ""), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows)


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
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
    return parser, run


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
