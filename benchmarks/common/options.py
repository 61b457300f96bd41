"""Options from the command line, and the refusal to measure code that is in no commit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from glutils.runs import provenance


def arguments(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; ends the program, before any work, where the checkout is not that of a commit.

    ``--dirty``, which this adds, goes on; the record then says so, with a digest of the changes. Tracked files count,
    and new ones below ``glutils`` and ``benchmarks``; what is written below ``benchmarks/results`` does not.
    """
    parser.add_argument("--dirty", action="store_true", help="go on although files differ from the commit")
    options = parser.parse_args(given)
    if not options.dirty and (why := trouble(provenance.tree())):
        parser.exit(2, f"{parser.prog}: {why}. Numbers of a record must be tied to a commit. Commit first; or go on "
                       "with --dirty, and the record says that the tree was not clean.\n")  # fmt: skip
    del options.dirty  # no parameter of the measurement
    return options


def seeds(doc: str | None, default: int) -> range:
    """The seeds of a benchmark whose only option is their number, on one thread of the processor.

    Args:
        doc: of the script; ``--help`` shows its first line.
        default: seeds where ``--seeds`` says nothing; 0 and what follows.
    """
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=str(doc).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=default)
    return range(arguments(parser).seeds)


def trouble(tree: provenance.Tree) -> str | None:
    """What is wrong with the checkout, in words; ``None`` if nothing is."""
    if tree.commit is None:
        return "the commit is not known"
    if not tree.changes:
        return None
    more = f" and {len(tree.files) - 3} more" if len(tree.files) > 3 else ""
    return f"files differ from the commit: {', '.join(tree.files[:3])}{more}"
