"""Zeroth-order queries: public directions, finite differences, the estimate and its replay, against dense algebra."""

import math

import pytest
import torch

from glutils import models, zo
from glutils.zo.slopes import _Project

DOUBLE = torch.float64


def normals(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def tiny(speck, activation="tanh"):
    """A network of 19 parameters and its batch, in float64."""
    model = models.build("mlp", speck, hidden=(2,), activation=activation, seed=1)
    return model, speck.images.double(), speck.labels


def true_gradient(model, images, labels):
    return models.flatten(models.gradient(model, models.parameters(model, images.dtype), images, labels))


def angle(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def slope_of_line(x, y):
    """Slope of the least-squares line through (log x, log y)."""
    x, y = torch.tensor(x).log(), torch.tensor(y).log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def drawn(seed, count, dim, law, **how):
    """Directions of any law, for parameters of two shapes."""
    return zo.Directions(seed, count, dim, law, shapes=[(dim - 3,), (1, 3)], **how)


# --- directions ---


@pytest.mark.parametrize("law", zo.LAWS)
def test_a_direction_depends_on_the_seed_and_its_number_alone(law):
    whole = drawn(5, 12, 40, law)
    rows = whole.rows()
    assert rows.shape == (12, 40) and rows.dtype == torch.float32
    assert torch.equal(drawn(5, 3, 40, law).rows(), rows[:3])  # how many there are does not matter
    thrifty = drawn(5, 12, 40, law, memory=0)
    assert torch.equal(thrifty.rows(7, 9), rows[7:9])  # nor which were drawn before
    assert torch.equal(thrifty.rows(), rows)
    assert torch.equal(thrifty.rows(4, 5), rows[4:5])  # nor how often
    torch.manual_seed(99)
    assert torch.equal(drawn(5, 12, 40, law).rows(), rows)  # nor the global random state


@pytest.mark.parametrize("law", zo.LAWS)
def test_kept_and_regenerated_directions_give_the_same_numbers(law):
    kept, fresh = drawn(2, 9, 31, law), drawn(2, 9, 31, law, memory=0)
    vector, weights = normals(1, 31)[0], normals(1, 9)[0]
    for blocks in (4, 9):
        fresh.block = blocks
        torch.testing.assert_close(fresh.project(vector), kept.project(vector), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(fresh.combine(weights), kept.combine(weights), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("memory", [0, zo.MEMORY])
@pytest.mark.parametrize("law", zo.LAWS)
def test_products_are_those_of_the_dense_matrix(law, memory):
    directions = drawn(1, 10, 23, law, memory=memory)
    directions.block = 3
    matrix = drawn(1, 10, 23, law).rows(dtype=DOUBLE)
    vector, weights = normals(1, 23)[0], normals(1, 10)[0]
    torch.testing.assert_close(directions.project(vector), matrix @ vector)
    torch.testing.assert_close(directions.combine(weights), matrix.T @ weights)
    single = directions.project(vector.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, (matrix @ vector).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", [0, zo.MEMORY])
def test_a_vector_may_come_and_go_in_pieces(memory):
    directions = zo.Directions(1, 10, 23, memory=memory)
    directions.block = 3
    shapes = [(2, 5), (1,), (3, 2, 2)]
    vector, weights = normals(1, 23)[0], normals(1, 10)[0]
    pieces = [part.view(shape) for part, shape in zip(vector.split([10, 1, 12]), shapes, strict=True)]
    torch.testing.assert_close(directions.project(pieces), directions.project(vector))
    torch.testing.assert_close(torch.cat(directions.combine(weights, [10, 1, 12])), directions.combine(weights))
    leaves = [piece.clone().requires_grad_() for piece in pieces]
    for some in (leaves, [vector.clone().requires_grad_()]):  # and its derivative is V.T
        assert torch.autograd.gradcheck(lambda *parts: _Project.apply(directions, *parts), some)


def test_blocks_cover_every_row_once():
    directions = zo.Directions(0, 10, 3)
    assert list(directions.blocks(4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(directions.blocks(99)) == [(0, 10)]
    assert len(directions) == 10


def test_unit_directions_have_length_one():
    lengths = zo.Directions(3, 20, 1000, "unit").rows(dtype=DOUBLE).norm(dim=1)
    assert float((lengths - 1).abs().max()) < 1e-12


def test_gaussian_directions_have_the_moments_of_normals():
    z = zo.Directions(3, 200, 1000, "gaussian").rows(dtype=DOUBLE)  # 200,000 entries: bounds of five standard errors
    assert abs(float(z.mean())) < 5 / math.sqrt(z.numel())
    assert abs(float(z.square().mean()) - 1) < 5 * math.sqrt(2 / z.numel())
    assert abs(float(z.pow(4).mean()) - 3) < 5 * math.sqrt(96 / z.numel())
    overlap = (z @ z.T / 1000).fill_diagonal_(0)
    assert float(overlap.abs().max()) < 6 / math.sqrt(1000)  # directions are independent
    unit = zo.Directions(3, 200, 1000, "unit").rows(dtype=DOUBLE)
    torch.testing.assert_close(unit, z / z.norm(dim=1, keepdim=True))


def test_seeds_near_each_other_give_unrelated_directions():
    dim = 2000
    rows = [zo.Directions(seed, 8, dim).rows(dtype=DOUBLE) for seed in (0, 1, 2, 2**31, 2**40)]
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            assert float((a @ b.T).abs().max()) < 6 / math.sqrt(dim)  # no row of one is a row of the other


def test_bad_directions_are_refused():
    for arguments, error, text in [
        ((-1, 3, 4), ValueError, "seed must be at least 0, got -1"),
        ((0, 0, 4), ValueError, "count must be at least 1, got 0"),
        ((0, 3, 0), ValueError, "dim must be at least 1, got 0"),
        ((0, 3, 4, "sphere"), ValueError, "law must be one of .*; got .sphere."),
    ]:
        with pytest.raises(error, match=text):
            zo.Directions(*arguments)


# --- slopes ---


@pytest.mark.parametrize("law", zo.LAWS)
def test_exact_slopes_are_the_directions_times_the_gradient(speck, law):
    model, images, labels = tiny(speck)
    directions = drawn(4, 9, 19, law, memory=0)
    found = zo.exact_slopes(model, images, labels, directions, dtype=DOUBLE)
    assert found.dtype == DOUBLE
    torch.testing.assert_close(found, directions.rows(dtype=DOUBLE) @ true_gradient(model, images, labels))
    torch.testing.assert_close(
        zo.slopes(model, images, labels, directions, mu=1.0, scheme="exact", dtype=DOUBLE), found
    )


@pytest.mark.parametrize("law", zo.LAWS)
@pytest.mark.parametrize(("scheme", "order"), [("central", 2), ("forward", 1)])
def test_the_truncation_error_has_the_order_of_the_scheme(speck, scheme, order, law):
    model, images, labels = tiny(speck)
    directions = drawn(4, 16, 19, law)
    exact = zo.exact_slopes(model, images, labels, directions, dtype=DOUBLE)
    steps = [0.03, 0.01, 0.003, 0.001] if law == "unit" else [0.01, 0.003, 0.001, 0.0003]
    errors = []
    for mu in steps:
        found = zo.slopes(model, images, labels, directions, mu=mu, scheme=scheme, dtype=DOUBLE)
        errors.append(float((found - exact).norm()))
    assert slope_of_line(steps, errors) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("scheme", zo.SCHEMES)
def test_finite_differences_are_those_of_a_plain_loop(speck, scheme):
    model, images, labels = tiny(speck)
    directions, mu = zo.Directions(8, 5, 19, "gaussian"), 1e-2
    start = models.parameters(model, DOUBLE)

    def loss(z, t):
        moved = models.unflatten(models.flatten(start) + t * z, start)
        return float(models.loss(model, moved, images, labels))

    found = zo.slopes(model, images, labels, directions, mu=mu, scheme=scheme, dtype=DOUBLE)
    for z, slope in zip(directions.rows(dtype=DOUBLE), found, strict=True):
        wanted = {
            "central": (loss(z, mu) - loss(z, -mu)) / (2 * mu),
            "forward": (loss(z, mu) - loss(z, 0)) / mu,
            "exact": float(z @ true_gradient(model, images, labels)),
        }
        assert float(slope) == pytest.approx(wanted[scheme], rel=1e-9, abs=1e-12)


def test_vectorised_blocks_change_nothing(speck):
    """33 directions are computed 32 and then one at a time."""
    model, images, labels = tiny(speck)
    many = zo.slopes(model, images, labels, zo.Directions(8, 33, 19), mu=1e-3, dtype=DOUBLE)
    few = zo.slopes(model, images, labels, zo.Directions(8, 1, 19), mu=1e-3, dtype=DOUBLE)
    assert many.shape == (33,) and few.shape == (1,)
    torch.testing.assert_close(many[:1], few, rtol=1e-10, atol=1e-12)


def test_float32_round_off_is_of_the_expected_size(digit):
    model = models.build("mlp", digit, hidden=(16,))
    directions = zo.Directions(0, 200, 64 * 16 + 16 + 170)
    for scheme in ("central", "forward"):
        how = {"mu": 1e-4, "scheme": scheme}
        coarse = zo.slopes(model, digit.images, digit.labels, directions, **how)
        fine = zo.slopes(model, digit.images, digit.labels, directions, dtype=DOUBLE, **how)
        assert coarse.dtype == torch.float32
        measured = float((coarse.double() - fine).square().mean().sqrt())
        loss = float(models.loss(model, models.parameters(model), digit.images, digit.labels))
        expected = zo.roundoff(loss, 1e-4, torch.float32, scheme)
        assert expected / 10 < measured < 3 * expected
    assert zo.roundoff(2.0, 1e-3, DOUBLE) == pytest.approx(2.2e-16 * 1e3, rel=0.01)
    assert zo.roundoff(-2.0, 1e-3) == 0.5 * zo.roundoff(2.0, 1e-3, scheme="forward")


@pytest.mark.parametrize("scheme", zo.SCHEMES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_parameters_and_buffers_come_back_bit_identical(digits, scheme, mode):
    model = models.build("resnet8", digits, width=4).train(mode == "train")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dim = sum(p.numel() for p in model.parameters())
    zo.slopes(model, digits.images, digits.labels, zo.Directions(0, 3, dim), mu=1e-2, scheme=scheme)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(m.training == (mode == "train") for m in model.modules())


def test_slopes_refuse_what_cannot_work(speck):
    model, images, labels = tiny(speck)
    directions = zo.Directions(0, 2, 19)
    with pytest.raises(ValueError, match="scheme must be one of 'forward', 'central', 'exact'; got 'backward'"):
        zo.slopes(model, images, labels, directions, mu=1e-3, scheme="backward")
    with pytest.raises(ValueError, match="mu must be greater than 0, got 0.0"):
        zo.slopes(model, images, labels, directions, mu=0.0)


# --- the estimate and its replay ---


@pytest.mark.parametrize(
    ("law", "unbiased", "factor"),
    [("gaussian", True, 1), ("gaussian", False, 1), ("unit", True, 1), ("unit", False, 19)],
)
def test_the_mean_of_many_estimates_is_the_gradient(speck, law, unbiased, factor):
    """K = 5,000 directions, d = 19: E|error|^2 = (d + 1)|g|^2 / K for Gaussian directions and less for unit ones, so
    the relative error is about 6.3 %. Twice that is allowed."""
    model, images, labels = tiny(speck)
    g = true_gradient(model, images, labels)
    directions = drawn(11, 5_000, 19, law)
    found = zo.estimate(directions.project(g), directions, unbiased=unbiased)
    error = float((found * factor - g).norm() / g.norm())
    assert error < 2 * math.sqrt(20 / 5_000)


def test_a_few_directions_see_the_gradient_at_the_angle_that_counting_predicts(digit):
    """cos(estimate, g) is about sqrt(K / d), and the unscaled unit estimate has length |g| / sqrt(K d)."""
    model = models.build("mlp", digit)
    g = true_gradient(model, digit.images.double(), digit.labels)
    dim = len(g)
    cosines, lengths = [], []
    for seed in range(20):
        directions = zo.Directions(seed, 48, dim)
        found = zo.estimate(directions.project(g), directions, unbiased=False)
        cosines.append(angle(found, g))
        lengths.append(float(found.norm() / g.norm()))
    assert torch.tensor(cosines).mean() == pytest.approx(math.sqrt(48 / dim), rel=0.1)
    assert torch.tensor(lengths).mean() == pytest.approx(math.sqrt(1 / (48 * dim)), rel=0.1)


def test_estimate_refuses_the_wrong_number_of_scalars():
    with pytest.raises(ValueError, match=r"scalars must have shape \(4,\), got \(3,\)"):
        zo.estimate(torch.zeros(3), zo.Directions(0, 4, 5))


@pytest.mark.parametrize("law", zo.LAWS)
def test_replay_is_the_clients_own_update(speck, law):
    """The client steps along its estimate; the server knows only seed and scalars and lands on the same parameters."""
    model, images, labels = tiny(speck)
    lr = 0.1
    client = drawn(6, 7, 19, law)
    scalars = zo.slopes(model, images, labels, client, mu=1e-4, dtype=DOUBLE)
    start = models.parameters(model, DOUBLE)
    own = models.flatten(start).clone()
    for slope, z in zip(scalars, client.rows(dtype=DOUBLE), strict=True):
        own -= lr * slope * z * (19 if law == "unit" else 1) / 7
    server = zo.replay(start, scalars, drawn(6, 7, 19, law, memory=0), lr)
    assert list(server) == list(start)
    torch.testing.assert_close(models.flatten(server), own, rtol=1e-12, atol=1e-13)
    plain = zo.replay(start, scalars, client, lr, unbiased=False)
    scale = 19 if law == "unit" else 1
    moved = models.flatten(server) - models.flatten(start)
    torch.testing.assert_close(scale * (models.flatten(plain) - models.flatten(start)), moved)


def test_replay_keeps_the_parameters_precision(speck):
    model, images, labels = tiny(speck)
    directions = zo.Directions(6, 7, 19)
    scalars = zo.slopes(model, images, labels, directions, mu=1e-4, dtype=DOUBLE)
    start = models.parameters(model)
    first, second = (zo.replay(start, scalars, zo.Directions(6, 7, 19, memory=m), 0.1) for m in (0, zo.MEMORY))
    assert all(p.dtype == torch.float32 for p in first.values())
    assert all(torch.equal(first[name], second[name]) for name in start)
    assert torch.equal(models.flatten(start), models.flatten(models.parameters(model)))  # the model is not touched


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory", [0, 2**30])
@pytest.mark.parametrize("law", ["unit", "gaussian"])
def test_match_is_both_products_in_one(dtype, memory, law):
    directions = drawn(3, 40, 90, law, memory=memory)
    pieces = [torch.randn(6, 10, dtype=dtype), torch.randn(30, dtype=dtype)]
    target = torch.randn(40, dtype=dtype)
    residual, back = directions.match(pieces, target, times=3.0)
    rows = directions.rows(dtype=dtype)
    vector = torch.cat([piece.reshape(-1) for piece in pieces])
    expected = rows @ vector - target
    torch.testing.assert_close(residual, expected)
    assert [part.shape for part in back] == [piece.shape for piece in pieces]
    size = 1e-6 if dtype == torch.float32 else 1e-14  # of round-off, relative to the largest entry
    wanted = 3 * rows.T @ expected
    error = torch.cat([part.reshape(-1) for part in back]) - wanted
    assert float(error.abs().max()) < 10 * size * float(wanted.abs().max())


@pytest.mark.parametrize("memory", [2**31, 0, 4 * 9 * 20])
@pytest.mark.parametrize("law", zo.LAWS)
def test_narrowed_directions_are_columns_of_the_whole(law, memory):
    whole, columns = drawn(2, 9, 31, law), torch.arange(0, 31, 2)
    narrow = drawn(2, 9, 31, law, memory=memory).narrowed(columns)
    assert narrow.dim == 16 and (narrow._kept is None) == (memory == 0)  # what did not fit may do so now
    torch.testing.assert_close(narrow.rows(2, 5), whole.rows(2, 5)[:, columns], rtol=1e-6, atol=0)
    vector, weights = normals(1, 16)[0], normals(1, 9)[0]
    spread = torch.zeros(31, dtype=DOUBLE)
    spread[columns] = vector
    torch.testing.assert_close(narrow.project(vector), whole.project(spread))
    torch.testing.assert_close(narrow.combine(weights), whole.combine(weights)[columns])
    assert torch.equal(narrow.narrowed(torch.tensor([3])).rows(), narrow.rows()[:, 3:4])
    assert narrow.narrowed(torch.tensor([3]), memory=100)._kept is not None


@pytest.mark.parametrize("memory", [2**31, 0])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_threads_change_nothing(dtype, memory, monkeypatch):
    vector, target = normals(1, 500)[0].to(dtype), normals(1, 40)[0].to(dtype)
    monkeypatch.setattr(zo.directions, "_CACHE_BYTES", 2**14)

    def found(threads):
        monkeypatch.setattr(zo.directions, "_WORTH", 500 if threads else 2**40)
        directions = zo.Directions(3, 40, 500, memory=memory)
        directions.block = 7
        return directions.rows(), *directions.match([vector[:100], vector[100:]], target, 2.0)

    (rows, r, back), (rows1, r1, back1) = found(True), found(False)
    assert torch.equal(rows, rows1)
    torch.testing.assert_close(r, r1)
    torch.testing.assert_close(torch.cat(back), torch.cat(back1))
    torch.testing.assert_close(r, zo.Directions(3, 40, 500).project(vector) - target)
    assert [len(part) for part in back] == [100, 400]


def test_directions_that_were_found_are_used_as_they_are():
    """The same products as the matrix itself, whatever is asked of them."""
    rows = torch.randn(5, 23, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    vector, target = torch.linspace(-1, 1, 23, dtype=DOUBLE), torch.ones(5, dtype=DOUBLE)
    given = zo.GivenDirections(rows)
    assert isinstance(given, zo.Directions) and len(given) == 5 and given.dim == 23 and not hasattr(given, "seed")
    assert torch.equal(given.rows(dtype=DOUBLE), rows)
    torch.testing.assert_close(given.project(vector), rows @ vector)
    torch.testing.assert_close(given.combine(target), rows.T @ target)
    r, (back,) = given.match([vector], target)
    torch.testing.assert_close(r, rows @ vector - target)
    torch.testing.assert_close(back, rows.T @ r)
    half = given.weighted(torch.tensor([1.0, 0, 1, 0, 1])).narrowed(torch.arange(0, 23, 2))
    wanted = (rows * torch.tensor([1.0, 0, 1, 0, 1])[:, None])[:, ::2]
    torch.testing.assert_close(half.rows(dtype=DOUBLE), wanted)
    torch.testing.assert_close(zo.estimate(target, given), rows.mean(0))
