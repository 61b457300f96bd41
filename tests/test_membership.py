"""Names of records from a handful of scalars: found where they are, refused where they are not."""

import dataclasses

import numpy as np
import pytest
import torch

import glutils as gl
from glutils.membership import search, subsets
from glutils.protocols import FedAvg, FedSGD, SeedPool, ZerothOrder

QUIET = {"progress": False, "seed": 0, "false_names": 0.2}
"""Few games: a case of these tests is clear, or it is not tested here."""
CHOSEN = (3, 41, 77)
PARTS = ((300, "public"), (12, "private"))


@pytest.fixture(scope="module")
def pool():
    return gl.data.sample("digits", count=120, seed=5, device="cpu")


@pytest.fixture(scope="module")
def model(pool):
    return gl.models.build("mlp", pool, hidden=(16,), seed=0)


def scalars(count=40, **how):
    return ZerothOrder(directions=count, law="gaussian", seed=7, **how)


def sent(model, protocol, batch, **how):
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, **how)


def found(named):
    return tuple(named.members.nonzero().flatten().tolist())


def without(pool, gone):
    return pool[[i for i in range(len(pool)) if i not in gone]]


# --- names ---


@pytest.mark.parametrize(
    "protocol",
    [
        scalars(),
        ZerothOrder(directions=40, mu=1e-4, scheme="forward", law="unit", dtype="float64", seed=3),
        scalars(dtype="bfloat16", loss_dtype="float32"),
        scalars(60, scheme="central", in_place=True),
        SeedPool(directions=40, local_lr=0.02, seed=2),
        FedSGD(),
        FedAvg(epochs=1, batch_size=3, lr=0.1, momentum=0.9, weight_decay=1e-3),
    ],
    ids=["scalars", "forward", "half", "in place", "seed pool", "gradient", "difference"],
)
def test_members_are_named_from_one_message(pool, model, protocol):
    named = gl.identify(sent(model, protocol, pool[list(CHOSEN)]), pool, **QUIET)
    assert found(named) == CHOSEN and named.complete
    assert named.counts[list(CHOSEN)].tolist() == [1, 1, 1]
    assert set(named.ranking[:3].tolist()) == set(CHOSEN)
    others = torch.ones(len(pool), dtype=torch.bool)
    others[list(CHOSEN)] = False
    assert float(named.scores[others].max()) <= 0 < float(named.scores[list(CHOSEN)].min())


def test_a_record_that_is_there_twice_is_counted_twice(pool, model):
    named = gl.identify(sent(model, scalars(), pool[[5, 5, 9]]), pool, **QUIET)
    assert found(named) == (5, 9) and named.counts[[5, 9]].tolist() == [2, 1] and named.complete


def test_rounds_of_a_moving_model_add_up(pool, model):
    """One scalar a round names nobody; those of twelve rounds, each at its own state, name everybody."""
    transcript = gl.federation.train(
        scalars(1), model, [pool[list(CHOSEN)], pool[[1, 2, 4]]], rounds=12, lr=0.05, test=pool[:10], progress=False
    )
    with pytest.warns(UserWarning, match="3 members are behind 1 scalars"):
        few = gl.identify(gl.observe(transcript, client=0, rounds=[0]), pool, **QUIET)
    many = gl.identify(gl.observe(transcript, client=0), pool, **QUIET)
    assert found(few) == () and found(many) == CHOSEN and many.complete and not few.complete


def test_another_state_names_nobody(pool, model):
    """The states matter: at the first one, later messages say nothing."""
    transcript = gl.federation.train(
        scalars(8), model, [pool[list(CHOSEN)]], rounds=6, lr=0.5, test=pool[:10], progress=False
    )
    seen = gl.observe(transcript, client=0)
    first = seen.rounds[0].parameters
    wrong = dataclasses.replace(seen, rounds=tuple(dataclasses.replace(r, parameters=first) for r in seen.rounds))
    assert found(gl.identify(wrong, pool, **QUIET)) == () and found(gl.identify(seen, pool, **QUIET)) == CHOSEN


def test_records_of_a_table_are_named(model):
    pool = gl.data.sample("wine", count=80, seed=0, device="cpu")
    network = gl.models.build("mlp", pool, seed=0)
    named = gl.identify(sent(network, scalars(), pool[[2, 30]]), pool, **QUIET)
    assert found(named) == (2, 30) and named.complete


def test_texts_are_named_by_their_share_of_the_tokens():
    """A longer text counts more in the mean over targets."""
    pool = gl.data.sample("messages", count=24, seed=1, device="cpu")
    network = gl.models.build("gpt", pool, depth=1, width=16, heads=2, seed=0)
    batch = pool[[3, 11]]
    assert len({int((row != -100).sum()) for row in pool.labels}) > 1
    named = gl.identify(sent(network, scalars(16), batch), pool, **QUIET)
    assert found(named) == (3, 11) and named.complete
    with pytest.raises(ValueError, match="labels must be given, one for each candidate"):
        gl.identify(sent(network, scalars(16), batch), pool.images, **QUIET)


def test_classes_that_are_not_known_are_found_too(pool, model):
    named = gl.identify(sent(model, scalars(64), pool[list(CHOSEN)]), pool.images, **QUIET)
    assert found(named) == CHOSEN
    assert torch.equal(named.labels[list(CHOSEN)], pool.labels[list(CHOSEN)])


def test_told_labels_restrict_the_candidates(pool, model):
    named = gl.identify(sent(model, scalars(24), pool[list(CHOSEN)], knows={"labels"}), pool, **QUIET)
    assert found(named) == CHOSEN and any("told labels" in note for note in named.notes)


def test_mini_batches_name_the_clients_records(pool, model):
    """Each message is about two of six records; twenty messages of sixteen scalars rank the six first."""
    transcript = gl.federation.train(
        scalars(16), model, [pool[:6]], rounds=20, lr=1e-3, local_batch=2, seed=0, test=pool[:10], progress=False
    )
    named = gl.identify(gl.observe(transcript, client=0), pool[:40], **QUIET)
    assert set(named.ranking[:6].tolist()) == set(range(6)) and set(found(named)) <= set(range(6))


def test_small_mini_batches_are_solved_one_by_one(pool, model):
    """Four of forty records in every message of five scalars: each is the mean of one subset alone."""
    how = {"rounds": 12, "lr": 1e-3, "local_batch": 4, "seed": 0, "test": pool[:10], "progress": False}
    run = gl.federation.train(scalars(5), model, [pool[:8]], **how)
    named = gl.identify(gl.observe(run, client=0), pool[:40], **QUIET)
    assert found(named) == tuple(range(8)) and named.complete
    assert set(named.ranking[:8].tolist()) == set(range(8))
    strangers = gl.identify(gl.observe(run, client=0), pool[40:80], **QUIET)
    assert not set(found(strangers)) and not strangers.complete


def test_halves_find_the_subset_and_nothing_else():
    generator = np.random.default_rng(0)
    columns = generator.standard_normal((5, 30))
    halves = subsets.Halves.of(30, 5, generator)
    assert halves.hits == 10 and halves.first.shape == (435, 2) and halves.second.shape == (4060, 3)
    truth = (2, 3, 11, 19, 28)
    message = columns[:, truth].mean(1) + 1e-6 * generator.standard_normal(5)
    assert subsets.found(columns, message, 5, 1e-6, halves, generator) == [truth]
    assert subsets.found(columns, message + 0.01, 5, 1e-6, halves, generator) == []
    rough, fine = (subsets.chance(columns, message, 5, error) for error in (1e-2, 1e-4))
    assert fine == pytest.approx(rough / 100**5, rel=0.05)


def test_noise_that_is_declared_is_allowed_for(pool, model):
    protocol = scalars(120)
    spread = float(protocol.transmit(model, pool.images[:3], pool.labels[:3]).std())
    noisy = gl.defenses.Defended(protocol, gl.defenses.get("gaussian_noise", sigma=0.1 * spread))
    named = gl.identify(sent(model, noisy, pool[list(CHOSEN)]), pool, **QUIET)
    assert found(named) == CHOSEN and named.complete and 0.05 < named.noise < 0.2


def test_one_gradient_of_each_candidate_does_as_well(pool, model):
    seen = sent(model, scalars(40), pool[list(CHOSEN)])
    named = gl.identify(seen, pool, quick=True, **QUIET)
    assert found(named) == CHOSEN and named.complete and 0 < named.noise < 0.05
    with pytest.raises(ValueError, match="quick must be False but for scalars in single or double precision"):
        gl.identify(sent(model, FedSGD(), pool[:3]), pool, quick=True, **QUIET)


def test_classes_are_counted_without_the_records(model):
    public, private = (gl.data.sample("digits", count=n, split=s, seed=1, device="cpu") for n, s in PARTS)
    right = sum(
        torch.equal(
            gl.membership.class_counts(sent(model, scalars(24), private[a : a + 3]), public, progress=False).counts,
            torch.bincount(private.labels[a : a + 3], minlength=10),
        )
        for a in range(0, 12, 3)
    )
    assert right >= 3
    with pytest.raises(ValueError, match="public must hold at least two records of every class, got fewer of"):
        gl.membership.class_counts(sent(model, scalars(), private[:3]), public[:12], progress=False)


# --- what defences do to a mean ---


@pytest.mark.parametrize(("expected", "sigma"), [(1, 0.02), (2, 0.0), (3, 0.02), (4.5, 0.02), (20, 0.0)])
def test_a_sum_divided_by_a_public_number_is_read_as_one(pool, model, expected, sigma):
    defense = gl.defenses.get("dp_scalars", clip=3.0, sigma=sigma, expected=expected)
    named = gl.identify(sent(model, gl.defenses.Defended(scalars(80), defense), pool[list(CHOSEN)]), pool, **QUIET)
    assert found(named) == CHOSEN and named.complete
    assert named.noise == pytest.approx(0.0, abs=1e-3) if not sigma else 0.001 < named.noise < 0.2


@pytest.mark.parametrize("expected", [None, 7])
def test_clipped_gradients_are_read_as_the_client_clips_them(pool, model, expected):
    defense = gl.defenses.get("dpsgd", clip=0.5, sigma=1e-4, expected=expected)
    named = gl.identify(sent(model, gl.defenses.Defended(FedSGD(), defense), pool[list(CHOSEN)]), pool, **QUIET)
    assert found(named) == CHOSEN and named.complete


@pytest.mark.parametrize(
    ("protocol", "defense"),
    [
        (scalars(60), gl.defenses.get("clip", bound=0.5)),
        (FedSGD(), gl.defenses.get("dp_update", clip=0.1, sigma=1e-6)),
        (scalars(80), (gl.defenses.get("clip_scalars", bound=0.8), gl.defenses.get("gaussian_noise", sigma=0.01))),
    ],
    ids=["shortened scalars", "shortened gradient", "cut before noise"],
)
def test_what_was_cut_is_allowed_for(pool, model, protocol, defense):
    named = gl.identify(sent(model, gl.defenses.Defended(protocol, defense), pool[list(CHOSEN)]), pool, **QUIET)
    assert found(named) == CHOSEN and named.complete


def test_classes_that_weigh_more_count_more(pool, model):
    loss = gl.models.losses.CrossEntropy(class_weights=[1.0 + k for k in range(10)])
    for protocol in (scalars(60, loss=loss), FedAvg(epochs=1, batch_size=3, lr=0.1, loss=loss)):
        assert found(gl.identify(sent(model, protocol, pool[list(CHOSEN)]), pool, **QUIET)) == CHOSEN
    defense = gl.defenses.get("dp_scalars", clip=3.0, sigma=0.01, expected=5)  # adds up each one's own loss
    summed = gl.defenses.Defended(scalars(80, loss=loss), defense)
    assert found(gl.identify(sent(model, summed, pool[list(CHOSEN)]), pool, **QUIET)) == CHOSEN


# --- how many they are ---


@pytest.mark.parametrize("count", [1, 5])
def test_the_number_of_members_is_found_too(pool, model, count):
    truth = (3, 17, 41, 55, 77, 98)[:count]
    named = gl.identify(sent(model, scalars(60), pool[list(truth)]), pool, members=(1, 9), **QUIET)
    assert found(named) == truth and named.complete
    assert any(f"{count} members explain best, of 1 to 9" in note for note in named.notes)


def test_a_message_of_a_batch_of_unknown_size_names_its_records(pool, model):
    """Each record is drawn by chance, four of twelve are expected, and four is what sums are divided by."""
    protocol = gl.defenses.Defended(scalars(96), gl.defenses.get("dp_scalars", clip=4.0, sigma=0.01, expected=4))
    how = {"lr": 1e-3, "local_batch": 4, "sampling": "poisson", "test": pool[:10], "progress": False}
    sizes = set()
    for seed in range(3):
        run = gl.federation.train(protocol, model, [pool[:12]], rounds=1, seed=seed, **how)
        named = gl.identify(gl.observe(run, client=0), pool, **QUIET)
        assert named.complete and set(found(named)) <= set(range(12))
        sizes.add(int(named.counts.sum()))
    assert len(sizes) > 1


# --- no names ---


def test_a_missing_member_is_noticed(pool, model):
    """No substitute is named in its place, in most draws."""
    missed = wrong = 0
    for k in range(4):
        batch = pool[[k, 40 + k]]
        rest = without(pool, (k,))
        named = gl.identify(sent(model, scalars(), batch), rest, progress=False, seed=k, false_names=0.1)
        missed += named.complete
        wrong += any(not bool((rest.images[i] == batch.images[1]).all()) for i in found(named))
    assert missed <= 1 and wrong <= 1


@pytest.mark.parametrize("how", ["wrong_seed", "permuted", "wrong_gradient", "zero"])
def test_controls_name_nobody(pool, model, how):
    seen = gl.observation.tamper(sent(model, scalars(), pool[list(CHOSEN)]), how, seed=1)
    named = gl.identify(seen, pool, **QUIET)
    assert found(named) == () and not named.complete


def test_a_pool_of_another_distribution_names_nobody(pool, model):
    strangers = dataclasses.replace(pool, images=pool.images.flip(-1).roll(3, -2))
    named = gl.identify(sent(model, scalars(), pool[list(CHOSEN)]), strangers, **QUIET)
    assert found(named) == () and not named.complete


def test_too_few_scalars_name_nobody_and_are_warned_of(pool, model):
    with pytest.warns(UserWarning, match="8 members are behind 3 scalars: fewer equations than unknown names"):
        named = gl.identify(sent(model, scalars(3), pool[:8]), pool, **QUIET)
    assert found(named) == () and not named.complete and any("not named" in note for note in named.notes)


# --- arithmetic ---


def test_the_search_agrees_with_trying_all_pairs():
    generator = np.random.default_rng(0)
    columns = generator.standard_normal((6, 12)) + 1.0
    mass = generator.uniform(1, 3, 12).round()
    message = generator.standard_normal(6)
    dictionary = search.Dictionary(columns * mass, mass, np.ones(12, dtype=bool))
    table = search.exchanges(dictionary, message, np.array([2, 5]))
    for slot, other in ((0, 3), (1, 2), (1, 11)):
        members = np.array([2, 5])
        members[slot] = other
        assert table[slot, other] == pytest.approx(search.leftover(dictionary, message, members))
    share = search.weights(dictionary, message)
    slope = dictionary.columns.T @ (message - dictionary.columns @ share)
    assert share.min() >= 0 and slope.max() < 1e-8 and abs(slope[share > 0]).max() < 1e-8


def test_chunks_change_nothing(pool, model):
    seen = sent(model, scalars(), pool[list(CHOSEN)])
    whole, parts = gl.identify(seen, pool, **QUIET), gl.identify(seen, pool, chunk=7, **QUIET)
    assert torch.equal(whole.members, parts.members)
    torch.testing.assert_close(whole.scores, parts.scores, rtol=0.05, atol=0.5)


def test_the_same_seed_gives_the_same_answer(pool, model):
    seen = sent(model, scalars(), pool[list(CHOSEN)])
    one, other = gl.identify(seen, pool, **QUIET), gl.identify(seen, pool, **QUIET)
    assert torch.equal(one.scores, other.scores) and one.bar == other.bar


# --- bad input ---


def test_arguments_that_cannot_work_are_refused(pool, model):
    seen = sent(model, scalars(), pool[list(CHOSEN)])
    refused = [
        (TypeError, "seen must be an Observation, got a Batch", (pool, pool), {}),
        (TypeError, "candidates must be a Batch or Tensor", (seen, [pool]), {}),
        (ValueError, "candidates must hold at least one record", (seen, pool.images[:0]), {}),
        (
            ValueError,
            r"candidates must be of the shape .*\(1, 8, 8\), got \(1, 4, 4\)",
            (seen, torch.zeros(3, 1, 4, 4)),
            {},
        ),
        (ValueError, "labels must be None for a Batch", (seen, pool, pool.labels), {}),
        (ValueError, "labels must", (seen, pool.images, pool.labels[:5]), {}),
        (ValueError, "false_names must be", (seen, pool), {"false_names": 1.0}),
        (ValueError, "members must be at least 1, got 0", (seen, pool), {"members": 0}),
        (
            ValueError,
            r"members must be a number, or the least and the most, got \(1, 2, 3\)",
            (seen, pool),
            {"members": (1, 2, 3)},
        ),
        (ValueError, "members must be at least 4, got 2", (seen, pool), {"members": (4, 2)}),
        (ValueError, "noise must be at least 0", (seen, pool), {"noise": -1.0}),
        (ValueError, "chunk must be at least 1", (seen, pool), {"chunk": 0}),
    ]
    for error, message, given, how in refused:
        with pytest.raises(error, match=message):
            gl.identify(*given, **how)


def test_batch_norm_in_training_mode_is_refused(pool):
    network = gl.models.build("resnet8", pool, seed=0, width=2).train()
    seen = sent(network, FedSGD(), pool[:2])
    with pytest.raises(ValueError, match="batch norm in 'train' mode mixes the records"):
        gl.identify(seen, pool, **QUIET)
