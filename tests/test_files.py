"""Files that are there whole or not at all, names they may have, and where a project begins."""

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import glutils as gl
from glutils import _files, _validate

ROOT = Path(__file__).resolve().parent.parent


def test_a_file_is_replaced_whole_and_nothing_half_written_stays(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    _files.write(path, "é\n")
    assert path.read_bytes() == "é\n".encode() and path.stat().st_mode & 0o777 == 0o644
    _files.write(str(path), b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"

    def fails(*places):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        _files.write(path, "new")
    assert path.read_bytes() == b"\x00\r\n" and os.listdir(tmp_path) == ["a.json"]


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    """With one part for all, the second writer would move the first one's part away, or mix into it."""
    path, errors = tmp_path / "a", []
    texts = [letter * 200_000 for letter in "abcdefgh"]

    def work(text):
        try:
            for _ in range(10):
                _files.write(path, text)
                assert path.read_text() in texts
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(text,)) for text in texts]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors and os.listdir(tmp_path) == ["a"]


def test_a_project_begins_where_its_pyproject_lies(tmp_path, monkeypatch):
    inner = tmp_path / "project" / "notebooks"
    inner.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").touch()
    assert _files.project_root(inner) == tmp_path / "project" == _files.project_root(tmp_path / "project")
    monkeypatch.chdir(inner)
    assert _files.project_root() == tmp_path / "project"
    assert _files.project_root(tmp_path) == tmp_path, "no project: the place itself"


def unwritable(tmp_path, monkeypatch):
    """A project on a disk that nobody, root included, can write to; and a home."""
    real = _files.project_root
    monkeypatch.setattr(_files, "project_root", lambda start=None: real(start) if start else Path("/proc/sys"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "leaky-scalars"


def test_results_go_elsewhere_where_the_project_cannot_be_written_and_a_warning_says_where(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert _files.own_place("data", "sweeps", "x") == tmp_path / "data" / "sweeps" / "x"
    assert not (tmp_path / "data").exists() and os.listdir(tmp_path) == ["pyproject.toml"]
    own = unwritable(tmp_path, monkeypatch)
    with pytest.warns(UserWarning, match="/proc/sys/data/sweeps cannot be written; results go to .*leaky-scalars"):
        assert _files.own_place("data", "sweeps") == own / "data" / "sweeps"


def test_experiments_and_records_of_a_read_only_checkout_are_kept_and_go_on(tmp_path, monkeypatch):
    own = unwritable(tmp_path, monkeypatch)
    monkeypatch.delenv("GLUTILS_RECORDS", raising=False)
    how = {"size": 8, "reconstruct_num": 1, "exp_name": "one", "max_iteration": 2, "progress": False}
    for _ in range(2):
        with pytest.warns(UserWarning, match="cannot be written; results go to"):
            found = gl.experiments.reconstruct("ig", "digits", **how)
        assert found.folder == own / "data" / "reconstruct" / "one" and (found.folder / "results.csv").is_file()
    few = {"clients": 2, "per_client": 2, "images": 1, "rounds": 1, "evaluations": 2, "practice": 0, "workers": 0}
    for fresh in (2, 0):
        with pytest.warns(UserWarning, match="cannot be written; results go to"):
            swept = gl.experiments.defense_sweep("ig", "topk", [0.5], seeds=1, exp_name="two", device="cpu", **few)
        assert swept.runs.fresh == fresh and (own / "data" / "defense_sweep" / "two" / "results.csv").is_file()
    with pytest.warns(UserWarning, match="cannot be written; results go to"):
        path = gl.runs.record("mine", parameters={}, rows=[])
    assert path == own / "_build" / "records" / "mine.json"
    with pytest.warns(UserWarning, match="cannot be written; results go to"):
        assert gl.runs.load("mine").name == "mine"


@pytest.mark.parametrize("wrong", ["", "../up", "a/b", ".hidden", "-x", "a b", "a\n", 3, None])
def test_names_of_files_are_no_paths(wrong):
    assert _validate.file_name("exp_name", "My.exp-1_b") == "My.exp-1_b"
    with pytest.raises(ValueError, match="exp_name must be letters, digits, '.', '_' and '-', got"):
        _validate.file_name("exp_name", wrong)


# --- one writer a folder ---


def result(x):
    return {"x": x}


@contextlib.contextmanager
def another_process(folder):
    """Holds the folder as one would: a lock belongs to whoever opened the folder, so a descriptor of ours will do."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def test_a_folder_has_one_writing_process_and_is_free_afterwards(tmp_path):
    said = "/a is being written by another process; .* another exp_name"
    with another_process(tmp_path / "a"), pytest.raises(FileExistsError, match=said):
        with _files.held(tmp_path / "a", "exp_name"):
            pytest.fail("held by two")
    with _files.held(tmp_path / "a", "exp_name"), _files.held(tmp_path / "a", "exp_name"):  # its own process may
        descriptor = os.open(tmp_path / "a", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        (tmp_path / "a" / "kept").touch()
    with _files.held(tmp_path / "b" / "c", "folder"):
        assert (tmp_path / "b" / "c").is_dir()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and os.listdir(tmp_path / "b") == []  # nothing was put into it
    with another_process(tmp_path / "a"):
        pass


def test_the_lock_ends_with_the_process_however_it_ends(tmp_path):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom glutils import _files\nimport time\n"
    program += f"with _files.held({str(tmp_path)!r}, 'folder'):\n print('held', flush=True)\n time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    with pytest.raises(FileExistsError, match="another process"), _files.held(tmp_path, "folder"):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    with _files.held(tmp_path, "folder"):
        pass


def test_where_nothing_can_be_locked_nothing_is_held(tmp_path, monkeypatch):
    def refuses(descriptor, how):
        raise OSError("no locks available")

    monkeypatch.setattr(_files.fcntl, "flock", refuses)
    with _files.held(tmp_path / "a", "folder"):
        assert (tmp_path / "a").is_dir()
    monkeypatch.setattr(_files, "fcntl", None)
    with _files.held(tmp_path / "a", "folder"):
        assert (tmp_path / "a").is_dir()


@pytest.mark.parametrize("what", ["reconstruct", "defense_sweep", "sweep", "federation", "decoder"])
def test_every_long_run_refuses_a_folder_that_another_process_writes(what, tmp_path):
    digits = gl.data.sample("digits", count=2, seed=0, device="cpu")
    model = gl.models.build("mlp", digits, hidden=(4,), seed=0)
    calls = {
        "reconstruct": lambda: gl.experiments.reconstruct("ig", "digits", size=8, folder=tmp_path, exp_name="a"),
        "defense_sweep": lambda: gl.experiments.defense_sweep(strengths=[1.0], folder=tmp_path, exp_name="a"),
        "sweep": lambda: gl.runs.sweep(result, [{"x": 1}], folder=tmp_path / "a", workers=0),
        "federation": lambda: gl.federation.train(
            gl.protocols.FedSGD(), model, [digits], rounds=1, lr=0.1, checkpoint=tmp_path / "a"
        ),
        "decoder": lambda: gl.decoder.train(gl.models.build("convnet", digits), digits, folder=tmp_path / "a"),
    }
    with another_process(tmp_path / "a"), pytest.raises(FileExistsError, match="is being written by another process"):
        calls[what]()
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == []
