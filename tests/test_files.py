"""Files that are there whole or not at all, names they may have, and where a project begins."""

import os
import threading

import pytest

from glutils import _files, _validate


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


@pytest.mark.parametrize("wrong", ["", "../up", "a/b", ".hidden", "-x", "a b", "a\n", 3, None])
def test_names_of_files_are_no_paths(wrong):
    assert _validate.file_name("exp_name", "My.exp-1_b") == "My.exp-1_b"
    with pytest.raises(ValueError, match="exp_name must be letters, digits, '.', '_' and '-', got"):
        _validate.file_name("exp_name", wrong)
