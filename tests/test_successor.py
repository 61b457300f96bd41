"""The way out of Jupyter Book 1: contents are translated whole, and what another builder complains of is counted."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def successor(tool):
    return tool("successor")


def test_every_page_is_in_the_translated_contents_once(successor):
    toc, config = (yaml.safe_load((ROOT / name).read_text(encoding="utf-8")) for name in ("_toc.yml", "_config.yml"))
    settings = successor.project(toc, config, ROOT)
    pages = successor.files(settings["project"]["toc"])
    there = {path.relative_to(ROOT).as_posix() for folder, kind in (("book", "md"), ("notebooks", "ipynb"))
             for path in (ROOT / folder).rglob(f"*.{kind}")}  # fmt: skip
    assert len(set(pages)) == len(pages) and set(pages) == there and pages[0] == "book/welcome.md"
    titles = [one["title"] for one in settings["project"]["toc"] if "title" in one]
    assert titles == [part["caption"] for part in toc["parts"] if "caption" in part]
    assert settings["project"]["bibliography"] == ["book/references.bib"]


def test_complaints_are_counted_by_their_kind(successor):
    log = """📖 Built book/welcome.md in 301 ms.
⛔️ book/api/attacks.md:12 unknown directive: eval-rst
⛔️ book/api/labels.md:3:46 unknown directive: eval-rst
⛔️ book/api/labels.md:4 unknown role: py:class
⚠️  book/glossary.md Cross reference target was not found: term-prior
⚠️  book/glossary.md Cross reference target was not found: term-round-off
⚠️  notebooks/01_x.ipynb Cross reference target was not found: a|b
"""
    told = successor.report(log, 4, 3, drawn=False)
    assert "3 of 4 pages were read, and not drawn" in told and "issue 188" in told
    rows = [line.split(" | ")[:2] for line in told.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert rows == [
        ["| 3", "Cross reference target was not found"], ["| 2", "unknown directive: eval-rst"],
        ["| 1", "unknown role: py:class"],
    ]  # fmt: skip
    assert "and drawn" in successor.report("", 1, 1, drawn=True)
    with pytest.raises(SystemExit):
        successor.main(["--stage", "no-such-folder"])
