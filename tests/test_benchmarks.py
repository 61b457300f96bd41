"""The benchmarks measure what they say: the records behind the page on costs, and the rules by which they are made."""

import sys
from pathlib import Path

import pytest
import torch

import glutils as gl

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("timing", "zerogla_iteration", "zo_objective", "controls", "kept", "survey", "deltas", "dmgan")


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark by name, as it finds itself when run as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield lambda name: __import__(name)
    for name in NAMES:
        sys.modules.pop(name, None)


def test_ways_follow_the_budget_and_the_limit(benchmark):
    module = benchmark("zo_objective")
    size = gl.zo.MEMORY // 4
    assert module.ways(1, size, limit=2) == [module.KEPT, module.REDRAWN, module.REFERENCE]
    assert module.ways(1, size + 1, limit=2) == [module.REDRAWN]
    assert module.ways(1, size + 1, limit=3) == [module.REDRAWN, module.REFERENCE]


def test_kept_and_drawn_again_directions_give_one_objective(benchmark):
    """The reference draws its own directions, so only its time compares; the two others give one value."""
    module = benchmark("zo_objective")
    values = []
    for way in (module.KEPT, module.REDRAWN):
        run, plain, images, before = module.prepared("lenet", 8, way, 6, "cpu")
        values.append(run())
        assert before > 0 and module.peak("cpu") > 0 and torch.isfinite(plain()[0])
    (kept, slopes), (again, others) = values
    assert torch.allclose(kept, again, rtol=1e-4) and torch.allclose(slopes[0], others[0], rtol=1e-3, atol=1e-7)


def test_controls_cover_every_attack_of_the_bar(benchmark):
    names = {case[0] for case in benchmark("controls").cases(1)}
    assert {"dlg", "idlg", "ig", "zerogla gauss-newton", "zerogla lbfgs", "zerogla adam"} == names


def test_recorded_controls_hold_nothing():
    for row in gl.runs.load(RESULTS / "controls_cpu.json").rows:
        assert row["above"] <= row["bar"], row


def test_a_measurement_goes_on_where_it_stood(benchmark, monkeypatch, tmp_path):
    kept, done = benchmark("kept"), []
    monkeypatch.setattr(kept, "RESULTS", tmp_path)
    cells = [{"case": name, "seed": seed} for seed in (0, 1) for name in ("a", "refused")]

    def work(case, seed):
        done.append((case, seed))
        if case == "refused":
            raise ValueError("not with me")
        if len(done) == 3:
            raise KeyboardInterrupt
        return {"value": seed}

    with pytest.raises(KeyboardInterrupt):
        kept.measure("trial", cells, work, {"size": 8})
    assert len(gl.runs.load(tmp_path / "trial.json").rows) == 2, "what was finished is kept when a run is stopped"
    rows = kept.measure("trial", cells, work, {"size": 8})
    assert done == [("a", 0), ("refused", 0), ("a", 1), ("a", 1), ("refused", 1)]
    assert [row.get("value", row.get("refused")) for row in rows] == [0, "not with me", 1, "not with me"]
    assert gl.runs.load(tmp_path / "trial.json").rows == rows
    with pytest.raises(ValueError, match="record 'trial' was made with .*'size': 8.*; move it away"):
        kept.measure("trial", cells, work, {"size": 16})


@pytest.mark.parametrize("way", ["right", "survey", "counted"])
def test_the_grid_feeds_every_attack_as_it_says(benchmark, way):
    """Three local steps of two images: what reaches the attack, in each way."""
    survey = benchmark("survey")
    private = gl.data.sample("digits", count=6, seed=0, device="cpu")
    model = gl.models.build("convnet", private, seed=0)
    protocol = gl.protocols.FedAvg(epochs=1, batch_size=2, lr=0.1)
    payload = protocol.transmit(model, private.images, private.labels)
    seen = gl.observe(model, protocol, payload, private, knows={"labels"})
    sent, mean = (gl.models.flatten(p) for p in (seen.payload, gl.observation.as_gradient(seen).payload))
    for attack in ("dlg", "idlg", "grnn", "ggl"):
        target, _ = survey.prepared(way, attack, seen)
        asked = 1 if attack in survey.SINGLE else 2 if way == "survey" else 6
        assert target.kind == "gradient" and target.shape[0] == asked
        assert torch.equal(gl.models.flatten(target.payload), sent if way == "survey" else mean)
    target, how = survey.prepared(way, "ig", seen)
    assert target.kind == "delta" and how == ({"local": "epochs"} if way == "survey" else {})
    assert target.shape[0] == len(target.labels) == (2 if way == "survey" else 6)
    target, how = survey.prepared(way, "dlf", seen)
    assert target.shape[0] == 6 and how.get("simulator") == ("full" if way == "survey" else None)


def test_a_recognised_image_is_near_and_better_than_its_mean_colour(benchmark):
    survey = benchmark("survey")
    private = gl.data.sample("photos", size=8, count=4, seed=0, device="cpu").images
    found = survey.scores(torch.cat([private[:1], private[1:2].mean((2, 3), keepdim=True).expand(1, 3, 8, 8)]), private)
    assert found["recognised"] == 0.25 and found["best"] == float("inf")
    assert survey.scores(1 - private.mean((2, 3), keepdim=True).expand_as(private), private)["recognised"] == 0


def test_federated_reality_reaches_its_bars():
    """Published levels, 3 dB (or a margin) above what is asked of the code."""
    rows = [r for r in gl.runs.load(RESULTS / "rtf_fedavg_cpu.json").rows if r["block"] == "two-sided, gain 1e-5"]
    one = [r["copied of those alone"] for r in rows if (r["epochs"], r["lr"], r["tampered"]) == (1, 0.1, "none")]
    assert len(one) >= 5 and min(one) >= 0.5
