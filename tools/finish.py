"""Mend what the tool chain writes into the pages, where it breaks them offline or for assistive technology.

    python tools/finish.py _build/html
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

THEBE = re.compile(r"\n *<script>const THEBE_JS_URL[^<]*</script>")
ARGUMENTS = re.compile(r"<dl>\n((?:<dd><em class=\"sig-param\">.*</dd>\n)+)</dl>")
FONTS = re.compile(r'\n *<link rel="preload" as="font"[^>]*>')


def mended(page: str) -> str:
    """The page with four faults of the tool chain taken out."""
    # docutils calls the bibliography a list, but its entries no list items; without the role they are read as entries.
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    # Two extensions declare the same constants of thebe, which is off; the second declaration is an error.
    page = THEBE.sub("", page)
    # Sphinx writes the arguments of a long signature as definitions without a term.
    page = ARGUMENTS.sub(lambda found: f'<div class="sig-list">\n{found[1]}</div>'.replace("dd>", "div>"), page)
    # Browsers refuse to preload fonts for a page that is opened from a file, and say so; the icons are drawn by script.
    return FONTS.sub("", page)


def main(folder: Path) -> int:
    """Rewrite the pages that need it; prints how many."""
    changed = 0
    for path in sorted(folder.rglob("*.html")):
        before = path.read_text(encoding="utf-8")
        if (after := mended(before)) != before:
            path.write_text(after, encoding="utf-8")
            changed += 1
    print(f"{changed} pages mended in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
