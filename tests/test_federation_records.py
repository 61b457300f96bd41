"""What the published measurements of federations say: the bars that they were made for."""

import statistics
from pathlib import Path

import glutils as gl

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def test_a_hundred_clients_learn_digits_and_the_scalars_send_less_each_round():
    rows = [row for row in gl.runs.load(RESULTS / "utility_cpu.json").rows if row["part"] == "protocols"]
    last = {label: [r["accuracy"][-1] for r in rows if r["label"] == label] for label in {r["label"] for r in rows}}
    assert len(last["FedAvg, 5 epochs"]) >= 3 and min(last["FedAvg, 5 epochs"]) >= 0.90
    assert min(last["ZO-FL, 64 scalars"]) > 0.85
    each = {row["label"]: row["uplink"][-1] / row["rounds"] for row in rows}
    assert each["ZO-FL, 64 scalars"] * 50 < each["FedAvg, 5 epochs"] == each["FedSGD"]
    for row in rows:
        assert len(row["accuracy"]) == len(row["uplink"]) == row["rounds"] and row["clients"] == 100


def test_the_extra_class_costs_nothing_and_the_reference_imprint_everything():
    rows = [row for row in gl.runs.load(RESULTS / "utility_cpu.json").rows if row["part"] == "models"]
    last = lambda model, variant: statistics.median(  # noqa: E731
        row["accuracy"][-1] for row in rows if (row["model"], row["variant"]) == (model, variant))  # fmt: skip
    assert {"mlp", "convnet"} <= {row["model"] for row in rows}
    for model in ("mlp", "convnet"):
        seeds = {variant: {r["seed"] for r in rows if (r["model"], r["variant"]) == (model, variant)}
                 for variant in ("plain", "imprint", "imprint, reference", "extra class")}  # fmt: skip
        assert all(len(found) >= 3 for found in seeds.values())
        assert abs(last(model, "plain") - last(model, "extra class")) < 0.1
        assert last(model, "imprint, reference") < 0.2 < 0.6 < last(model, "plain")


def test_a_thousand_clients_take_less_than_two_minutes_and_two_gibibytes():
    rows = [row for row in gl.runs.load(RESULTS / "federation_cpu.json").rows if row["part"] == "scale"]
    assert {row["label"] for row in rows} == {"FedAvg, 1 epoch", "FedAvg, 5 epochs", "FedSGD", "ZO-FL, 64 scalars"}
    for row in rows:
        assert (row["clients"], row["sampled"], row["rounds"]) == (1000, 100, 20)
        assert row["seconds"] < 120 and row["peak MiB"] < 2048
