"""What made a record: a command line that can be typed again, and whether the files were those of the commit."""

import subprocess
import sys

import pytest

import glutils as gl
from glutils.runs import provenance


def git(root, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small repository, taken for the one that holds the package; a function reads its state afresh."""
    for name in ("pyproject.toml", "glutils/a.py", "benchmarks/b.py", "benchmarks/results/b_cpu.json", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as committed\n")
    (tmp_path / ".gitignore").write_text("*.log\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)

    def tree():
        provenance.tree.cache_clear()
        return provenance.tree()

    yield tmp_path, tree
    provenance.tree.cache_clear()


def test_a_clean_tree_stays_clean_while_benchmarks_write_their_records(checkout):
    root, tree = checkout
    (root / "benchmarks/results/b_cpu.json").write_text("more rows\n")
    (root / "benchmarks/results/new_cpu.json").write_text("new\n")
    (root / "glutils/run.log").write_text("ignored\n")
    (root / "draft.md").write_text("a new file elsewhere\n")
    found = tree()
    assert len(found.commit) == 40 and found.changes is None and found.files == ()


@pytest.mark.parametrize("name", ["glutils/a.py", "notes.md", "glutils/new.py", "benchmarks/new.py"])
def test_changes_are_seen_named_and_told_apart(checkout, name):
    root, tree = checkout
    (root / name).write_text("one\n")
    one = tree()
    assert one.files == (name,) and len(one.changes) == 16 and one.commit is not None
    (root / name).write_text("two\n")
    assert tree().changes not in (None, one.changes)
    (root / name).write_text("one\n")
    assert tree() == one, "a digest of what is different, not of when"


def test_the_state_is_that_of_the_start(checkout):
    root, tree = checkout
    before = tree()
    (root / "glutils/a.py").write_text("edited while it runs\n")
    assert provenance.tree() == before


def test_a_record_tells_that_the_tree_was_not_clean(checkout, tmp_path):
    root, tree = checkout
    commit = tree().commit
    made = gl.runs.load(gl.runs.record("run", parameters={}, rows=[], folder=tmp_path / "records"))
    assert (made.commit, made.changes, made.clean) == (commit, None, True)
    (root / "glutils/a.py").write_text("edited\n")
    changes = tree().changes
    made = gl.runs.load(gl.runs.record("run", parameters={}, rows=[], folder=tmp_path / "records"))
    assert (made.commit, made.changes, made.clean) == (f"{commit}-dirty", changes, False)
    assert made.made_from == f"{commit[:7]} (tree not clean)"


def test_outside_a_checkout_nothing_is_known(tmp_path, monkeypatch):
    assert provenance.tree(tmp_path) == provenance.Tree(None)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    provenance.tree.cache_clear()
    assert provenance.tree(tmp_path) == provenance.Tree(None)
    provenance.tree.cache_clear()


@pytest.mark.parametrize(
    "argv, original, command, script",
    [
        (["{root}/benchmarks/b.py", "--seeds", "3"], ["python", "b.py", "--seeds", "3"],
         "python benchmarks/b.py --seeds 3", "benchmarks/b.py"),
        (["{root}/benchmarks/b.py", "--only", "a b"], ["python3", "-X", "utf8", "b.py", "--only", "a b"],
         "python benchmarks/b.py --only 'a b'", "benchmarks/b.py"),
        (["{root}/benchmarks/b.py", "--folder={root}/data", "--root", "/else/where/photos"], [],
         "python benchmarks/b.py --folder=data --root photos", "benchmarks/b.py"),
        (["/else/where/mine.py"], ["python", "mine.py"], "python mine.py", "mine.py"),
        (["/else/bin/glutils", "sweep", "n"], ["python", "glutils", "sweep", "n"], "glutils sweep n", None),
        (["/else/timeit.py", "-n", "1"], ["python", "-m", "timeit", "-n", "1"], "python -m timeit -n 1", None),
        (["{root}/benchmarks/b.py", "--seeds", "3"], ["python", "-m", "runner", "-m", "slow", "a.py", "-q"],
         "python benchmarks/b.py --seeds 3", "benchmarks/b.py"),
        (["{root}/benchmarks/b.py", "1", "2", "3"], ["python", "-m", "runner"],
         "python benchmarks/b.py 1 2 3", "benchmarks/b.py"),
        (["-c"], ["python", "-c", "1"], None, None),
        ([""], ["python"], None, None),
    ],
)  # fmt: skip
def test_a_command_line_is_written_without_what_belongs_to_one_machine(checkout, argv, original, command, script):
    root, _ = checkout
    argv = [part.format(root=root) for part in argv]
    found = provenance._typed(argv, original or ["python", *argv])
    assert found == (command, script)


def test_a_script_leaves_its_command_in_its_record(checkout, tmp_path):
    root, _ = checkout
    script = root / "benchmarks" / "b.py"
    script.write_text("import sys, glutils as gl\ngl.runs.record('run', parameters={}, rows=[], folder=sys.argv[1])\n")
    subprocess.run([sys.executable, "b.py", str(root / "out"), "--seeds", "2"], cwd=script.parent, check=True)
    made = gl.runs.load(root / "out" / "run.json")
    assert (made.command, made.script) == ("python benchmarks/b.py out --seeds 2", "benchmarks/b.py")


def test_a_kernel_has_the_command_of_its_runner(checkout, monkeypatch):
    root, _ = checkout
    (root / "notebooks").mkdir()
    command = provenance.notebook_command(root / "notebooks" / "n.ipynb", {"seeds": [1, 2], "name": "a b"})
    assert command == "glutils run notebooks/n.ipynb -p seeds '[1, 2]' -p name 'a b'"
    monkeypatch.setenv(provenance.COMMAND, command)
    assert provenance.started_by() == (command, "notebooks/n.ipynb")
    assert provenance.started_by("python benchmarks/b.py") == ("python benchmarks/b.py", "benchmarks/b.py")


def test_a_notebook_that_is_open_has_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", provenance)
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/else/n.ipynb")
    assert provenance.started_by() == (None, "n.ipynb")
    monkeypatch.delenv("JPY_SESSION_NAME")
    assert provenance.started_by() == (None, None)
