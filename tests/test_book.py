"""The book hangs together: contents, citations, terms, links, profiles, pins; and the built pages work offline."""

import importlib.metadata
import itertools
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from glutils.runs import notebook as runner

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").rglob("*.md"))


def text(path):
    """The Markdown of a page or of a notebook's text cells."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))

    def files(entry):
        own = [entry[key] for key in ("root", "file") if key in entry]
        return own + [
            file for key in ("parts", "chapters", "sections") for sub in entry.get(key, []) for file in files(sub)
        ]

    return files(toc)


def terms():
    """The terms of the glossary: the unindented lines inside its directive."""
    block = re.search(r"```\{glossary\}\n(.*?)\n```", text(ROOT / "book" / "glossary.md"), flags=re.S)[1]
    return [line.strip() for line in block.splitlines() if line and not line.startswith((" ", ":"))]


def pins():
    """Name to version in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [
        re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line) or line for line in lines if line and line[0] != "#"
    ]
    assert not [line for line in found if isinstance(line, str)], (
        "exact versions only, with no local part, path or address"
    )
    return {canonicalize_name(match[1]): match[2] for match in found}


def test_contents_and_files_agree():
    listed = contents()
    assert len(listed) == len(set(listed))
    exist = [str(path.relative_to(ROOT).with_suffix("")) for path in PAGES + NOTEBOOKS]
    assert sorted(listed) == sorted(exist)


@pytest.mark.parametrize("path", PAGES + NOTEBOOKS, ids=lambda path: path.stem)
def test_citations_and_terms_exist(path):
    keys = set(
        re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), flags=re.M)
    )
    cited = {key.strip() for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text(path)) for key in group.split(",")}
    assert cited <= keys, f"not in references.bib: {sorted(cited - keys)}"
    used = {re.sub(r".*<([^>]+)>$", r"\1", term) for term in re.findall(r"\{term\}`([^`]+)`", text(path))}
    assert used <= set(terms()), f"not in the glossary: {sorted(used - set(terms()))}"


@pytest.mark.parametrize("path", PAGES + NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_pages_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(path)) + re.findall(
        r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", text(path)
    )
    for target in targets:
        if "://" not in target:
            found = path.parent / target
            assert found.exists() or any(found.with_suffix(end).exists() for end in (".md", ".ipynb")), target


def test_every_reference_is_whole_and_unique():
    entries = re.split(r"^@", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), flags=re.M)[1:]
    keys = [re.match(r"\w+\{([^,]+),", entry)[1] for entry in entries]
    assert len(keys) == len(set(keys))
    for key, entry in zip(keys, entries, strict=True):
        fields = set(re.findall(r"^\s*(\w+)\s*=", entry, flags=re.M))
        assert {"author", "title", "year"} <= fields, key
        assert {"doi", "eprint", "url"} & fields, f"{key} has no doi, eprint or url"


def test_glossary_has_no_term_twice():
    assert len(terms()) == len(set(map(str.lower, terms())))


@pytest.mark.parametrize("name", runner.PROFILES)
def test_profiles_name_existing_notebooks_and_parameters(name):
    by_stem = {path.stem: path for path in NOTEBOOKS}
    for stem, given in runner.load(ROOT / "book" / "profiles" / f"{name}.yaml").items():
        assert stem in by_stem, f"no notebook {stem}"
        runner.check(runner.parameters(by_stem[stem]), given)


def test_the_data_credits_name_every_embedded_photograph():
    from glutils.data import embedded

    table = text(ROOT / "book" / "ethics.md")
    missing = [name for name in embedded.PHOTOS if f"| {name.replace('_', ' ')} |" not in table]
    assert not missing


def test_commands_in_the_text_are_ones_that_work():
    """Notebooks and parameters named in commands of the README and of the pages exist."""
    for path in [ROOT / "README.md", *PAGES]:
        for stem, rest in re.findall(r"(?:glutils run |papermill .*?notebooks/)(\w+)(.*)", text(path)):
            if (notebook := ROOT / "notebooks" / f"{stem}.ipynb").exists():
                names = {name: None for name in re.findall(r"-p (\w+)", rest)}
                assert set(names) <= set(runner.parameters(notebook)), f"{path.name}: {stem} {rest}"


def test_constraints_cover_everything_that_is_installed():
    pinned = pins()
    assert pinned["torch"] == "2.13.0" and pinned["torchvision"] == "0.28.0"
    machine = re.compile(r"nvidia-|cuda-|triton|torch$|setuptools$")  # differ with the machine
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    seen, queue = set(), [needed for needed in map(Requirement, lines) if needed.name != project["name"]]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, tuple(requirement.extras)) in seen:
            continue
        seen.add((name, tuple(requirement.extras)))
        installed = importlib.metadata.distribution(name)
        if not machine.match(name):
            assert pinned.get(name) == installed.version, f"{name} {installed.version} is not what constraints.txt says"
        for line in installed.requires or []:
            needed = Requirement(line)
            if machine.match(needed.name) and needed.name != "torch":
                continue
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in {"", *requirement.extras}):
                queue.append(needed)


def test_conda_and_make_install_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip = conda["dependencies"][0], conda["dependencies"][-1]["pip"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert python == "python=3.11" and project["requires-python"].startswith(">=3.11")
    assert pip == ["-c constraints.txt", "-e .[book,test]"] and '-c constraints.txt -e ".[book,test]"' in make
    assert all(isinstance(entry, dict) or entry in (python, "pip") for entry in conda["dependencies"])
    for extra in project["optional-dependencies"].values():
        names = {canonicalize_name(Requirement(line).name) for line in extra} - {project["name"]}
        assert names <= set(pins())


@pytest.fixture
def stage(tool):
    return tool("stage")


def executed(*outputs, **metadata):
    cell = {"cell_type": "code", "metadata": metadata, "source": "", "outputs": list(outputs), "execution_count": 1}
    return {"cells": [cell], "metadata": {"papermill": {"input_path": "secret"}, "kernelspec": {"name": "python3"}}}


def picture(alt=None, **about):
    metadata = ({"image/png": {"alt": alt}} if alt else {}) | about
    return {"output_type": "display_data", "data": {"image/png": "iVBORw0=", "text/plain": "x"}, "metadata": metadata}


def test_staging_drops_run_metadata_and_hides_the_injected_cell(stage):
    book = stage.clean(executed(papermill={"duration": 1}, execution={}, tags=["injected-parameters"]), "x")
    assert book["metadata"] == {"kernelspec": {"name": "python3"}}
    assert book["cells"][0]["metadata"] == {"tags": ["injected-parameters", "remove-cell"]}


def test_staging_moves_alt_text_and_caption_to_where_the_book_reads_them(stage):
    book = stage.clean(executed(picture("a cat", caption="A cat"), mystnb={"figure": {"name": "fig-cat"}}), "x")
    assert book["cells"][0]["metadata"]["mystnb"] == {
        "image": {"alt": "a cat"},
        "figure": {"name": "fig-cat", "caption": "A cat"},
    }


def test_staging_refuses_images_without_alt_text(stage):
    html = {"output_type": "display_data", "data": {"text/html": "<p><img src='x'></p>"}, "metadata": {}}
    for output in (picture(), html):
        with pytest.raises(ValueError, match="x, cell 0: .*no alt text"):
            stage.clean(executed(output), "x")
    with pytest.raises(ValueError, match="different alt texts"):
        stage.clean(executed(picture("a"), picture("b")), "x")


def test_staging_refuses_tables_under_a_figures_caption(stage):
    """MyST-NB would print the caption under each of them."""
    table = {"output_type": "display_data", "data": {"text/html": "<table></table>"}, "metadata": {}}
    printed = {"output_type": "stream", "name": "stdout", "text": "1"}
    for output in (table, table | {"output_type": "execute_result"}):
        with pytest.raises(ValueError, match="x, cell 0: what is shown beside a captioned figure"):
            stage.clean(executed(picture("a", caption="A cat"), output), "x")
    stage.clean(executed(picture("a", caption="A cat"), printed), "x")
    stage.clean(executed(picture("a"), table), "x")


def test_a_cached_execution_depends_on_everything_that_it_was_made_from(stage, tmp_path, monkeypatch):
    names = ["glutils/a.py", "book/claims/a.yaml", "benchmarks/results/a.json", "notebooks/n.ipynb", "constraints.txt"]
    for name in [*names, "tools/stage.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    monkeypatch.setattr(stage, "__file__", str(tmp_path / "tools/stage.py"))
    notebook = tmp_path / "notebooks" / "n.ipynb"
    keys = [stage.cache_key(notebook, {}), stage.cache_key(notebook, {"seed": 1})]
    for name in [*names, "glutils/b.mplstyle"]:
        (tmp_path / name).write_text("changed")
        keys.append(stage.cache_key(notebook, {}))
    assert len(set(keys)) == len(keys)
    (tmp_path / "glutils" / "a.pyc").write_text("compiled")
    assert stage.cache_key(notebook, {}) == keys[-1]


class Page(HTMLParser):
    """What a built page loads, links to and shows."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.images, self.ids = [], [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if found.get("id") else set()
        if tag == "script" and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload") and found.get("href"):
            self.loads.append(found["href"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)


def built():
    return [HTML / f"{name}.html" for name in contents()]


@pytest.mark.book
def test_built_book_has_every_page():
    assert (HTML / "index.html").is_file()
    assert not [path for path in built() if not path.is_file()]


@pytest.mark.book
def test_built_pages_load_nothing_from_a_network():
    for path in built():
        for address in Page(path).loads:
            assert not urlparse(address).netloc, f"{path.name} loads {address}"
            assert (path.parent / unquote(urlparse(address).path)).is_file(), f"{path.name} misses {address}"


@pytest.mark.book
def test_built_links_inside_the_book_lead_somewhere():
    pages = {path.resolve(): Page(path) for path in built()}
    for path, page in pages.items():
        for link in page.links:
            url = urlparse(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.exists(), f"{path.name}: {link}"
            if url.fragment and target in pages:
                assert unquote(url.fragment) in pages[target].ids, f"{path.name}: {link}"


@pytest.mark.book
def test_built_images_have_alt_text():
    for path in built():
        for image in Page(path).images:
            assert image.get("alt"), f"{path.name}: {image.get('src', '')[:60]}"
            assert not re.search(r"\.(png|svg)$", image["alt"]), f"{path.name}: a file name is no alt text"


@pytest.mark.book
def test_built_pages_show_no_trace_of_a_failure_or_of_a_machine():
    for path in built():
        shown = path.read_text(encoding="utf-8")
        assert "An Exception was encountered" not in shown and "Traceback (most recent" not in shown, path.name
        assert str(ROOT) not in shown and str(Path.home()) + "/" not in shown, path.name


@pytest.mark.book
def test_every_notebook_left_a_record():
    for path in NOTEBOOKS:
        record = json.loads((ROOT / "_build" / "records" / f"{path.stem}.json").read_text(encoding="utf-8"))
        assert record
