"""Start every notebook from an installed package: no repository, another folder, and nothing written into the package.

    make empty

Run by the Python of an environment that holds the package from its wheel, and nothing else that is ours. Executes of
each notebook the code up to the first attack, and after it every cell that reads a record or a claim. A cell that lacks
what an attack would have found has its records loaded by name. Writes ``told.json`` and says which notebooks fail.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import re
import sys
import time
import traceback
from pathlib import Path

READS = re.compile(r"gl\.runs\.load\(|claims\.load\(|SOURCE")
ATTACKS = re.compile(r"gl\.(?:attack|identify|audit\.\w+|experiments\.\w+|federation\.train|attacks\.\w+)\(")
"""What costs minutes, and is tested elsewhere."""


def main(arguments: list[str] | None = None) -> int:
    """Run, and say what failed; 1 where something did, or where the package is not the installed one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", type=Path, help="folder of notebooks, outside the repository")
    parser.add_argument("--first", choices=("attack", "setup"), default="attack", help="how far each is executed")
    options = parser.parse_args(arguments)
    import matplotlib

    matplotlib.use("agg")
    import glutils

    package = Path(glutils.__file__).parent
    above = [folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "glutils").is_dir()]
    if above or (package.parent / "pyproject.toml").exists():
        print(f"glutils must come from a wheel, and lie nowhere above this folder; it is {package}, with {above}")
        return 1
    before, told = digest(package), {}
    for path in sorted(options.notebooks.glob("*.ipynb")):
        start = time.perf_counter()
        told[path.stem] = seen, ran, faults = started(path, all_of_it=options.first == "attack")
        print(f"{path.stem:40} {ran:3} cells, {seen} read records, {time.perf_counter() - start:5.1f} s", flush=True)
        print("".join(faults), end="", flush=True)
    Path("told.json").write_text(json.dumps(told), encoding="utf-8")
    failed = [name for name, (*_, faults) in told.items() if faults]
    changed = digest(package) != before
    print(f"{len(told)} notebooks, {len(failed)} fail{': ' if failed else ''}{', '.join(failed)}")
    print("the package was written to" if changed else "nothing was written into the package")
    return int(bool(failed) or changed or not told)


def started(path: Path, *, all_of_it: bool) -> tuple[int, int, list[str]]:
    """How many cells of a notebook read records, how many ran, and what went wrong.

    Args:
        path: the notebook.
        all_of_it: every cell before the first attack; otherwise parameters and imports alone.
    """
    from matplotlib import pyplot

    import glutils as gl

    space, faults, seen, ran = {"__name__": "__main__"}, [], 0, 0
    attacked = not all_of_it
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        text = "".join(cell["source"])
        setup = "parameters" in cell["metadata"].get("tags", []) or "import glutils" in text
        attacked = attacked or (bool(ATTACKS.search(text)) and not setup)
        if attacked and not setup and not READS.search(text):
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, path.name, "exec"), space)
            ran += 1
            seen += bool(READS.search(text))
        except NameError as error:  # it wants what an attack has found: then its records are there at least
            seen += len([gl.runs.load(name) for name in re.findall(r"\b\w+_cpu\b", text)])
            faults += [f"{error!r}\n"] if setup or not attacked else []
        except Exception:
            faults.append(traceback.format_exc())
    pyplot.close("all")
    return seen, ran, faults


def digest(folder: Path) -> str:
    """A digest of every file of the package but what Python compiles: names and contents."""
    made = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        made.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return made.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
