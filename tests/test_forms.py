"""In which form attacks stand in the leaderboard: as published, tuned alike, extended."""

import dataclasses

import pytest
import torch

import glutils as gl
from glutils.experiments import conditions, forms, leaderboard
from glutils.runs import intervals
from glutils.runs.records import SOURCE

RESULTS = SOURCE / "benchmarks" / "results"
DRAWN = {"dataset": "digits", "size": 8, "seed": 0, "device": "cpu"}
ARENA = leaderboard.Arena("mlp", network={"hidden": (12,), "activation": "relu"})


def apart(one, other):
    return intervals.mean([a - b for a, b in zip(one, other, strict=True)])


def test_what_the_page_says_of_three_columns_is_in_the_record(benchmark):
    """GIFD is ahead as published; tuned, IG is ahead of it; kinks help three attacks much, and cost three."""
    arenas = benchmark("columns").ARENAS
    rows = gl.runs.load(RESULTS / "columns_cpu.json").rows
    relu, full = (forms.columns(rows, arena) for arena in arenas)
    assert len(relu["ig"][forms.TUNED]) >= 8 and len(relu) == len(forms.GRID) and len(full) == len(forms.GRID) - 1
    for held in (relu, full):
        assert all(tuple(own) == forms.raced(name) for name, own in held.items())
    rest = [name for name in relu if forms.AS_PUBLISHED in relu[name] and name != "gifd"]
    assert all(apart(relu["gifd"][forms.AS_PUBLISHED], relu[name][forms.AS_PUBLISHED]).low > 0 for name in rest)
    ahead = {name: apart(relu["ig"][forms.TUNED], own[forms.TUNED]) for name, own in relu.items() if name != "ig"}
    assert all(gap.value > 0 for gap in ahead.values()) and ahead["gifd"].low > 0
    assert {name for name, gap in ahead.items() if gap.low < 0} == {"stg", "dlg_cosine"}
    kinks = [{name: apart(own[forms.EXTENDED], own[forms.TUNED]) for name, own in held.items() if forms.EXTENDED in own}
             for held in (relu, full)]  # fmt: skip
    assert {name for name, gain in kinks[1].items() if gain.value > 12} == {"ig", "stg", "idlg"}
    assert all(kinks[1][name].value > 18.9 and kinks[1][name].low > 0 for name in ("ig", "stg", "idlg"))
    lost = [{name for name, gain in found.items() if gain.high < 0} for found in kinks]
    assert lost == [{"dlg", "idlg"}, {"fedleak"}]


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setattr(leaderboard, "PUBLIC", 40)
    return leaderboard.observed(ARENA, leaderboard.private(ARENA, **DRAWN), seed=0)


def test_every_attack_in_the_records_has_a_form():
    for path in RESULTS.glob("leaderboard*_cpu.json"):
        names = {r["attack"] for r in gl.runs.load(path).rows if "refused" not in r}
        assert names <= set(forms.FORMS), path.stem
    assert forms.FORMS.keys() <= set(gl.attacks.names())
    lines = forms.listed(["stg", "dlg", "dager"])
    assert [line["in the leaderboard"] for line in lines] == [forms.AS_PUBLISHED, forms.EXTENDED, forms.UNKNOWN]


def test_every_attack_of_the_two_arenas_is_tuned_or_has_a_reason(benchmark):
    """Whoever scores there either has six settings or stands among those that have none."""
    arenas = benchmark("columns").ARENAS
    rows = gl.runs.load(RESULTS / "leaderboard_content_cpu.json").rows
    scored = {r["attack"] for r in rows if r["arena"] in arenas and "refused" not in r}
    assert scored == forms.GRID.keys() | forms.UNTUNED.keys() and not forms.GRID.keys() & forms.UNTUNED.keys()


def test_every_attack_is_tuned_with_the_same_budget_and_its_options_exist():
    assert forms.PUBLISHED.keys() <= forms.GRID.keys()
    assert {len(forms.settings(name)) for name in forms.GRID} == {6}
    for name, grid in forms.GRID.items():
        assert grid.keys() | forms.PUBLISHED.get(name, {}).keys() <= set(conditions.options_of(name))
        spent = conditions.of(name).budget(300).keys()
        assert not spent & (grid.keys() | forms.PUBLISHED.get(name, {}).keys()), "no setting buys more gradients"
    assert all(setting["kinks"] == 0 for setting in forms.settings("stg")), "kinks are the extension"
    assert forms.tune("dlg_adam", lambda s: -abs(s["lr"] - 0.03) + s["box"]) == {"lr": 0.03, "box": True}
    with pytest.raises(ValueError, match="must be one of ig, stg"):
        forms.settings("fc_inversion")


def test_an_attack_is_raced_in_the_forms_that_it_has():
    assert forms.raced("stg") == (forms.AS_PUBLISHED, forms.TUNED, forms.EXTENDED)
    assert forms.raced("fedleak") == (forms.TUNED, forms.EXTENDED)
    assert all(forms.raced(name) == (forms.AS_PUBLISHED, forms.TUNED) for name in forms.BLIND if name in forms.GRID)
    with pytest.raises(ValueError, match="got 'fgla'"):
        forms.raced("fgla")


def test_surrogate_kinks_leave_the_message_alone_and_change_the_search(seen):
    """STG with its own kinks is STG without, on the extended observation, to the last bit; IG moves otherwise."""
    batch = leaderboard.private(ARENA, **DRAWN)
    wide = forms.extend(seen)
    sent = [seen.protocol.transmit(one.model, batch.images, batch.labels) for one in (seen, wide)]
    assert all(bool((a == b).all()) for a, b in zip(sent[0].values(), sent[1].values(), strict=True))
    how = {"iterations": 6, "progress": False, "tv_weight": 1e-4}
    own, given = gl.attack("stg", seen, kinks=forms.KINKS, **how), gl.attack("stg", wide, kinks=0.0, **how)
    assert bool((own.images == given.images).all())


FEW = {
    "dlg": {"iterations": 1, "restarts": 1},
    "idlg": {"iterations": 1, "restarts": 1},
    "igims": {"prior": "pca", "components": 8},
    "gias": {"prior": "pca", "components": 8},
    "gifd": {"prior": "untrained", "components": 8, "iterations": 12},
    "ggl": {"prior": "pca", "components": 8, "iterations": 12},
    "cpa_fi": {"iterations": 20, "inversion": 6},
    "rog": {"components": 8},
}


@pytest.mark.parametrize("name", forms.GRID)
def test_kinks_move_whoever_matches_gradients_and_no_other(seen, monkeypatch, name):
    if name == "cpa_fi":  # needs a layer behind convolutions
        arena = leaderboard.Arena("convnet", network={"channels": (4, 4)})
        seen = leaderboard.observed(arena, leaderboard.private(arena, **DRAWN), seed=0)
    own = {"kinks": 0.0} if name == "stg" else {}
    how = {"iterations": 6, "progress": False} | FEW.get(name, {}) | own
    plain, wide = gl.attack(name, seen, **how), gl.attack(name, forms.extend(seen), **how)
    assert torch.equal(plain.images, wide.images) == (name in forms.BLIND)


def test_tuning_learns_from_no_crop_of_the_photograph_it_is_scored_on(benchmark, monkeypatch):
    bench, held = benchmark("columns"), []
    monkeypatch.setattr(leaderboard, "PUBLIC", 40)
    learnt = dataclasses.replace(conditions.of("ggl"), learn=lambda seen, seed: held.append(seen.public.labels) or {})
    monkeypatch.setattr(conditions, "CONDITIONS", conditions.CONDITIONS | {"ggl": learnt})
    monkeypatch.setattr(bench, "EVALUATIONS", 24)
    batch = bench.public()[[0]]
    for apart in (True, False, True):
        bench.attacked("ggl", "fully connected network", batch, 1000, {"prior": "pca", "components": 8}, apart=apart)
    assert len(held) == 2, "what was learned is used again"
    assert batch.labels not in held[0] and batch.labels in held[1]
    assert bool((bench.card(batch.images) < bench.CONTENT).all())


def test_the_best_setting_is_the_first_of_the_highest_on_public_photographs(benchmark):
    rows = [{"arena": "a", "attack": "ig", "setting": i, "options": {"lr": i}, "psnr": psnr}
            for i, psnr in enumerate((20.0, 30.0, 30.0))]  # fmt: skip
    rows += [{"arena": "a", "attack": "stg", "setting": 0, "refused": "no"}]
    rows += [{"arena": "a", "attack": "ig", "form": "tuned alike", "psnr": 90.0}]
    assert benchmark("columns").best(rows) == {("a", "ig"): {"lr": 1}}
