"""The leaderboard's records in one table, and attacks that are submitted as one file."""

import importlib.util
import itertools
import math
import statistics
import sys
from pathlib import Path

import pytest

import glutils as gl
from glutils.attacks.base import ATTACKS
from glutils.experiments import conditions, leaderboard, races, submission
from glutils.runs.records import SOURCE

RESULTS = SOURCE / "benchmarks" / "results"


def row(attack, seed, psnr=20.0, card=10.0, arena="a", **more):
    """A row as of a trial."""
    controls = {"mean_colour": {"psnr": card}}
    return {"arena": arena, "attack": attack, "seed": seed, "psnr": psnr, "ssim": 0.5, "label_right": True,
            "controls": controls, "evaluations": 5, "ratio": 6.0} | more  # fmt: skip


def book(tmp_path, name, rows, **parameters):
    return gl.runs.load(gl.runs.record(name, parameters=parameters, rows=rows, folder=tmp_path))


def test_a_race_has_no_holes():
    """The last seed has met some attacks only, a newcomer only the first: neither stands among the others."""
    rows = [row(name, seed) for name in "abcd" for seed in range(3)] + [row("a", 3), row("b", 3), row("new", 0)]
    found = races.race("a", rows)
    assert found.seeds == (0, 1, 2) and found.short == {"new": 1}
    assert {(r["attack"], r["seed"]) for r in found.rows} == {(name, seed) for name in "abcd" for seed in range(3)}
    assert {line["runs"] for line in found.standings} == {3}


def test_a_refusal_counts_as_met_and_an_empty_race_is_empty():
    rows = [row("a", 0), row("a", 1), row("b", 0), {"arena": "a", "attack": "b", "seed": 1, "refused": "no"}]
    assert races.race("a", rows).seeds == (0, 1)
    assert races.race("a", []).rows == () and races.race("a", []).standings == []


def test_the_preferred_record_is_taken_where_it_has_enough(tmp_path):
    old = book(tmp_path, "old", [row("a", s, arena=title) for title in "pqrs" for s in range(3)])
    rows = (
        [row("a", s, arena="p") for s in range(5)]
        + [row("a", 0, arena="q")]
        + [row("a", s, arena="r") for s in range(3)]
    )
    new = book(tmp_path, "new", rows, content=18.0)
    found = races.choose([new, old])
    assert list(found) == list("pqrs")
    assert {title: race.record for title, race in found.items()} == {"p": "new", "q": "old", "r": "new", "s": "old"}
    assert found["p"].content == 18.0 and found["q"].content is None and len(found["p"].seeds) == 5
    assert {race.record for race in races.choose([old]).values()} == {"old"}
    with pytest.raises(ValueError, match="at least one record"):
        races.choose([])


def test_two_attacks_are_compared_photograph_by_photograph():
    """Photographs differ by 40 dB, the attacks by 1 to 3: only paired differences tell."""
    rows = [row("a", s, 20.0 * s + d) for s, d in enumerate((1.0, 2.0, 3.0))] + [
        row("b", s, 20.0 * s) for s in range(3)
    ]
    found = races.apart([*rows, row("b", 7, 0.0)], "a", "b")
    assert (found.value, found.runs) == (2.0, 3) and found.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-3)
    with pytest.raises(ValueError, match="both 'a' and 'c'"):
        races.apart(rows, "a", "c")


def test_a_condition_is_judged_photograph_by_photograph():
    """Seeds come in another order in the other arena, and one of them was refused there: pairs go by seed."""
    before = races.race("a", [row("a", s, 20.0 * s) for s in range(4)])
    later = [row("a", s, 20.0 * s + d) for s, d in ((2, -3.0), (0, -1.0), (1, -2.0))]
    after = races.race("b", [*later, {"attack": "a", "seed": 3, "refused": "no"}])
    found = races.change(before, after, "a")
    assert (found.value, found.runs) == (-2.0, 3) and found.high == pytest.approx(-2 + 4.3027 / math.sqrt(3), abs=1e-3)
    with pytest.raises(ValueError, match="attack must have .*'b', which has none"):
        races.change(before, after, "b")


def test_a_larger_batch_is_judged_by_the_photographs_of_the_smaller_one():
    """The two photographs that came along are easy, and count for nothing."""
    before = races.race("a", [row("a", s, 20.0 + i, image=i) for s in range(3) for i in range(2)])
    rows = [row("a", s, 10.0 + s + i if i < 2 else 90.0, image=i) for s in range(3) for i in range(4)]
    found = races.change(before, races.race("b", rows), "a")
    assert (found.value, found.runs) == (-9.0, 3)


def test_a_larger_batch_of_the_record_begins_with_the_smaller_one():
    held = races.choose([gl.runs.load(RESULTS / "leaderboard_content_cpu.json")])
    cards = [
        {(r["seed"], r["image"]): r["controls"]["mean_colour"]["psnr"] for r in held[title].rows if r["attack"] == "ig"}
        for title in ("ReLU network", "ReLU network, 4 images", "ReLU network, 8 images")
    ]
    assert [sum(seed == 0 for seed, _ in cards[k]) for k in range(3)] == [1, 4, 8]
    for small, large in itertools.pairwise(cards):
        both = small.keys() & large.keys()
        assert len({seed for seed, _ in both}) == 6 and all(small[one] == large[one] for one in both)


def test_what_the_page_says_of_single_conditions_is_in_the_record():
    """FGLA needs its map, and training takes ten decibels and more from the searches that did well, not from CPA-FI."""
    found = races.choose([gl.runs.load(RESULTS / "leaderboard_content_cpu.json")])
    before, whole, learnt = (found[title] for title in ("ReLU network", "unpooled features", "trained network"))
    assert len(set(before.seeds)) >= 12 and before.seeds == whole.seeds == learnt.seeds
    scored = {line["attack"]: line["median"] for line in before.standings if line["runs"]}
    gains = {name: races.change(before, whole, name) for name in scored}
    assert max(gains, key=lambda name: gains[name].value) == "fgla" and gains["fgla"].low > 0
    good = [name for name, median in scored.items() if median > 30]
    assert len(good) >= 5
    assert all(races.change(before, learnt, name).high < -10 for name in good)
    assert races.change(before, learnt, "cpa_fi").low > -5
    lines = [line for line in learnt.standings if line["runs"]]
    assert lines[0]["attack"] == "cpa_fi"
    assert sum(races.verdict(line) == "undecided" for line in lines if line["attack"] in good) > len(good) / 2
    assert all("public accuracy" in r for r in learnt.rows if "refused" not in r)


def test_what_the_page_says_of_labels_and_epochs_is_in_the_record():
    """Labels that are read cost nobody anything certain; only DLF certainly gains from two shuffled epochs."""
    held = races.choose([gl.runs.load(RESULTS / "leaderboard_content_cpu.json")])
    pairs = {
        "labels": ("ReLU network, 4 images", "ReLU network, 4 images, labels unknown"),
        "epochs": ("two local steps, 4 images", "two shuffled epochs, 4 images"),
    }
    found = {}
    for what, (one, other) in pairs.items():
        scored = [line["attack"] for line in held[one].standings if line["runs"]]
        both = [line["attack"] for line in held[other].standings if line["runs"] and line["attack"] in scored]
        found[what] = {name: races.change(held[one], held[other], name) for name in both}
    assert len(found["labels"]) > 10 and all(c.high >= 0 for c in found["labels"].values())
    dlf = found["epochs"].pop("dlf")
    assert dlf.low > 1 and len(found["epochs"]) > 7 and all(c.low < 0.1 for c in found["epochs"].values())


def test_what_the_page_says_of_more_photographs_is_in_the_record():
    """Three more cost seven of twelve, four more ten of them; STG is ahead; labels repeat, and two refuse that."""
    held = races.choose([gl.runs.load(RESULTS / "leaderboard_content_cpu.json")])
    one, four, eight = (held[title] for title in ("ReLU network", "ReLU network, 4 images", "ReLU network, 8 images"))
    assert len(four.seeds) == len(eight.seeds) == 6
    scored = [[line["attack"] for line in race.standings if line["runs"]] for race in (one, four, eight)]
    searches = [name for name in scored[2] if name in scored[0]]
    three, more = ([races.change(a, b, name) for name in searches] for a, b in ((one, four), (four, eight)))
    assert len(searches) == 12 and sum(change.high < 0 for change in three) == 7
    assert sum(change.high < 0 and -11.5 < change.value < -2.9 for change in more) == 10
    assert scored[2][0] == "stg" and all(races.apart(eight.rows, "stg", name).low > 1 for name in scored[2][1:])
    refused = {row["attack"]: row["refused"] for row in eight.rows if "refused" in row}
    assert "distinct" in refused["fgla"] and "must differ" in refused["inverter"]
    drawn = [leaderboard.private(leaderboard.ARENAS[eight.title], seed=s, content=18.0).labels for s in eight.seeds]
    assert all(len(labels.unique()) < 8 for labels in drawn) and len({int(k) for own in drawn for k in own}) == 6


def test_what_the_page_says_of_budgets_is_in_the_record():
    """A generator leads with 30 gradients; line searches climb where it is smooth; behind ReLU a prior ends others."""
    rows = [r for r in gl.runs.load(RESULTS / "leaderboard_budgets_cpu.json").rows if "refused" not in r]

    def median(arena, attack, budget):
        found = [r["psnr"] for r in rows if (r["arena"], r["attack"], r["budget"]) == (arena, attack, budget)]
        return statistics.median(found) if len(found) == 3 else -math.inf

    for arena in ("smooth network", "ReLU network"):
        names = {r["attack"] for r in rows if r["arena"] == arena}
        assert len(names) == 14 and all(median(arena, n, b) > 0 for n in names for b in (30, 100, 300, 1000, 3000))
        first = max(names, key=lambda name, arena=arena: median(arena, name, 30))
        assert "generator" in ATTACKS.get(first).variable
    better = [name for name in names if median("ReLU network", name, 1000) > median("ReLU network", "gifd", 1000)]
    assert len(better) <= 1
    for name in ("dlg", "idlg"):
        assert median("smooth network", name, 1000) > median("smooth network", name, 300) + 20
        assert median("smooth network", name, 1000) > 2 * median("smooth network", "gias", 1000)
        assert abs(median("ReLU network", name, 1000) - median("ReLU network", name, 300)) < 1
    for name in ("ggl", "gias", "gifd", "igims"):
        assert abs(median("smooth network", name, 3000) - median("smooth network", name, 1000)) < 1
    assert median("smooth network", "grnn", 3000) > max(50, median("smooth network", "grnn", 1000) + 10)
    for name in ("ig", "stg", "fedleak"):
        assert abs(median("ReLU network", name, 1000) - median("ReLU network", name, 300)) < 1


def test_a_verdict_is_read_off_the_interval():
    said = [
        races.verdict({"from": low, "to": high}) for low, high in ((1, 2), (-1, 2), (-2, -1), (-math.inf, math.inf))
    ]
    assert said == ["yes", "undecided", "no", "undecided"]


FILE = """
import torch
from glutils.attacks.base import Card, Reconstruction, register
from glutils.experiments.conditions import Conditions

CONDITIONS = Conditions("mlp", budget=lambda evaluations: {"brightness": evaluations / 100})


@register("grey_card", Card(title="Grey", kinds=("gradient",), simulates="nothing", variable="-", distance="-",
                            prior="none", solver="-", labels="given", source="zhu2019dlg"))
def grey_card(seen, *, seed=0, brightness=0.5):
    return Reconstruction(images=torch.full(seen.shape, brightness), labels=seen.labels, loss=0.0)
"""


@pytest.fixture
def script(monkeypatch):
    """``benchmarks/leaderboard.py``, in a registry that is as before afterwards."""
    monkeypatch.setattr(ATTACKS, "_entries", dict(ATTACKS._entries))
    monkeypatch.setattr(conditions, "CONDITIONS", dict(conditions.CONDITIONS))
    monkeypatch.syspath_prepend(str(SOURCE / "benchmarks"))
    spec = importlib.util.spec_from_file_location("leaderboard_script", SOURCE / "benchmarks" / "leaderboard.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(leaderboard, "PUBLIC", 16)
    return module


def submit(script, monkeypatch, file, folder, seeds="1"):
    given = ["leaderboard.py", "--dirty", "--submit", str(file), "--only", "fully connected network", "--seeds", seeds]
    given += ["--content", "18"]
    monkeypatch.setattr(sys, "argv", [*given, "--size", "16", "--evaluations", "300", "--folder", str(folder)])
    script.main()
    return gl.runs.load(folder / "submission_grey_card.json")


def test_a_file_with_one_attack_joins_the_race(script, monkeypatch, tmp_path, capsys, no_lpips):
    file = tmp_path / "mine.py"
    file.write_text(FILE, encoding="utf-8")
    found = submit(script, monkeypatch, file, tmp_path)
    (only,) = found.rows
    assert only["attack"] == "grey_card" and len(only["code"]) == 64 and only["psnr"] < 30
    assert conditions.of("grey_card").budget(300) == {"brightness": 3.0}
    printed = capsys.readouterr().out
    assert "grey_card" in printed and "fc_inversion" in printed, "it stands among the others"
    lines = submission.beside(found, gl.runs.load(RESULTS / "leaderboard_content_cpu.json"))["fully connected network"]
    assert {line["runs"] for line in lines} == {1, 0}, "on the photograph that it met, and no other"
    other = book(tmp_path, "other", found.rows, size=32)
    with pytest.raises(ValueError, match="size 16 and 32"):
        submission.beside(found, other)


def test_rows_of_other_code_are_made_again(script, monkeypatch, tmp_path, no_lpips):
    file = tmp_path / "mine.py"
    file.write_text(FILE, encoding="utf-8")
    first = submit(script, monkeypatch, file, tmp_path).rows[0]
    del ATTACKS._entries["grey_card"]
    file.write_text(FILE.replace("evaluations / 100", "evaluations / 600"), encoding="utf-8")
    (second,) = submit(script, monkeypatch, file, tmp_path).rows
    assert second["code"] != first["code"] and second["psnr"] != first["psnr"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "registers one attack, got 0"),
        (FILE + FILE.replace("grey_card", "second"), "got 2 of them"),
        (FILE.replace('"grey_card", Card', '"ig", Card'), "'ig' is registered twice"),
        (FILE.replace('Conditions("mlp"', 'dict(model="mlp"'), "must be a Conditions, got dict"),
    ],
)
def test_a_file_that_is_no_submission_leaves_nothing_behind(script, tmp_path, text, message):
    file, before = tmp_path / "mine.py", gl.attacks.names()
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        submission.load(file)
    assert gl.attacks.names() == before
    with pytest.raises(ValueError, match="a Python file that exists"):
        submission.load(Path("mine.txt"))
