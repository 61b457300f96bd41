"""The runner: what a notebook takes, what is refused before any work, and that a result is never overwritten."""

import json
import os
import sys

import pytest

from glutils.runs import cli
from glutils.runs import notebook as runner

PARAMETERS = """\
seed: int = 0  # seed of everything
mu: float = 1e-4  # smoothing step
law: str = "unit"  # law of the directions
scalars: list[int] = [12, 256]  # how many scalars
device: "Optional[str]" = None  # where to run
folder: str | None = None  # as papermill cannot read it
lbfgs: bool = False  # with a line search
"""


def write(path, *sources, tag="parameters"):
    cells = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {"tags": [tag]} if n == 0 else {}, "source": source,
         "outputs": [], "execution_count": None}
        for n, source in enumerate(sources)
    ]  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book))
    return path


@pytest.fixture
def notebook(tmp_path):
    return write(tmp_path / "tiny.ipynb", PARAMETERS, "print(seed, mu)")


@pytest.fixture
def kernel(monkeypatch):
    """Stands for papermill: notes how it is called, and copies the notebook."""
    calls = []

    class Papermill:
        class PapermillExecutionError(Exception):
            ename, evalue, cell_index = "ZeroDivisionError", "division by zero", 1

        @staticmethod
        def execute_notebook(source, target, **options):
            told = {"records": os.environ["GLUTILS_RECORDS"], "command": os.environ["GLUTILS_COMMAND"]}
            calls.append(options | told)
            if options["parameters"].get("seed") == 13:
                raise Papermill.PapermillExecutionError
            with open(source) as before, open(target, "w") as after:
                after.write(before.read())

    modules = {"papermill": Papermill}
    real = runner._import
    monkeypatch.setattr(runner, "_import", lambda name: modules.get(name) or real(name))
    return calls


def test_declares_name_type_default_and_comment_of_every_parameter(notebook):
    declared = runner.parameters(notebook)
    assert list(declared) == ["seed", "mu", "law", "scalars", "device", "folder", "lbfgs"]
    assert declared["mu"] == runner.Parameter("mu", "float", 1e-4, "smoothing step")
    assert declared["scalars"].default == [12, 256]


@pytest.mark.parametrize("source", ["seed = 1", "seed: int = 1 + 1", "import os", "seed: int", "x: int = f()"])
def test_a_parameters_cell_holds_annotated_literals_only(tmp_path, source):
    with pytest.raises(ValueError, match="tiny.ipynb"):
        runner.parameters(write(tmp_path / "tiny.ipynb", source))


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path):
    with pytest.raises(ValueError, match="exactly one cell tagged 'parameters', found 0"):
        runner.parameters(write(tmp_path / "tiny.ipynb", PARAMETERS, tag="other"))


def test_an_unknown_name_is_refused_with_the_valid_ones(notebook, kernel):
    with pytest.raises(ValueError, match="unknown parameter 'sed'; valid names: seed, mu, law"):
        runner.run(notebook, {"sed": 1})
    assert not kernel


@pytest.mark.parametrize(
    "given",
    [{"seed": 1.5}, {"seed": True}, {"mu": "1e-4"}, {"law": 3}, {"scalars": [1, "2"]}, {"scalars": 3}, {"device": 0},
     {"folder": 0},     {"lbfgs": 1}],
)  # fmt: skip
def test_a_wrong_type_is_refused(notebook, kernel, given):
    with pytest.raises(TypeError, match=f"{next(iter(given))} must be"):
        runner.run(notebook, given)
    assert not kernel


def test_yaml_that_reads_a_number_as_a_word_gets_a_hint(notebook):
    with pytest.raises(TypeError, match="it is a string .YAML reads 1e-4 as a word"):
        runner.check(runner.parameters(notebook), {"mu": "1e-4"})


def test_right_values_pass_and_integers_become_floats_where_asked_for(notebook):
    given = {"seed": 3, "mu": 1, "device": "cpu", "scalars": [], "lbfgs": True}
    checked = runner.check(runner.parameters(notebook), given)
    assert checked == given | {"mu": 1.0} and isinstance(checked["mu"], float)


@pytest.mark.parametrize(
    "name, text, value",
    [("seed", "7", 7), ("mu", "1e-3", 1e-3), ("mu", "2", 2.0), ("law", "gaussian", "gaussian"), ("law", "12", "12"),
     ("scalars", "[1, 2]", [1, 2]), ("device", "none", None), ("device", "cuda", "cuda"),
     ("folder", "none", None), ("folder", "a", "a"), ("lbfgs", "true", True)],
)  # fmt: skip
def test_words_of_the_command_line_become_values(notebook, name, text, value):
    parsed = runner.parameters(notebook)[name].parse(text)
    assert parsed == value and type(parsed) is type(value)


def test_profiles_come_from_the_book(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book" / "profiles").mkdir(parents=True)
    (tmp_path / "book" / "profiles" / "fast.yaml").write_text("tiny: {seed: 5}\n")
    path = write(tmp_path / "notebooks" / "tiny.ipynb", PARAMETERS)
    assert runner.profile(path, "fast") == {"seed": 5}
    with pytest.raises(FileNotFoundError, match="no profile 'gpu'"):
        runner.profile(path, "gpu")
    with pytest.raises(ValueError, match="profile must be one of 'fast', 'gpu', 'paper'; got 'slow'"):
        runner.profile(path, "slow")


def test_an_output_is_never_overwritten(notebook, kernel, tmp_path):
    out = tmp_path / "out.ipynb"
    assert runner.run(notebook, {"seed": 1}, out=out) == out
    before = out.read_bytes()
    for given in ({"seed": 1}, {"seed": 2}):
        with pytest.raises(FileExistsError, match="never overwritten"):
            runner.run(notebook, given, out=out)
    assert out.read_bytes() == before and len(kernel) == 1


def test_resume_reuses_only_the_same_notebook_with_the_same_parameters(notebook, kernel, tmp_path):
    out = tmp_path / "out.ipynb"
    runner.run(notebook, {"seed": 1}, out=out)
    assert runner.run(notebook, {"seed": 1}, out=out, resume=True) == out
    with pytest.raises(FileExistsError, match="made with another parameters"):
        runner.run(notebook, {"seed": 2}, out=out, resume=True)
    write(notebook, PARAMETERS, "print(seed)")
    with pytest.raises(FileExistsError, match="made with another source"):
        runner.run(notebook, {"seed": 1}, out=out, resume=True)
    out.write_text('{"metadata": {}}')
    with pytest.raises(FileExistsError, match="not written by this runner"):
        runner.run(notebook, {"seed": 1}, out=out, resume=True)
    assert len(kernel) == 1


def test_a_failing_cell_is_named_and_leaves_no_output(notebook, kernel, tmp_path):
    with pytest.raises(RuntimeError, match="cell 1 of tiny.ipynb failed with ZeroDivisionError: division by zero"):
        runner.run(notebook, {"seed": 13}, out=tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_runs_in_the_folder_of_the_notebook_and_keeps_records_apart(notebook, kernel, tmp_path, monkeypatch):
    monkeypatch.delenv("GLUTILS_RECORDS", raising=False)
    runner.run(notebook, {"seed": 1}, out=tmp_path / "a.ipynb")
    runner.run(notebook, {"seed": 2}, out=tmp_path / "b.ipynb", records=tmp_path / "mine")
    assert {call["cwd"] for call in kernel} == {str(tmp_path)}
    assert [call["records"] for call in kernel] == [str(tmp_path / "a" / "records"), str(tmp_path / "mine")]
    assert kernel[1]["command"] == f"glutils run {notebook.name} -p seed 2" and "GLUTILS_COMMAND" not in os.environ


def test_the_default_output_tells_parameters_apart(notebook):
    paths = {runner.output_path(notebook, given) for given in ({}, {"seed": 1}, {"seed": 2})}
    assert len(paths) == 3 and runner.output_path(notebook, {}).name == "tiny.ipynb"


def test_a_missing_program_is_named_with_the_way_to_get_it():
    with pytest.raises(ImportError, match="needs no_such_module, .* pip install 'leaky-scalars\\[book\\]'"):
        runner._import("no_such_module")


def test_cli_lists_parameters(notebook, capsys):
    assert cli.main(["run", str(notebook), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "type", "default"] and lines[2].split()[:3] == ["mu", "float", "0.0001"]
    assert lines[2].endswith("smoothing step")


def test_cli_help_prints_the_options_and_the_parameters(notebook, capsys):
    assert cli.main(["run", str(notebook), "--help"]) == 0
    out = capsys.readouterr().out
    assert "--resume" in out and "smoothing step" in out


@pytest.mark.parametrize("value", ["-1e-4", "-.5", "-3", "-3e-12"])
def test_cli_takes_values_that_begin_with_a_minus(notebook, kernel, tmp_path, value):
    assert cli.main(["run", "-p", "mu", value, str(notebook), "--out", str(tmp_path / "out.ipynb")]) == 0
    assert kernel[0]["parameters"] == {"mu": float(value)}


def test_cli_takes_words_that_look_like_options(notebook, kernel, tmp_path, capsys):
    out = str(tmp_path / "out.ipynb")
    assert cli.main(["run", str(notebook), "-p", "law", "--out", "--out", out]) == 0
    assert kernel[0]["parameters"] == {"law": "--out"}
    for short in (["-p"], ["-p", "law"]):
        with pytest.raises(SystemExit):
            cli.main(["run", str(notebook), *short])
        assert "expected a NAME and a VALUE" in capsys.readouterr().err
    assert cli.main(["run", "-p", "seed", "3", str(notebook), "--help"]) == 0  # not the help of "seed"
    assert "smoothing step" in capsys.readouterr().out


def test_cli_sweeps_over_values_that_begin_with_a_minus(notebook, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "sweep", lambda path, grid, *rest, **how: asked.append((grid, how)) or sys.exit(0))
    with pytest.raises(SystemExit):
        cli.main(["sweep", str(notebook), "-p", "mu", "-1e-4", "1e-3", "-p", "seed", "1", "--workers", "0"])
    assert asked[0][0] == {"mu": [-1e-4, 1e-3], "seed": [1]} and asked[0][1]["workers"] == 0


@pytest.mark.parametrize("content, said", [("a:\n\tb: 1", "is not YAML: while scanning"), ("a: [1", "is not YAML")])
def test_yaml_that_is_none_is_named(notebook, kernel, tmp_path, capsys, content, said):
    (tmp_path / "mine.yaml").write_text(content)
    assert cli.main(["run", str(notebook), "-f", str(tmp_path / "mine.yaml")]) == 2
    err = capsys.readouterr().err
    assert f"mine.yaml {said}" in err and err.count("\n") == 1 and not kernel


@pytest.mark.parametrize("content", ["{", "[]", '{"cells": 3}', ""])
def test_a_file_that_is_no_notebook_is_named(tmp_path, capsys, content):
    (tmp_path / "broken.ipynb").write_text(content)
    assert cli.main(["run", str(tmp_path / "broken.ipynb")]) == 2
    err = capsys.readouterr().err
    assert "broken.ipynb is not a notebook" in err and err.count("\n") == 1


def test_a_notebook_may_begin_with_a_byte_order_mark(notebook):
    notebook.write_text("\ufeff" + notebook.read_text(), encoding="utf-8")
    assert runner.parameters(notebook)["seed"].default == 0


def test_a_place_that_cannot_be_written_is_named_before_anything_runs(notebook, kernel, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["run", str(notebook), "--out", str(tmp_path / "file" / "out.ipynb")]) == 2
    assert "choose another --out" in capsys.readouterr().err and not kernel


@pytest.mark.parametrize("arguments, message", [
    (["-p", "sed", "1"], "unknown parameter 'sed'; valid names: seed"),
    (["-p", "seed", "one"], "seed must be int, got 'one'"),
    (["-f", "missing.yaml"], "missing.yaml"),
])  # fmt: skip
def test_cli_refuses_with_one_line(notebook, kernel, capsys, arguments, message):
    assert cli.main(["run", str(notebook), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not kernel


def test_cli_lets_later_sources_win(notebook, kernel, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("seed: 2\nlaw: gaussian\n")
    out = tmp_path / "out.ipynb"
    assert (
        cli.main(["run", str(notebook), "-f", str(tmp_path / "mine.yaml"), "-p", "seed", "3", "--out", str(out)]) == 0
    )
    assert kernel[0]["parameters"] == {"seed": 3, "law": "gaussian"}
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {out}"
    assert cli.main(["run", str(notebook), "-p", "seed", "3", "--out", str(out)]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_cli_names_the_notebooks_there_are(capsys):
    assert cli.main(["run", "no_such_notebook"]) == 2
    assert "no notebook 'no_such_notebook'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # papermill's and the kernel client's own
def test_really_runs(notebook, tmp_path):
    """Once with the real papermill and a real kernel."""
    out = tmp_path / "out.ipynb"
    write(notebook, "seed: int = 0  # seed", "print(seed + 1)")
    assert cli.main(["run", str(notebook), "-p", "seed", "41", "--out", str(out)]) == 0
    cells = json.loads(out.read_text())["cells"]
    assert "".join(cells[-1]["outputs"][0]["text"]) == "42\n"
