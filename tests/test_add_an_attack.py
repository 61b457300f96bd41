"""The page "How to add an attack" works: its code is taken from the page and run, in a registry of its own."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import glutils as gl
from glutils.attacks import base
from glutils.experiments import conditions

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "book" / "add_an_attack.md").read_text(encoding="utf-8")
LINES = 30
"""What the page promises, without blank lines."""


def blocks():
    """The page's Python blocks in order: the attack, its import, its name, its test, its conditions."""
    found = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert len(found) == 5
    return found


def written(name):
    """The name of the file that the page asks for, and that it exists nowhere yet."""
    assert f"Write `{name}`" in PAGE and not (ROOT / name).exists()
    return Path(name).name


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The attack as the page adds it, taken away again afterwards."""
    file = tmp_path / written("glutils/attacks/matching/coarse.py")
    file.write_text(blocks()[0], encoding="utf-8")
    monkeypatch.setattr(base.ATTACKS, "_entries", dict(base.ATTACKS._entries))
    monkeypatch.setattr(conditions, "CONDITIONS", dict(conditions.CONDITIONS))
    spec = importlib.util.spec_from_file_location(f"glutils.attacks.matching.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    exec(blocks()[4], vars(conditions))
    return module


def run_tests(path):
    """Run the test functions of a file as pytest does, with their fixtures; return the names of those that passed."""
    passed = []

    class Note:
        def pytest_runtest_logreport(self, report):
            if report.when == "call" and report.passed:
                passed.append(report.nodeid.rpartition("::")[2])

    without = [f"-pno:{name}" for name in ("cacheprovider", "nbval", "xdist")]  # nbval takes seconds to load
    arguments = [str(path), "-q", *without, "--rootdir", str(path.parent), "-c", "/dev/null"]
    return pytest.main(arguments, plugins=[Note()]), passed


def test_the_attack_has_the_promised_length():
    assert sum(bool(line.strip()) for line in blocks()[0].splitlines()) <= LINES


def test_it_is_found_by_its_name_and_appears_in_the_tables(added):
    assert blocks()[1].strip() == "from . import coarse"
    exec(blocks()[2], {})
    row = next(row for row in gl.attacks.table() if row["name"] == "coarse")
    assert row["variable"] == "pixels at half the size"
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), flags=re.M)
    assert base.ATTACKS.get("coarse").source in keys


def test_the_test_on_the_page_passes_attack_control_and_refusal(added, tmp_path):
    file = tmp_path / written("tests/test_coarse.py")
    file.write_text(blocks()[3], encoding="utf-8")
    status, passed = run_tests(file)
    assert status == 0
    assert passed == ["test_the_attack_beats_its_controls", "test_the_attack_refuses_what_it_cannot_read"]


def test_laboratory_and_leaderboard_can_run_it(added):
    photo = gl.data.sample("photos", size=8, count=1, seed=0)
    seen = conditions.observe("coarse", photo)
    budget = conditions.of("coarse").budget(3)
    assert gl.attack("coarse", seen, **budget).images.shape == photo.images.shape


def test_it_is_gone_afterwards():
    assert "coarse" not in gl.attacks.names() and "coarse" not in conditions.CONDITIONS
