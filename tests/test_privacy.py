"""Privacy statements: published epsilons, sensitivities by brute force, Poisson batches, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

import glutils as gl
from glutils import defenses
from glutils.defenses import privacy_loss

SCALARS = gl.protocols.ZerothOrder(directions=1, dtype="float64", seed=1)


@pytest.fixture(scope="module")
def pool():
    return gl.data.sample("digits", count=7, seed=0)


@pytest.fixture(scope="module")
def model(pool):
    return gl.models.build("mlp", pool, hidden=(4,), activation="tanh", seed=0)


# --- the accountant ---


def test_published_values():
    """Two values of opacus's own tests (q 0.04, noise 1.5, 2,250 steps, delta 1e-5); Abadi's is in test_defenses."""
    case = (1.5, 0.04, 2250, 1e-5)
    assert defenses.epsilon(*case, accountant="rdp") == pytest.approx(7.32911117143, rel=1e-6)
    assert defenses.epsilon(*case) == pytest.approx(6.777395712150674, rel=1e-2)


@pytest.mark.parametrize(("shift", "relation"), [(1, "add_remove"), (1, "zero_out"), (2, "replace_one")])
@pytest.mark.parametrize("sampling", ["poisson", "fixed"])
def test_full_batches_are_exact(shift, relation, sampling):
    """delta(epsilon) of a Gaussian of mean mu, by integrating (p - e^eps q)+ numerically."""
    sigma, steps, delta = 3.0, 5, 1e-3
    found = defenses.epsilon(sigma, 1.0, steps, delta, relation=relation, sampling=sampling)
    mu = math.sqrt(steps) * shift / sigma
    x = torch.linspace(-12, 14, 2_000_001, dtype=torch.float64)
    p, q = (torch.exp(-0.5 * (x - at) ** 2) / math.sqrt(2 * math.pi) for at in (mu, 0.0))
    assert float(torch.trapezoid((p - math.exp(found) * q).clamp(min=0), x)) == pytest.approx(delta, rel=1e-5)


def worst_delta(epsilon, sigma, rate, pair):
    """Of one step: the larger of delta(P, Q) and delta(Q, P), by integration."""
    x = torch.linspace(-14 * sigma, 14 * sigma, 400_001, dtype=torch.float64)

    def density(at):
        normal = lambda m: torch.exp(-0.5 * ((x - m) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))  # noqa: E731
        return (1 - rate) * normal(0.0) + rate * normal(at)

    p, q = (density(at) for at in pair)
    return max(float(torch.trapezoid((a - math.exp(epsilon) * b).clamp(min=0), x)) for a, b in ((p, q), (q, p)))


@pytest.mark.parametrize(
    ("relation", "sampling", "pair", "scale"),
    [
        ("add_remove", "poisson", (1.0, 0.0), 1), ("zero_out", "poisson", (1.0, 0.0), 1),
        ("replace_one", "poisson", (1.0, -1.0), 1), ("replace_one", "fixed", (2.0, 0.0), 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_one_sampled_step_against_integration(relation, sampling, pair, scale, sigma):
    """Upper bound, and within 1 % (or 0.01) above the truth."""
    rate, delta = 0.2, 1e-3
    found = defenses.epsilon(sigma, rate, 1, delta, relation=relation, sampling=sampling)
    assert worst_delta(found, sigma, rate, pair) <= delta
    assert worst_delta(found - max(0.02 * found, 0.02), sigma, rate, pair) > delta


def test_relations_are_ordered_and_compose():
    how = {"noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 60, "delta": 1e-2}
    there, gone, exchanged = (defenses.epsilon(**how, relation=r) for r in defenses.accounting.RELATIONS)
    assert there == gone
    assert (there, exchanged) == pytest.approx((2.51, 4.28), abs=0.02)  # by an independent composition
    assert exchanged < 2 * defenses.epsilon(**how | {"delta": 5e-3})  # two neighbours of the first kind, at most
    one, many = (defenses.epsilon(**how | {"steps": n}, relation="replace_one") for n in (1, 100))
    assert one < many < 100 * one


def test_the_loss_of_an_exchange_is_that_of_its_pair():
    """The distribution function against a direct simulation of log P / Q under P."""
    loss = privacy_loss.Swapped(1.3, 0.3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, generator=generator, dtype=torch.float64) * 1.3
    x = x + (torch.rand(len(x), generator=generator) < 0.3).double()
    values = loss._log_density(x.numpy(), 1) - loss._log_density(x.numpy(), -1)
    for t in (-1.0, -0.2, 0.0, 0.3, 1.0):
        assert float(loss.cdf(t)) == pytest.approx((values <= t).mean(), abs=4e-3)


def test_noise_for_a_wanted_epsilon_knows_the_relation():
    sigma = defenses.noise_multiplier(3.0, 1.0, 4, 1e-3, relation="replace_one")
    assert sigma == pytest.approx(2 * defenses.noise_multiplier(3.0, 1.0, 4, 1e-3), rel=1e-3)
    assert defenses.epsilon(sigma, 1.0, 4, 1e-3, relation="replace_one") == pytest.approx(3.0, rel=1e-3)


def test_the_reconstruction_bound_is_the_power_of_the_best_test():
    """One of N records, from one noisy sum that it moves by a full bound: simulated, the best guesser reaches it.

    The attacker knows the sum with each record in it; the records move it in orthogonal directions, so it names the
    largest coordinate. That wins less often than the bound allows, and more often than the prior.
    """
    sigma, count, draws = 0.5, 50, 20_000
    bound = defenses.reconstruction_bound(sigma, prior=1 / count)
    noise = torch.randn(draws, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sigma
    noise[:, 0] += 1.0
    won = float((noise.argmax(1) == 0).double().mean())
    assert 1 / count < won < bound < 1
    threshold = torch.special.ndtri(torch.tensor(1 - 1 / count, dtype=torch.float64)) * sigma
    power = float((noise[:, 0] > threshold).double().mean())  # the most powerful test of that false-positive rate
    assert power == pytest.approx(bound, abs=0.012)
    assert defenses.reconstruction_bound(1.0, prior=1e-3, steps=4) == pytest.approx(
        defenses.reconstruction_bound(0.5, prior=1e-3), rel=1e-9
    )
    with pytest.raises(ValueError, match="prior must be less than 1"):
        defenses.reconstruction_bound(1.0, prior=1.0)


# --- sensitivity: what the mechanisms do between all neighbours, against what the statement says ---


def mechanisms():
    for expected in (None, 3.0):
        yield gl.defenses.Defended(SCALARS, defenses.get("dp_scalars", clip=1e-3, sigma=0.5, expected=expected))
        yield gl.defenses.Defended(SCALARS, defenses.get("dp_scalars", clip=1e3, sigma=0.5, expected=expected))
        laplace = defenses.get("dp_scalars", clip=1e-3, sigma=0.5, expected=expected, law="laplace")
        yield gl.defenses.Defended(SCALARS, laplace)
        for clip in (0.5, 1e3):
            yield gl.defenses.Defended(
                gl.protocols.FedSGD(), defenses.get("dpsgd", clip=clip, sigma=0.5, expected=expected)
            )


def noiseless(protected, model, batch):
    """The vector that the noise is added to."""
    quiet = replace(protected, defense=replace(protected.defense, sigma=0.0))
    return quiet.transmit(model, batch.images.double(), batch.labels).flat.double()


def neighbours(pool, size, relation):
    """Pairs of batches: indices, and which record of the second counts as zero."""
    for chosen in itertools.combinations(range(len(pool)), size):
        if relation == "replace_one":
            for other in set(range(len(pool))) - set(chosen):
                yield chosen, (*chosen[1:], other)
        else:
            yield chosen, chosen[1:]


@pytest.mark.parametrize("relation", ["add_remove", "zero_out", "replace_one"])
@pytest.mark.parametrize("number", range(10))
def test_sensitivity_is_what_the_noise_is_calibrated_for(number, relation, pool, model):
    protected, size = list(mechanisms())[number], 3
    law = getattr(protected.defense, "law", "gaussian")
    how = {"records": size, "rounds": 1} | ({"delta": 1e-2} if law == "gaussian" else {})
    if relation == "add_remove" and protected.public_count is None:
        with pytest.raises(ValueError, match=r"keep the number of records.*2 clip / B"):
            defenses.privacy_statement(protected, relation=relation, **how)
        return
    statement = defenses.privacy_statement(protected, relation=relation, **how)
    divisor = protected.public_count or size
    calibrated = statement.sensitivity * protected.defense.clip / divisor
    spread = statement.noise_multiplier * protected.defense.clip / divisor
    assert protected.defense.noise(None, size) == pytest.approx(spread * (2**0.5 if law == "laplace" else 1))
    sums = {c: noiseless(protected, model, pool[list(c)]) for n in (size, size - 1) for c in
            itertools.combinations(range(len(pool)), n)}  # fmt: skip
    keep = 1.0 if protected.public_count else (size - 1) / size  # a zero counts in the number of records
    most = 0.0
    for one, other in neighbours(pool, size, relation):
        shrunk = keep if relation == "zero_out" else 1.0
        most = max(most, float((sums[one] - shrunk * sums[tuple(sorted(other))]).norm()))
    assert most <= calibrated + 1e-9
    if protected.defense.clip == 1e-3:  # all slopes are cut, of either sign: the bound is reached
        assert most == pytest.approx(calibrated, abs=1e-9)


@pytest.mark.parametrize("expected", [None, 3.0])
def test_opposite_gradients_reach_the_bound_of_an_exchange(expected):
    """With two classes a record and the same record under the other label pull exactly opposite ways."""
    two = gl.data.sample("digits", count=4, seed=1)
    two = replace(two, images=two.images[[0, 1, 2, 3, 0]], labels=torch.tensor([0, 1, 1, 0, 1]), classes=("no", "yes"))
    model = gl.models.build("mlp", two, hidden=(4,), activation="tanh", seed=0)
    defense = defenses.get("dpsgd", clip=1e-3, sigma=0.5, expected=expected)
    protected = gl.defenses.Defended(gl.protocols.FedSGD(), defense)
    one, other = (defense.shares(protected.protocol, model, two.images.double(), two.labels)[k] for k in (0, 4))
    assert float((one + other).abs().max()) < 1e-12
    statement = defenses.privacy_statement(protected, records=3, rounds=1, delta=1e-2, relation="replace_one")
    calibrated = statement.sensitivity * 1e-3 / (expected or 3)
    sums = {c: noiseless(protected, model, two[list(c)]) for c in itertools.combinations(range(5), 3)}
    moved = [
        float((sums[a] - sums[tuple(sorted(b))]).norm())
        for a in sums
        for b in ({*a} - {k} | {n} for k in a for n in {*range(5)} - {*a})
    ]
    assert max(moved) == pytest.approx(calibrated, abs=1e-9, rel=0)
    assert min(moved) < 0.9 * calibrated  # other exchanges move the sum less


def test_a_mean_over_those_who_are_there_moves_twice_as_far(pool, model):
    """Why add/remove is refused without a public number: the others' shares move, too."""
    protected = gl.defenses.Defended(SCALARS, defenses.get("dp_scalars", clip=1e-3, sigma=0.5))
    slopes = SCALARS.of_each(model, pool.images.double(), pool.labels, SCALARS.draw(model))[0]
    up, down = int(slopes.argmax()), (slopes < -1e-3).nonzero()[:, 0].tolist()
    assert slopes[up] > 1e-3
    assert len(down) >= 2
    chosen = [up, *down[:2]]
    moved = noiseless(protected, model, pool[chosen]) - noiseless(protected, model, pool[down[:2]])
    assert float(moved.abs().max()) == pytest.approx(2 * 1e-3 / 3, rel=1e-6)


# --- the statement ---


def test_a_statement_says_what_it_stands_on():
    protected = gl.defenses.Defended(replace(SCALARS, directions=32), defenses.get("dp_scalars", clip=1.0, sigma=1.0))
    statement = defenses.privacy_statement(protected, records=10, rounds=10, delta=1e-2)
    assert (statement.relation, statement.sensitivity, statement.steps) == ("replace_one", 2.0, 320)
    assert statement.epsilon == pytest.approx(722.26, rel=1e-4)  # and not 212
    text = str(statement)
    for word in ("exchanged for another", "2 clipping bounds", "320 releases", "not covered", "taken as public"):
        assert word in text
    public = replace(protected, defense=replace(protected.defense, expected=10))
    assert defenses.privacy_statement(public, records=10, rounds=10, delta=1e-2).epsilon == pytest.approx(
        200.68, rel=1e-4
    )
    loose = defenses.privacy_statement(protected, records=10, rounds=10, delta=0.2)
    assert any("not below one over 10" in note for note in loose.notes)


def test_a_client_is_hidden_as_a_whole_by_a_clipped_update():
    protected = gl.defenses.Defended(gl.protocols.FedAvg(), defenses.get("dp_update", clip=1.0, sigma=4.0))
    alone = defenses.privacy_statement(protected, records=10, rounds=5, clients=100)
    drawn = defenses.privacy_statement(protected, records=10, rounds=5, clients=100, sampled=10)
    assert alone.unit == "client"
    assert alone.delta == 1e-3
    assert alone.epsilon == drawn.epsilon == defenses.epsilon(4.0, 1.0, 5, 1e-3, relation="replace_one")
    assert any("amplifies nothing" in note for note in drawn.notes)


def test_a_sum_of_clients_carries_the_noise_of_the_honest_ones():
    """Central against local: sigma / sqrt(n) each in a sum is sigma of one alone, and colluding clients take theirs."""
    quiet, loud = (
        gl.defenses.Defended(gl.protocols.FedAvg(), defenses.get("dp_update", clip=1.0, sigma=s)) for s in (0.4, 4.0)
    )
    how = {"records": 10, "rounds": 5, "clients": 1000, "delta": 1e-4}
    alone = defenses.privacy_statement(loud, **how)
    summed = defenses.privacy_statement(quiet, **how, sampled=100, summed=True)
    assert summed.epsilon == pytest.approx(alone.epsilon, rel=1e-12)
    assert summed.noise_multiplier == pytest.approx(4.0, rel=1e-12)
    fewer = defenses.privacy_statement(quiet, **how, sampled=100, summed=True, colluding=75)
    assert fewer.noise_multiplier == pytest.approx(2.0, rel=1e-12)
    assert defenses.privacy_statement(quiet, **how, sampled=100).epsilon > 10 * alone.epsilon  # seen one by one
    reader = defenses.privacy_statement(quiet, **how, sampled=100, summed=True, cohort_hidden=True)
    assert reader.epsilon == defenses.epsilon(4.0, 0.1, 5, 1e-4, relation="replace_one", sampling="fixed")
    assert reader.epsilon < alone.epsilon / 4
    life = [defenses.privacy_statement(quiet, **how | {"rounds": n}, summed=True).epsilon for n in (1, 10, 100)]
    assert life[0] < life[1] < life[2] < 100 * life[0]


def test_a_sum_of_clients_moves_by_two_bounds(model, pool):
    """Brute force over which client is exchanged for which: the clipped updates that the noise is added to."""
    defense = defenses.get("dp_update", clip=1e-3, sigma=0.0)
    protected = gl.defenses.Defended(gl.protocols.FedSGD(), defense)
    sent = [protected.transmit(model, pool[[k]].images.double(), pool[[k]].labels).flat for k in range(len(pool))]
    assert all(float(one.norm()) == pytest.approx(1e-3, rel=1e-9) for one in sent)
    most = max(float((a - b).norm()) for a, b in itertools.combinations([*sent, -sent[0]], 2))
    assert most == pytest.approx(2e-3, rel=1e-9)  # reached by an update and its opposite


# --- Poisson batches ---


def test_poisson_batches_are_drawn_record_by_record(pool, model):
    """Means and spread of the batch sizes over many rounds; an empty batch is noise alone, and no error."""
    protected = gl.defenses.Defended(gl.protocols.FedSGD(), defenses.get("dpsgd", clip=1.0, sigma=0.1, expected=2))
    transcript = gl.federation.train(
        protected, model, [pool], rounds=80, lr=0.01, local_batch=2, sampling="poisson", seed=0, test=pool
    )
    sizes = torch.tensor([len(transcript.drawn[t][0][0]) for t in range(80)]).double()
    assert float(sizes.mean()) == pytest.approx(2, abs=0.4)
    assert float(sizes.var()) == pytest.approx(2 * (1 - 2 / 7), abs=0.5)
    assert sizes.min() == 0
    seen = gl.observe(transcript, client=0)
    assert any("2 are expected behind a message" in note for note in seen.notes)


def test_poisson_scalars_train_and_empty_batches_are_noise(pool, model):
    defense = defenses.get("dp_scalars", clip=1.0, sigma=0.1, expected=1)
    protected = gl.defenses.Defended(replace(SCALARS, directions=4), defense)
    none = protected.transmit(model, pool.images[:0], pool.labels[:0]).scalars
    assert none.shape == (4,)
    assert float(none.abs().max()) < 1
    assert none.any()
    gl.federation.train(protected, model, [pool], rounds=3, lr=0.01, local_batch=1, sampling="poisson", test=pool)


def test_an_adaptive_attacker_knows_the_public_number(pool, model):
    """Gauss-Newton on cut slopes: the sum over two images is divided by 5, not by 2."""
    defense = defenses.get("dp_scalars", clip=1e3, sigma=1e-12, expected=5)
    protected = gl.defenses.Defended(replace(SCALARS, directions=160, mu=1e-4), defense)
    two = pool[:2]
    seen = gl.observe(model, protected, protected.transmit(model, two.images, two.labels), two, knows={"labels"})
    assert gl.score(gl.attack("zerogla", seen, seed=0), two).psnr.min() > 40


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relation": "swap"}, "relation must be one of 'add_remove', 'zero_out', 'replace_one'"),
        ({"sampling": "shuffle"}, "sampling must be one of 'poisson', 'fixed'"),
        ({"sampling": "fixed"}, "relation must be 'replace_one' with sampling='fixed', got 'add_remove'"),
        ({"accountant": "gdp"}, "accountant must be one of 'prv', 'rdp'"),
        ({"accountant": "prv", "conversion": "tight"}, "conversion belongs to accountant='rdp'"),
        ({"accountant": "rdp", "relation": "replace_one"}, "accountant must be 'prv' for relation='replace_one'"),
        ({"delta": 1.0}, "delta must be less than 1"),
    ],
)
def test_epsilon_refuses(change, message):
    how = {"noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 3, "delta": 1e-3} | change
    with pytest.raises(ValueError, match=message):
        defenses.epsilon(**how)


def test_statements_refuse(pool, model):
    noise = gl.defenses.Defended(SCALARS, defenses.get("gaussian_noise", sigma=1.0))
    quiet = gl.defenses.Defended(SCALARS, defenses.get("dp_scalars", clip=1.0, sigma=0.0))
    mean = gl.defenses.Defended(SCALARS, defenses.get("dp_scalars", clip=1.0, sigma=1.0))
    update = gl.defenses.Defended(gl.protocols.FedAvg(), defenses.get("dp_update", clip=1.0, sigma=1.0))
    cases = [
        (SCALARS, {}, TypeError, "protected must be a Defended"),
        (noise, {}, ValueError, "must begin with dpsgd, dp_scalars or dp_update"),
        (quiet, {}, ValueError, "nothing is promised"),
        (mean, {"batch": 2, "sampling": "poisson"}, ValueError, "must divide by a public number with Poisson"),
        (mean, {"batch": 8}, ValueError, "batch must be between 1 and 7"),
        (mean, {"clients": 3}, ValueError, "belong to dp_update"),
        (update, {}, ValueError, "delta must be given"),
        (update, {"relation": "add_remove", "clients": 3}, ValueError, "must be 'replace_one' for dp_update"),
        (update, {"clients": 3, "colluding": 1}, ValueError, "colluding and cohort_hidden need summed=True"),
        (update, {"summed": True}, ValueError, "clients must be given with summed"),
        (update, {"clients": 3, "summed": True, "colluding": 3}, ValueError, "colluding must be between 0 and 2"),
        (update, {"clients": 3, "summed": True, "colluding": 1, "cohort_hidden": True}, ValueError, "know who else"),
        (mean, {"summed": True}, ValueError, "belong to dp_update"),
    ]
    for protected, how, error, message in cases:
        with pytest.raises(error, match=message):
            defenses.privacy_statement(protected, records=7, rounds=2, **how)
    for how, message in (
        ({"sampling": "poisson"}, "local_batch must be given with sampling='poisson'"),
        ({"sampling": "poisson", "local_batch": 2}, r"divide by a public number.*expected=2"),
        ({"sampling": "uniform"}, "sampling must be one of 'fixed', 'poisson'"),
    ):
        with pytest.raises(ValueError, match=message):
            gl.federation.train(mean, model, [pool], rounds=1, lr=0.1, **how)
    with pytest.raises(ValueError, match="expected must be greater than 0"):
        defenses.get("dpsgd", clip=1.0, sigma=1.0, expected=0)
