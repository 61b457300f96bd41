"""Equal conditions: the same images, update, knowledge and budget; counted costs."""

import dataclasses
import json
import math

import pytest
import torch

import glutils as gl
from glutils.experiments import conditions, leaderboard
from glutils.experiments.leaderboard import ARENAS, Arena
from glutils.runs.records import SOURCE

SMALL = {"size": 8, "device": "cpu"}
FED = Arena("mlp", network={"hidden": (12,), "activation": "relu"})


@pytest.fixture(autouse=True)
def _quick(no_lpips, monkeypatch):
    monkeypatch.setattr(leaderboard, "PUBLIC", 16)


@pytest.mark.parametrize("title", ARENAS)
def test_every_arena_gives_all_attacks_the_same(title):
    """Two looks at an arena hold the same message; what stands for a gradient has the parts of one."""
    arena = ARENAS[title]
    batch = leaderboard.private(arena, seed=1, size=8)
    assert len(batch) == arena.images and len(set(batch.labels.tolist())) == arena.images
    one, two = (leaderboard.observed(arena, batch, seed=1) for _ in range(2))
    assert one.kind == {"delta": "delta", "scalars": "scalars"}.get(arena.update, "gradient")
    assert one.knows == set(arena.told)
    if one.kind == "scalars":
        expected = int(arena.directions * batch.images.numel()) if isinstance(arena.directions, float) else 12
        assert len(one.payload) == expected and torch.equal(one.payload, two.payload)
    else:
        assert all(torch.equal(one.payload[name], two.payload[name]) for name in one.payload)
    assert leaderboard.able(arena)


def test_budget_is_what_was_spent():
    (row,) = leaderboard.trial("ig", FED, evaluations=20, misled=None, **SMALL)
    assert row["evaluations"] == 21  # and the start
    (row,) = leaderboard.trial("fc_inversion", FED, evaluations=20, misled=None, **SMALL)
    assert row["evaluations"] == 0 and row["psnr"] > 100 and row["ratio"] > 0
    delta = dataclasses.replace(FED, update="delta", images=2)
    rows = leaderboard.trial("ig", delta, evaluations=20, misled=None, **SMALL)
    assert {row["evaluations"] for row in rows} == {21}  # messages, of two local steps each


def test_a_refusal_is_a_row():
    (row,) = leaderboard.trial("rgap", ARENAS["ReLU network"], **SMALL)
    assert "ReLU" in row["refused"] and "psnr" not in row
    with pytest.raises(ValueError, match="unknown attack"):
        leaderboard.trial("nope", FED)


def test_a_refusal_to_learn_is_a_row(monkeypatch):
    """Learning to Invert tells images apart by their labels, and says so before there is anything to attack with."""
    drawn = leaderboard.private(dataclasses.replace(FED, images=2), seed=0, **SMALL)
    alike = dataclasses.replace(drawn, labels=drawn.labels[[0, 0]])
    monkeypatch.setattr(leaderboard, "private", lambda *a, **k: alike)
    (row,) = leaderboard.trial("inverter", dataclasses.replace(FED, images=2), **SMALL)
    assert "must differ" in row["refused"] and "psnr" not in row


def test_controls_stand_beside_every_score():
    (row,) = leaderboard.trial("ig", FED, evaluations=15, **SMALL)
    assert {"mean_colour", "grey", "class_mean", "nearest_public", "misled"} <= set(row["controls"])
    assert row["controls"]["misled"]["psnr"] < row["controls"]["mean_colour"]["psnr"]  # spoiled: it must fail


def row(attack, seed, psnr, card=10.0, **more):
    """A row as of a trial."""
    controls = {"mean_colour": {"psnr": card}}
    return {"attack": attack, "seed": seed, "psnr": psnr, "ssim": 0.5, "label_right": True, "controls": controls,
            "evaluations": 5, "ratio": 6.0} | more  # fmt: skip


def test_standings_are_medians_over_seeds_of_means_over_images():
    rows = [row("a", 0, 20.0), row("a", 0, 40.0), row("a", 1, 10.0), row("a", 2, math.inf), row("b", 0, 5.0)]
    rows.append({"attack": "c", "seed": 0, "refused": "no"})
    first, second, third = leaderboard.standings(rows)
    assert (first["attack"], first["runs"], first["median"], first["lowest"], first["highest"]) == ("a", 3, 30, 10, 100)
    assert not first["beats"], "one photo is no better than its own card, whatever the medians say"
    assert first["margin"] == pytest.approx((20 + 0 + 90) / 3) and first["from"] < 0 < first["to"]
    assert not second["beats"] and second["median"] == 5 and second["margin"] == -5 and math.isinf(second["to"])
    (better,) = leaderboard.standings([row("a", 0, 20.0), row("a", 1, 12.0, misled=4.0)])
    assert better["beats"] and better["margin"] == 6
    assert third == {"attack": "c", "runs": 0, "refused": "no"}


def test_what_was_learned_is_used_again(monkeypatch):
    calls, arena, cache = [], Arena("convnet", network={"channels": (4, 4), "hidden": None}), {}
    train = gl.decoder.train
    monkeypatch.setattr(gl.decoder, "train", lambda *a, **k: calls.append(1) or train(*a, **k | {"epochs": 1}))
    for _ in range(2):
        leaderboard.trial("fgla", arena, misled=None, learned=cache, **SMALL)
    assert calls == [1]


def test_a_trained_network_has_learnt_and_says_how_much(monkeypatch):
    """Each row tells what the network knows of public images that it did not see."""
    monkeypatch.setattr(leaderboard, "PUBLIC", 200)
    arena = Arena("mlp", network={"hidden": (12,), "activation": "relu"}, trained=60)
    (row,) = leaderboard.trial("fc_inversion", arena, misled=None, dataset="digits", **SMALL)
    assert row["public accuracy"] > 0.3 and row["public loss"] < 2.1 and row["private loss"] > 0
    batch = leaderboard.private(arena, seed=0, dataset="digits", **SMALL)
    fresh = dataclasses.replace(arena, trained=0)
    before, after = (leaderboard.observed(one, batch, seed=0).model for one in (fresh, arena))
    losses = [leaderboard.learnt(model, batch)["public loss"] for model in (before, after)]
    assert losses[0] > losses[1] == pytest.approx(row["public loss"])
    assert all(p.grad is None for p in after.parameters())


def test_labels_that_are_not_told_are_read_from_the_message_by_one_rule():
    arena = Arena("convnet", images=3, told=("public",), rule="alr")
    batch = leaderboard.private(arena, seed=0, size=8)
    seen = leaderboard.observed(arena, batch, seed=0)
    assert seen.knows == {"public"} and sorted(seen.labels.tolist()) == sorted(batch.labels.tolist())
    (row, *_) = leaderboard.trial("ig", arena, evaluations=2, misled=None, **SMALL)
    assert "refused" not in row
    assert leaderboard.observed(dataclasses.replace(arena, rule=None), batch, seed=0).labels is None


def test_several_local_epochs_are_shuffled_by_the_client_alone():
    arena = Arena("mlp", update="delta", images=4, epochs=2)
    batch = leaderboard.private(arena, seed=0, size=8)
    seen = leaderboard.observed(arena, batch, seed=0)
    assert (seen.protocol.epochs, seen.protocol.shuffle) == (2, None)
    once = leaderboard.observed(dataclasses.replace(arena, epochs=1), batch, seed=0)
    longer = gl.models.flatten(seen.payload).norm() / gl.models.flatten(once.payload).norm()
    assert 1.5 < float(longer) < 2.5


def test_what_is_learned_about_a_message_stays_in_its_arena(monkeypatch):
    """The inverse map is for one batch size and protocol: arenas that share a network do not share it."""
    cache, train = {}, conditions.train_inverter
    monkeypatch.setattr(conditions, "train_inverter", lambda seen, seed: train(seen, seed=seed, examples=16))
    for arena in (FED, dataclasses.replace(FED, images=2), dataclasses.replace(FED, update="delta", images=2)):
        (row, *_) = leaderboard.trial("inverter", arena, misled=None, learned=cache, **SMALL)
        assert "refused" not in row
    assert len(cache) == 3


def test_the_record_was_made_in_the_arenas_of_the_book():
    book = gl.runs.load(SOURCE / "benchmarks" / "results" / "leaderboard_content_cpu.json")
    assert {row["arena"] for row in book.rows} <= set(ARENAS)
    assert {row["attack"] for row in book.rows} <= set(gl.attacks.names())


def test_arenas_may_join_a_record_but_none_may_change(benchmark, monkeypatch, tmp_path):
    """Parameters hold the arenas of the rows; a field that did not exist then counts as its default."""
    bench, how = benchmark("leaderboard"), {"same": (), "folder": tmp_path}
    monkeypatch.setattr(leaderboard, "ARENAS", {"a": FED, "b": dataclasses.replace(FED, trained=5), "c": FED})
    then = {name: value for name, value in vars(FED).items() if name not in ("trained", "epochs", "rule")}
    gl.runs.record("r", parameters={"arenas": {"a": then}}, rows=[{"arena": "a", "seed": 0}], folder=tmp_path)
    with bench.Rows("r", {}, **how) as rows:
        found = bench.described(rows, ["b"])
        assert list(found) == ["a", "b"] and (found["a"]["trained"], found["b"]["trained"]) == (0, 5)
    monkeypatch.setitem(leaderboard.ARENAS, "a", dataclasses.replace(FED, images=2))
    with bench.Rows("r", {}, **how) as rows, pytest.raises(ValueError, match="'r' has rows of 'a' as .*now"):
        bench.described(rows, ["a"])


def test_budgets_are_measured_of_whoever_spends_more_of_a_larger_one(benchmark):
    bench = benchmark("budgets")
    for title in bench.ARENAS:
        names = bench.searching(ARENAS[title])
        assert {"ig", "dlg", "stg", "ggl"} <= set(names) and not {"fgla", "rgap", "fc_inversion", "spear"} & set(names)
    with pytest.raises(ValueError, match="label of one image"):
        bench.work("ReLU network, 4 images", "idlg", 2, 0)


def test_a_record_whose_controls_stand_once_gives_the_same_standings(tmp_path):
    path = SOURCE / "benchmarks" / "results" / "leaderboard_content_cpu.json"
    written, rows = json.loads(path.read_text(encoding="utf-8")), gl.runs.load(path).rows
    shared = {"mean_colour", "grey", "class_mean", "nearest_public"}
    held = {(one["arena"], one["seed"], one["image"]): set(one["controls"]) for one in written["controls"]}
    own = {}
    for row in written["rows"]:
        if "controls" in row:
            own.setdefault((row["arena"], row["seed"], row["image"]), []).append(set(row["controls"]))
    assert held.keys() == {image for image, found in own.items() if len(found) > 1}
    assert all(held[image] == shared for image in held), "the misled one is the attack's own"
    assert all(names <= {"misled"} for image in held for names in own[image])
    assert all(set(row["controls"]) - {"misled"} == shared for row in rows if "controls" in row)
    once = gl.runs.record("once", parameters={}, rows=rows, image_is=("arena", "seed", "image"), folder=tmp_path)
    whole = gl.runs.record("whole", parameters={}, rows=rows, folder=tmp_path)
    assert once.stat().st_size < 0.8 * whole.stat().st_size
    three = rows, gl.runs.load(once).rows, gl.runs.load(whole).rows
    for arena in dict.fromkeys(row["arena"] for row in rows):
        lines = [leaderboard.standings(row for row in found if row["arena"] == arena) for found in three]
        assert lines[0] == lines[1] == lines[2] and lines[0]
