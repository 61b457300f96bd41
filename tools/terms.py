"""Link the first use of each glossary term in a chapter, where the author has not done it.

In a notebook program a role such as ``{term}`scalar``` is noise, so sources use it sparingly; on the built page every
first use is a link. Only running text is touched: no headings, tables, code, formulas, links or directives.
"""

from __future__ import annotations

import re

EVERYDAY = {"direction", "control", "matching", "round", "restart", "features", "generator", "prior", "seed", "latent"}
"""Terms that are also ordinary words: left to the author."""
APART = re.compile(
    r"(?P<kept>\{[\w:+-]+\}`[^`]*`|``.*?``|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|!?\[[^]]*\]\([^)]*\)|https?://\S+|<[^>]+>|\*\*[^*]*\*\*)",
    flags=re.S,
)
FENCE = re.compile(r"^(`{3,}|:{3,})")
NO_PROSE = re.compile(r"^\s*(#|\||<|>|%|\(\S+\)=|!\[)")


def names(glossary: str) -> list[tuple[str, ...]]:
    """Each entry's names: a term and those that share its explanation."""
    block = re.search(r"```\{glossary\}\n(.*?)\n```", glossary, flags=re.S)[1]
    entries, found = [], []
    for line in block.splitlines():
        if line.startswith(" ") and found:
            entries.append(tuple(found))
            found = []
        elif line and line[0] not in " :":
            found.append(line.strip())
    return entries


def linked(texts: list[str], entries: list[tuple[str, ...]]) -> list[str]:
    """The Markdown cells of a chapter with first uses linked; the first cell, title and objectives, stays as it is.

    Args:
        texts: the cells' Markdown, in order.
        entries: what :func:`names` gave.
    """
    have = set(re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", "\n".join(texts)))
    open_ = {name: entry for entry in entries if not have & set(entry) for name in entry if name not in EVERYDAY}
    return texts[:1] + [_cell(text, open_) for text in texts[1:]]


def _cell(text: str, open_: dict[str, tuple[str, ...]]) -> str:
    """One cell; what it links leaves ``open_``."""
    parts, prose, fence = [], [], ""

    def close() -> None:
        if prose:
            parts.append(_paragraph("\n".join(prose), open_))
            prose.clear()

    for line in text.split("\n"):
        mark = FENCE.match(line)
        if fence:
            parts.append(line)
            if mark and line.strip() == fence:
                fence = ""
            continue
        alone = mark and re.search(r"-(start|end)\}", line)
        if mark or NO_PROSE.match(line) or not line.strip():
            close()
            parts.append(line)
            fence = mark[1] if mark and not alone else ""
        else:
            prose.append(line)
    close()
    return "\n".join(parts)


def _paragraph(text: str, open_: dict[str, tuple[str, ...]]) -> str:
    """Running text without blank lines, with its first uses linked."""
    for name in sorted(open_, key=len, reverse=True):
        if name not in open_:
            continue
        flags = re.I if name.islower() else 0
        word = re.compile(rf"(?<![\w-]){re.escape(name)}(?:s|es)?(?![\w-])", flags)
        pieces = APART.split(text)
        for number, piece in enumerate(pieces):
            if number % 2 == 0 and (found := word.search(piece)):
                shown = found[0] if found[0] == name else f"{found[0]} <{name}>"
                pieces[number] = piece[: found.start()] + f"{{term}}`{shown}`" + piece[found.end() :]
                for other in open_.pop(name):
                    open_.pop(other, None)
                break
        text = "".join(pieces)
    return text
