"""What publication adds: the install cell of Colab, launch buttons, workflows, spelling."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "https://github.com/owner/name"


@pytest.fixture
def notebook():
    return (ROOT / "notebooks" / "01_threat_model.ipynb").read_text(encoding="utf-8")


def test_launched_notebooks_begin_with_the_install_cell(tool, notebook):
    before, after = json.loads(notebook), json.loads(tool("launch").with_install_cell(notebook, ADDRESS, "v0.1.0"))
    cell, *rest = after["cells"]
    assert rest == before["cells"] and "remove-cell" in cell["metadata"]["tags"]
    assert f"--branch v0.1.0 {ADDRESS} " in "".join(cell["source"])
    assert "git clone" not in notebook, "the repository's own notebooks have no install cell"


@pytest.mark.parametrize(
    "repository, ref", [("https://x; rm -rf /", "main"), (ADDRESS, "--upload-pack=x"), ("", "main")]
)
def test_launch_refuses_what_a_shell_would_read_otherwise(tool, notebook, repository, ref):
    with pytest.raises(ValueError, match="must be made of letters"):
        tool("launch").with_install_cell(notebook, repository, ref)


def test_binder_takes_the_builds_for_the_cpu(tool):
    launch, before = tool("launch"), (ROOT / "environment.yml").read_text(encoding="utf-8")
    lines, after = yaml.safe_load(before), yaml.safe_load(launch.with_cpu_wheels(before))
    assert after["dependencies"][-1]["pip"] == [launch.CPU_WHEELS, *lines["dependencies"][-1]["pip"]]
    with pytest.raises(ValueError, match="once"):
        launch.with_cpu_wheels("dependencies: []")


def test_launch_buttons_come_with_the_address_and_only_then(tool, tmp_path):
    stage = tool("stage")
    config = tmp_path / "_config.yml"
    shutil.copy2(ROOT / "_config.yml", config)
    plain = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert "launch_buttons" not in plain and not plain["html"]["use_repository_button"]
    stage.add_launch_buttons(config, ADDRESS + ".git")
    told = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert told["repository"] == {"url": ADDRESS, "branch": "launch"}
    assert told["launch_buttons"]["colab_url"] and told["launch_buttons"]["binderhub_url"]
    assert told["html"]["use_repository_button"] and told["sphinx"] == plain["sphinx"]


def test_finishing_mends_the_bibliography(tool, tmp_path):
    page = tmp_path / "bibliography.html"
    page.write_text('<div role="list" class="citation-list"><div class="citation">A</div></div>', encoding="utf-8")
    assert tool("finish").main(tmp_path) == 0
    assert page.read_text(encoding="utf-8").startswith('<div class="citation-list">')


def test_finishing_takes_out_what_breaks_pages_opened_from_a_file(tool):
    mended = tool("finish").mended
    constant = '\n    <script>const THEBE_JS_URL = "https://x"; const thebe_selector = ".a"</script>'
    font = '\n<link rel="preload" as="font" type="font/woff2" crossorigin href="a.woff2" />'
    kept = '<script>const DOCUMENTATION = 1</script>\n<link rel="preload" as="script" href="a.js" />'
    assert mended("<head>" + constant + constant + font + kept) == "<head>" + kept


def test_finishing_turns_arguments_into_a_list_without_terms(tool):
    argument = '<dd><em class="sig-param"><span>a</span></em>,</dd>\n'
    kept = "<dl>\n<dt>a</dt><dd>b</dd>\n</dl>"
    page = tool("finish").mended(f"<dl>\n{argument}{argument}</dl>{kept}")
    assert page == '<div class="sig-list">\n' + argument.replace("dd>", "div>") * 2 + "</div>" + kept


def test_the_archive_is_complete_and_the_same_each_time(tool, tmp_path, capsys):
    archive = tool("archive").main
    assert archive(tmp_path) == 1 and "run make book first" in capsys.readouterr().err
    for name in ("html/index.html", "stage/notebooks/a.ipynb", "records/a.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    sums = []
    for _ in range(2):
        assert archive(tmp_path) == 0
        (path,) = tmp_path.glob("leaky-scalars-*.zip")
        sums.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert sums[0] == sums[1] == path.with_name(path.name + ".sha256").read_text(encoding="utf-8").split()[0]
    with zipfile.ZipFile(path) as content:
        manifest = json.loads(content.read("manifest.json"))
        assert set(manifest) == {"book/index.html", "notebooks/a.ipynb", "records/a.json"}
        assert all(hashlib.sha256(content.read(name)).hexdigest() == told for name, told in manifest.items())


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_run_commands_that_exist(path):
    """Every make target and script that a workflow calls is there, and every action is one commit of it."""
    text = path.read_text(encoding="utf-8")
    flow = yaml.safe_load(text)
    assert flow["name"] and flow["jobs"]
    assert flow["permissions"] == {"contents": "read"}, "a job that may do more says so itself"
    assert "apt-get" not in text, "GitHub's runners have Chrome, and no package called chromium"
    assert "download.pytorch.org/whl/cpu" in text, "runners have no graphics card"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for job in flow["jobs"].values():
        assert job.get("timeout-minutes")
        for step in job["steps"]:
            assert "uses" not in step or re.search(r"^actions/[\w-]+@[0-9a-f]{40}$", step["uses"]), step
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"] == {"persist-credentials": False}, "no token beside code that runs"
            run = step.get("run", "")
            assert set(re.findall(r"\bmake ([a-z]+)", run)) <= targets, run
            for script in re.findall(r"\b((?:tools|benchmarks)/\w+\.py|\.ci/run)", run):
                assert (ROOT / script).is_file(), script


def test_a_job_that_may_write_runs_no_code_of_the_book():
    """What executes notebooks may only read; what deploys, pushes or releases takes what they made."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8"))["jobs"]
    writing = {name: job["permissions"] for name, job in jobs.items() if "permissions" in job}
    assert writing == {
        "pages": {"pages": "write", "id-token": "write"},
        "launch": {"contents": "write"},
        "archive": {"contents": "write"},
    }
    for name in writing:
        assert jobs[name]["needs"] == "build"
        assert not [step for step in jobs[name]["steps"] if "make" in step.get("run", "").split()], name
    main, tags = "github.ref == 'refs/heads/main'", "startsWith(github.ref, 'refs/tags/')"
    assert {name: jobs[name]["if"] for name in writing} == {"pages": main, "launch": main, "archive": tags}


def test_the_three_workflows_are_there():
    assert {path.stem for path in (ROOT / ".github" / "workflows").glob("*.yml")} >= {"tests", "book", "weekly"}


def test_the_lock_file_holds_the_pinned_versions_and_names_no_host(tool):
    lock = tool("lock")
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    shape = r"^([\w.-]+)==([\w.]+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
    entries = re.findall(shape, text, flags=re.M)
    assert len(entries) == len(re.findall(r"^\w", text, flags=re.M)) > 150
    locked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version, _ in entries}
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", pinned, flags=re.M):
        name = re.sub(r"[-_.]+", "-", name).lower()
        assert name not in locked or locked[name] == version, f"{name}: run make lock"
    assert not [name for name in locked if lock.LEFT_OUT.match(f"{name}==")]
    assert lock.kept("a==1 \\\n    --hash=x\ntorch==2 \\\n    --hash=y\nb==3\n") == "a==1 \\\n    --hash=x\nb==3\n"


def test_spelling():
    """codespell knows common misspellings; what it takes for one by mistake stands in pyproject.toml."""
    ran = subprocess.run([sys.executable, "-m", "codespell_lib"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
