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
    words = [tuple(name for name in entry if name not in EVERYDAY) for entry in entries if not have & set(entry)]
    open_ = {entry: re.compile("|".join(map(_pattern, entry))) for entry in words if entry}
    return texts[:1] + [_cell(text, open_) for text in texts[1:]]


def _pattern(name: str) -> str:
    """A name as a word, in the singular or the plural; names that are written small may begin a sentence."""
    word = rf"(?<![\w-]){re.escape(name)}(?:s|es)?(?![\w-])"
    return f"(?i:{word})" if name.islower() else word


def _cell(text: str, open_: dict[tuple[str, ...], re.Pattern]) -> str:
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
        if mark or NO_PROSE.match(line) or not line.strip():
            close()
            parts.append(line)
            fence = mark[1] if mark else ""
        else:
            prose.append(line)
    close()
    return "\n".join(parts)


def _paragraph(text: str, open_: dict[tuple[str, ...], re.Pattern]) -> str:
    """Running text without blank lines, with its first uses linked."""
    for entry, word in sorted(open_.items(), key=lambda item: -len(item[0][0])):
        if not word.search(text):
            continue
        pieces = APART.split(text)
        for number, piece in enumerate(pieces):
            if number % 2 == 0 and (found := word.search(piece)):
                name = max((name for name in entry if found[0].lower().startswith(name.lower())), key=len)
                shown = name if found[0] == name else f"{found[0]} <{name}>"
                pieces[number] = f"{piece[: found.start()]}{{term}}`{shown}`{piece[found.end() :]}"
                del open_[entry]
                break
        text = "".join(pieces)
    return text
