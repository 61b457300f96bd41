"""Sweeps: what is refused before anything starts, and that no run is lost, repeated or stopped by another's failure."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

import glutils as gl
from glutils.runs import cli, tasks
from glutils.runs import notebook as runner


def work(x: int, seed: int = 0, shift: float = 0.0) -> dict:
    """A short run. One of them, once, kills the process that it is in, as a machine that is switched off would."""
    mark = os.environ.get("SWEEP_TEST_KILL")
    if mark and (x, seed) == (3, 1) and not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return {"y": (x + shift) ** 2 + seed, "nan": float("nan")}


def picky(x: int) -> dict:
    """Fails for some."""
    if x % 2:
        raise ArithmeticError(f"{x} is odd")
    return {"y": x}


def counted(x: int, log: str) -> list:
    """Notes that it ran."""
    with open(log, "a") as file:
        file.write(f"{x}\n")
    return [{"part": k, "y": x * k} for k in range(2)]


def interrupted(x: int) -> dict:
    """Is stopped by hand at the third run."""
    if x == 2:
        raise KeyboardInterrupt
    return {"y": x}


def wrong(x: int) -> str:
    """Returns no rows."""
    return "rows"


def values(sweep):
    return [(row["x"], row["seed"], row["y"]) for row in sweep.rows]


GRID = {"x": [0, 1, 2, 3, 4, 5], "seed": [0, 1], "shift": [0.0, 0.5]}


def test_a_killed_worker_loses_nothing(tmp_path, monkeypatch):
    """24 runs on two worker processes, one of which is killed in the middle of a run."""
    calm = gl.runs.sweep(work, GRID, workers=0, folder=tmp_path / "calm")
    mark = tmp_path / "killed"
    monkeypatch.setenv("SWEEP_TEST_KILL", str(mark))
    sweep = gl.runs.sweep(work, GRID, workers=2, folder=tmp_path / "stormy")
    assert mark.exists(), "a worker died"
    assert sweep.failures == [] and sweep.stopped is None and sweep.fresh == 24
    files = sorted(path for path in (tmp_path / "stormy").glob("*.json") if path.name != "sweep.json")
    stored = [json.loads(path.read_text()) for path in files]
    assert len(files) == 24 and len({json.dumps(one["parameters"], sort_keys=True) for one in stored}) == 24
    assert values(sweep) == values(calm) and [one.parameters for one in sweep.records] == sweep.parameters
    assert {one.name for one in sweep.records} == {one.name for one in calm.records}


def test_finished_runs_are_never_repeated_whatever_the_grid(tmp_path):
    log = tmp_path / "log"
    grid = {"x": [1, 2], "log": [str(log)]}
    first = gl.runs.sweep(counted, grid, workers=0, folder=tmp_path / "s")
    before = {path: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    again = gl.runs.sweep(counted, [{"log": str(log), "x": x} for x in (3, 2)], workers=0, folder=tmp_path / "s")
    assert log.read_text().split() == ["1", "2", "3"] and (first.fresh, again.fresh) == (2, 1)
    assert [row["y"] for row in again.rows] == [0, 3, 0, 2] and [row["x"] for row in again.rows] == [3, 3, 2, 2]
    assert all(path.read_bytes() == text for path, text in before.items())


def test_failures_are_told_and_stop_nothing_and_are_tried_again(tmp_path, monkeypatch):
    sweep = gl.runs.sweep(picky, {"x": [1, 2, 3, 4]}, workers=0, folder=tmp_path / "s")
    assert [row["y"] for row in sweep.rows] == [2, 4] and [one is None for one in sweep.records] == [True, False] * 2
    assert [(f.parameters, f.error) for f in sweep.failures] == [
        ({"x": 1}, "ArithmeticError: 1 is odd"), ({"x": 3}, "ArithmeticError: 3 is odd"),
    ]  # fmt: skip
    (trouble, _) = sorted((tmp_path / "s").glob("*.error.txt"))
    assert "Traceback" in trouble.read_text()
    monkeypatch.setattr(tasks, "_function", lambda task, point: {"rows": [{"y": -point["x"]}]})  # the cause is gone
    sweep = gl.runs.sweep(picky, {"x": [1, 2, 3, 4]}, workers=0, folder=tmp_path / "s")
    assert [row["y"] for row in sweep.rows] == [-1, 2, -3, 4] and sweep.fresh == 2
    assert not list((tmp_path / "s").glob("*.error.txt"))


def test_what_a_run_returns_must_be_rows(tmp_path):
    sweep = gl.runs.sweep(wrong, {"x": [1]}, workers=0, folder=tmp_path / "s")
    assert "must return a mapping or a list of mappings, got str" in sweep.failures[0].error


def test_an_interrupt_keeps_what_is_finished(tmp_path):
    sweep = gl.runs.sweep(interrupted, {"x": [0, 1, 2, 3]}, workers=0, folder=tmp_path / "s")
    assert sweep.stopped == "interrupted with 2 of 4 runs finished" and [row["y"] for row in sweep.rows] == [0, 1]
    with pytest.raises(KeyboardInterrupt, match="0 of 1 runs"):
        gl.runs.sweep(interrupted, {"x": [2]}, workers=0, folder=tmp_path / "s")


def test_runs_on_the_workers_of_any_scheduler(tmp_path):
    """By address, over a socket; a Client will do as well, and is left open."""
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address=None) as cluster:
        far = gl.runs.sweep(work, {"x": [1, 2]}, cluster.scheduler_address, folder=tmp_path / "s")
        with Client(cluster, set_as_default=False) as client:
            further = gl.runs.sweep(picky, {"x": [1, 2]}, client, folder=tmp_path / "t")
            assert client.status == "running"
    assert [row["y"] for row in far.rows] == [1, 4]
    assert [row["y"] for row in further.rows] == [2] and further.failures[0].error == "ArithmeticError: 1 is odd"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "carrier-pigeon://roof:1"])
def test_an_unknown_scheduler_is_refused_soon_and_clearly(tmp_path, address):
    with pytest.raises(ConnectionError, match=f"address of a running dask scheduler.*{address}.*did not answer"):
        gl.runs.sweep(work, {"x": [1]}, address, folder=tmp_path / "s", timeout=0.2)


@pytest.mark.parametrize(
    "grid, error, message",
    [({}, ValueError, "grid must hold at least one point"), ([], ValueError, "grid must hold at least one point"),
     ({"x": []}, ValueError, r"grid\['x'\] must hold at least one value"),
     ({"x": 3}, TypeError, r"grid\['x'\] must be a list of values, got int"),
     ({"x": "12"}, TypeError, r"grid\['x'\] must be a list of values, got str"),
     ("x", TypeError, "grid must be a mapping from names to lists"),
     ([3], TypeError, r"grid\[0\] must be a mapping of parameters"),
     ({"x": [1], "why": [2]}, ValueError, "unknown parameter 'why' of function test_sweep.work; valid: x, seed, shift"),
     ({"seed": [1]}, ValueError, "grid must give 'x'"),
     ({"x": [1, 1]}, ValueError, "grid must name every point once"),
     ({"x": [float("nan")]}, ValueError, "parameter 'x' must be a number that JSON can hold, got nan"),
     ({"x": [(1, 2)]}, TypeError, "parameter 'x' must be a number, string, boolean, None, list or mapping, got tuple"),
     ({"x": [[Path("a")]]}, TypeError, r"parameter 'x'\[0\] must be .* got PosixPath")],
)  # fmt: skip
def test_a_bad_grid_is_refused_before_anything_starts(tmp_path, grid, error, message):
    with pytest.raises(error, match=message):
        gl.runs.sweep(work, grid, "tcp://nowhere:1", folder=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_bad_task_or_cluster_is_refused(tmp_path):
    with pytest.raises(TypeError, match="task must be a notebook's path or name, or a function, got int"):
        gl.runs.sweep(3, {"x": [1]})
    with pytest.raises(FileNotFoundError, match="no notebook 'no_such_notebook'"):
        gl.runs.sweep("no_such_notebook", {"x": [1]})
    with pytest.raises(ValueError, match="workers must be None where a cluster is given"):
        gl.runs.sweep(work, {"x": [1]}, "tcp://nowhere:1", workers=2)
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        gl.runs.sweep(work, {"x": [1]}, workers=-1)
    with pytest.raises(TypeError, match="cluster must be an address, a Client or a dask cluster, got int"):
        gl.runs.sweep(work, {"x": [1]}, 8786, folder=tmp_path / "s")


def test_a_folder_belongs_to_one_task(tmp_path):
    gl.runs.sweep(work, {"x": [1]}, workers=0, folder=tmp_path / "s")
    with pytest.raises(FileExistsError, match="holds runs of function test_sweep.work; choose another folder"):
        gl.runs.sweep(picky, {"x": [2]}, workers=0, folder=tmp_path / "s")
    (tmp_path / "s" / "sweep.json").write_text('{"task": "function test_sweep.work", "source": "older"}')
    with pytest.raises(FileExistsError, match="of another version of function test_sweep.work"):
        gl.runs.sweep(work, {"x": [1]}, workers=0, folder=tmp_path / "s")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "letter.txt").touch()
    with pytest.raises(FileExistsError, match="holds files of something else"):
        gl.runs.sweep(work, {"x": [1]}, workers=0, folder=tmp_path / "t")


def test_a_record_that_is_not_the_runs_own_is_refused(tmp_path):
    sweep = gl.runs.sweep(work, {"x": [1, 2]}, workers=0, folder=tmp_path / "s")
    one, two = (tmp_path / "s" / f"{record.name}.json" for record in sweep.records)
    one.write_text(two.read_text())
    with pytest.raises(ValueError, match="is not the record of"):
        gl.runs.sweep(work, {"x": [1]}, workers=0, folder=tmp_path / "s")


# --- notebooks ---

PARAMETERS = "seed: int = 0  # seed\nlevel: float = 0.5  # how much\nwords: list[str] = []  # some\n"


@pytest.fixture
def notebook(tmp_path):
    """A notebook that leaves a record."""
    cells = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {"tags": tags}, "source": source, "outputs": [],
         "execution_count": None}
        for n, (tags, source) in enumerate([(["parameters"], PARAMETERS), ([], "print(1 / level)")])
    ]  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path / "tiny.ipynb"
    book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book))
    return path


@pytest.fixture
def kernel(monkeypatch):
    """Stands for papermill: does what the tiny notebook would do, without a kernel."""

    class Papermill:
        class PapermillExecutionError(Exception):
            ename, evalue, cell_index, traceback = "ZeroDivisionError", "division by zero", 1, ["1 / 0"]

        @staticmethod
        def execute_notebook(source, target, parameters, **options):
            Path(target).write_text(Path(source).read_text())
            if parameters.get("level") == 0:
                raise Papermill.PapermillExecutionError
            gl.runs.record("tiny", parameters=parameters, rows=[{"inverse": 1 / parameters.get("level", 0.5)}])

    real = runner._import
    monkeypatch.setattr(runner, "_import", lambda name: Papermill if name == "papermill" else real(name))


def test_a_notebook_is_swept_with_its_record_and_its_execution_kept(tmp_path, notebook, kernel):
    grid = {"level": [1, 4.0, 0.0], "seed": [3]}
    sweep = gl.runs.sweep(notebook, grid, workers=0, folder=tmp_path / "s")
    assert [row["inverse"] for row in sweep.rows] == [1.0, 0.25] and sweep.records[0].seeds == [3]
    assert sweep.parameters[0] == {"level": 1.0, "seed": 3} and isinstance(sweep.parameters[0]["level"], float)
    names = {path.name for path in (tmp_path / "s").iterdir()}
    keys = [tasks.key_of(point) for point in sweep.parameters]
    assert {f"{keys[0]}.ipynb", f"{keys[1]}.json", f"{keys[2]}.partial.ipynb", f"{keys[2]}.error.txt"} <= names
    assert f"{keys[2]}.json" not in names
    (failure,) = sweep.failures
    assert failure.error == (
        f"cell 1 of tiny.ipynb failed with ZeroDivisionError: division by zero; see {keys[2]}.partial.ipynb"
    )


@pytest.mark.parametrize(
    "grid, error, message",
    [({"sed": [1]}, ValueError, "unknown parameter 'sed'; valid names: seed, level, words"),
     ({"seed": [1, 1.5]}, TypeError, "seed must be int, got 1.5"),
     ({"words": ["a", "b"]}, TypeError, r"words must be list\[str\], got 'a'"),
     ({"level": [1, 1.0]}, ValueError, "grid must name every point once")],
)  # fmt: skip
def test_names_and_types_of_a_notebook_are_checked_before_anything_starts(tmp_path, notebook, grid, error, message):
    with pytest.raises(error, match=message):
        gl.runs.sweep(notebook, grid, "tcp://nowhere:1", folder=tmp_path / "s")


def test_a_worker_that_has_another_notebook_says_so(tmp_path, notebook):
    task = tasks.Task.of(notebook)
    notebook.write_text("{}")
    assert "a worker needs the notebook, as it was, at" in tasks.outcome(task, "k", {})["error"]


# --- the command line ---


def test_cli_sweeps_and_tells_what_failed(tmp_path, notebook, kernel, capsys):
    out = ["--out", str(tmp_path / "s"), "--workers", "0"]
    assert cli.main(["sweep", str(notebook), "-p", "level", "1", "2.0", "-p", "seed", "3", *out]) == 0
    assert "2 runs of tiny.ipynb: 2 new, 0 there before, 0 failed" in capsys.readouterr().out
    stored = [gl.runs.load(path) for path in (tmp_path / "s").glob("*.json") if path.name != "sweep.json"]
    commands = {f"glutils run tiny.ipynb -p level {level} -p seed 3" for level in (1.0, 2.0)}
    assert {one.command for one in stored} == commands, "each run by itself, as it can be repeated"
    assert cli.main(["sweep", str(notebook), "-p", "level", "1", "0", "-p", "seed", "3", *out]) == 1
    captured = capsys.readouterr()
    assert "2 runs of tiny.ipynb: 0 new, 1 there before, 1 failed" in captured.out
    assert "level = 0.0, seed = 3: cell 1 of tiny.ipynb failed with ZeroDivisionError" in captured.err


def test_cli_takes_lists_and_grids_from_a_file(tmp_path, notebook, kernel, capsys):
    (tmp_path / "grid.yaml").write_text("level: [0.5, 0.25]\nwords: [[a, b], []]\n")
    arguments = ["-f", str(tmp_path / "grid.yaml"), "-p", "words", "['c']", "--workers", "0", "--out"]
    assert cli.main(["sweep", str(notebook), *arguments, str(tmp_path / "s")]) == 0
    stored = [gl.runs.load(path) for path in (tmp_path / "s").glob("*.json") if path.name != "sweep.json"]
    assert sorted((one.parameters["level"], one.parameters["words"]) for one in stored) == [(0.25, ["c"]), (0.5, ["c"])]


@pytest.mark.parametrize(
    "arguments, message",
    [(["-p", "sed", "1"], "unknown parameter 'sed'; valid names: seed"), (["-p", "seed", "one"], "seed must be int"),
     (["-p", "seed"], "-p seed needs at least one value"), ([], "grid must hold at least one point"),
     (["-p", "seed", "1", "--cluster", "tcp://127.0.0.1:1", "--timeout", "0.2"], "did not answer within 0.2 s")],
)  # fmt: skip
def test_cli_refuses_with_one_line(tmp_path, notebook, kernel, capsys, arguments, message):
    assert cli.main(["sweep", str(notebook), *arguments, "--out", str(tmp_path / "s")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_cli_help_shows_the_options_and_the_parameters(notebook, capsys):
    assert cli.main(["sweep", str(notebook), "--help"]) == 0
    out = capsys.readouterr().out
    assert "--cluster" in out and "how much" in out
