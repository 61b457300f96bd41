"""The client's own arithmetic, against MeZO and DeComFL written out, and what an attacker can replay of it."""

import pytest
import torch
import torch.nn.functional as F

import glutils as gl
from glutils import defenses, models, zo
from glutils.attacks.zerogla.equations import ScalarEquations
from glutils.protocols import SeedPool, ZerothOrder

DTYPES = ["float32", "bfloat16", "float16"]
MEZO = {"directions": 1, "mu": 1e-3, "law": "mezo", "in_place": True, "seed": 3}


@pytest.fixture(scope="module")
def batch():
    return gl.data.sample("digits", count=2, seed=0, device="cpu")


def network(batch, dtype=torch.float32, hidden=8):
    return models.build("mlp", batch, hidden=(hidden,), activation="tanh", seed=0).to(dtype)


def precision(dtype):
    return {"dtype": dtype} | ({} if dtype == "float32" else {"loss_dtype": "float32"})


def mezo_step(model, images, labels, seed, mu, lr):
    """One step of MeZO on the model itself: its slope, and the parameters moved."""
    parts = [p for p in model.parameters() if p.requires_grad]

    def perturb(scale):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for p in parts:
                z = torch.normal(mean=0, std=1, size=p.shape, dtype=p.dtype)
                p.data = p.data + scale * z * mu

    def loss():
        return F.cross_entropy(model(images.to(parts[0].dtype)).float(), labels)

    with torch.no_grad():
        perturb(1)
        ahead = loss()
        perturb(-2)
        slope = ((ahead - loss()) / (2 * mu)).item()
        perturb(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for p in parts:
                z = torch.normal(mean=0, std=1, size=p.shape, dtype=p.dtype)
                p.data = p.data - lr * (slope * z)
    return slope


# --- what the programs compute ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_run_of_mezo_is_repeated_number_by_number(batch, dtype):
    """A model in that very precision: the drift of the parameters and the step are MeZO's own."""
    own, protocol = network(batch, zo.DTYPES[dtype]), ZerothOrder(**MEZO | precision(dtype))
    run = gl.federation.train(protocol, own, [batch], rounds=4, lr=0.01, seed=0, progress=False)
    for turn in range(4):
        seed = protocol.for_round(turn).seed
        slope = mezo_step(own, batch.images, batch.labels, seed, 1e-3, 0.01)
        assert run.messages[turn][0][0].payload.scalars.tolist() == pytest.approx([slope], rel=1e-5, abs=1e-4)
        for name, p in models.parameters(own).items():
            torch.testing.assert_close(run.states[turn + 1][name], p, rtol=1e-6, atol=1e-7)
    seen = gl.observe(run, client=0, knows={"labels"})  # which replays every state, and would name one that differs
    assert seen.scalars == 4


@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_several_directions_of_decomfl_start_where_the_last_one_ended(batch, scheme):
    model, mu, K = network(batch), 1e-3, 3
    protocol = ZerothOrder(directions=K, mu=mu, law="decomfl", scheme=scheme, in_place=True, seed=4)
    theta = models.flatten(models.parameters(model))
    start, like, wanted = theta.clone(), models.parameters(model), []
    loss = lambda at: models.loss(model, models.unflatten(at, like), batch.images, batch.labels)  # noqa: E731
    for i in range(K):
        z = torch.randn(len(theta), generator=torch.Generator().manual_seed(4 * (i + 17) + i))
        ahead = theta + mu * z
        behind = ahead - 2 * mu * z if scheme == "central" else start
        wanted.append((loss(ahead) - loss(behind)) / (2 * mu if scheme == "central" else mu))
        theta = behind + mu * z if scheme == "central" else ahead - mu * z
    before = {name: p.clone() for name, p in model.state_dict().items()}
    sent = protocol.transmit(model, batch.images, batch.labels)
    torch.testing.assert_close(sent.scalars, torch.stack(wanted), rtol=1e-3, atol=1e-3)
    left = models.flatten(protocol.left_behind(like, protocol.draw(model)))
    torch.testing.assert_close(left, theta, rtol=0, atol=1e-9)
    assert 0 < (left - start).abs().max() < 1e-6
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_a_copy_in_another_precision_leaves_nothing_behind(batch):
    model = network(batch)
    params = models.parameters(model)
    for how in ({"dtype": "bfloat16"}, {"dtype": "float64"}, {"in_place": False}):
        protocol = ZerothOrder(**MEZO | how)
        assert protocol.left_behind(params, protocol.draw(model)) is params
    coarse = network(batch, torch.bfloat16)
    protocol = ZerothOrder(**MEZO | {"dtype": "bfloat16"})
    left = protocol.left_behind(models.parameters(coarse), protocol.draw(coarse))
    moved = models.flatten(left) - models.flatten(models.parameters(coarse))
    assert 0 < moved.abs().max() < 0.01
    guarded = defenses.Defended(protocol, defenses.get("gaussian_noise", sigma=0.01))
    same = guarded.left_behind(models.parameters(coarse), guarded.draw(coarse))
    assert torch.equal(models.flatten(same), models.flatten(left))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rounds_the_loss_too_unless_it_is_cast(batch, dtype):
    model, how = network(batch), {"directions": 64, "law": "gaussian", "dtype": dtype, "seed": 1}
    whole = ZerothOrder(**how).transmit(model, batch.images, batch.labels).scalars
    cast = ZerothOrder(**how, loss_dtype="float32").transmit(model, batch.images, batch.labels).scalars
    exact = ZerothOrder(**how | {"dtype": "float64"}).transmit(model, batch.images, batch.labels).scalars
    assert whole.dtype == cast.dtype == torch.float32
    assert len(whole.unique()) < 40 <= len(cast.unique())
    assert (cast - exact).norm() < 0.6 * (whole - exact).norm()
    each = ZerothOrder(**how, loss_dtype="float32").of_each(model, batch.images, batch.labels, None)
    torch.testing.assert_close(each.mean(1), cast, rtol=0.01, atol=0.01)


def test_pools_in_half_precision(batch):
    model = network(batch)
    pool = SeedPool(directions=6, passes=2, local_lr=1e-3, law="fedkseed", in_place=True, **precision("float16"))
    accounts = pool.transmit(model, batch.images, batch.labels).scalars
    assert accounts.shape == (6,) and accounts.isfinite().all()
    params, directions = models.parameters(model), pool.draw(model)
    assert pool.left_behind(params, directions) is params  # the client walks on a copy
    assert pool.directions_as_computed(params, directions) is directions


# --- what the attacker replays ---


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(("law", "dtype"), [("unit", "float16"), ("mezo", "bfloat16"), ("decomfl", "float32")])
def test_the_ways_as_computed_explain_the_scalars_to_the_forward_pass(batch, rounds, law, dtype):
    model = network(batch)
    protocol = ZerothOrder(directions=8, law=law, in_place=True, seed=3, **precision(dtype))
    run = gl.federation.train(protocol, model, [batch], rounds=rounds, lr=1e-4, seed=0, progress=False)
    seen = gl.observe(run, client=0, knows={"labels"})
    equations = ScalarEquations(seen, lambda u: (u.view(seen.shape), seen.labels), batch.images.numel())
    u = batch.images.double().flatten()
    found = equations.calibrate(u)
    explained = float(found.problem.residual(u).square().mean().sqrt())
    assert explained == pytest.approx(found.noise, rel=0.02)  # at the truth all that is left is the client's rounding


@pytest.mark.parametrize("scheme", ["central", "forward"])
@pytest.mark.parametrize(("law", "dtype"), [("unit", "bfloat16"), ("mezo", "bfloat16"), ("unit", "float16")])
def test_slopes_along_the_ways_as_computed_are_the_differences_between_the_points(batch, law, dtype, scheme):
    """In float64, so that only the points are rounded: along the directions as drawn it is something else."""
    model = network(batch)
    params = models.parameters(model, torch.float64)
    errors = []
    for number in range(6):
        protocol = ZerothOrder(directions=1, law=law, seed=number, scheme=scheme, dtype=dtype)
        drawn = protocol.draw(model)
        ahead, behind = (models.unflatten(p[0].double(), params) for p in protocol.arithmetic.points(params, drawn))
        true = zo_loss(model, ahead, batch) - zo_loss(model, behind, batch)
        told = true / (2e-3 if scheme == "central" else 1e-3)
        along = protocol.directions_as_computed(params, drawn)
        middle = protocol.linearisation_state(params, protocol.payload(told[None], model), drawn)
        how = {"dtype": torch.float64}
        found = zo.exact_slopes(model, batch.images, batch.labels, along, params=middle, **how)
        plain = zo.exact_slopes(model, batch.images, batch.labels, drawn, params=params, **how)
        errors.append([float((part - told).abs()) for part in (found, plain)])
    known, naive = torch.tensor(errors).square().mean(0).sqrt().tolist()
    assert known < 0.02 * naive


def zo_loss(model, params, batch):
    return models.loss(model, params, batch.images.double(), batch.labels)


def test_mini_batches_weigh_in_half_precision_too(batch):
    model = network(batch)
    protocol = ZerothOrder(directions=4, law="gaussian", seed=3, **precision("float16"))
    run = gl.federation.train(protocol, model, [batch], rounds=3, lr=1e-4, local_batch=1, seed=0, progress=False)
    seen = gl.observe(run, client=0, knows={"labels"})
    weights = torch.stack([F.one_hot(run.drawn[t][0][0], 2).sum(0).double() for t in range(3)])
    decode = lambda u: (u.view(seen.shape), seen.labels, weights)  # noqa: E731
    equations = ScalarEquations(seen, decode, batch.images.numel(), weighted=True)
    u = batch.images.double().flatten()
    found = equations.calibrate(u)
    assert float(found.problem.residual(u).square().mean().sqrt()) == pytest.approx(found.noise, rel=0.02)
    assert found.noise < 0.2


def test_a_client_of_mezo_gives_its_digit_away(digit):
    model = network(digit, hidden=16)
    run = gl.federation.train(ZerothOrder(**MEZO), model, [digit], rounds=90, lr=1e-5, seed=0, progress=False)
    seen = gl.observe(run, client=0, knows={"labels"})
    how = {"solver": "gauss-newton", "seed": 0, "check": False, "progress": False}
    assert gl.score(gl.attack("zerogla", seen, **how), digit).psnr.min() > 60


# --- bad input ---


def test_bad_arithmetic_is_refused(batch):
    for options, error, text in [
        ({"loss_dtype": "float32"}, ValueError, "loss_dtype must be None with dtype='float32', got 'float32'"),
        ({"dtype": "float16", "loss_dtype": "float64"}, ValueError, "must be None or 'float32' with dtype='float16'"),
        ({"dtype": "half"}, ValueError, "dtype must be one of 'float32', .*'float16'; got 'half'"),
        ({"in_place": 1}, TypeError, "in_place must be a bool, got int"),
        ({"in_place": True, "scheme": "exact"}, ValueError, "scheme must be 'central' or 'forward' with .*True"),
        ({"dtype": "bfloat16", "scheme": "exact"}, ValueError, "scheme must be 'central' or 'forward' with dtype='bfl"),
    ]:
        with pytest.raises(error, match=text):
            ZerothOrder(**options)
    with pytest.raises(TypeError, match="protocol must be of slopes along directions for that, got FedSGD"):
        _ = gl.protocols.FedSGD().arithmetic


@pytest.mark.parametrize("how", [
    {"mu": 1e-30}, {"mu": 1e-30, "dtype": "float64"}, {"mu": 1e-30, "in_place": True, "scheme": "forward"},
    {"mu": 1e-8, "dtype": "float16"}, {"mu": 1e-30, "dtype": "bfloat16", "in_place": True},
])  # fmt: skip
def test_a_step_that_rounding_swallows_is_refused(batch, how):
    model = network(batch)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)  # parameters that are zero would move
    dtype = how.get("dtype", "float32")
    with pytest.raises(ValueError, match=f"mu must move at least one parameter, got .* with dtype '{dtype}'"):
        ZerothOrder(directions=2, **how).transmit(model, batch.images, batch.labels)


def test_an_overflow_is_named_and_is_no_message(batch):
    model = network(batch)
    with torch.no_grad():
        list(model.parameters())[-2].mul_(1e6)
    how = {"directions": 3, "law": "gaussian"}
    with pytest.raises(ValueError, match="scalars must be finite, got 3 of 3 that are not: dtype 'float16' overflows"):
        ZerothOrder(**how, dtype="float16").transmit(model, batch.images, batch.labels)
    assert ZerothOrder(**how).transmit(model, batch.images, batch.labels).scalars.isfinite().all()
