"""Tables: batches of records, and the whole street with them."""

from dataclasses import replace

import pytest
import torch

import glutils as gl
from glutils import data, metrics
from glutils.data import Batch, Columns, Variable

SETS = ("wine", "breast_cancer", "diabetes", "adult_like")


def sent(batch, protocol, *, hidden=(64,), knows=("labels",), **options):
    model = gl.models.build("mlp", batch, hidden=hidden, seed=0, **options)
    return gl.observe(model, protocol, protocol.transmit(model, batch.records, batch.labels), batch, knows=knows)


def scalars(count, seed=0):
    return gl.protocols.ZerothOrder(directions=count, mu=1e-4, dtype="float64", seed=seed)


@pytest.fixture(scope="module")
def wine():
    return data.sample("wine", count=3, seed=0, device="cpu")


@pytest.fixture(scope="module")
def person():
    return data.sample("adult_like", count=1, seed=1, device="cpu")


# --- batches ---


@pytest.mark.parametrize("name", SETS)
def test_a_table_is_standardised_by_public_records_that_nobody_holds(name):
    mine, theirs = (data.load(name, split=split, device="cpu") for split in ("private", "public"))
    assert mine.kind == "tables" and mine.records is mine.images and mine.columns == theirs.columns
    assert mine.shape == (len(mine.columns),) and len(mine.columns.names) == mine.shape[0]
    numeric = list(mine.columns.numeric)
    torch.testing.assert_close(theirs.records[:, numeric].mean(0), torch.zeros(len(numeric)), atol=1e-5, rtol=0)
    deviation = theirs.records[:, numeric].std(0, correction=0)
    torch.testing.assert_close(deviation, torch.ones(len(numeric)), atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs.records.double().mean(0), mine.columns.centre, atol=1e-5, rtol=0)
    for group in mine.columns.groups:
        assert bool((mine.records[:, list(group)].sum(1) == 1).all())
    rows = {tuple(row) for row in mine.records.tolist()} & {tuple(row) for row in theirs.records.tolist()}
    assert len(rows) <= 1  # records may be alike by chance; two wines or tumours never are
    assert int(mine.labels.max()) == len(mine.classes) - 1 and int(mine.labels.min()) == 0


def test_the_splits_are_parts_of_what_scikit_learn_ships():
    from sklearn.datasets import load_wine

    parts = [data.load("wine", split=split, device="cpu") for split in ("private", "public")]
    found = sorted(round(row["alcohol"], 4) for part in parts for row in part.columns.rows(part.records))
    assert found == sorted(round(float(value), 4) for value in load_wine().data[:, 0])


def test_draws_are_frozen_and_dealt_like_images():
    five, three = (data.sample("diabetes", count=n, seed=4, device="cpu") for n in (5, 3))
    assert torch.equal(five.records[:3], three.records) and five[[0, 2]].columns == five.columns
    clients = data.partition("wine", clients=3, per_client=4, seed=0)
    assert [len(client) for client in clients] == [4, 4, 4] and clients[0].source == "wine, private split"
    joined = data.concatenate(clients)
    assert len(joined) == 12 and joined.columns == five.columns.__class__(clients[0].columns.variables)
    assert data.public(clients[0]).source == "wine, public split"


@pytest.mark.parametrize("how", [{"size": 16}, {"root": "x"}, {"count": 1000}, {"classes": ["riesling"]}])
def test_arguments_that_make_no_sense_for_a_table_are_named(how):
    with pytest.raises(ValueError, match=next(iter(how))):
        data.sample("wine", **how)


def test_a_batch_of_a_table_checks_itself(person):
    labels = torch.zeros(2, dtype=torch.int64)
    own = Batch(torch.randn(2, 5), labels, ("a", "b"))
    assert own.columns == Columns.plain(5) and own.to("cpu").columns == own.columns
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\), \(B, columns\).*got \(2, 3, 4\)"):
        Batch(torch.rand(2, 3, 4), labels, ("a", "b"))
    with pytest.raises(TypeError, match="float32"):
        Batch(torch.randn(2, 5).double(), labels, ("a", "b"))
    with pytest.raises(ValueError, match="finite"):
        Batch(torch.full((2, 5), float("nan")), labels, ("a", "b"))
    with pytest.raises(ValueError, match="columns must describe all 5"):
        Batch(torch.randn(2, 5), labels, ("a", "b"), columns=Columns.plain(4))
    with pytest.raises(ValueError, match="columns must be None for images"):
        Batch(torch.rand(2, 1, 2, 2), labels, ("a", "b"), columns=Columns.plain(4))
    with pytest.raises(ValueError, match="one 1 and else 0 in the columns of 'work'"):
        replace(person, images=person.images + 0.1)


def test_columns_say_what_they_are():
    columns = Columns((Variable("age", 40.0, 10.0, "years"), Variable("job", levels=("a", "b"), shares=(0.3, 0.7))))
    assert columns.names == ("age", "job=a", "job=b") and columns.groups == ((1, 2),) and columns.numeric == (0,)
    assert columns.centre.tolist() == [0.0, 0.3, 0.7] and columns.card.tolist() == [0.0, 0.0, 1.0]
    assert columns.rows(torch.tensor([[0.5, 0.6, 0.4]])) == [{"age": 45.0, "job": "a"}]
    for name, wrong in {
        "deviation": {"deviation": 0.0},
        "levels": {"levels": ("a",), "shares": (1.0,)},
        "shares": {"levels": ("a", "b"), "shares": (0.9, 0.9)},
    }.items():
        with pytest.raises(ValueError, match=f"^{name}"):
            Variable("x", **wrong)


# --- the street ---


def test_wine_comes_back_exactly_from_a_message_and_controls_do_not():
    batch = data.sample("wine", count=8, seed=0, device="cpu")
    seen = sent(batch, scalars(124, seed=3))
    score = gl.score(gl.attack("zerogla", seen, seed=0), batch, public=data.public(batch))
    assert score.psnr.min() > 100 and score.cells.min() == 1 and not score.beaten_by
    assert set(score.controls) == {"public_means", "class_mean", "nearest_public", "random_public"}
    assert all(float(control.cells.mean()) < 0.5 for control in score.controls.values())
    for how in ("permuted", "wrong_seed"):
        spoiled = gl.score(gl.attack("zerogla", gl.tamper(seen, how), iterations=8, restarts=1, seed=0), batch)
        assert spoiled.cells.mean() < 0.3


@pytest.mark.parametrize(
    ("attack", "options"), [("idlg", {"iterations": 30}), ("ig", {"iterations": 400}), ("fc_inversion", {})]
)
def test_attacks_on_gradients_read_a_record_with_levels(person, attack, options):
    score = gl.score(gl.attack(attack, sent(person, gl.protocols.FedSGD()), seed=0, **options), person)
    assert score.cells.item() == 1 and score.label_accuracy == 1


@pytest.mark.parametrize("options", [{"solver": "lbfgs", "iterations": 10}, {"solver": "adam", "iterations": 300}])
def test_other_solvers_of_zerogla(wine, options):
    one = wine[0]
    score = gl.score(gl.attack("zerogla", sent(one, scalars(20)), seed=0, **options), one)
    assert score.cells.item() == 1


def test_labels_are_found_along_with_records_and_counted_by_rules(wine):
    blind = gl.score(gl.attack("zerogla", sent(wine, scalars(78), knows=()), seed=0), wine)
    assert blind.cells.min() == 1 and blind.label_accuracy == 1
    seen = sent(wine, gl.protocols.FedSGD(), knows=())
    assert all(metrics.count_accuracy(gl.labels.infer(rule, seen), wine) > 0 for rule in ("ilrg", "llg_star"))


def test_a_federation_trains_on_tables_and_its_transcript_gives_them_away():
    clients = data.partition("breast_cancer", clients=2, per_client=2, seed=0, device="cpu")
    model = gl.models.build("mlp", clients[0], hidden=(16,), seed=0)
    run = gl.federation.train(scalars(9), model, clients, rounds=10, lr=0.05, seed=0)
    assert run.accuracy.shape == (10,)
    seen = gl.observe(run, client=1, knows={"labels"})
    assert gl.score(gl.attack("zerogla", seen, seed=0), clients[1]).cells.min() == 1


def test_only_the_shape_of_a_table_has_to_be_known(wine):
    model, protocol = gl.models.build("mlp", wine, seed=0), gl.protocols.FedSGD()
    message = protocol.transmit(model, wine[0].records, wine[0].labels)
    seen = gl.observe(model, protocol, message, shape=(1, 13), classes=3)
    assert seen.columns is None and seen.record.name == "tables" and not seen.blank.any()
    assert gl.score(gl.attack("fc_inversion", seen), wine[0]).psnr.item() > 100
    with pytest.raises(ValueError, match="shape must have shape"):
        gl.observe(model, protocol, message, shape=(1, 1, 13), classes=3)


@pytest.mark.parametrize("name", ["stg", "cpa", "fgla", "rgap", "ggl", "gias", "gifd", "grnn", "igims", "rtf"])
def test_attacks_on_images_refuse_a_table(wine, name):
    with pytest.raises(ValueError, match=f"attack '{name}' reconstructs images, got tables"):
        gl.attack(name, sent(wine[0], gl.protocols.FedSGD()))


@pytest.mark.parametrize(
    ("attack", "options"),
    [("zerogla", {"prior": "tv"}), ("zerogla", {"prior": "pca"}), ("zerogla", {"box": True}),
     ("zerogla", {"coarse": 1}), ("zerogla", {"solver": "lbfgs", "tv_weight": 1e-3}), ("ig", {"box": True}),
     ("ig", {"tv_weight": 0.1}), ("ig", {"median": 3}), ("dlg_adam", {"box": True})],
)  # fmt: skip
def test_what_is_about_pixels_is_refused(wine, attack, options):
    protocol = scalars(5) if attack == "zerogla" else gl.protocols.FedSGD()
    with pytest.raises(ValueError, match=rf"^{list(options)[-1]} must be .* for tables"):
        gl.attack(attack, sent(wine[0], protocol), **options)


def test_networks_for_images_refuse_a_table(wine):
    for name in gl.models.names():
        if name != "mlp":
            kind = "tokens" if name == "gpt" else "images"
            with pytest.raises(ValueError, match=f"batch must hold {kind} for model '{name}', got tables"):
                gl.models.build(name, wine)
    with pytest.raises(ValueError, match="total variation"):
        gl.priors.tv(wine.records)


# --- the score ---


def test_cells_against_a_count_by_hand(person):
    found, columns = person.records.double(), person.columns
    off = found.clone()
    off[0, columns.numeric[0]] += 0.11
    off[0, columns.numeric[1]] -= 0.09
    group = list(columns.groups[0])
    off[0, group] = 1 - off[0, group]
    score = gl.score(gl.attacks.Reconstruction(off, person.labels, 0.0), person)
    assert score.cells.item() == pytest.approx(7 / 9)
    wanted = ((0.11**2 + 0.09**2) / 4) ** 0.5
    assert score.numeric_error.item() == pytest.approx(wanted, rel=1e-5)
    assert score.mse.item() == pytest.approx((0.11**2 + 0.09**2 + 4) / 24, rel=1e-5)
    assert score.ssim.isnan().all() and "cells right 77.8%" in repr(score)
    loose = gl.score(gl.attacks.Reconstruction(off, person.labels, 0.0), person, tolerance=0.2)
    assert loose.cells.item() == pytest.approx(8 / 9)


def test_records_are_matched_and_failed_ones_come_last(wine):
    shuffled = wine.records[[2, 0, 1]].clone()
    assert gl.score(gl.attacks.Reconstruction(shuffled, wine.labels[[2, 0, 1]], 0.0), wine).label_accuracy == 1
    shuffled[0] = float("nan")
    failed = gl.score(gl.attacks.Reconstruction(shuffled, wine.labels[[2, 0, 1]], 0.0), wine)
    assert failed.cells.tolist() == [1, 1, 0] and failed.notes


def test_scores_of_the_two_kinds_refuse_each_others_options(wine):
    digit = data.sample("digits", device="cpu")
    assert gl.score(digit, digit).cells is None
    with pytest.raises(ValueError, match="tolerance must be left alone for images"):
        gl.score(digit, digit, tolerance=0.1)
    with pytest.raises(ValueError, match="lpips_net must be left alone for tables"):
        gl.score(wine, wine, lpips_net="alex")
    with pytest.raises(ValueError, match="public must have"):
        gl.score(wine, wine, public=data.load("diabetes", split="public", device="cpu"))
    rows = gl.runs.rows_from(gl.attacks.Reconstruction(wine.records, wine.labels, 0.0), gl.score(wine, wine))
    assert rows[0]["cells"] == 1 and "cells" in rows[0]["controls"]["public_means"]


def test_records_are_shown_in_their_units(person, capsys):
    gl.show.records(person, person.records)
    text = capsys.readouterr().out
    assert "occupation" in text and "years" in text and "no" not in [line.split()[-1] for line in text.splitlines()]
    with pytest.raises(ValueError, match="which must be between 0 and 0"):
        gl.show.records(person, person.records, which=1)
    with pytest.raises(ValueError, match="batch must hold a table, got images"):
        digit = data.sample("digits", device="cpu")
        gl.show.records(digit, digit.records)


def test_an_experiment_on_a_table_keeps_records_in_the_units_of_their_columns(tmp_path, no_lpips):
    how = {"reconstruct_num": 1, "batch_size": 2, "folder": tmp_path, "device": "cpu", "misled": "wrong_gradient"}
    found = gl.experiments.reconstruct("tableak", "wine", **how, max_iteration=2, ensemble=1)
    truth, made = found.images(0)
    batch = data.sample("wine", count=2, seed=0, device="cpu")
    assert torch.equal(truth, batch.records) and made.shape == truth.shape
    assert found.said(0)[1][0] == batch.columns.rows(batch.records)[1]
    text = (found.folder / "results.csv").read_text(encoding="utf-8")
    assert "cells" in text.splitlines()[0] and "exact" not in text and found.rows[0]["cells"] < 1
    with pytest.raises(ValueError, match="size must be None for 'wine', which holds no images, got 8"):
        gl.experiments.reconstruct("tableak", "wine", size=8, **how)


@pytest.mark.parametrize(
    ("attack", "dataset", "said"),
    [
        ("stg", "wine", r"images for 'stg' \(digits, photos, ...\), got 'wine'; its tables are .*tableak"),
        ("tableak", "digits", r"tables for 'tableak' \(wine, .*\), got 'digits'; its images are .*zerogla"),
        ("dager", "photos", r"tokens for 'dager' \(messages\), got 'photos'; its images are .*ig, "),
        ("ig", "messages", r"got 'messages'; its tokens are reconstructed by dager, tag, lamp, zerogla_text"),
    ],
)
def test_an_experiment_on_another_kind_of_records_is_refused_with_who_can(attack, dataset, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        gl.experiments.reconstruct(attack, dataset, folder=tmp_path)
    assert not list(tmp_path.iterdir())
