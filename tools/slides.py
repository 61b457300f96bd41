"""Slides from an executed notebook: one file of HTML that opens from disk, without a network (reveal.js).

    python tools/slides.py _build/stage/notebooks/01_threat_model.ipynb --to _build/slides

Every section of the chapter is a column: its heading and opening words, then its formulas, figures and tables, one a
slide, then its exercises, without their solutions. The text of the section stands in the speaker's notes, which
``?notes`` at the end of the address shows. Code is left out.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import editions
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

HERE = Path(__file__).resolve().parent
MATHJAX = "tex-svg-full.js"
SKIPPED = {"parameters", "injected-parameters", "remove-cell", "marking"}
STYLE = """
.reveal { font: 30px/1.35 Helvetica, Arial, sans-serif; color: #222; } body { background: #fff; }
.reveal h1 { font-size: 1.9em; } .reveal h2 { font-size: 1.4em; } .reveal h3 { font-size: 1.1em; }
.reveal .slides { text-align: left; } .reveal section figure { margin: 0; } .reveal img { max-width: 100%; }
.reveal section > figure > img { max-height: 560px; min-height: 380px; object-fit: contain; display: block; margin: 0 auto; }
.reveal figcaption, .reveal caption { font-size: .7em; text-align: left; color: #444; }
.reveal table { font-size: .55em; border-collapse: collapse; } .reveal td, .reveal th { padding: .2em .6em; border-bottom: 1px solid #bbb; }
.reveal .wide { max-height: 600px; overflow: auto; } .reveal .speaker-notes { font-size: .8em; }
"""  # noqa: E501


def main(arguments: list[str] | None = None) -> int:
    """Write the slides of each notebook, with MathJax beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", type=Path, nargs="+", help="executed notebooks")
    parser.add_argument("--to", type=Path, required=True, help="folder for the slides")
    options = parser.parse_args(arguments)
    for path in options.notebooks:
        print(write(path, options.to))
    return 0


def write(path: Path, folder: Path) -> Path:
    """The slides of one executed notebook, as a file in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (found,) = [file for file in metadata.files("sphinx-mathjax-offline") or [] if file.name == MATHJAX]
    if not (folder / MATHJAX).is_file():
        shutil.copy2(found.locate(), folder / MATHJAX)
    target = folder / f"{path.stem}.html"
    target.write_text(page(json.loads(path.read_text(encoding="utf-8")), path.stem), encoding="utf-8")
    return target


def page(notebook: dict, stem: str) -> str:
    """The whole file."""
    columns = slides(notebook, stem)
    title = re.search(r"<h1>(.*?)</h1>", columns[0][0])
    body = "\n".join("<section>\n" + "\n".join(column) + "\n</section>" for column in columns)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title[1] if title else stem}: slides</title>\n"
        f"<style>{(HERE / 'reveal' / 'reveal.css').read_text(encoding='utf-8')}{STYLE}</style>\n"
        '<script>MathJax = {tex: {inlineMath: [["\\\\(", "\\\\)"]]}};</script>\n'
        f'<script defer src="{MATHJAX}"></script>\n</head>\n<body>\n'
        f'<div class="reveal"><div class="slides">\n{body}\n</div></div>\n'
        f"<script>{(HERE / 'reveal' / 'reveal.js').read_text(encoding='utf-8')}</script>\n"
        '<script>Reveal.initialize({hash: true, width: 1200, height: 760, margin: .06, center: false, '
        'transition: "none", showNotes: location.search.includes("notes")});</script>\n</body>\n</html>\n'
    )


def slides(notebook: dict, stem: str) -> list[list[str]]:
    """Columns of slides: one for the title, and one for each section.

    Raises:
        ValueError: a figure without alt text, or a notebook without a title.
    """
    columns: list[list[str]] = []
    for cell in editions.make(notebook, stem, "student")["cells"]:
        if SKIPPED & set(editions.tags(cell)) or cell["id"] == "edition":
            continue
        if cell["cell_type"] == "markdown":
            for part in re.split(r"^(?=#{1,3} )", editions.source(cell), flags=re.M):
                if part.strip():
                    add_text(columns, part.strip(), "exercise" in cell["metadata"])
        elif columns and "exercise" not in cell["metadata"]:
            columns[-1] += [f"<section>{shown}</section>" for shown in outputs(cell, stem)]
    if not columns or "<h1>" not in columns[0][0]:
        raise ValueError(f"{stem} must begin with a title")
    return columns


def add_text(columns: list[list[str]], text: str, exercise: bool) -> None:
    """A piece of Markdown: its heading opens a slide, its formulas are slides, all of it goes into the notes."""
    heading, _, rest = text.partition("\n") if text.startswith("#") else ("", "", text)
    rest = editions.plain(rest.strip())
    notes = f'<aside class="notes">{render(rest)}</aside>' if rest else ""
    if heading.startswith("### ") and columns:
        columns[-1].append(f"<section>{render(heading)}{render(rest if exercise else opening(rest))}{notes}</section>")
    elif heading:
        columns.append([f"<section>{render(heading)}{render(opening(rest))}{notes}</section>"])
    elif exercise and columns and columns[-1]:
        columns[-1][-1] = columns[-1][-1].replace("</section>", f"{render(rest)}</section>")
    elif columns:
        columns[-1][-1] = columns[-1][-1].replace("</section>", f"{notes}</section>")
    if columns and not exercise:
        columns[-1] += [f"<section>{render(formula)}</section>" for formula in re.findall(r"\$\$.+?\$\$", rest, re.S)]


def opening(text: str) -> str:
    """The first paragraph that is not a list or a formula, up to its third sentence."""
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.strip() and not re.match(r"\s*([-*|$:`%]\s|\d+\.|\$\$|:::|```|\|)", paragraph):
            return " ".join(re.split(r"(?<=[.?!])\s+", " ".join(paragraph.split()))[:3])
    return ""


def outputs(cell: dict, stem: str) -> list[str]:
    """Figures and tables of a cell."""
    found = []
    for output in cell.get("outputs", []):
        data, about, staged = output.get("data", {}), output.get("metadata", {}), cell["metadata"].get("mystnb", {})
        for kind in ("image/png", "image/svg+xml"):
            if kind in data:
                alt = about.get(kind, {}).get("alt") or staged.get("image", {}).get("alt")
                if not alt:
                    raise ValueError(f"{stem}: a figure has no alt text; draw it through glutils.show")
                text = "".join(data[kind])
                picture = f'<img src="data:{kind};base64,{text}" alt="{html.escape(alt)}">'
                source = text if kind.endswith("xml") else picture
                caption = about.get("caption") or staged.get("figure", {}).get("caption", "")
                found.append(f"<figure>{source}<figcaption>{html.escape(caption)}</figcaption></figure>")
                break
        else:
            if "text/html" in data:
                found.append(f'<div class="wide">{"".join(data["text/html"])}</div>')
    return found


def render(text: str) -> str:
    """Markdown as HTML; formulas as MathJax reads them."""
    marks = {"inline": ("\\(", "\\)"), "display": ("\\[", "\\]")}

    def formula(content: str, options: dict) -> str:
        left, right = marks["display" if options.get("display_mode") else "inline"]
        return left + html.escape(content, quote=False) + right

    made = MarkdownIt("commonmark", {"html": False}).enable("table")
    return made.use(dollarmath_plugin, renderer=formula, double_inline=True).render(text)


if __name__ == "__main__":
    sys.exit(main())
