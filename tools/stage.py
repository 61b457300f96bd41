"""Execute the notebooks and lay out the tree that the book is built from.

    python tools/stage.py --to _build/stage                     # the book: every notebook with its defaults
    python tools/stage.py --profile fast --to _build/fast       # for the tests: book/profiles/fast.yaml

Jupyter Book cannot pass parameters, so notebooks are executed here and the book is built with execution off. A staged
notebook differs from papermill's output in three ways: run metadata (paths, times) is dropped, the cell that papermill
injects is not shown, and the alt text and caption that a figure carries move to where MyST-NB reads them.

An executed notebook is kept under _build/cache and used again while its key stays the same: the notebook, every file of
glutils, the claims, the published records (benchmarks/results), the parameters, the pinned environment, and the kind of
machine. A change of any of them executes it again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

import pages
import terms
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("_config.yml", "_toc.yml", "CONTRIBUTING.md", "book")
MATHJAX = "tex-svg-full.js"  # one file with its glyphs inside: pages show their formulas from a folder, offline
IMAGES = {"image/png", "image/jpeg", "image/svg+xml"}
SHOWN = ("display_data", "execute_result")
"""Outputs that MyST-NB puts into the figure of their cell."""
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-image", "scikit-learn", "lpips", "jupyter-book")


def main(arguments: list[str] | None = None) -> int:
    """Execute, then stage; the exit status says whether every notebook ran and every figure has alt text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="folder to fill")
    parser.add_argument("--profile", default="", help="a profile of book/profiles; without it, defaults and the pages")
    parser.add_argument("--repository", default="", help="public address of the repository: adds the launch buttons")
    options = parser.parse_args(arguments)
    to = options.to.resolve()
    shutil.rmtree(to, ignore_errors=True)
    records = to / "records" if options.profile else to.parent / "records"
    shutil.rmtree(records, ignore_errors=True)
    rows, failed = [], []
    for notebook, entry, said in executed(sorted((ROOT / "notebooks").glob("*.ipynb")), options.profile, records):
        print(said, flush=True)
        try:
            if entry is None:
                raise ValueError(f"{notebook.name} could not be executed")
            staged = clean(json.loads((entry / notebook.name).read_text(encoding="utf-8")), notebook.name)
        except ValueError as error:
            print(error, flush=True)
            failed.append(notebook.stem)
            continue
        write(to / "notebooks" / notebook.name, dump(staged if options.profile else link_terms(staged)))
        rows.append(json.loads((entry / "run.json").read_text(encoding="utf-8")))
    if failed:
        print(f"failed: {', '.join(failed)}")
        return 1
    if not options.profile:
        stage_pages(to, rows)
        if options.repository:
            add_launch_buttons(to / "_config.yml", options.repository)
    return 0


def executed(notebooks: list[Path], profile: str, records: Path):
    """Execute side by side, one notebook a core and one thread each; yield them in order with what there is to say.

    On small systems two threads are hardly faster than one, and two notebooks at once take half the time. A GPU serves
    one notebook at a time.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = 1 if torch.cuda.is_available() else min(4, cores, len(notebooks))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_CBWR", "AUTO")  # otherwise the last digits depend on where arrays lie in memory
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(attempt, notebook, profile, records) for notebook in notebooks]
        for notebook, run in zip(notebooks, runs, strict=True):
            yield notebook, *run.result()


def attempt(notebook: Path, profile: str, records: Path) -> tuple[Path | None, str]:
    """The cache entry of an executed notebook, or None, and a line or a traceback to print."""
    try:
        return execute(notebook, profile, records)
    except (RuntimeError, ValueError) as error:
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(getattr(error.__cause__, "traceback", [])))
        return None, f"\n{trace}\n{error}"


def execute(notebook: Path, profile: str, records: Path) -> tuple[Path, str]:
    """The cache entry of an executed notebook (the notebook, its record, and ``run.json``), and a line to print."""
    from glutils.runs import notebook as runner

    given = runner.profile(notebook, profile) if profile else {}
    key = cache_key(notebook, given)
    entry = ROOT / "_build" / "cache" / (profile or "book") / notebook.stem
    run = entry / "run.json"
    said = f"{notebook.stem:40}{profile or 'defaults':10}"
    if run.is_file() and json.loads(run.read_text(encoding="utf-8"))["key"] == key:
        said += "unchanged"
    else:
        shutil.rmtree(entry, ignore_errors=True)
        start = time.perf_counter()
        with quiet_kernels():
            runner.run(notebook, given, out=entry / notebook.name, records=entry / "records", progress=False)
        seconds = round(time.perf_counter() - start, 1)
        facts = {"key": key, "notebook": notebook.stem, "seconds": seconds, "device": device(), "commit": commit()}
        write(run, dump(facts | {"versions": versions()}))
        said += f"{seconds:6.1f} s"
    if (entry / "records").is_dir():
        shutil.copytree(entry / "records", records, dirs_exist_ok=True)
    return entry, said


def cache_key(notebook: Path, given: dict) -> str:
    """A digest of everything that the outputs of a notebook depend on."""
    digest = hashlib.sha256(json.dumps([given, device(), versions(), sys.version], sort_keys=True).encode())
    sources = [path for path in (ROOT / "glutils").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for folder in ("book/claims", "benchmarks/results"):
        sources += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in [notebook, ROOT / "constraints.txt", Path(__file__), *sorted(sources)]:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def clean(notebook: dict, name: str) -> dict:
    """The executed notebook as it is published: no run metadata, no injected cell shown, alt text in its place."""
    for key in ("papermill", "glutils", "widgets"):
        notebook["metadata"].pop(key, None)
    for number, cell in enumerate(notebook["cells"]):
        about = cell["metadata"]
        for key in ("papermill", "execution"):
            about.pop(key, None)
        if "injected-parameters" in about.get("tags", []) and "remove-cell" not in about["tags"]:
            about["tags"] = [*about["tags"], "remove-cell"]
        if cell["cell_type"] == "code":  # a widget is dead without a kernel, and its scripts would come from a network
            widget = "application/vnd.jupyter.widget-view+json"
            cell["outputs"] = [output for output in cell["outputs"] if widget not in output.get("data", {})]
        describe_figure(cell, f"{name}, cell {number}")
    return notebook


def link_terms(notebook: dict) -> dict:
    """The notebook with the first use of each glossary term linked."""
    entries = terms.names((ROOT / "book" / "glossary.md").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    for cell, text in zip(cells, terms.linked(["".join(cell["source"]) for cell in cells], entries), strict=True):
        cell["source"] = text
    return notebook


def describe_figure(cell: dict, where: str) -> None:
    """Copy the alt text and caption of a cell's images into the cell; ``ValueError`` for an image without alt text."""
    mystnb = cell["metadata"].get("mystnb", {})
    alts, captions = set(), set()
    for output in cell.get("outputs", []):
        html = "".join(output.get("data", {}).get("text/html", ""))
        if any("alt=" not in tag for tag in re.findall(r"<img\b[^>]*>", html)):
            raise ValueError(f"{where}: an <img> in an HTML output has no alt text")
        if not (kinds := IMAGES & set(output.get("data", {}))):
            continue
        about = output.get("metadata", {})
        own = mystnb.get("image", {}).get("alt", "")
        alts.add(next((about[kind]["alt"] for kind in kinds if about.get(kind, {}).get("alt")), own))
        captions.add(about.get("caption") or mystnb.get("figure", {}).get("caption", ""))
    if "" in alts:
        raise ValueError(f"{where}: a figure has no alt text; draw it through glutils.show")
    if len(alts) > 1 or len(captions) > 1:
        raise ValueError(f"{where}: figures with different alt texts or captions; show each in a cell of its own")
    if alts:
        cell["metadata"]["mystnb"] = mystnb
        mystnb.setdefault("image", {})["alt"] = alts.pop()
        if caption := captions.pop():
            if any(o["output_type"] in SHOWN and not IMAGES & set(o["data"]) for o in cell["outputs"]):
                raise ValueError(f"{where}: what is shown beside a captioned figure needs another cell")
            mystnb.setdefault("figure", {})["caption"] = caption


def stage_pages(to: Path, rows: list[dict]) -> None:
    """Copy the book's pages beside the notebooks, with MathJax and with what :mod:`pages` takes from the code."""
    for name in PAGES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("profiles", "claims"))
        else:
            shutil.copy2(source, to / name)
    mathjax = [path for path in metadata.files("sphinx-mathjax-offline") or [] if path.name == MATHJAX]
    target = to / "book" / "assets" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(mathjax[0].locate(), target / MATHJAX)
    pages.fill(to / "book", rows)


def add_launch_buttons(config: Path, repository: str) -> None:
    """Buttons to the repository, and to Colab and Binder, which open the branch that tools/launch.py lays out."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    content["repository"] = {"url": repository.removesuffix(".git"), "branch": "launch"}
    content["html"]["use_repository_button"] = True
    colab, binder = "https://colab.research.google.com", "https://mybinder.org"
    content["launch_buttons"] = {"colab_url": colab, "binderhub_url": binder, "thebe": False}
    write(config, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the numbers."""
    return {"Python": platform.python_version()} | {name: metadata.version(name) for name in LIBRARIES}


def device() -> str:
    """The kind of machine, in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def commit() -> str:
    """The commit that is checked out, marked ``+`` where files differ from it; empty in an archive without history."""
    git = ["git", "-C", str(ROOT)]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        return name.strip() + ("+" if dirty.strip() else "")
    return ""


@contextlib.contextmanager
def quiet_kernels():
    """No progress bars inside executed notebooks."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]


def dump(value: dict) -> str:
    """JSON as notebooks are written."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write a text file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
