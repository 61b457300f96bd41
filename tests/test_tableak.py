"""TabLeak: cells of a table, levels as shares, the pool against its members, controls, refusals."""

import pytest
import torch

import glutils as gl
from glutils.protocols import FedSGD

QUICK = {"iterations": 250, "polish": 0, "ensemble": 2, "progress": False}


@pytest.fixture(scope="module")
def seen_and_batch():
    batch = gl.data.sample("adult_like", count=2, seed=0, device="cpu")
    model = gl.models.build("mlp", batch, seed=0)
    payload = FedSGD().transmit(model, batch.images, batch.labels)
    return gl.observe(model, FedSGD(), payload, batch, knows={"labels"}), batch


@pytest.fixture(scope="module")
def result(seen_and_batch):
    return gl.attack("tableak", seen_and_batch[0], **QUICK)


def test_most_cells_are_right_and_a_spoiled_gradient_gives_none(seen_and_batch, result):
    seen, batch = seen_and_batch
    misled = gl.attack("tableak", gl.tamper(seen, "wrong_gradient"), **QUICK)
    score = gl.score(result, batch, controls={"misled": misled})
    assert float(score.cells.mean()) > 0.8 and not score.beaten_by
    assert misled.diagnostics["disagreement"] > result.diagnostics["disagreement"]


def test_levels_are_shares(seen_and_batch, result):
    for group in seen_and_batch[1].columns.groups:
        part = result.records[:, list(group)]
        torch.testing.assert_close(part.sum(1), torch.ones(2))
        assert bool((part >= 0).all())


def test_the_pool_is_median_and_mean_and_one_search_is_itself(seen_and_batch):
    seen, batch = seen_and_batch
    few = {"iterations": 5, "polish": 0, "progress": False, "seed": 3}
    alone = gl.attack("tableak", seen, ensemble=1, **few)
    assert alone.diagnostics["disagreement"] == 0 and alone.evaluations == 6
    torch.testing.assert_close(alone.records, gl.attack("tableak", seen, ensemble=1, pooling=False, **few).records)
    two = gl.attack("tableak", seen, ensemble=2, **few)
    best = gl.attack("tableak", seen, ensemble=2, pooling=False, **few)
    assert two.evaluations == 12 and two.loss == best.loss and not torch.equal(two.records, best.records)


def test_a_search_that_fits_far_worse_has_no_vote(seen_and_batch, monkeypatch):
    seen, _ = seen_and_batch
    few = {"iterations": 5, "polish": 0, "progress": False, "ensemble": 3}
    all_vote = gl.attack("tableak", seen, **few)
    monkeypatch.setattr(gl.attacks.matching.tableak, "FITS", 1.0)
    alone = gl.attack("tableak", seen, **few)
    assert all_vote.diagnostics["voters"] == 3 and alone.diagnostics["voters"] == 1
    torch.testing.assert_close(alone.records, gl.attack("tableak", seen, **few, pooling=False).records)
    assert alone.diagnostics["disagreement"] == all_vote.diagnostics["disagreement"] > 0  # of all searches


def test_the_polish_goes_on_where_adam_ended_and_its_evaluations_count(seen_and_batch):
    seen, batch = seen_and_batch
    rough, fine = (gl.attack("tableak", seen, **QUICK | {"ensemble": 1, "iterations": 60, "polish": n}) for n in (0, 4))
    assert rough.evaluations == 61 and 61 < fine.evaluations <= 61 + 1 + 4 * 25 * 2
    assert fine.loss < 0.1 * rough.loss and fine.records.dtype == rough.records.dtype
    assert float(gl.score(fine, batch).cells.mean()) >= float(gl.score(rough, batch).cells.mean())


def test_tableak_refuses_what_it_cannot_do(seen_and_batch):
    seen, batch = seen_and_batch
    with pytest.raises(ValueError, match="needs the labels.*'dlg' searches them"):
        gl.attack("tableak", gl.observe(seen.model, FedSGD(), seen.payload, batch), **QUICK)
    digits = gl.data.sample("digits", device="cpu")
    model = gl.models.build("mlp", digits)
    images = gl.observe(model, FedSGD(), FedSGD().transmit(model, digits.images, digits.labels), digits)
    with pytest.raises(ValueError, match="reconstructs tables, got images; it is read by .*'ig'"):
        gl.attack("tableak", images)
    for option, value in {"ensemble": 0, "lr": 0, "iterations": -1, "polish": -1}.items():
        with pytest.raises(ValueError, match=option):
            gl.attack("tableak", seen, **QUICK | {option: value})
    with pytest.raises(TypeError, match="pooling"):
        gl.attack("tableak", seen, pooling=1)
