"""Empirical epsilons: mechanisms whose epsilon is known, closed forms, runs with canaries, a broken mechanism."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

import glutils as gl
from glutils import defenses
from glutils.defenses.empirical import p_value
from glutils.runs.records import SOURCE


def coins(count, seed):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5


# --- the bound ---


def test_all_right_is_a_closed_form():
    """r of r right under pure privacy: probability q^r, so epsilon is the logit of (1 - confidence)^(1/r)."""
    assert p_value(60, 40, 40, 2.0, 0.0) == pytest.approx((1 / (1 + math.exp(-2.0))) ** 40, rel=1e-12)
    scores, members = torch.arange(60.0), torch.arange(60) >= 30
    found = defenses.empirical_epsilon(scores, members, delta=1e-300, guesses=40)
    q = 0.05 ** (1 / 40)
    assert (found.right, found.guesses, found.canaries, found.advantage) == (40, 40, 60, 1.0)
    assert found.epsilon == pytest.approx(math.log(q / (1 - q)), abs=2e-4)


def test_delta_costs_by_its_formula():
    """The second term by a slow loop over i, as the paper writes it."""
    m, r, v, eps, delta = 50, 30, 24, 0.8, 1e-3
    q = 1 / (1 + math.exp(-eps))
    pmf = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    worst = max(sum(pmf[max(v - i, 0) : v]) / i for i in range(1, m + 1))
    assert p_value(m, r, v, eps, delta) == pytest.approx(sum(pmf[v:]) + 2 * m * delta * worst, rel=1e-9)
    assert p_value(m, r, v, eps, 0.1) == 1.0


def test_randomised_response_is_covered_and_nearly_reached():
    """The mechanism for which the bound is tight: a bit told truly with probability q. Above in 5 % at most."""
    eps, count = 1.5, 400
    q = 1 / (1 + math.exp(-eps))
    found = []
    for seed in range(150):
        members = coins(count, seed)
        true = torch.rand(count, generator=torch.Generator().manual_seed(10_000 + seed)) < q
        answers = torch.where(true, members, ~members)
        found.append(defenses.empirical_epsilon(answers.double(), members, delta=1e-12, guesses=200).epsilon)
    found = torch.tensor(found)
    assert float((found > eps).double().mean()) <= 0.08  # 5 % and three standard errors
    assert 0.6 * eps < float(found.median()) < eps


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_a_noisy_count_is_never_above_the_accountant(sigma):
    """Each canary a count of its own with Gaussian noise, whose epsilon is known exactly."""
    promised = defenses.epsilon(sigma, 1.0, 1, 1e-5)
    found = []
    for seed in range(30):
        members = coins(1000, seed)
        noise = torch.randn(1000, generator=torch.Generator().manual_seed(20_000 + seed))
        found.append(defenses.empirical_epsilon(members + sigma * noise, members, delta=1e-5, guesses=200).epsilon)
    assert max(found) <= promised
    assert torch.tensor(found).median() > (0.15 * promised if sigma < 3 else -1)


def test_scores_that_know_nothing_refute_nothing():
    found = [
        defenses.empirical_epsilon(
            torch.rand(500, generator=torch.Generator().manual_seed(seed)), coins(500, 1000 + seed), delta=1e-5
        ).epsilon
        for seed in range(40)
    ]
    assert sum(value > 0 for value in found) <= 5
    assert max(found) < 0.4


def test_advantage_is_that_of_the_best_test():
    """Of a Gaussian with mu = 1 the best test has the advantage 2 Phi(mu / 2) - 1; every (epsilon, delta) allows it."""
    exact = math.erf(0.5 / math.sqrt(2))
    allowed = [defenses.membership_advantage(defenses.epsilon(1.0, 1.0, 1, d), d) for d in (1e-6, 1e-3, 0.1, 0.3)]
    assert min(allowed) >= exact
    assert min(allowed) == pytest.approx(exact, abs=0.03)
    assert defenses.membership_advantage(0.0) == 0.0
    assert defenses.membership_advantage(math.log(3)) == pytest.approx(0.5)


# --- runs with canaries ---


@pytest.fixture(scope="module")
def inserted():
    return gl.data.sample("digits", count=24, seed=1, split="public")


@pytest.fixture(scope="module")
def model(inserted):
    return gl.models.build("mlp", inserted, hidden=(8,), activation="tanh", seed=0)


SGD = defenses.Defended(gl.protocols.FedSGD(), defenses.get("dpsgd", clip=1.0, sigma=0.3, expected=24))
SCALARS = defenses.Defended(
    gl.protocols.ZerothOrder(directions=48, dtype="float64"),
    defenses.get("dp_scalars", clip=0.05, sigma=1.0, expected=24),
)


@pytest.mark.parametrize("protected", [SGD, SCALARS], ids=["gradients", "scalars"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_canaries_are_told_and_stay_below_the_accountant(protected, rate, model, inserted):
    records = gl.data.sample("digits", count=3, seed=5)
    how = {"rounds": 5, "lr": 0.1, "delta": 1e-4, "sample_rate": rate, "seed": 3}
    audit = gl.audit.canaries(model, protected, records, inserted, **how)
    assert 0 < audit.found.epsilon < audit.epsilon
    numbers = 48 if protected is SCALARS else 1
    assert audit.messages == 5 * numbers
    sigma = protected.defense.sigma / numbers**0.5  # the scalars of a message are about one draw
    assert audit.epsilon == pytest.approx(defenses.epsilon(sigma, rate, 5, 1e-4), rel=1e-12)
    members, others = audit.scores[audit.members].mean(), audit.scores[~audit.members].mean()
    assert members > others + 0.3
    assert str(audit).endswith(f"the accountant says {audit.epsilon:.3g}")
    again = gl.audit.canaries(model, protected, records, inserted, **how)
    assert torch.equal(audit.scores, again.scores)


def test_a_mechanism_that_adds_too_little_noise_is_found_out(model, inserted):
    """An accountant believes what it is told; canaries do not."""

    @dataclass(frozen=True)
    class Forgetful(defenses.DPSGD):
        def noise(self, payload, images):
            return super().noise(payload, images) / 100  # divided once too often

    broken = replace(SGD, defense=Forgetful(clip=1.0, sigma=20.0, expected=24))
    audit = gl.audit.canaries(model, broken, None, inserted, rounds=6, lr=0.1, delta=1e-4, guesses=24)
    assert audit.epsilon < 0.5 < audit.found.epsilon


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"members": torch.ones(6)}, ValueError, "members must be bool"),
        ({"scores": torch.zeros(1)}, ValueError, "at least 2 canaries"),
        ({"scores": torch.full((6,), torch.nan)}, ValueError, "scores must"),
        ({"delta": 1.0}, ValueError, "delta must be less than 1"),
        ({"confidence": 1.0}, ValueError, "confidence must be less than 1"),
        ({"guesses": 3}, ValueError, "guesses must be even"),
        ({"guesses": 8}, ValueError, "guesses must be between 2 and 6"),
    ],
)
def test_empirical_epsilon_refuses(change, error, message):
    how = {"scores": torch.arange(6.0), "members": torch.arange(6) > 2, "delta": 1e-3} | change
    with pytest.raises(error, match=message):
        defenses.empirical_epsilon(how.pop("scores"), how.pop("members"), **how)


@pytest.mark.parametrize(
    ("protected", "message"),
    [
        (replace(SGD, defense=defenses.get("dpsgd", clip=1.0, sigma=0.0, expected=9)), "sigma above 0"),
        (replace(SGD, defense=defenses.get("dpsgd", clip=1.0, sigma=1.0)), "give expected="),
        (replace(SGD, defense=defenses.get("gaussian_noise", sigma=1.0)), "must be one of dpsgd, dp_scalars"),
    ],
)
def test_canaries_refuse(protected, message, model, inserted):
    with pytest.raises(ValueError, match=message):
        gl.audit.canaries(model, protected, None, inserted, rounds=1, lr=0.1, delta=1e-3)
    with pytest.raises(ValueError, match="at least 2 canaries"):
        gl.audit.canaries(model, SGD, None, inserted[:1], rounds=1, lr=0.1, delta=1e-3)
    with pytest.raises(ValueError, match="epsilon must be"):
        defenses.membership_advantage(-1.0)


# --- what the records say ---


def test_recorded_canaries_stay_below_the_accountant():
    """A hundred honest runs; and the runs of a program that adds a tenth of its noise, where the budget is small."""
    rows = gl.runs.load(SOURCE / "benchmarks" / "results" / "canaries_cpu.json").rows
    honest = [row for row in rows if row["case"] != "broken"]
    assert len(honest) >= 100
    assert all(row["empirical"] <= row["accountant"] for row in honest)
    assert all(abs(row["accountant"] - row["epsilon"]) <= 0.01 * row["epsilon"] for row in rows)
    broken = [row["empirical"] > row["accountant"] for row in rows if (row["case"], row["epsilon"]) == ("broken", 2.0)]
    assert sum(broken) > len(broken) / 2


def test_attacks_on_the_recommended_setting_work_once_its_noise_is_removed():
    """Who knows all other records: what reads nothing under noise reads the messages without, and more with less."""
    record = gl.runs.load(SOURCE / "benchmarks" / "results" / "frontier_cpu.json")
    plain = {(r["case"], r["seed"]): r["accuracy"] for r in record.rows if r["strength"] == "none"}

    def gains(rows, attack):
        """By how many dB records are above the card of who saw no message."""
        batches = [batch for row in rows for batch in row[attack]]
        return torch.tensor([f - b for batch in batches for f, b in zip(batch["found"], batch["blank"], strict=True)])

    for case in record.parameters["cases"]:
        single = "posterior" if "gradients" in case else "posterior, one record"
        for strength in (8.0, 4.0):
            rows = [row for row in record.rows if (row["case"], row["strength"]) == (case, strength)]
            assert len({row["seed"] for row in rows}) >= 6
            for attack in ("search", single):
                assert float((gains(rows, attack + ", noise removed") > 1).double().mean()) >= 0.5
            assert gains(rows, single).median() < 1 > gains(rows, single + ", permuted").median()
            assert gains(rows, single + ", collude").median() > gains(rows, single).median() + 0.5
        eight = [row for row in record.rows if (row["case"], row["strength"]) == (case, 8.0)]
        assert all(plain[case, row["seed"]] - row["accuracy"] <= 0.03 for row in eight)


def test_other_attacks_behind_the_recommended_sum_have_their_positive_control():
    """Most of them find the digit once the noise is removed; none does with it; those that refuse are told apart."""
    record = gl.runs.load(SOURCE / "benchmarks" / "results" / "frontier_attacks_cpu.json")
    works = 0
    for row in record.rows:
        if "first, noise removed" not in row:
            assert row["refused"]
            continue
        sent, control = (
            [f - b for one in row["first" + what] for f, b in zip(one["found"], one["blank"], strict=True)]
            for what in ("", ", noise removed")
        )
        assert len(sent) == len(control) == record.parameters["digits"]
        if sum(gain > 1 for gain in control) >= len(control) / 2:
            works += 1
            assert sum(gain > 1 for gain in sent) <= len(sent) / 4
    assert works >= 10 * len(record.seeds)
