"""Where the records and claims that the book reads are: in the checkout, or in an installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "published"

SOURCE = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
"""What holds ``benchmarks/results`` and ``book/claims``: the checkout, or what the build has put into the package."""
RECORDS = SOURCE / "benchmarks" / "results"
"""The records that the book reads, one JSON file each."""
CLAIMS = SOURCE / "book" / "claims"
"""The claims that the book judges, one YAML file for each source."""
