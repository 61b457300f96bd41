"""A folder that a run goes on from: what it was asked, which files are whole, and what is refused."""

import json

import pytest
import torch

from glutils._checkpoint import RunFolder, generator_state, set_generator_state


class Folder(RunFolder):
    FORMAT, INDEX, ARGUMENT = "test 1", "index.json", "where"

    def save(self, **tensors):
        file, digest = self.write_tensors("one.safetensors", tensors)
        self.write_index({"format": self.FORMAT, "asked": self.asked, "file": file, "digest": digest})


@pytest.fixture
def stored(tmp_path):
    folder = Folder(tmp_path / "run", {"seed": 3, "sizes": (2, 4)})
    assert folder.found is None and not list(folder.path.iterdir())  # before there is something to write
    folder.save(x=torch.arange(3.0))
    return folder.path


def test_what_was_written_is_found_again(stored):
    again = Folder(str(stored), {"seed": 3, "sizes": (2, 4)})
    assert torch.equal(again.read_tensors(again.found["file"], again.found["digest"])["x"], torch.arange(3.0))
    assert sorted(path.name for path in stored.iterdir()) == ["index.json", "one.safetensors"]  # and no parts of files


def test_another_run_a_strange_folder_and_damage_are_refused(stored, tmp_path):
    with pytest.raises(ValueError, match=r"where must be of the same run, but .*run was made with seed=3, not 4; "):
        Folder(stored, {"seed": 4, "sizes": (2, 4)})
    (tmp_path / "else").mkdir()
    Folder(tmp_path / "else", {})  # empty: as good as new
    (tmp_path / "else" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="where must be an empty folder or one of this run, but .*else is neither"):
        Folder(tmp_path / "else", {})
    with pytest.raises(TypeError, match="where must be the path of a folder, got int"):
        Folder(3, {})
    whole = Folder(stored, {"seed": 3})
    (stored / "one.safetensors").write_bytes(b"\0" * 90)
    with pytest.raises(ValueError, match="one.safetensors is damaged .it is not the file that was written"):
        whole.read_tensors("one.safetensors", whole.found["digest"])
    for content in ("{", "[]", "{}", json.dumps({"format": "test 0", "asked": {}}), json.dumps({"format": "test 1"})):
        (stored / "index.json").write_text(content)
        with pytest.raises(ValueError, match="where cannot be used: .*index.json is damaged"):
            Folder(stored, {"seed": 3})


def test_a_generator_goes_on_where_it_stood():
    first, second = torch.Generator().manual_seed(0), torch.Generator()
    torch.rand(5, generator=first)
    set_generator_state(second, generator_state(first))
    assert torch.equal(torch.rand(5, generator=first), torch.rand(5, generator=second))
