"""The package as others install it: built, unpacked elsewhere, without the repository beside it.

What a build takes along is asked in the unit suite; the installation itself, and what every notebook reads from it,
with the finished book.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import glutils as gl

ROOT = Path(__file__).resolve().parent.parent
BUILT_FROM = ("glutils", "benchmarks/results", "book/claims", "notebooks")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "LICENSE-CONTENT")
START = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")
                    and "editable" not in repr(finder)]
sys.path[:] = [{site!r}] + [entry for entry in sys.path if entry and {root!r} != entry]
"""
"""What makes a process forget the repository: no editable install, and the unpacked package first."""
INSTALL = """
import importlib.util
assert importlib.util.find_spec("glutils") is None
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance().run_cell({cell!r}).raise_error()
import os, glutils
print("FOUND", glutils.__file__, os.getcwd())
"""
READ = """
import runpy
sys.argv = ["try_wheel", {notebooks!r}, "--first", "setup"]
runpy.run_path({script!r}, run_name="__main__")
"""


def run(script, cwd, **environment):
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env=os.environ | environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def built_files(to):
    """What a build puts into the wheel, without pip: the files of the package that setuptools copies to ``to``."""
    to.mkdir()
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(to), "build_py", "--build-lib", str(to)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return files_of(to / "glutils", to)


def files_of(folder, above):
    """Every file below a folder, seen from above; without what Python compiled."""
    found = {path.relative_to(above) for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package from a clone's tag, installed by the cell that Colab runs, and what the cell said.

    The repository is gone then. No network: what the package needs is there already.
    """
    place = tmp_path_factory.mktemp("wheel")
    source, work, site = place / "repository", place / "content", place / "site"
    for name in BUILT_FROM:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, source / name)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(source)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "v0"]):
        subprocess.run([*git, *command], check=True)
    work.mkdir(), site.mkdir()
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import launch
    finally:
        sys.path.remove(str(ROOT / "tools"))
    notebook = (ROOT / "notebooks" / "01_threat_model.ipynb").read_text(encoding="utf-8")
    cell = "".join(json.loads(launch.with_install_cell(notebook, str(source), "v0"))["cells"][0]["source"])
    start = START.format(site=str(site), root=str(ROOT))
    said = run(
        start + INSTALL.format(cell=cell), work, PIP_TARGET=str(site), PIP_NO_DEPS="1", PIP_NO_BUILD_ISOLATION="0",
        PIP_QUIET="1", HOME=str(place),
    )  # fmt: skip
    notebooks = place / "elsewhere" / "notebooks"
    shutil.copytree(work / "leaky-scalars" / "notebooks", notebooks)
    shutil.rmtree(source), shutil.rmtree(work / "leaky-scalars")
    return site, work, said, start, notebooks


@pytest.mark.book
def test_the_install_cell_installs_from_a_repository(installed):
    """Executed as Colab would: no glutils there, a repository with a tag to clone, a kernel that goes on."""
    site, work, said, *_ = installed
    found = re.search(r"FOUND (\S+) (\S+)", said)
    assert found[1].startswith(str(site)) and found[2] == str(work / "leaky-scalars" / "notebooks")


def expected():
    """What the package reads: its own files, and the published records and claims."""
    ours = files_of(ROOT / "glutils", ROOT)
    for folder, ending in ((gl.runs.RECORDS, "*.json"), (gl.runs.CLAIMS, "*.y*ml")):
        ours |= {Path("glutils/published") / path.relative_to(ROOT) for path in folder.glob(ending)}
    return ours


def test_a_build_takes_along_everything_that_the_package_reads(tmp_path):
    assert built_files(tmp_path / "lib") == expected()


@pytest.mark.book
def test_everything_that_the_package_reads_is_in_the_wheel(installed):
    site, *_ = installed
    assert files_of(site / "glutils", site) == expected()
    (about,) = site.glob("leaky_scalars-*.dist-info")
    assert about.name == f"leaky_scalars-{gl.__version__}.dist-info"
    assert {path.name for path in (about / "licenses").iterdir()} == {"LICENSE", "LICENSE-CONTENT"}


@pytest.mark.book
def test_every_notebook_starts_and_reads_its_records_from_the_wheel(installed, tmp_path):
    """In another folder: parameters, set-up, and every cell that reads a record or a claim."""
    site, _, _, start, notebooks = installed
    script = READ.format(notebooks=str(notebooks), script=str(ROOT / "tools" / "try_wheel.py"))
    run(start + script, tmp_path, GLUTILS_RECORDS=str(tmp_path / "mine"))
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert set(told) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert not {name: faults for name, (*_, faults) in told.items() if faults}
    read = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb") if "gl.runs.load(" in path.read_text("utf-8")]
    assert all(told[name][0] for name in read)


def test_a_record_of_the_book_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("GLUTILS_RECORDS", str(tmp_path))
    assert gl.runs.load("text_cpu") == gl.runs.load("text_cpu", folder=gl.runs.RECORDS)
    gl.runs.record("text_cpu", parameters={}, rows=[{"mine": 1}])
    assert gl.runs.load("text_cpu").rows == [{"mine": 1}], "a run of one's own comes first"
    with pytest.raises(gl.runs.MissingRecord, match="no record 'text_cpu'"):
        gl.runs.load("text_cpu", folder=tmp_path / "other")
