"""Laws of directions: against what the programs do, written out; any law along the street; functions as laws."""

import numpy as np
import pytest
import torch

import glutils as gl
from glutils import models, zo
from glutils.protocols import HiddenDirections, SeedPool, ZerothOrder

SHAPES = [torch.Size(shape) for shape in [(5, 4), (5,), (3, 5), (3,)]]  # below 16 entries torch draws otherwise
DIM = 43
EXACT = {"mu": 1e-4, "dtype": "float64", "seed": 7}


def own_law(seed, count, shapes):
    """Uniform numbers of the variance of normal ones."""
    generator = torch.Generator().manual_seed(seed)
    dim = sum(shape.numel() for shape in shapes)
    return torch.stack([torch.rand(dim, generator=generator) - 0.5 for _ in range(count)]) * 12**0.5


EVERY = [*zo.LAWS, own_law]


def drawn(law, seed=5, count=4, **how):
    return zo.Directions(seed, count, DIM, law, shapes=SHAPES, **how)


def tensor_by_tensor(seed, dtype):
    """As a program does that seeds the global generator and draws every parameter's part."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [torch.normal(mean=0, std=1, size=shape, dtype=dtype).flatten() for shape in SHAPES]
    return torch.cat(parts).float()


def one_vector(seed, dtype, unit=False):
    z = torch.randn(DIM, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (z.div_(torch.norm(z)) if unit else z).float()


# --- each law, as its program has it ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", [0, 5, 2**40 + 3])
def test_directions_are_those_of_the_programs(seed, dtype):
    pool = np.random.RandomState(seed % 2**32).randint(1, 10**11, 4)
    wanted = {
        "decomfl": [one_vector(seed * (i + 17) + i, dtype) for i in range(4)],
        "decomfl_unit": [one_vector(seed * (i + 17) + i, dtype, unit=True) for i in range(4)],
        "mezo": [tensor_by_tensor(seed + i, dtype) for i in range(4)],
        "fedkseed": [tensor_by_tensor(int(pool[i]), dtype) for i in range(4)],
    }
    for law, rows in wanted.items():
        assert torch.equal(drawn(law, seed, dtype=dtype).rows(), torch.stack(rows)), law
        assert torch.equal(drawn(law, seed, dtype=dtype, memory=0).rows(1, 3), torch.stack(rows[1:3])), law


def test_tensor_by_tensor_is_another_stream_and_half_precision_yet_another():
    flat = one_vector(5, torch.float32)
    assert not torch.allclose(drawn("mezo").rows()[0], flat)
    halves = [drawn("mezo", dtype=dtype).rows()[0] for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    assert (halves[0] - halves[1]).abs().max() > 0.1
    for law in ("unit", "gaussian"):  # ours are the same numbers for everybody
        assert torch.equal(drawn(law, dtype=torch.bfloat16).rows(), drawn(law).rows())
    assert torch.equal(drawn("mezo", dtype=torch.float64).rows(), drawn("mezo").rows())


@pytest.mark.parametrize("law", zo.LAWS)
def test_lengths_and_the_factor_of_the_estimate(law):
    found = zo.find_law(law)
    directions = zo.Directions(3, 300, DIM, law, shapes=SHAPES)
    lengths = directions.rows(dtype=torch.float64).norm(dim=1)
    if found.unit:
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-6)
    else:
        assert lengths.square().mean() == pytest.approx(DIM, rel=0.05)
    assert directions.factor == (DIM if law == "unit" else 1)
    gradient = torch.arange(DIM, dtype=torch.float64)
    scalars = directions.project(gradient)
    mean = directions.rows(dtype=torch.float64).T @ scalars / 300
    torch.testing.assert_close(zo.estimate(scalars, directions), mean * directions.factor)
    torch.testing.assert_close(zo.estimate(scalars, directions, unbiased=False), mean)
    assert found.meaning and (found.source is None) == (found.program is None)


# --- a function as a law ---


def test_a_function_is_a_law():
    rows = own_law(5, 4, SHAPES)
    directions = drawn(own_law, memory=0)  # it is kept all the same
    assert torch.equal(directions.rows(), rows) and directions.law == "own_law" and directions.factor == 1
    columns = torch.tensor([1, 4, 40])
    assert torch.equal(directions.narrowed(columns).rows(), rows[:, columns])
    weights = torch.tensor([0.0, 1.0, 0.0, 1.0])
    torch.testing.assert_close(directions.weighted(weights).rows(), rows * weights[:, None])
    doubles = drawn(lambda seed, count, shapes: own_law(seed, count, shapes).double())
    assert torch.equal(doubles.rows(), rows)


def test_bad_laws_are_refused(digit):
    calls = []

    def moody(seed, count, shapes):
        calls.append(seed)
        return torch.full((count, DIM), float(len(calls)))

    for law, error, text in [
        (lambda s, k, shapes: torch.zeros(k, 3), ValueError, r"must have shape \(4, 43\), got \(4, 3\)"),
        (lambda s, k, shapes: torch.zeros(k, DIM).long(), TypeError, "must be floating-point .* torch.int64"),
        (lambda s, k, shapes: torch.full((k, DIM), torch.nan), ValueError, "must be finite, got 172"),
        (lambda s, k, shapes: [[0.0] * DIM] * k, TypeError, "must be a Tensor, got list"),
        (moody, ValueError, "law moody must answer the same when it is asked twice"),
        ("gaussian2", ValueError, "'unit', 'gaussian', 'decomfl', 'decomfl_unit', 'mezo', 'fedkseed'; got 'gaussian2'"),
        (None, TypeError, "law must be one of 'unit', .* or a function, got None"),
    ]:  # fmt: skip
        with pytest.raises(error, match=text):
            drawn(law)
    for law in ("mezo", "fedkseed", own_law):
        with pytest.raises(ValueError, match="shapes must be given for law"):
            zo.Directions(0, 3, DIM, law)
    with pytest.raises(ValueError, match="shapes must hold 40 entries"):
        zo.Directions(0, 3, 40, "unit", shapes=SHAPES)
    model = models.build("mlp", digit, hidden=(4,), seed=0)
    with pytest.raises(ValueError, match="what law <lambda> returns must have shape"):
        short = ZerothOrder(directions=3, law=lambda s, k, shapes: torch.zeros(k, 1))
        short.transmit(model, digit.images, digit.labels)


# --- the whole street, with any law ---


@pytest.fixture(scope="module")
def deal():
    return gl.data.partition("digits", clients=2, per_client=1, seed=0, device="cpu")


@pytest.fixture(scope="module")
def network(deal):
    return models.build("mlp", deal[0], hidden=(8,), seed=0)


@pytest.mark.parametrize("law", EVERY)
def test_everybody_replays_to_the_same_states_and_a_digit_comes_back(deal, network, law):
    protocol = ZerothOrder(directions=40, law=law, **EXACT)
    run = gl.federation.train(protocol, network, deal, rounds=2, lr=1e-3, local_steps=2, seed=0, progress=False)
    state = models.parameters(network)
    for step in range(4):
        asked = protocol.for_round(step)
        rows = asked.draw(network).rows(dtype=torch.float64)
        said = [run.messages[step // 2][k][step % 2] for k in (0, 1)]
        mean = sum(message.payload.scalars for message in said) / 2
        move = models.unflatten(rows.T @ mean * (rows.shape[1] if law == "unit" else 1) / 40, state)
        state = {name: p - 1e-3 * move[name].to(p.dtype) for name, p in state.items()}
    torch.testing.assert_close(models.flatten(run.states[-1]), models.flatten(state), rtol=1e-5, atol=1e-6)
    seen = gl.observe(run, client=0, rounds=[1], knows={"labels"})
    result = gl.attack("zerogla", seen, solver="gauss-newton", seed=0, check=False, progress=False)
    assert gl.score(result, deal[0]).psnr.min() > 80


@pytest.mark.parametrize("law", EVERY)
def test_pools_and_hidden_directions_take_any_law(deal, network, law):
    batch = deal[0]
    pool = SeedPool(directions=12, passes=2, local_lr=1e-3, law=law, **EXACT)
    run = gl.federation.train(pool, network, deal[:1], rounds=1, lr=1e-3, progress=False)
    middle = pool.linearisation_state(run.states[0], run.messages[0][0][0].payload, pool.draw(network))
    for name, p in middle.items():
        torch.testing.assert_close(p, (run.states[0][name] + run.states[1][name]) / 2, rtol=1e-4, atol=1e-6)
    hidden = HiddenDirections(directions=12, law=law, **EXACT)
    plain = ZerothOrder(directions=12, law=law, **EXACT).transmit(network, batch.images, batch.labels)
    sent = hidden.transmit(network, batch.images, batch.labels)
    wanted = zo.estimate(plain.scalars, hidden.draw(network))
    torch.testing.assert_close(sent.flat.double(), wanted, rtol=1e-5, atol=1e-7)
