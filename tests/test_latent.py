"""Learned priors: projections against scikit-learn, derivatives, recovery below D scalars, controls, bad input."""

import dataclasses
import functools

import pytest
import torch
from sklearn.decomposition import PCA as Reference
from torch.func import jacfwd, jacrev, vjp, vmap

import glutils as gl
from glutils import models
from glutils.data.batch import Batch
from glutils.priors import latent
from glutils.priors.latent import PCA, Gaussian, Generator, ResidualLatent
from glutils.protocols import ZerothOrder

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def public():
    return gl.data.public("digits", device="cpu")


@pytest.fixture(scope="module")
def generator(public):
    return Generator.fit(public, 6, steps=300, progress=False)


def observed(batch, count, public, seed=0, knows=("labels", "public"), **options):
    model = models.build("mlp", batch, hidden=(64,), activation="tanh", seed=seed)
    protocol = ZerothOrder(**({"directions": count, "mu": 1e-4, "dtype": "float64", "seed": seed} | options))
    payload = protocol.transmit(model, batch.images, batch.labels)
    return gl.observe(model, protocol, payload, batch, knows=knows, public=public)


def private(seed, count=1):
    return gl.data.sample("digits", count=count, seed=seed, device="cpu")


def psnr(images, batch):
    return gl.metrics.psnr(images, batch.images)


# --- the latents themselves ---


@pytest.mark.parametrize("components", [1, 5, 40])
def test_pca_is_that_of_scikit_learn(public, components):
    ours, theirs = PCA.fit(public, components), Reference(components).fit(public.images.flatten(1).double().numpy())
    images = private(0, 4).images
    z, nearest = ours.project(images)
    reference = theirs.inverse_transform(theirs.transform(images.flatten(1).double().numpy()))
    torch.testing.assert_close(nearest.flatten(1), torch.from_numpy(reference))
    assert z.shape == (4, components) and ours.size == components
    torch.testing.assert_close(ours.project(nearest)[0], z)  # what is in the range stays where it is
    codes = ours.encode(public.images.double())
    torch.testing.assert_close(codes.T.cov().view(components, components), torch.eye(components, dtype=DOUBLE))


def test_the_gaussian_can_make_every_image_and_has_the_public_ones_spread(public):
    prior = Gaussian.fit(public)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    torch.testing.assert_close(prior.project(images)[1], images)
    lengths = prior.encode(public.images.double()).square().sum(1)
    assert 0.7 < float(lengths.mean()) / prior.size < 1.1  # shrinkage makes likely images a little less surprising
    noise = prior.encode(images).square().sum(1)
    assert float(noise.min()) > 3 * float(lengths.mean())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, at the first jvp
@pytest.mark.parametrize("kind", ["pca", "gaussian", "generator", "rest"])
def test_latents_differentiate_under_every_transform(public, generator, kind):
    made = {"pca": lambda: PCA.fit(public, 6), "gaussian": lambda: Gaussian.fit(public)}
    made |= {"generator": lambda: generator, "rest": lambda: ResidualLatent(generator, public)}
    prior = made[kind]()
    z = torch.randn(3, prior.size, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    images = prior.decode(z)
    assert images.shape == (3, 1, 8, 8) and images.dtype == DOUBLE and not images.requires_grad
    torch.testing.assert_close(prior.decode(z.float()).double(), images, rtol=1e-4, atol=1e-4)
    one = lambda v: prior.decode(v[None]).flatten()  # noqa: E731
    torch.testing.assert_close(jacfwd(one)(z[0]), jacrev(one)(z[0]))
    torch.testing.assert_close(vmap(one)(z).view(images.shape), images)
    rows = torch.eye(64, dtype=DOUBLE)[:5]
    torch.testing.assert_close(vmap(vjp(one, z[0])[1])(rows)[0], jacrev(one)(z[0])[:5])


def test_a_generator_is_reproducible_and_beats_pca_of_its_size(public, generator):
    one, again, other = (Generator.fit(public, 6, steps=20, seed=seed, progress=False) for seed in (0, 0, 1))
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one.decode(z), again.decode(z)) and not torch.equal(one.decode(z), other.decode(z))
    codes = generator.encode(public.images)
    assert float(codes.mean(0).abs().max()) < 0.6 and 0.5 < float(codes.square().mean()) < 1.5
    batch = private(0, 8)
    quick = psnr(generator.decode(generator.encode(batch.images)), batch)
    z, nearest = generator.project(batch.images)
    assert (psnr(nearest, batch) >= quick - 1e-6).all() and torch.equal(generator.decode(z), nearest)
    linear = PCA.fit(public, 6).project(batch.images)[1]
    assert float(psnr(nearest, batch).median()) > float(psnr(linear, batch).median())
    slope = torch.autograd.functional.jacobian(lambda v: (generator.decode(v) - batch.images).square().sum(), z)
    assert float(slope.norm()) < 1e-2 * len(batch)  # no nearer image nearby


def test_training_leaves_the_global_random_state_alone(public):
    before = torch.random.get_rng_state()
    Generator.fit(public, 2, steps=1, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- attacks ---


@pytest.mark.parametrize("prior", ["pca", "generator+residual"])
def test_half_as_many_scalars_as_pixels_reach_the_priors_own_ceiling(public, generator, prior):
    """The bar: digits, 32 scalars, within 1 dB of the nearest image that the latent can make."""
    gaps = []
    made = PCA.fit(public, 8) if prior == "pca" else generator
    for seed in range(3):
        batch = private(seed)
        chosen = "pca" if prior == "pca" else ResidualLatent(generator, public)
        result = gl.attack("zerogla", observed(batch, 32, public, seed), prior=chosen, restarts=3, seed=seed)
        gaps.append(float(psnr(result.images, batch)[0] - psnr(made.project(batch.images)[1], batch)[0]))
        assert result.diagnostics["unknowns"] == made.size + 64 and result.images.shape == (1, 1, 8, 8)
    assert min(gaps) >= (-1 if prior == "pca" else 0)


def test_the_gaussian_beats_total_variation_below_d_and_is_exact_above(public):
    batch = private(1)
    half = observed(batch, 32, public, 1)
    learned, plain = (psnr(gl.attack("zerogla", half, prior=p).images, batch)[0] for p in ("gaussian", "tv"))
    assert float(learned) > float(plain) + 4
    enough = gl.attack("zerogla", observed(batch, 80, public, 1), prior="gaussian")
    assert float(psnr(enough.images, batch)[0]) >= 100 and enough.notes == ()


def test_a_latent_without_rest_has_only_its_own_unknowns(public):
    batch, prior = private(0, 2), PCA.fit(public, 4)
    result = gl.attack("zerogla", observed(batch, 64, None, knows=("labels",)), prior=prior)
    assert result.diagnostics["unknowns"] == 8 and result.notes == ()
    torch.testing.assert_close(prior.project(result.images)[1], result.images)  # in the range


@pytest.mark.parametrize("count", [32, 80])
def test_permuted_scalars_give_nothing_however_good_the_prior(public, generator, count):
    for seed, prior in ((0, "gaussian"), (1, "gaussian"), (2, ResidualLatent(generator, public))):
        batch = private(seed)
        seen = gl.tamper(observed(batch, count, public, seed), "permuted", seed=seed)
        result = gl.attack("zerogla", seen, prior=prior, restarts=1, iterations=20)
        colour = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
        assert float(psnr(result.images, batch)[0]) <= float(psnr(colour, batch)[0]) + 2
        assert result.diagnostics["surprise"] > 2  # and the attacker can tell


def test_float32_scalars_are_not_fitted_beyond_their_noise(public):
    batch = private(0)
    result = gl.attack("zerogla", observed(batch, 96, public, dtype="float32", mu=1e-3), prior="gaussian")
    assert 45 < float(psnr(result.images, batch)[0]) < 100 and 1e-4 < result.diagnostics["noise"] < 1e-2


def test_learned_attacks_repeat_and_keep_time(public, generator):
    seen = observed(private(0), 32, public)
    runs = [gl.attack("zerogla", seen, prior=ResidualLatent(generator, public), restarts=1, seed=3) for _ in range(2)]
    assert torch.equal(runs[0].images, runs[1].images) and runs[0].history.loss == runs[1].history.loss
    assert list(runs[0].history.steps) == sorted(set(runs[0].history.steps))
    short = gl.attack("zerogla", seen, prior=ResidualLatent(generator, public), seconds=1e-3)
    assert any("time is up" in note for note in short.notes) and short.images.shape == (1, 1, 8, 8)


# --- bad input ---


def test_what_cannot_be_learned_is_refused(public):
    two = public[:2]
    for make, message in [
        (lambda: PCA.fit(public, 0), "components must be at least 1, got 0"),
        (lambda: PCA.fit(public, 65), "components must be at most 64, the number of pixel values; got 65"),
        (lambda: PCA.fit(two, 2), "components must be at most 1, the number of public images, less one; got 2"),
        (lambda: PCA.fit(public, 64), "components must be at most 61: public images differ in no more; got 64"),
        (lambda: Gaussian.fit(public[:1]), "public must hold at least two images, got 1"),
        (lambda: Generator.fit(public, 65), "size must be between 1 and 64, got 65"),
        (lambda: Generator.fit(public, 2, noise=0), "noise must be greater than 0, got 0.0"),
        (lambda: latent.fit("vae", public, 2), "name must be one of 'pca', 'gaussian', .*; got 'vae'"),
        (lambda: latent.fit("gaussian", public, 2), "components does nothing with name='gaussian', got 2"),
        (lambda: latent.fit("generator+rest", public, 2), "name='generator.rest' is called 'generator.residual' now"),
        (lambda: PCA.fit(public, 2).project(torch.zeros(1, 3, 8, 8)), r"images must have shape \(B, 1, 8, 8\), got"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="components must be an integer, got 2.5"):
        PCA.fit(public, 2.5)
    with pytest.raises(TypeError, match="public must be a Batch, got Tensor"):
        PCA.fit(public.images, 2)


def test_a_name_means_one_model(public, monkeypatch):
    """Whoever asks for it: by name, through an attack's arguments, or by its class."""
    shape = public.shape
    for name, kind in (("pca", PCA), ("generator", Generator), ("glo", latent.GLO), ("gaussian", Gaussian)):
        how = None if name == "gaussian" else 3
        if name in ("generator", "glo"):
            fit = kind.fit
            monkeypatch.setattr(kind, "fit", functools.partial(fit, steps=2))
        made = latent.fit(name, public, how, seed=1, progress=False)
        again = latent.resolve(name, shape, public, how, 9, seed=1, progress=False)
        assert type(made) is type(again) is kind
        z = torch.randn(2, made.size, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(made.decode(z), again.decode(z), rtol=0, atol=0)
    both = latent.fit("generator+residual", public, 3, progress=False)
    assert type(both) is ResidualLatent and type(both.latent) is Generator and both.report_residual
    assert latent.fit("untrained", public, 3, seed=1).size == 3
    assert latent.resolve(made, shape, None, None, 9) is made
    assert latent.resolve("pca", shape, public[:4], None, 9).size == 3  # as many as the public images allow


def test_zerogla_takes_what_a_named_latent_cannot_make_for_noise(digit, public):
    """The step over the named latent is the documented one: bit for bit what its residual latent gives."""
    seen = observed(digit, 24, public)
    named = gl.attack("zerogla", seen, prior="pca", components=4, iterations=5)
    plain = PCA.fit(public, 4)
    given = gl.attack("zerogla", seen, prior=ResidualLatent(plain, public, report_residual=False), iterations=5)
    assert torch.equal(named.images, given.images)
    bare = gl.attack("zerogla", seen, prior=plain, iterations=5)
    assert not torch.equal(named.images, bare.images)  # a latent that is given is taken as it is


def test_attacks_refuse_priors_that_cannot_be_had_before_any_work(public, digit, photo, monkeypatch):
    monkeypatch.setattr("glutils.attacks.zerogla.latent_space.gauss_newton", lambda *a, **k: pytest.fail("worked"))
    seen = observed(digit, 8, public)
    blind = dataclasses.replace(seen, public=None)
    other = Batch(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    for view, options, message in [
        (seen, {"prior": "generator+rest"}, "prior='generator.rest' is called 'generator.residual' now"),
        (seen, {"prior": "glo"}, "prior must be one of 'tv', .*, 'generator.residual'; got 'glo'"),
        (seen, {"prior": "vae"}, "prior must be one of 'tv', 'smooth', 'none', 'pca', .*got 'vae'"),
        (blind, {"prior": "pca"}, "prior='pca' learns from public images"),
        (blind, {"prior": "generator"}, "prior='generator' learns from public images"),
        (seen, {"prior": "pca", "components": 0}, "components must be at least 1, got 0"),
        (seen, {"prior": "pca", "components": 65}, "components must be at most 64"),
        (seen, {"prior": "generator", "components": 65}, "size must be between 1 and 64, got 65"),
        (seen, {"prior": "gaussian", "components": 3}, "components does nothing with prior='gaussian', got 3"),
        (seen, {"prior": "tv", "components": 3}, "components belongs to 'pca' and generators, not to prior='tv'"),
        (seen, {"prior": PCA.fit(public, 3), "components": 3}, "components belongs to a latent given by name"),
        (observed(photo, 8, None, knows=("labels",)), {"prior": PCA.fit(public, 3)}, "prior must be a latent of im"),
        (dataclasses.replace(seen, public=other), {"prior": "pca"}, r"public must hold images of shape \(1, 8, 8\)"),
        (seen, {"prior": "pca", "spread": -1.0}, "spread must be at least 0, got -1.0"),
        (dataclasses.replace(seen, labels=None), {"prior": "pca"}, "needs the labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            gl.attack("zerogla", view, **options)
