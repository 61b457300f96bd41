"""Prepare a lesson of the instructor's guide: run exactly the notebooks that it needs, and lay out what is taken along.

    python tools/lesson.py --lesson one-lecture --to _build/lessons

A lesson is a schedule of ``book/instructor_guide.md``, named by the beginning of its heading. Its folder then holds
``plan.md`` (the schedule), ``shown`` (the notebooks, executed), ``slides`` (see slides.py), and ``student`` (the same
notebooks without solutions). A notebook that was executed for the book, and has not changed, is not executed again.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import editions
import slides
import stage

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "book" / "instructor_guide.md"


@dataclass(frozen=True)
class Lesson:
    """A schedule: its heading, its Markdown, its minutes (0 where it is told in days), and its notebooks in order."""

    title: str
    text: str
    minutes: int
    notebooks: tuple[str, ...]


def main(arguments: list[str] | None = None) -> int:
    """Execute and lay out; 1 where a notebook does not run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lesson", required=True, help="the beginning of a schedule's heading, such as one-lecture")
    parser.add_argument("--to", type=Path, default=ROOT / "_build" / "lessons", help="folder for lessons")
    parser.add_argument("--profile", default="", help="a profile of book/profiles; by default as in the book")
    options = parser.parse_args(arguments)
    try:
        lesson = find(options.lesson)
    except ValueError as error:
        parser.error(str(error))
    to = options.to / options.lesson
    shutil.rmtree(to, ignore_errors=True)
    for name in ("shown", "student"):
        (to / name).mkdir(parents=True)
    (to / "plan.md").write_text(f"# {lesson.title}\n\n{lesson.text}\n", encoding="utf-8")
    paths = [ROOT / "notebooks" / f"{name}.ipynb" for name in lesson.notebooks]
    for path, entry, said in stage.executed(paths, options.profile, to / "records"):
        print(said, flush=True)
        if entry is None:
            return 1
        executed = stage.clean(json.loads((entry / path.name).read_text(encoding="utf-8")), path.name)
        stage.write(to / "shown" / path.name, stage.dump(executed))
        slides.write(to / "shown" / path.name, to / "slides")
        student = editions.make(json.loads(path.read_text(encoding="utf-8")), path.stem, "student")
        stage.write(to / "student" / path.name, stage.dump(student))
    print(f"{lesson.title}: {len(paths)} notebooks in {to}")
    return 0


def find(name: str) -> Lesson:
    """The schedule whose heading begins with ``name``, its words joined by hyphens.

    Raises:
        ValueError: no such schedule, naming those there are.
    """
    lessons = schedules()
    found = [lesson for slug, lesson in lessons.items() if slug == name or slug.startswith(f"{name}-")]
    if not name or len(found) != 1:
        raise ValueError(f"lesson must be the beginning of one of {', '.join(lessons)}; got {name!r}")
    return found[0]


def schedules() -> dict[str, Lesson]:
    """Every schedule of the guide: a section with a table that links notebooks, and begins with minutes or days."""
    found = {}
    for part in re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        title, _, text = part.partition("\n")
        head = re.search(r"^\| (Minutes|Day) \|", text, flags=re.M)
        if head:
            minutes = sum(map(int, re.findall(r"^\| (\d+) \|", text, flags=re.M))) if head[1] == "Minutes" else 0
            notebooks = tuple(dict.fromkeys(re.findall(r"\]\(\.\./notebooks/(\w+)\.ipynb\)", text)))
            slug = re.sub(r"\W+", "-", title.strip().lower())
            found[slug] = Lesson(title.strip(), text.strip(), minutes, notebooks)
    return found


if __name__ == "__main__":
    sys.exit(main())
