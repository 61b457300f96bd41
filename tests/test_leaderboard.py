"""Equal conditions: the same images, update, knowledge and budget; counted costs."""

import dataclasses
import json
import math

import pytest
import torch

import glutils as gl
from glutils.experiments import leaderboard
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


def test_the_record_was_made_in_the_arenas_of_the_book():
    book = gl.runs.load(SOURCE / "benchmarks" / "results" / "leaderboard_cpu.json")
    assert {row["arena"] for row in book.rows} <= set(ARENAS)
    assert {row["attack"] for row in book.rows} <= set(gl.attacks.names())


def test_a_record_whose_controls_stand_once_gives_the_same_standings(tmp_path):
    path = SOURCE / "benchmarks" / "results" / "leaderboard_cpu.json"
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
