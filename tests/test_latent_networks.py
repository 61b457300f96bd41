"""Networks as latents: weights that can be changed, GLO, untrained generators, generators loaded from files."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import glutils as gl
from glutils.priors import latent
from glutils.priors.latent import GLO, PCA, Gaussian, Generator, Network, ResidualLatent

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def public():
    return gl.data.public("digits", device="cpu")


@pytest.fixture(scope="module")
def glo(public):
    return GLO.fit(public, 8, steps=200, progress=False)


def codes(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["pca", "generator", "glo", "untrained"])
def test_own_weights_for_each_image(public, glo, kind):
    made = {"pca": lambda: PCA.fit(public, 8), "generator": lambda: Generator.fit(public, 8, steps=5, progress=False)}
    made |= {"glo": lambda: glo, "untrained": lambda: latent.untrained(SHAPE, 8)}
    prior = made[kind]()
    z, same = codes(3, 8), prior.weights().float()
    images = prior.decode(z)
    torch.testing.assert_close(prior.decode(z, same.repeat(3, 1)), images)
    torch.testing.assert_close(prior.decode(z, same[None]), images)
    rows = same + torch.tensor([0.0, 0.0, 1e-2])[:, None]
    changed = prior.decode(z, rows.requires_grad_())
    slope = torch.autograd.grad(changed[2].sum(), rows)[0]  # an image depends on its own copy alone
    changed = changed.detach()
    torch.testing.assert_close(changed[:2], images[:2])
    assert float((changed[2] - images[2]).abs().max()) > 1e-3
    assert float(slope[:2].abs().max()) == 0 and float(slope[2].abs().max()) > 0


def test_a_network_with_other_weights_is_another_network(glo):
    z, before = codes(2, 8), glo.weights().clone()
    other = glo.with_weights(before * 0.5)
    assert torch.equal(glo.weights(), before) and torch.equal(other.weights(), before * 0.5)
    torch.testing.assert_close(other.decode(z), glo.decode(z, (before * 0.5)[None]))
    assert not torch.equal(other.decode(z), glo.decode(z))


def test_glo_has_normal_codes_repeats_and_comes_closer_than_chance(public, glo):
    held = gl.data.sample("digits", count=4, seed=100, device="cpu")
    inside = glo._codes
    torch.testing.assert_close(inside.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(inside.T @ inside / len(inside), torch.eye(8), atol=1e-2, rtol=0)
    z, nearest = glo.project(held.images)
    quick = glo.decode(glo.encode(held.images.double()))
    reached = gl.metrics.psnr(nearest, held.images)
    assert (reached >= gl.metrics.psnr(quick, held.images) - 1e-6).all()
    assert float(reached.median()) > 14  # the median of random samples is 8 dB
    torch.testing.assert_close(glo.decode(z), nearest)
    again, other = (GLO.fit(public, 3, steps=5, seed=seed, progress=False) for seed in (0, 1))
    assert torch.equal(GLO.fit(public, 3, steps=5, progress=False).weights(), again.weights())
    assert not torch.equal(again.weights(), other.weights())


def test_training_and_drawing_weights_leave_the_global_random_state_alone(public):
    before = torch.random.get_rng_state()
    GLO.fit(public, 2, steps=1, progress=False)
    latent.untrained(SHAPE, 2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("side", [8, 16, 28, 32])
def test_dcgan_makes_images_of_many_sizes_in_the_unit_range(side):
    made = latent.untrained((3, side, side), 5, seed=1).decode(codes(2, 5))
    assert made.shape == (2, 3, side, side) and float(made.min()) >= 0 and float(made.max()) <= 1
    assert torch.equal(made, latent.untrained((3, side, side), 5, seed=1).decode(codes(2, 5)))


# --- loading ---


def test_a_generator_is_loaded_from_either_kind_of_file_or_as_a_module(tmp_path):
    module = latent.dcgan(6, SHAPE)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    z = codes(2, 6)
    wanted = module(z).detach()
    for source in (module, tmp_path / "weights.safetensors", str(tmp_path / "weights.pt")):
        loaded = latent.load(source, SHAPE, 6)
        assert isinstance(loaded, Network)
        torch.testing.assert_close(loaded.decode(z), wanted)
    other = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Unflatten(1, SHAPE))
    torch.save(other.state_dict(), tmp_path / "other.pt")
    loaded = latent.load(tmp_path / "other.pt", SHAPE, 6, module=other, low=-1, high=1)
    torch.testing.assert_close(loaded.decode(z), (other(z).detach() + 1) / 2)
    assert all(p.requires_grad for p in other.parameters())  # one's own module is left as it was


def test_batch_norm_and_spatial_input_of_the_original_dcgan():
    module = nn.Sequential(nn.ConvTranspose2d(6, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1))
    module(codes(8, 6)[:, :, None, None])  # leaves running statistics behind
    loaded = latent.load(module, SHAPE, 6, spatial=True)
    z = codes(2, 6)
    torch.testing.assert_close(loaded.decode(z), module.eval()(z[:, :, None, None]).detach())
    assert loaded.decode(z.double()).dtype == torch.float64
    torch.testing.assert_close(loaded.decode(z, loaded.weights().repeat(2, 1)), loaded.decode(z))


def test_what_cannot_be_loaded_is_refused_in_one_sentence(tmp_path):
    module = latent.dcgan(6, SHAPE)
    torch.save(module.state_dict(), good := tmp_path / "good.pt")
    (bad := tmp_path / "bad.safetensors").write_bytes(b"no weights")
    (pickled := tmp_path / "bad.pt").write_bytes(b"no weights")
    torch.save(module, whole := tmp_path / "module.pt")
    for source, how, message in [
        (tmp_path / "none.pt", {}, "source must name an existing file of weights, got '.*none.pt'"),
        (bad, {}, "source '.*bad.safetensors' holds no weights that can be read"),
        (pickled, {}, "source '.*bad.pt' holds more than tensors, or is damaged"),
        (whole, {}, "source '.*module.pt' holds more than tensors"),
        (good, {"size": 7}, "source '.*good.pt' does not fit the model: .* has shape"),
        (good, {"module": nn.Linear(6, 64)}, "source '.*good.pt' does not fit the model: it has no"),
        (nn.Linear(6, 64), {}, r"source must make images of shape \(1, 8, 8\), makes \(64,\)"),
        (module, {"size": 7}, "source does not take 7 numbers"),
        (module, {"module": module}, "module belongs to a source that is a file"),
        (module, {"shape": (8, 8)}, r"shape must be \(C, H, W\), got \(8, 8\)"),
        (module, {"low": 1, "high": 1}, "high must be above low, 1.0; got 1.0"),
    ]:
        options = {"shape": SHAPE, "size": 6} | how
        with pytest.raises(ValueError, match=message):
            latent.load(source, options.pop("shape"), options.pop("size"), **options)
    with pytest.raises(TypeError, match="source must be a torch module or the path of its weights, got int"):
        latent.load(3, SHAPE, 6)


def test_what_has_no_weights_or_no_size_is_refused(public):
    prior = Gaussian.fit(public)
    rest = ResidualLatent(PCA.fit(public, 2), public)
    for make, message in [
        (rest.weights, "a latent of class ResidualLatent has no weights that an attack could change"),
        (lambda: rest.decode(torch.zeros(1, rest.size), torch.zeros(1, 3)), "ResidualLatent has no weights"),
        (lambda: prior.with_weights(prior.weights()), "a latent of class Gaussian is no network"),
        (lambda: latent.dcgan(3, (1, 9, 8)), "shape must have even sides of 8 or more for a DCGAN, got 9x8"),
        (lambda: latent.untrained((1, 6, 6), 3), "shape must have even sides of 8 or more"),
        (lambda: latent.untrained(SHAPE, 0), "size must be at least 1, got 0"),
        (lambda: GLO.fit(public, 65), "size must be between 1 and 64, got 65"),
        (lambda: GLO.fit(public, 2, steps=0), "steps must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
