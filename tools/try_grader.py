"""Let nbgrader itself mark the autograded edition: a notebook with the solutions, and an empty one.

    make grader

For each assignment nbgrader makes the release, two students hand in, and both are marked. The one with the solutions
has to earn every point of code and the other none. Needs nbgrader, which the book's own environment does without.
It runs in the folder of the course, and leaves there what nbgrader keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

NBGRADER = (sys.executable, "-m", "nbgrader")


def main(arguments: list[str] | None = None) -> int:
    """Mark every assignment; 1 where a student's points are not what they should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--course", type=Path, required=True, help="folder that tools/autograded.py wrote")
    parser.add_argument("--only", nargs="*", help="assignments to try; all of them without it")
    options = parser.parse_args(arguments)
    course = options.course.resolve()
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it calls alembic
    failed = []
    for name in options.only or sorted(path.name for path in (course / "source").iterdir()):
        wanted, got = points(course, name), marks(course, name)
        print(f"{name:45} {wanted} points of code: solved {got['solved']:g}, empty {got['empty']:g}", flush=True)
        if got != {"solved": wanted, "empty": 0}:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


def points(course: Path, name: str) -> int:
    """What an assignment's code is worth."""
    cells = json.loads((course / "source" / name / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    kept = [cell["metadata"].get("nbgrader", {}) for cell in cells]
    return sum(about.get("points", 0) for about in kept if about.get("locked"))


def marks(course: Path, name: str) -> dict[str, float]:
    """Points that nbgrader gives by itself to the student with the solutions, and to the one without."""
    from nbgrader.api import Gradebook

    run(course, "generate_assignment", name, "--force", "--create")
    source, release = (json.loads((course / part / name / f"{name}.ipynb").read_text(encoding="utf-8"))
                       for part in ("source", "release"))  # fmt: skip
    if "BEGIN" in json.dumps(release):
        raise ValueError(f"{name}: the release still holds a mark of nbgrader's")
    solved = {cell["metadata"].get("nbgrader", {}).get("grade_id"): cell["source"] for cell in source["cells"]}
    for student in ("solved", "empty"):
        folder = course / "submitted" / student / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        cells = [
            cell | {"source": solved[about["grade_id"]]} if about.get("solution") and student == "solved" else cell
            for cell in release["cells"] for about in [cell["metadata"].get("nbgrader", {})]
        ]  # fmt: skip
        (folder / f"{name}.ipynb").write_text(json.dumps(release | {"cells": cells}), encoding="utf-8")
    run(course, "autograde", name, "--force", "--create")
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        return {
            student: sum(grade.auto_score or 0 for note in book.find_submission(name, student).notebooks
                         for grade in note.grades)
            for student in ("solved", "empty")
        }  # fmt: skip


def run(course: Path, *command: str) -> None:
    """A command of nbgrader; what it says is shown only where it fails."""
    done = subprocess.run([*NBGRADER, *command], cwd=course, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nbgrader {' '.join(command)}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
