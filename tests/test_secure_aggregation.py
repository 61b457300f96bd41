"""The server learns the sum, to the step of the coding, and nothing else."""

import numpy as np
import pytest
import torch
from scipy import stats

import glutils as gl
from glutils import defenses
from glutils.defenses import FixedPoint, secure_sum
from glutils.defenses.secure_aggregation import combine, share


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(20, 5, generator=generator) for _ in range(10)]


@pytest.mark.parametrize("dropped", [(), (1, 5, 7)])
def test_sum_is_exact_to_the_step(vectors, dropped):
    """Ten clients, three of whom stay away after the keys were shared."""
    found = secure_sum(vectors, dropped=dropped, seed=0)
    assert found.survivors == tuple(i for i in range(10) if i not in dropped)
    rounded = sum((vectors[i].double() / 2**-16).round() for i in found.survivors) * 2**-16
    assert torch.equal(found.total, rounded)
    truth = sum(vectors[i].double() for i in found.survivors)
    assert float((found.total - truth).abs().max()) <= len(found.survivors) * 2**-17


def test_clients_in_the_sum_may_fall_silent(vectors):
    found = secure_sum(vectors, dropped=(0,), silent=(1, 2), seed=0)
    expected = secure_sum(vectors, dropped=(0,), seed=0)
    assert torch.equal(found.total, expected.total) and 1 in found.survivors


def test_one_masked_update_is_uniform(vectors):
    """Chi-square over 64 bins of the ring: of a masked vector of zeros, which is as far from uniform as can be."""
    zeros = [torch.zeros(20_000) for _ in range(3)]
    found = secure_sum(zeros, seed=0)
    for masked in found.masked.values():
        counts = np.bincount((masked >> np.uint64(26)).astype(int), minlength=64)
        assert stats.chisquare(counts).pvalue > 1e-3
    assert not found.total.any()
    a, b = (found.masked[i].astype(float) for i in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


def test_the_seed_alone_decides_the_masks_and_without_one_they_are_fresh(vectors):
    same = [secure_sum(vectors, seed=3).masked[0] for _ in range(2)]
    fresh = [secure_sum(vectors).masked[0] for _ in range(2)]
    assert np.array_equal(*same) and not np.array_equal(*fresh)


def test_shares_below_the_threshold_fail_and_say_nothing():
    secret = 2**255 - 12345
    shares = share(secret, 7, 5, b"entropy")
    assert combine({i: shares[i] for i in (6, 1, 3, 0, 4)}, 5) == secret
    with pytest.raises(ValueError, match="threshold is 5 shares, got 4"):
        combine({i: shares[i] for i in range(4)}, 5)
    assert combine({i: shares[i] for i in range(4)}, 4) != secret  # four points fit any secret


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_fixed_point_round_trip(bits):
    coding = FixedPoint(2.0**-8, bits)
    numbers = torch.tensor([-3.0, -(2.0**-8), 0.0, 0.4, 100.0])
    assert torch.allclose(coding.decode(coding.encode(numbers)), numbers.double(), atol=2.0**-9)


def test_bad_input(vectors):
    with pytest.raises(ValueError, match="only 6 of 10 clients answered"):
        secure_sum(vectors, dropped=(0, 1, 2, 3))
    with pytest.raises(ValueError, match="would leave the ring"):
        secure_sum([1e6 * v for v in vectors])
    with pytest.raises(ValueError, match="threshold must be between 6 and 10"):
        secure_sum(vectors, threshold=5)
    with pytest.raises(ValueError, match="at least 2 clients"):
        secure_sum(vectors[:1])
    with pytest.raises(ValueError, match=r"vectors\[1\] must have shape"):
        secure_sum([torch.zeros(3), torch.zeros(4)])
    with pytest.raises(ValueError, match="dropped must be between 0 and 9"):
        secure_sum(vectors, dropped=(10,))
    with pytest.raises(ValueError, match="must be finite"):
        secure_sum([torch.tensor([float("nan")])] * 3)
    with pytest.raises(ValueError, match="bits must be between 8 and 64"):
        FixedPoint(bits=4)
    assert "secure_sum" in defenses.__all__


# --- a server that sends different models to different clients ---


@pytest.fixture(scope="module")
def inconsistent():
    """Ten clients with a digit each: the first has the real model, the others one whose first layer never fires."""
    from glutils.attacks.malicious.inconsistency import digest, silenced

    private = gl.data.sample("digits", count=10, seed=0)
    model = gl.models.build("mlp", private, hidden=(16,), activation="relu", seed=0)
    received = [model] + [silenced(model, gl.data.public(private, count=16, seed=0))] * 9
    singles = [private[[k]] for k in range(10)]
    parts = [
        gl.protocols.FedSGD().transmit(m, one.images, one.labels) for m, one in zip(received, singles, strict=True)
    ]
    return private, parts, [digest(m) for m in received]


def first_layer_inverted(total, like):
    g = gl.models.unflatten(total, like.tensors)
    row = int(g["1.bias"].abs().argmax())
    return (g["1.weight"][row] / g["1.bias"][row]).view(1, 1, 8, 8)


def test_one_clients_image_comes_out_of_an_honest_sum_of_ten(inconsistent):
    private, parts, _ = inconsistent
    coding = FixedPoint(2.0**-40, 64)
    total = secure_sum([gl.models.flatten(g) for g in parts], coding=coding, seed=0).total
    assert gl.metrics.psnr(first_layer_inverted(total, parts[0]), private[[0]].images) > 60
    same = secure_sum([gl.models.flatten(parts[0])] * 10, coding=coding, received=[b"one model"] * 10, seed=0).total
    torch.testing.assert_close(same, 10 * gl.models.flatten(parts[0]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dropped", [(), (3,), (0, 5)])
def test_masks_bound_to_the_model_stop_it(inconsistent, dropped):
    private, parts, digests = inconsistent
    coding = FixedPoint(2.0**-40, 64)
    vectors = [gl.models.flatten(g) for g in parts]
    total = secure_sum(vectors, coding=coding, received=digests, dropped=dropped, seed=0).total
    exact = sum(v.double() for k, v in enumerate(vectors) if k not in dropped)
    if 0 in dropped:  # whoever is left has one and the same model, and zeros there
        torch.testing.assert_close(total, exact, rtol=0, atol=1e-6)
    else:
        assert float((total - exact).abs().median()) > 1e4
        found = first_layer_inverted(total, parts[0]).clamp(0, 1)
        assert gl.metrics.psnr(found, private[[0]].images) < 12


def test_what_cannot_be_silenced_is_refused(inconsistent):
    from glutils.attacks.malicious.inconsistency import silenced

    public = gl.data.public(inconsistent[0], count=4, seed=0)
    with pytest.raises(ValueError, match="must have units behind its first layer"):
        silenced(gl.models.build("mlp", public, activation="leaky_relu", hidden=(4,), seed=0), public)
    nn = torch.nn
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False), nn.ReLU(), nn.Linear(4, 10))
    with pytest.raises(ValueError, match="must have a first layer with a bias"):
        silenced(bare, public)
    with pytest.raises(ValueError, match="received must hold bytes for each of 3 clients, got 2"):
        secure_sum([torch.zeros(3)] * 3, received=[b"a", b"b"])
