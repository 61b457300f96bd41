"""Build the same pages with MyST's successor of Jupyter Book 1, as far as it goes, and report what is lost.

    make successor

Takes the executed pages that `make book` has staged, a table of contents translated from `_toc.yml`, and the program
`mystmd` from npm in a folder of its own. Its theme comes from the network. Without that its pages are read and checked
all the same, and not drawn. The report says for each kind of complaint how often it was made, and where first.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
VERSION = "1.8.3"
LINE = re.compile(r"^(?:⚠️|⛔️?)\s+(?:(?P<page>[\w./-]+\.(?:md|ipynb|bib))(?::\d+)*\s+)?(?P<said>.+)$")
DETAIL = re.compile(r"""(["'`]).*?\1|: .*|\([^)]*\)""")
"""What differs between complaints of one kind."""
SERVERLESS = "Pages need a server: opened from a folder, they do not follow links (mystmd, issue 188)."
"""What no log says, and what keeps this book at version 1."""


def main(arguments: list[str] | None = None) -> int:
    """Build and report; 1 where not every page was read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", type=Path, default=ROOT / "_build" / "stage", help="what tools/stage.py laid out")
    parser.add_argument("--to", type=Path, default=ROOT / "_build" / "successor", help="folder to fill")
    options = parser.parse_args(arguments)
    if not (options.stage / "_toc.yml").is_file():
        parser.error(f"{options.stage} holds no staged pages: run make book first")
    to = options.to.resolve()
    shutil.rmtree(to / "pages", ignore_errors=True)
    shutil.copytree(options.stage, to / "pages")
    settings = project(
        *(yaml.safe_load((options.stage / name).read_text(encoding="utf-8")) for name in ("_toc.yml", "_config.yml")),
        options.stage,
    )
    for name in ("_toc.yml", "_config.yml"):
        (to / "pages" / name).unlink()
    (to / "pages" / "myst.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(to), f"mystmd@{VERSION}"]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    logs = []
    for kind in ("--site", "--html"):  # without its theme the second ends before it has read a page
        myst = [str(to / "node_modules" / ".bin" / "myst"), "build", kind]
        done = subprocess.run(myst, cwd=to / "pages", capture_output=True, text=True, stdin=subprocess.DEVNULL)
        logs.append(done.stdout + done.stderr)
    log = logs[0]
    (to / "log.txt").write_text("\n".join(logs), encoding="utf-8")
    wanted = files(settings["project"]["toc"])
    read = len(list((to / "pages" / "_build").rglob("content/*.json")))
    drawn = (to / "pages" / "_build" / "html" / "index.html").is_file()
    told = report(log, len(wanted), read, drawn)
    (to / "report.md").write_text(told, encoding="utf-8")
    print(told)
    return int(read < len(wanted))


def project(toc: dict, config: dict, folder: Path) -> dict:
    """The successor's settings: contents, bibliography and title of this book."""
    return {
        "version": 1,
        "project": {
            "title": config["title"], "bibliography": config["bibtex_bibfiles"], "toc": contents(toc, folder),
        },
        "site": {"template": "book-theme"},
    }  # fmt: skip


def contents(toc: dict, folder: Path) -> list[dict]:
    """The table of contents in the successor's form; a list without a caption belongs to the part before it."""
    found = [entry({"file": toc["root"]}, folder)]
    for part in toc["parts"]:
        if "caption" in part:
            found.append({"title": part["caption"], "children": []})
        found[-1]["children"] += [entry(one, folder) for one in part["chapters"]]
    return found


def entry(one: dict, folder: Path) -> dict:
    """A page, with those below it."""
    kind = "md" if (folder / f"{one['file']}.md").is_file() else "ipynb"
    below = [entry(each, folder) for each in one.get("sections", [])]
    return {"file": f"{one['file']}.{kind}"} | ({"children": below} if below else {})


def files(toc: list[dict]) -> list[str]:
    """Every page of a table of contents."""
    return [
        file for one in toc for file in [*([one["file"]] if "file" in one else []), *files(one.get("children", []))]
    ]


def report(log: str, wanted: int, read: int, drawn: bool) -> str:
    """What is lost, as Markdown: a line for each kind of complaint, the commonest first."""
    found: dict[str, list[str]] = {}
    for line in log.splitlines():
        if match := LINE.match(line.strip()):
            said = match["said"]
            kind = " ".join((said if said.startswith("unknown") else DETAIL.sub("", said)).split())
            found.setdefault(kind, []).append(" ".join(filter(None, (match["page"], said))))
    how = "and drawn" if drawn else "and not drawn: the theme could not be fetched, or building stopped"
    lines = [f"# With mystmd {VERSION}", "", f"{read} of {wanted} pages were read, {how}. {SERVERLESS}", ""]
    lines += ["| Times | Complaint | First |", "|---:|---|---|"]
    for kind, said in sorted(found.items(), key=lambda item: -len(item[1])):
        first = said[0].replace("|", "\\|")
        lines.append(f"| {len(said)} | {kind} | {first[:160]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
