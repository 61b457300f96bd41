"""Attacks: objective and equations against automatic differentiation, recovery, negative controls, bad input."""

import dataclasses

import pytest
import torch
from torch import nn

import glutils as gl
from glutils import models
from glutils.attacks.matching import objective
from glutils.attacks.zerogla.equations import ScalarEquations
from glutils.data.batch import Batch
from glutils.observation import Round
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

DOUBLE = torch.float64
pytestmark = pytest.mark.usefixtures("no_lpips")


def observed(batch, protocol, name="mlp", seed=0, knows=("labels",), **options):
    options = {"hidden": (16,)} | options if name == "mlp" else options
    model = models.build(name, batch, seed=seed, **options)
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows)


def scalars(count, **options):
    return ZerothOrder(**({"directions": count, "mu": 1e-4, "dtype": "float64", "seed": 7} | options))


def psnr(result, batch):
    return float(gl.score(result, batch).psnr.min())


def above_control(result, batch):
    """dB above painting every image in its mean colour."""
    score = gl.score(result, batch)
    return float((score.psnr - score.controls["mean_colour"]).max())


# --- the table ---


def test_the_table_has_a_row_for_each_attack_and_no_empty_cell():
    rows = gl.attacks.table()
    assert [row["name"] for row in rows] == gl.attacks.names()
    assert {"zerogla", "dlg", "idlg", "ig", "fc_inversion"} <= set(gl.attacks.names())
    assert len({tuple(row) for row in rows}) == 1
    assert all(isinstance(cell, str) and cell.strip() for row in rows for cell in row.values())


@pytest.fixture(scope="module")
def messages():
    """A gradient, a difference and scalars of an image, a record of a table, and a text."""
    found = {}
    for data, name in (("digits", "mlp"), ("wine", "mlp"), ("messages", "gpt")):
        batch = gl.data.sample(data, count=1, seed=0, device="cpu")
        for protocol in (FedSGD(), FedAvg(epochs=1, batch_size=1, lr=0.1), scalars(4)):
            seen = observed(batch, protocol, name, knows=())
            found[seen.record.name, protocol.kind] = seen
    return found


@pytest.mark.parametrize("name", [row["name"] for row in gl.attacks.table() if row["name"] != "dmgan"])
def test_who_reads_a_message_is_named_by_who_does_not(name, messages):
    card = gl.attacks.base.ATTACKS.get(name)
    for (record, kind), seen in messages.items():
        if kind in card.kinds and record in card.records:
            continue
        with pytest.raises(ValueError, match=f"attack '{name}'.*got '?({record}|{kind})'?; ") as refused:
            gl.attack(name, seen)
        others = str(refused.value).split("; ")[-1].split("'")[1::2]
        able = {other: gl.attacks.base.ATTACKS.get(other) for other in others}
        assert all(kind in other.kinds and record in other.records for other in able.values())
        assert able or "no attack reads such a message" in str(refused.value)


# --- the objective ---


def tensors(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=DOUBLE) for shape in shapes]


@pytest.mark.parametrize("distance", [objective.squared, objective.cosine])
def test_distances_and_their_derivatives(distance):
    shapes = [(3, 2), (4,), (1, 1, 5)]
    found, target = tensors(0, *shapes), tensors(1, *shapes)
    leaves = [t.clone().requires_grad_() for t in found]
    a, b = (torch.cat([t.flatten() for t in ts]) for ts in (leaves, target))
    wanted = ((a - b) ** 2).sum() if distance is objective.squared else 1 - a @ b / (a.norm() * b.norm())
    value, slopes = distance(found, target)
    torch.testing.assert_close(value, wanted.detach())
    for slope, grad in zip(slopes, torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(slope, grad)
    assert float(distance(target, target)[0]) == pytest.approx(0, abs=1e-15)


def test_the_cosine_of_a_zero_payload_is_finite():
    zero = [torch.zeros(3, dtype=DOUBLE)]
    for found, target in ((zero, tensors(0, (3,))), (tensors(0, (3,)), zero)):
        value, slopes = objective.cosine(found, target)
        assert float(value) == 1 and torch.isfinite(slopes[0]).all()


PROTOCOLS = [FedSGD(), FedAvg(epochs=2, batch_size=1, lr=0.1), scalars(9, scheme="exact")]
kinds = lambda protocol: protocol.kind  # noqa: E731


@pytest.mark.parametrize("distance", [objective.squared, objective.cosine])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=kinds)
def test_matching_is_zero_and_flat_at_the_truth(digits, protocol, distance):
    """The fixed point: with the target equal to the dummy's own payload there is nothing to improve."""
    batch = digits[:2]
    model = models.build("mlp", batch, hidden=(4,))
    payload = protocol.transmit(model, batch.images.double(), batch.labels)
    seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
    loss = objective.matching(seen, lambda v: (v[0], seen.labels), distance=distance, dtype=DOUBLE)
    truth = (batch.images.double().requires_grad_(),)
    value, (slope,) = loss(truth)
    assert abs(float(value)) < 1e-14 and float(slope.abs().max()) < 1e-10
    trace = gl.solvers.Trace(3)
    gl.solvers.lbfgs(loss, truth, trace, iterations=3, line_search=True)
    assert trace.loss < 1e-14
    torch.testing.assert_close(trace.best[0], truth[0].detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("distance", [objective.squared, objective.cosine])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=kinds)
def test_the_objectives_gradient_is_that_of_the_whole_graph(speck, protocol, distance):
    """Images and soft labels, weight, prior, against differentiating through everything at once."""
    seen = observed(speck, protocol, hidden=(3,))
    decode = lambda v: (v[0], v[1].softmax(-1))  # noqa: E731
    how = {"distance": distance, "weight": 0.7, "priors": [(0.3, gl.priors.tv)], "dtype": DOUBLE}
    start = tuple(t.requires_grad_() for t in tensors(2, (3, 1, 2, 2), (3, 3)))
    value, slopes = objective.matching(seen, decode, **how)(start)

    payload = protocol.simulate(seen.model, *decode(start))
    a, b = (p.flat.double() for p in (payload, seen.payload))
    apart = ((a - b) ** 2).sum() if distance is objective.squared else 1 - a @ b / (a.norm() * b.norm())
    whole = 0.7 * apart + 0.3 * gl.priors.tv(start[0])
    torch.testing.assert_close(value, whole.detach())
    assert not value.requires_grad
    for slope, grad in zip(slopes, torch.autograd.grad(whole, start), strict=True):
        torch.testing.assert_close(slope, grad, rtol=1e-8, atol=1e-11)


def rounds(batch, protocols, name="mlp"):
    """One observation of several rounds; in each the model is another."""
    seen = observed(batch, protocols[0], name)
    messages = []
    for k, protocol in enumerate(protocols):
        state = models.build(name, batch, hidden=(16,), seed=k)
        payload = protocol.transmit(state, batch.images, batch.labels)
        messages.append(Round(protocol, payload.detach(), models.parameters(state)))
    return dataclasses.replace(seen, rounds=tuple(messages))


def test_rounds_add_up(digit):
    protocols = [scalars(5, seed=k, scheme="exact") for k in range(3)]
    seen = rounds(digit, protocols)
    decode = lambda v: (v[0], digit.labels)  # noqa: E731
    x = (tensors(3, tuple(digit.images.shape))[0].requires_grad_(),)
    value, (slope,) = objective.matching(seen, decode, dtype=DOUBLE)(x)
    parts = []
    for entry in seen.rounds:
        model = models.build("mlp", digit, hidden=(16,))
        model.load_state_dict(entry.parameters)
        alone = dataclasses.replace(seen, model=model, rounds=(dataclasses.replace(entry, parameters=None),))
        parts.append(objective.matching(alone, decode, dtype=DOUBLE)(x))
    torch.testing.assert_close(value, sum(v for v, _ in parts))
    torch.testing.assert_close(slope, sum(s for _, (s,) in parts))
    truth = (digit.images.double().requires_grad_(),)
    assert float(objective.matching(seen, decode, dtype=DOUBLE)(truth)[0]) < 1e-12


# --- the equations ---


def equations(seen, batch):
    return ScalarEquations(seen, lambda u: (u.view(seen.shape), batch.labels), batch.images.numel(), chunk=4)


@pytest.mark.parametrize("several", [False, True], ids=["one round", "rounds"])
def test_the_equations_derivatives_are_those_of_their_residual(digit, several):
    protocols = [scalars(9, seed=k, scheme="exact") for k in range(2)]
    seen = rounds(digit, protocols) if several else observed(digit, protocols[0])
    system = equations(seen, digit)
    assert (system.count, system.unknowns) == (18 if several else 9, 64)
    u = 0.5 + 0.1 * tensors(4, (64,))[0]
    r, pull = system.evaluate(u)
    jacobian = torch.autograd.functional.jacobian(system.residual, u)
    torch.testing.assert_close(system.residual(u), r)
    torch.testing.assert_close(pull, jacobian.T @ r)
    across, along = tensors(6, r.shape, u.shape)
    torch.testing.assert_close(system.vjp(u, across), jacobian.T @ across)
    onward, back = system.jtj_vector(u, along)
    torch.testing.assert_close(onward, jacobian @ along)
    torch.testing.assert_close(back, jacobian.T @ (jacobian @ along))
    torch.testing.assert_close(torch.cat(list(system.jacobian_rows(u, DOUBLE))), jacobian)
    torch.testing.assert_close(system.gram(u, DOUBLE), jacobian.T @ jacobian)
    torch.testing.assert_close(system.gram(u), jacobian.T @ jacobian, rtol=1e-3, atol=1e-3)
    assert float(system.residual(digit.images.double().flatten()).abs().max()) < 1e-10


def test_the_residual_is_in_units_of_the_scalars_spread(digit):
    seen = observed(digit, scalars(12))
    system = equations(seen, digit)
    u = torch.full((64,), 0.5, dtype=DOUBLE)
    twin = seen.protocol.simulate(seen.model, u.view(seen.shape), digit.labels)
    torch.testing.assert_close(system.residual(u), (twin.detach() - seen.payload).scalars / seen.payload.std())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_calibration_learns_the_clients_truncation_and_measures_its_round_off(digit, dtype):
    """A large step: without calibration the truth would not solve the equations. What is left is the noise."""
    seen = observed(digit, scalars(40, mu=0.3 if dtype == "float64" else 1e-2, dtype=dtype, law="gaussian"))
    system, truth = equations(seen, digit), digit.images.double().flatten()
    before = float(system.residual(truth).square().mean().sqrt())
    noise, bias, system = system.calibrate(truth)
    after = float(system.residual(truth).square().mean().sqrt())
    assert before > 5 * after and after < 3 * noise and bias > noise and noise < (1e-12 if dtype == "float64" else 1e-2)


def test_singular_values_are_those_of_the_jacobian(digit):
    seen = observed(digit, scalars(9))
    system = equations(seen, digit)
    rows = torch.cat(list(system.jacobian_rows(digit.images.double().flatten(), DOUBLE))) * system.scale
    torch.testing.assert_close(gl.attacks.singular_values(seen, digit.images), torch.linalg.svdvals(rows))


# --- fully connected inversion ---


@pytest.mark.parametrize(
    "protocol", [FedSGD(), FedAvg(epochs=1, lr=0.1), FedAvg(epochs=5, lr=0.5)], ids=["step", "avg", "epochs"]
)
def test_a_fully_connected_layer_gives_its_input_away(digit, photo, protocol):
    for batch in (digit, photo):
        for seed in range(3):
            seen = observed(batch, protocol, seed=seed, knows=(), activation="relu")  # some neurons are dead
            result = gl.attack("fc_inversion", seen)
            assert psnr(result, batch) >= 100
            if protocol.kind == "gradient":
                assert torch.equal(result.labels, batch.labels)


def test_inversion_of_a_batch_is_a_mean_and_says_so(digits):
    seen = observed(digits, FedSGD())
    result = gl.attack("fc_inversion", seen)
    assert result.images.shape == digits.images.shape and torch.equal(result.labels, digits.labels)
    assert "weighted mean" in result.notes[0]
    blind = gl.attack("fc_inversion", dataclasses.replace(seen, labels=None))
    assert blind.labels.shape == (5,) and any("not inferred" in note for note in blind.notes)


def test_inversion_recovers_every_image_that_has_a_neuron_of_its_own():
    """Four one-pixel images, four ReLU neurons, each of which answers to one image alone."""
    batch = Batch(torch.eye(4).view(4, 1, 2, 2), torch.arange(4), tuple("abcd"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(4))
        model[1].bias.fill_(-0.5)
    seen = gl.observe(model, FedSGD(), FedSGD().transmit(model, batch.images, batch.labels), batch, knows={"labels"})
    assert psnr(gl.attack("fc_inversion", seen), batch) >= 100


def test_inversion_refuses_what_it_cannot_invert(digit, digits):
    with pytest.raises(ValueError, match="first layer that is linear with a bias, got Conv2d"):
        gl.attack("fc_inversion", observed(digit, FedSGD(), "lenet"))
    biasless = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    payload = FedSGD().transmit(biasless, digit.images, digit.labels)
    with pytest.raises(ValueError, match="first layer that is linear with a bias, got Linear"):
        gl.attack("fc_inversion", gl.observe(biasless, FedSGD(), payload, digit))
    with pytest.raises(ValueError, match=r"as many neurons .* as there are images \(5\), got 3"):
        gl.attack("fc_inversion", observed(digits, FedSGD(), hidden=(3,)))


# --- ZeroGLA ---


@pytest.mark.parametrize("law", ["unit", "gaussian"])
@pytest.mark.parametrize("seed", range(3))
def test_gauss_newton_recovers_a_digit_from_scalars_exactly(seed, law):
    """64 pixels, 83 float64 scalars."""
    batch = gl.data.sample("digits", seed=seed, device="cpu")
    seen = observed(batch, scalars(83, law=law, mu=1e-4 if law == "unit" else 1e-5), seed=seed)
    result = gl.attack("zerogla", seen, seed=seed)
    assert psnr(result, batch) >= 100
    assert result.notes == () and result.diagnostics["scalars"] == 83 and result.diagnostics["unknowns"] == 64
    assert 0 < result.diagnostics["noise"] < 1e-6 and len(result.history.loss) < 41


@pytest.mark.parametrize("count", [83, 32])
@pytest.mark.parametrize("how", ["wrong_seed", "permuted", "wrong_gradient"])
def test_misled_gauss_newton_stays_at_the_mean_colour(digit, how, count):
    seen = gl.tamper(observed(digit, scalars(count)), how)
    assert above_control(gl.attack("zerogla", seen), digit) <= 2


@pytest.mark.parametrize("prior", ["tv", "smooth", "none"])
def test_too_few_scalars_are_reported_not_raised(digit, prior):
    result = gl.attack("zerogla", observed(digit, scalars(32)), prior=prior)
    assert "under-determined: 32 scalars for 64 unknowns" in result.notes[0]
    assert torch.isfinite(result.images).all() and psnr(result, digit) < 60
    one = gl.attack("zerogla", observed(digit, scalars(1)), iterations=5)
    assert "1 scalars" in one.notes[0] and torch.isfinite(one.images).all()


def test_float32_scalars_cost_precision_not_the_image(digit):
    """The attacker finds the round-off in its own simulation and does not fit it."""
    result = gl.attack("zerogla", observed(digit, scalars(96, mu=1e-3, dtype="float32")))
    assert 45 < psnr(result, digit) < 100
    assert 1e-4 < result.diagnostics["noise"] < 1e-2
    assert result.loss**0.5 < 3 * result.diagnostics["noise"]
    assert (
        result.loss == result.history.loss[-1]
    )  # the last: losses under different weights of the prior do not compare


def test_scalars_of_many_rounds_add_up_to_one_image(digit):
    """Ten rounds of eight scalars, the model another in each: no round alone determines anything."""
    seen = rounds(digit, [scalars(8, seed=k) for k in range(10)])
    result = gl.attack("zerogla", seen)
    assert psnr(result, digit) >= 100 and result.diagnostics["scalars"] == 80


@pytest.mark.parametrize("solver", ["gauss-newton", "lbfgs", "adam"])
def test_every_solver_fits_scalars_and_repeats_itself(digit, solver):
    seen = observed(digit, scalars(128))
    options = {"solver": solver, "iterations": {"gauss-newton": 15, "lbfgs": 6, "adam": 150}[solver]}
    result = gl.attack("zerogla", seen, **options)
    assert result.loss < 0.02 * result.history.loss[0] and psnr(result, digit) > 40
    assert result.attack == "zerogla" and result.seconds > 0 and torch.equal(result.labels, digit.labels)
    one, again, other = (gl.attack("zerogla", seen, seed=seed, **options | {"iterations": 3}) for seed in (0, 0, 1))
    assert torch.equal(again.images, one.images) and again.history.loss == one.history.loss
    assert other.history.loss[0] != one.history.loss[0]


def test_directions_need_not_be_kept(digit):
    thrifty = observed(digit, scalars(83, memory=0))
    assert psnr(gl.attack("zerogla", thrifty), digit) >= 100
    first = gl.attack("zerogla", thrifty, solver="lbfgs", iterations=3)
    kept = gl.attack("zerogla", observed(digit, scalars(83)), solver="lbfgs", iterations=3)
    torch.testing.assert_close(first.images, kept.images, rtol=0, atol=1e-6)


def test_gauss_newton_recovers_a_photograph_through_lenet(photo):
    """768 unknowns, 921 float64 scalars."""
    seen = observed(photo, scalars(921), "lenet")
    assert psnr(gl.attack("zerogla", seen, iterations=12), photo) >= 100


# --- gradient matching ---


@pytest.mark.parametrize("attack", ["dlg", "idlg"])
@pytest.mark.parametrize(("name", "options"), [("lenet", {}), ("mlp", {"activation": "sigmoid"})], ids=["lenet", "mlp"])
def test_dlg_and_idlg_recover_image_and_label(digit, attack, name, options):
    seen = observed(digit, FedSGD(), name, knows=(), **options)
    result = gl.attack(attack, seen, iterations=12)
    assert torch.equal(result.labels, digit.labels) and result.images.dtype == DOUBLE
    assert result.loss < 1e-6 * result.history.loss[0] and psnr(result, digit) > 60
    one, again = (gl.attack(attack, seen, iterations=3) for _ in range(2))
    assert torch.equal(again.images, one.images)


def test_dlg_takes_a_batch(digits):
    batch = digits[:2]
    result = gl.attack("dlg", observed(batch, FedSGD(), knows=()), iterations=10, restarts=1)
    assert result.images.shape == batch.images.shape and result.labels.shape == (2,)
    assert result.loss < 0.01 * result.history.loss[0]


@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=3, batch_size=1, lr=0.05)], ids=kinds)
def test_ig_follows_the_direction_of_gradients_and_of_differences(digit, protocol):
    seen = observed(digit, protocol, "convnet", channels=(8, 8), hidden=None)
    result = gl.attack("ig", seen, iterations=80)
    assert torch.equal(result.labels, digit.labels)
    assert result.loss < 0.3 * result.history.loss[0] and above_control(result, digit) > 4
    assert 0 <= float(result.images.min()) and float(result.images.max()) <= 1
    assert result.loss == result.history.loss[-1]  # the last iterate, for the step size has decayed
    assert torch.equal(gl.attack("ig", seen, iterations=80).images, result.images)


def test_ig_is_blind_to_the_length_of_the_gradient(digit):
    seen = observed(digit, FedSGD(), "convnet", channels=(4, 4), hidden=None)
    scaled = {name: 1024 * tensor for name, tensor in seen.payload.items()}
    other = dataclasses.replace(seen, rounds=(dataclasses.replace(seen.rounds[0], payload=scaled),))
    first, second = (gl.attack("ig", s, iterations=10) for s in (seen, other))
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=1e-3)


def test_without_box_and_prior_pixels_may_leave_the_range(digit):
    seen = observed(digit, FedSGD(), "convnet", channels=(4, 4), hidden=None)
    result = gl.attack("ig", seen, iterations=10, box=False, tv_weight=0)
    assert float(result.images.min()) < 0


@pytest.mark.parametrize("how", ["wrong_gradient", "permuted"])
@pytest.mark.parametrize("attack", ["dlg", "idlg", "ig", "fc_inversion"])
def test_misled_gradient_attacks_stay_at_the_mean_colour(digit, attack, how):
    seen = gl.tamper(observed(digit, FedSGD()), how)
    options = {"ig": {"iterations": 40}, "fc_inversion": {}}.get(attack, {"iterations": 8, "restarts": 1})
    assert above_control(gl.attack(attack, seen, **options), digit) <= 2


def test_the_best_restart_by_the_attackers_loss_is_reported(digit):
    seen = observed(digit, FedSGD(), "convnet", channels=(4, 4), hidden=None)
    result = gl.attack("ig", seen, iterations=15, restarts=3)
    assert len(result.history.restarts) == 3 and result.loss == min(result.history.restarts)
    assert len(set(result.history.restarts)) == 3


# --- interrupts and budgets ---

SEARCHES = [
    ("dlg", FedSGD(), {}),
    ("idlg", FedSGD(), {}),
    ("ig", FedSGD(), {}),
    ("zerogla", scalars(83), {"solver": "gauss-newton"}),
    ("zerogla", scalars(83), {"solver": "lbfgs"}),
    ("zerogla", scalars(83), {"solver": "adam"}),
]


def interrupt_at(monkeypatch, call):
    """Ctrl-C while the loss of the model is computed for the ``call``-th time."""
    count, loss = [0], nn.functional.cross_entropy

    def interrupting(*arguments, **options):
        count[0] += 1
        if count[0] == call:
            raise KeyboardInterrupt
        return loss(*arguments, **options)

    monkeypatch.setattr(nn.functional, "cross_entropy", interrupting)


@pytest.mark.parametrize(("attack", "protocol", "options"), SEARCHES)
def test_an_interrupt_returns_what_was_found_so_far(digit, monkeypatch, attack, protocol, options):
    seen = observed(digit, protocol)
    interrupt_at(monkeypatch, 6)
    result = gl.attack(attack, seen, **options)
    assert result.images.shape == digit.images.shape and torch.isfinite(result.images).all()
    assert any(note.startswith("interrupted at step") for note in result.notes)
    assert result.loss in result.history.loss


@pytest.mark.parametrize(("attack", "protocol", "options"), SEARCHES)
def test_an_interrupt_before_the_first_step_is_an_interrupt(digit, monkeypatch, attack, protocol, options):
    seen = observed(digit, protocol)
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        gl.attack(attack, seen, **options)


def test_a_time_budget_ends_the_search(digit):
    seen = observed(digit, FedSGD())
    result = gl.attack("ig", seen, iterations=1_000_000, seconds=0.2)
    assert result.notes[-1].startswith("time is up at step") and result.seconds < 10
    assert len(result.history.frames) <= 24


def test_knowledge_that_the_protocol_never_sends_is_noted(digits):
    seen = observed(digits, scalars(3), "resnet8", knows={"labels", "batch_stats"}, width=2)
    result = gl.attack("zerogla", seen, solver="adam", iterations=2)
    assert any("uses batch_stats, which this protocol never sends" == note for note in result.notes)
    assert not any("batch_stats" in note for note in gl.attack("zerogla", observed(digits[:1], scalars(99))).notes)


# --- bad input ---


@pytest.fixture
def no_work(monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("work began")

    def forbid():
        monkeypatch.setattr(nn.functional, "cross_entropy", work)

    return forbid


@pytest.mark.parametrize(
    ("attack", "protocol", "options", "error", "text"),
    [
        ("zerogal", FedSGD(), {}, ValueError, "unknown attack 'zerogal'; valid names: .*zerogla"),
        ("dlg", FedAvg(), {}, ValueError, "'dlg' reads payloads of kind gradient, got 'delta'"),
        ("idlg", FedAvg(), {}, ValueError, "'idlg' reads payloads of kind gradient, got 'delta'"),
        ("dlg", scalars(3), {}, ValueError, "'dlg' reads payloads of kind gradient, got 'scalars'"),
        ("ig", scalars(3), {}, ValueError, "'ig' reads payloads of kind gradient or delta, got 'scalars'"),
        ("fc_inversion", scalars(3), {}, ValueError, "reads payloads of kind gradient or delta, got 'scalars'"),
        ("zerogla", FedSGD(), {}, ValueError, "'zerogla' reads payloads of kind scalars, got 'gradient'"),
        ("zerogla", scalars(3), {"solver": "sgd"}, ValueError, "solver must be one of 'gauss-newton', .*got 'sgd'"),
        ("zerogla", scalars(3), {"prior": "bn"}, ValueError, "prior must be one of 'tv', 'smooth', .*; got 'bn'"),
        ("zerogla", scalars(3), {"solver": "adam", "tv_weight": -1.0}, ValueError, "tv_weight must be at least 0"),
        ("zerogla", scalars(3), {"solver": "adam", "noise": -0.1}, ValueError, "noise must be at least 0, got -0.1"),
        ("zerogla", scalars(3), {"step": 1}, TypeError, "'zerogla' has no option 'step'; its options: solver, iter"),
        ("fc_inversion", FedSGD(), {"lr": 1}, TypeError, "'fc_inversion' has no option 'lr'; its options: none"),
        ("ig", FedSGD(), {"tv_weight": float("nan")}, ValueError, "tv_weight must be finite, got nan"),
        ("ig", FedSGD(), {"lr": 0.0}, ValueError, "lr must be greater than 0, got 0.0"),
        ("dlg", FedSGD(), {"lr": -1.0}, ValueError, "lr must be greater than 0, got -1.0"),
        ("dlg", FedSGD(), {"restarts": 0}, ValueError, "restarts must be at least 1, got 0"),
        ("dlg", FedSGD(), {"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
        ("dlg", FedSGD(), {"iterations": 2.5}, TypeError, "iterations"),
        ("ig", FedSGD(), {"seconds": 0.0}, ValueError, "seconds must be greater than 0, got 0.0"),
        ("ig", FedSGD(), {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ("ig", FedSGD(), {"device": "gpu"}, ValueError, "device must be one of cpu"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(digit, no_work, attack, protocol, options, error, text):
    seen = observed(digit, protocol)
    no_work()
    with pytest.raises(error, match=text):
        gl.attack(attack, seen, **options)


def test_impossible_observations_are_refused_before_any_work(digit, digits, no_work):
    blind = [
        ("ig", observed(digits, FedSGD(), knows=()), {}),
        ("zerogla", observed(digit, scalars(3), knows=()), {"solver": "lbfgs"}),
    ]
    told = observed(digit, scalars(3))
    several = observed(digits, FedSGD())
    moved = observed(digit, FedSGD(), "resnet8", width=2)
    moved.model.train()
    no_work()
    for attack, seen, options in blind:
        with pytest.raises(ValueError, match=f"'{attack}' needs the labels: observe"):
            gl.attack(attack, seen, **options)
    with pytest.raises(ValueError, match="soften needs a model that calls ReLU"):
        gl.attack("zerogla", told, soften=True)
    with pytest.raises(ValueError, match="'idlg' reads the label of one image, got a batch of 5"):
        gl.attack("idlg", several)
    with pytest.raises(ValueError, match="the client ran batch norm in 'eval' mode, .* in 'train' mode"):
        gl.attack("ig", moved)
    with pytest.raises(TypeError, match="seen"):
        gl.attack("ig", digit)


@pytest.mark.parametrize(("solver", "option"), [("gauss-newton", {"lr": 0.2}), ("lbfgs", {"noise": 0.1})])
def test_an_option_that_the_solver_would_ignore_is_refused(digit, solver, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} does nothing with solver='{solver}'"):
        gl.attack("zerogla", observed(digit, scalars(9)), solver=solver, **option)
