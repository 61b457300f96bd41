"""Mend what the tool chain writes into the pages, where it breaks them offline or for assistive technology.

    python tools/finish.py _build/html

Wide tables become cards on a phone, by the page's style sheet. Each of their cells is given its column's heading to
show there, and its role, which some browsers forget when a table is laid out in another way.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

THEBE = re.compile(r"\n *<script>const THEBE_JS_URL[^<]*</script>")
ARGUMENTS = re.compile(r"<dl>\n((?:<dd><em class=\"sig-param\">.*</dd>\n)+)</dl>")
FONTS = re.compile(r'\n *<link rel="preload" as="font"[^>]*>')

TABLE = re.compile(
    r'<table class="(?P<kind>table[^"]*)"(?P<rest>[^>]*)>(?P<body>(?:(?!<table).)*?)</table>', flags=re.S
)
WIDE, LONG = 4, 60
"""Columns, and letters in a row, from which a table is one that a phone cannot show."""
MANY = 8
"""Columns from which a desk has room for them in small print only."""
ROLES = {"thead": "rowgroup", "tbody": "rowgroup", "tr": "row"}


def mended(page: str) -> str:
    """The page with four faults of the tool chain taken out, and its wide tables ready for a phone."""
    # docutils calls the bibliography a list, but its entries no list items; without the role they are read as entries.
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    # Two extensions declare the same constants of thebe, which is off; the second declaration is an error.
    page = THEBE.sub("", page)
    # Sphinx writes the arguments of a long signature as definitions without a term.
    page = ARGUMENTS.sub(lambda found: f'<div class="sig-list">\n{found[1]}</div>'.replace("dd>", "div>"), page)
    # Browsers refuse to preload fonts for a page that is opened from a file, and say so; the icons are drawn by script.
    page = FONTS.sub("", page)
    return TABLE.sub(stacked, page)


def stacked(found: re.Match) -> str:
    """A table whose cells know their headings, as it is where it has few columns, no headings, or joined cells."""
    head, _, rows = found["body"].partition("</thead>")
    titles = [words(title) for title in re.findall(r"<th\b[^>]*>(.*?)</th>", head, flags=re.S)]
    lines = re.findall(r"<tr\b.*?</tr>", rows, flags=re.S)
    columns = [len(re.findall(r"<t[dh]\b", line)) for line in lines]
    narrow = len(titles) < WIDE and max((len(words(line)) for line in lines), default=0) <= LONG
    joined = re.search(r"(?:row|col)span=", found["body"])
    if narrow or joined or set(columns) != {len(titles)} or " stack" in found["kind"]:
        return found[0]
    parts = re.split(r"(<t[dh]\b)", rows)
    for n, place in enumerate(range(1, len(parts), 2)):
        column = n % len(titles)
        role = "cell" if parts[place] == "<td" else "rowheader"
        parts[place] += f' role="{role}" data-label="{html.escape(titles[column])}"'
    body = re.sub(r"<th\b", '<th role="columnheader"', head) + "</thead>" + "".join(parts)
    body = re.sub(r"<(thead|tbody|tr)\b", lambda tag: f'{tag[0]} role="{ROLES[tag[1]]}"', body)
    kind = f"{found['kind']} stack" + (" many" if len(titles) >= MANY else "")
    return f'<table role="table" class="{kind}"{found["rest"]}>{body}</table>'


def words(markup: str) -> str:
    """What a heading says, without its markup."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


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
