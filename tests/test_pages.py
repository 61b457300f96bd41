"""The pages keep what they promise: terms, minutes, references, what the code gives; and the files around the book."""

import dataclasses
import importlib
import inspect
import json
import re
import struct
from pathlib import Path

import pytest
import yaml
from test_book import text as prose

import glutils as gl
from glutils.attacks.base import ATTACKS, KINDS, OBSERVATION
from glutils.defenses.base import DEFENSES

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NO_IDENTIFIER = {"zheng2025zerogla", "xue2022fgla", "ma2023ilrg", "carletti2025sok"}
"""Entries for which no DOI and no arXiv number could be confirmed; the bibliography page says so."""
NUMBERS = {"five": 5, "ten": 10, "fifteen": 15, "twenty": 20, "thirty": 30}


def references():
    entries = re.split(r"^@", (BOOK / "references.bib").read_text(encoding="utf-8"), flags=re.M)[1:]
    return {re.match(r"\w+\{([^,]+),", entry)[1]: entry for entry in entries}


# --- words and references


def texts(path):
    """The Markdown cells of a notebook; a page as one of them."""
    if path.suffix == ".md":
        return [prose(path)]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def links(text):
    """Terms that a text links, as often as it does."""
    return re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", text)


@pytest.fixture
def terms(tool):
    return tool("terms")


def test_every_chapter_links_its_first_uses_and_every_term_is_used(terms):
    entries, used = terms.names(prose(BOOK / "glossary.md")), set()
    for path in NOTEBOOKS:
        found = links("\n\n".join(terms.linked(texts(path), entries)))
        assert len(set(found)) >= (5 if path in CHAPTERS else 1), path.stem
        used.update(found)
    for page in BOOK.rglob("*.md"):
        used.update(links(prose(page)) if page.name != "glossary.md" else [])
    assert not [names for names in entries if not used & set(names)], "terms that nothing links"
    assert used <= {name for names in entries for name in names}


ENTRIES = [("scalar",), ("Gauss-Newton",), ("seed",), ("adversary", "attacker"), ("zeroth-order optimisation",)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two scalars, one scalar.", "Two {term}`scalars <scalar>`, one scalar."),
        ("Scalars.", "{term}`Scalars <scalar>`."),
        ("By Gauss-Newton, not gauss-newton.", "By {term}`Gauss-Newton`, not gauss-newton."),
        ("An attacker; the adversary.", "An {term}`attacker`; the adversary."),
        ("Zeroth-order\noptimisation and scalars-only", "Zeroth-order\noptimisation and scalars-only"),
        ("A seed.", "A seed."),  # an ordinary word: left to the author
        ("# A scalar\n\n`scalar` $scalar$ [scalar](scalar.md) {cite}`scalar`", None),
        ("| scalar |\n|---|\n| scalar |", None),
        ("```\nscalar\n```\n\n$$ scalar $$", None),
        ("```{exercise}\n:label: x\n\nA scalar.\n```", None),
        ("```{exercise-start}\n:label: scalar\n```\n\nA word.", None),
        ("{term}`scalar` and scalar", None),
    ],
)
def test_terms_are_linked_in_running_text_only(terms, text, expected):
    assert terms.linked(["# Scalar\n\n*A scalar.*", text], ENTRIES) == ["# Scalar\n\n*A scalar.*", expected or text]


def test_every_reference_has_an_identifier_that_can_be_one():
    for key, entry in references().items():
        fields = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\}", entry, flags=re.M))
        if "doi" in fields:
            assert re.fullmatch(r"10\.\d{4,9}/\S+", fields["doi"]), key
        if "eprint" in fields:
            assert re.fullmatch(r"\d{4}\.\d{4,5}", fields["eprint"]) and fields["archiveprefix"] == "arXiv", key
        if not {"doi", "eprint"} & set(fields):
            assert key in NO_IDENTIFIER and fields["url"].startswith("https://"), key


def test_cards_name_references_that_exist():
    from glutils.labels.base import _RULES

    cards = [ATTACKS.get(name) for name in gl.attacks.names()] + [_RULES.get(name) for name in gl.labels.names()]
    assert {card.source for card in cards} <= set(references())


# --- paths and schedules


def minutes(path):
    """Minutes of reading that a notebook states."""
    stated = re.search(r"\*\*Time\.\*\*\s+(\w+) minutes to read", prose(path))[1]
    return int(stated) if stated.isdigit() else NUMBERS[stated.lower()]


def test_learning_paths_state_the_chapters_minutes_and_add_them_up():
    tables = re.findall(r"(\| Page .*?\n)\n", prose(BOOK / "learning_paths.md"), flags=re.S)
    assert len(tables) == 3
    for table in tables:
        rows = re.findall(r"^\| \[[^]]+\]\(\.\./notebooks/([\w.]+)\) \| (\d+) \|", table, flags=re.M)
        assert len(rows) >= 6
        for name, stated in rows:
            assert int(stated) == minutes(ROOT / "notebooks" / name), name
        assert f"| **All** | **{sum(int(stated) for _, stated in rows)}** |" in table


def test_schedules_fill_their_time():
    tables = re.findall(r"(\| Minutes .*?\n)\n", prose(BOOK / "instructor_guide.md"), flags=re.S)
    sums = [sum(map(int, re.findall(r"^\| (\d+) \|", table, flags=re.M))) for table in tables]
    assert sums == [90, 240]


# --- what comes from the code


@pytest.fixture
def pages(tool):
    return tool("pages")


def test_every_attack_has_a_family_a_chapter_and_a_row_in_the_map(pages):
    grouped = pages.grouped()
    assert sorted(name for names in grouped.values() for name in names) == sorted(gl.attacks.names())
    assert all(grouped.values()), "an empty family"
    assert set(pages.CHAPTERS) == set(gl.attacks.names())
    tables = pages.map_tables() + pages.threat_table()
    for name, card in pages.cards().items():
        for column in (card.simulates, card.variable, card.solver, card.labels, card.adversary):
            assert column in tables, name


def test_the_map_tells_what_the_cards_tell(pages):
    expected = {"fc_inversion": "closed_form", "cpa": "closed_form", "zerogla": "zerogla", "ggl": "generative",
                "ig": "matching", "rtf": "malicious", "dmgan": "malicious"}  # fmt: skip
    assert {name: pages.family(ATTACKS.get(name)) for name in expected} == expected
    readers = [name for name in gl.attacks.names() if pages.facts(name)["scalars"]]
    assert readers == [name for name in gl.attacks.names() if "scalars" in ATTACKS.get(name).kinds]
    assert pages.facts("rtf")["breaks the protocol"] and not pages.facts("ig")["breaks the protocol"]
    breakers = [name for name in gl.attacks.names() if "malicious" in ATTACKS.get(name).adversary]
    assert sorted(pages.grouped()["malicious"]) == sorted(breakers)
    assert {name for name in gl.attacks.names() if pages.facts(name)["no search"]} >= {"fc_inversion", "rgap", "rtf"}


def test_families_are_the_folders_of_the_attacks(pages):
    folders = {path.parent.name for path in (ROOT / "glutils" / "attacks").glob("*/__init__.py")}
    assert set(pages.FAMILIES) == folders
    svg, tables = pages.picture(), pages.map_tables()
    for title, common in pages.FAMILIES.values():
        assert f">{title}</text>" in svg and f"### {title}\n\n{common}\n" in tables
        assert common.endswith(".") and len(common) < 150
    odd = dataclasses.replace(ATTACKS.get("ig"), run=pages.table)
    with pytest.raises(ValueError, match="IG must lie in a folder of closed_form, .*, got "):
        pages.family(odd)


def test_every_family_of_attacks_has_a_page_with_all_its_attacks(pages):
    assert sorted(path.stem for path in (BOOK / "api").glob("attacks_*.md")) == sorted(
        f"attacks_{folder}" for folder in pages.FAMILIES
    )
    for folder, (title, common) in pages.FAMILIES.items():
        page = prose(BOOK / "api" / f"attacks_{folder}.md")
        assert page.startswith(f"# {title}\n\n% made from the code: attacks of {folder}\n")
        made = pages.MAKERS[f"attacks of {folder}"]()
        assert made.startswith(common) and made.count("## ") == len(pages.grouped()[folder])
        for name in pages.grouped()[folder]:
            assert f".. autofunction:: {pages.path(pages.cards()[name].run)}\n" in made, name
        assert f"[{title}](attacks_{folder}.md)" in pages.MAKERS["families of attacks"]()


ADVERSARIES = {"honest-but-curious server", "malicious server", "malicious client"}
WORDS = ("simulates", "variable", "distance", "prior", "solver", "labels")


@pytest.mark.parametrize("name", gl.attacks.names())
def test_a_card_holds_words_for_a_table_and_no_sentence(name):
    card = ATTACKS.get(name)
    assert card.takes in (OBSERVATION, "clients") and card.adversary in ADVERSARIES
    assert set(card.several) <= set(card.kinds) <= set(KINDS) and bool(card.kinds) == (card.takes == OBSERVATION)
    for field in dataclasses.fields(card):
        value = getattr(card, field.name)
        if field.name == "run":
            assert callable(value)
            continue
        for words in value if isinstance(value, tuple) else [value]:
            assert isinstance(words, str) and words.strip() == words and words, field.name
            assert len(words) <= 45 and not re.search(r"\w\(|\. |\.$|\bcall\b|\bgl\.", words), f"{field.name}: {words}"
    assert set(WORDS) | {"title", "kinds", "several", "source", "adversary", "takes", "records", "losses", "run"} == {
        field.name for field in dataclasses.fields(card)
    }


def test_the_column_of_what_is_read_holds_kinds_of_messages_only(pages):
    header, _, *rows = [line.split(" | ") for line in pages.threat_table().splitlines() if line.startswith("|")]
    assert len(rows) == len(gl.attacks.names())
    for row in rows:
        read = row[header.index("Reads")].split(", ")
        assert set(read) <= set(KINDS) or read == [pages.NO_MESSAGE]
    assert sum(row[header.index("Reads")] == pages.NO_MESSAGE for row in rows) == 1


def test_the_picture_is_small_and_can_be_read_on_a_phone(pages):
    svg = pages.picture()
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    size = float(re.search(r'font-size="([\d.]+)"', svg)[1])
    assert size * 358 / width >= 10, "text below ten pixels on a screen of 390"
    assert len(svg) < 50_000
    assert all(pages.short(card.title) in svg for card in pages.cards().values())


def test_tables_of_the_reference_list_every_name_there_is(pages, tool):
    reference, found = tool("reference"), {}
    for what, rows in reference.ROWS.items():
        lines = rows()
        assert all(len(line) == len(reference.HEADERS[what]) and all(line) for line in lines), what
        found[what] = [line[0].strip('`"') for line in lines]
        assert f"`\"{found[what][0]}\"`" in pages.MAKERS[f"table of {what}"]()
    assert found["attacks"] == gl.attacks.names() and found["defences"] == gl.defenses.names()
    assert found["label rules"] == gl.labels.names() and found["models"] == gl.models.names()
    assert found["data"] == list(gl.data.names())
    budgets = {row[0].strip('`"') for row in reference.defense_rows() if row[3] == "yes"}
    assert budgets == {"dpsgd", "dp_update", "dp_scalars"}
    assert reference.escaped("<a>/*_b") == r"\<a>/\*\_b"


def test_the_picture_follows_the_theme_and_is_not_cut(pages, tmp_path):
    light, dark = pages.picture(), pages.darkened(pages.picture())
    assert not [colour for colour in pages.DARK if colour in dark]

    def brightness(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for kind, colour in pages.COLOURS.items():
        assert 1.05 / (brightness(colour) + 0.05) >= 4.5, f"{kind} on white"
        assert (brightness(pages.DARK[colour]) + 0.05) / (brightness("#121212") + 0.05) >= 4.5, f"{kind} on black"
    for x, y, title in re.findall(r'translate\(([\d.]+) ([\d.]+)\) rotate\(-60\)" fill="[^"]+">([^<]+)<', light):
        assert float(y) - 6.4 * len(title) * 0.87 > 0, f"{title!r} is cut above, at {x}"
    page = (ROOT / "book" / "map_of_attacks.md").read_text(encoding="utf-8")
    assert page.count(":class: only-light") == page.count(":class: only-dark") == 1


def test_the_reference_lists_every_attack_rule_and_defence(pages):
    made = "".join(map(pages.attacks_reference, pages.FAMILIES)) + pages.labels_reference() + pages.defenses_reference()
    for name in gl.attacks.names():
        assert f":: {pages.path(ATTACKS.get(name).run)}\n" in made and f'"{name}"' in made + '"dmgan"'
    for name in gl.defenses.names():
        assert f".{DEFENSES.get(name).__name__}\n" in made and f'get("{name}"' in made
    assert all(f'infer("{name}"' in made for name in gl.labels.names())


PUBLIC = """data.sample data.names data.partition models.build models.names protocols.FedSGD protocols.FedAvg
protocols.ZerothOrder observe attack score federation.train defenses.Defended defenses.get labels.infer attacks.names
labels.names defenses.names data.Batch observation.Observation attacks.Reconstruction labels.LabelEstimate metrics.Score
observation.Transcript tamper runs.record show.gallery""".split()


def target(name):
    """The object behind a path; a module where a function of the same name stands before it."""
    module, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError):
        try:
            return importlib.import_module(name)
        except ImportError:
            return getattr(target(module), last)


@pytest.fixture
def listed(pages):
    """Path to object of everything that the reference lists."""
    made = "".join(map(pages.attacks_reference, pages.FAMILIES)) + pages.labels_reference() + pages.defenses_reference()
    found = re.findall(r"\.\. auto\w+:: ([\w.]+)", made + "".join(map(prose, sorted((BOOK / "api").glob("*.md")))))
    assert len(found) == len(set(found)), f"listed twice: {sorted(name for name in found if found.count(name) > 1)}"
    return {name: target(name) for name in found}


def test_the_reference_covers_the_public_surface(listed):
    for name in PUBLIC:
        assert any(target(f"glutils.{name}") is found for found in listed.values()), f"gl.{name} is on no page"


def test_docstrings_on_a_page_point_to_what_is_on_a_page(listed):
    """As the strict build asks for, and sooner. A path that has no page is written as a literal."""
    have = set(listed) | {f"{found.__module__}.{found.__qualname__}" for found in listed.values() if callable(found)}
    lost = set()
    for name, found in listed.items():
        members = vars(found).values() if isinstance(found, type) else ()
        docs = [found, *(part for part in members if callable(part) or isinstance(part, property))]
        for role in re.findall(r":\w+:`~?(glutils\.[\w.]+)`", "\n".join(inspect.getdoc(part) or "" for part in docs)):
            assert target(role) is not None, f"{name}: {role}"
            if role not in have and role.rpartition(".")[0] not in have:
                lost.add(f"{name} points to {role}")
    assert not lost, f"add it under book/api, or write it as a literal: {sorted(lost)}"


def test_a_page_without_marks_stays_as_it_is_and_an_unknown_mark_is_refused(pages, tmp_path):
    (tmp_path / "plain.md").write_text("# Plain\n", encoding="utf-8")
    (tmp_path / "status.md").write_text("% made from the code: status\n", encoding="utf-8")
    row = {"notebook": "01_x", "seconds": 1.5, "device": "CPU", "commit": "", "versions": {"Python": "3.11"}}
    pages.fill(tmp_path, [row, row | {"notebook": "02_y", "commit": "abc+", "versions": {"Python": "3.12"}}])
    assert (tmp_path / "plain.md").read_text(encoding="utf-8") == "# Plain\n"
    made = (tmp_path / "status.md").read_text(encoding="utf-8")
    assert "| [01_x](../notebooks/01_x.ipynb) | 1.5 | CPU | A | not known |" in made
    assert "| [02_y](../notebooks/02_y.ipynb) | 1.5 | CPU | B | `abc+` |" in made and "| Python | 3.11 | 3.12 |" in made
    (tmp_path / "odd.md").write_text("% made from the code: odd\n", encoding="utf-8")
    with pytest.raises(ValueError, match="odd.md asks for 'odd'"):
        pages.fill(tmp_path, [])


def test_classes_are_shown_with_defaults_that_can_be_read(pages):
    asked = pages.spelled("glutils.attacks.Reconstruction")
    assert asked.startswith("glutils.attacks.Reconstruction(images, labels, loss, history=..., seconds=0.0")
    assert pages.spelled("glutils.protocols.FedSGD") == "glutils.protocols.FedSGD"
    names = [field.name for field in dataclasses.fields(gl.attacks.Reconstruction)]
    assert names == list(inspect.signature(gl.attacks.Reconstruction).parameters)


# --- the files around the book


def test_the_citation_file_has_what_its_format_asks_for():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cff)
    assert cff["cff-version"] == "1.2.0" and cff["type"] in ("software", "dataset")
    assert all({"name"} <= set(author) or {"family-names", "given-names"} <= set(author) for author in cff["authors"])
    assert str(cff["version"]) == gl.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", cff["date-released"])
    assert set(cff["license"]) == {"Apache-2.0", "CC-BY-4.0"}
    known = {"cff-version", "message", "title", "type", "version", "date-released", "authors", "license", "abstract",
             "keywords", "url", "repository-code", "doi", "identifiers", "references", "contact", "commit"}  # fmt: skip
    assert set(cff) <= known


def test_the_licences_are_told_in_readme_footer_and_files():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    footer = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["html"]["extra_footer"]
    for text in (readme, footer, prose(BOOK / "ethics.md")):
        assert "CC BY 4.0" in text and "Apache" in text
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "CC BY 4.0" in (ROOT / "LICENSE-CONTENT").read_text(encoding="utf-8")


def test_the_readme_shows_a_reconstruction_with_alt_text_and_says_how_it_was_made():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    alt, name = re.search(r"!\[([^]]+)\]\(([\w/.]+\.png)\)", readme).groups()
    data = (ROOT / name).read_bytes()
    assert len(data) < 100_000 and len(alt) > 60
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG") and width >= height
    (command,) = re.findall(r"`python (tools/\w+\.py)[^`]*`", readme)
    assert (ROOT / command).is_file()


def test_contributing_names_files_and_targets_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    assert set(re.findall(r"`make (\w+)`", text)) <= targets
    for name in re.findall(r"`?\b((?:tests|book|notebooks|tools)/[\w.]+\.\w+)", text):
        assert (ROOT / name).is_file(), name


# --- the index of records


RECORDS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
UNREAD = {"federation_cpu", "levels_cpu"}
"""Records that no page reads: tests do, or nobody; the index says so."""


@pytest.fixture
def index(tool):
    return tool("record_index")


def test_the_index_holds_every_record_with_a_script_that_exists_and_its_readers(index, pages):
    made = {line["Record"].strip("`"): line for line in index.lines()}
    assert list(made) == [path.stem for path in RECORDS] and len(made) >= 32
    for name, line in made.items():
        assert (ROOT / line["Script"].strip("`")).is_file(), name
        assert "not recorded" in line["Command line"] or line["Command line"].startswith("`python benchmarks/"), name
        assert (line["Read by"] == index.UNREAD) == (name in UNREAD), f"{name} is read by {line['Read by']}"
    readers = index.readers()
    assert set(readers) == set(made), "claims and pages name records that exist"
    assert readers["zo_objective_cpu"] == ["notebooks/benchmarks.ipynb", "book/claims/1_zerogla.yaml"]
    assert readers["kinks_near_cpu"] == ["notebooks/what_the_network_lets_through.ipynb"]
    table = pages.records_table()
    assert all(f"| `{name}` |" in table for name in made)


def test_records_whose_tree_was_not_clean_are_marked_where_they_are_listed(index):
    for path, line in zip(RECORDS, index.lines(), strict=True):
        commit = json.loads(path.read_text(encoding="utf-8"))["commit"]
        marked = "(tree not clean)" in line["Commit"]
        assert marked == (commit is not None and commit.endswith("-dirty")), path.stem
        assert (line["Commit"] == "not known") == (commit is None), path.stem
    for name in ("benchmarks", "claims"):
        whole = prose(ROOT / "notebooks" / f"{name}.ipynb")
        code = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        assert "book.made_from" in code and "(../book/records.md)" in whole and "book.commit" not in code


def test_a_notebook_reads_the_records_that_it_names_or_puts_together(index):
    def notebook(*sources):
        cells = [{"cell_type": "code", "metadata": {}, "source": text} for text in sources]
        cells[0]["metadata"]["tags"] = ["parameters"]
        return {"cells": [*cells, {"cell_type": "markdown", "metadata": {}, "source": "survey_cpu"}]}

    names = ["a_cpu", "a_b_cpu", "c_cuda", "survey_cpu", "dlf_cpu"]
    told = notebook('device: str = "cpu"', 'load(f"a_{device}")', 'x = R / "dlf_cpu.json"')
    assert index.read_by(told, names) == {"a_cpu", "dlf_cpu"}
    built = notebook('device: str = "cpu"\nmore: str = "a_b c"', '[load(f"{name}_{device}") for name in more]')
    assert index.read_by(built, names) == {"a_b_cpu"}
    assert index.read_by(notebook("x: int = 1", 'print(f"{x}", f"{y}")'), names) == set()


def test_a_record_that_no_script_names_is_an_error(index):
    with pytest.raises(ValueError, match="record 'mine_cpu' must be named by one benchmark's docstring, got none"):
        index.documented("mine_cpu")
