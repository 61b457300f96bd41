"""TuRBO: finds minima in few evaluations, keeps its box, repeats itself, and says what is missing."""

import sys

import pytest
import torch

import glutils as gl
from glutils.attacks.generative import ggl
from glutils.priors.latent import PCA
from glutils.solvers import search, turbo
from glutils.solvers.turbo import Region

pytestmark = pytest.mark.usefixtures("no_lpips")
CENTRE = torch.tensor([0.7, -0.4, 1.1])


def bowl(z):
    """A bowl, steeper along later coordinates, with its minimum of 0 at CENTRE."""
    return ((z - CENTRE).square() * torch.tensor([1.0, 2.0, 4.0])).sum(1)


def run(objective=bowl, evaluations=41, seed=0, **how):
    how = {"batch": 5} | how
    return search(
        lambda trace, generator: turbo.turbo(
            objective, torch.zeros(3), trace, evaluations=evaluations, generator=generator, **how
        ),
        iterations=evaluations // 5,
        seed=seed,
    )


@pytest.fixture(scope="module")
def found():
    pytest.importorskip("botorch")
    return run()


def test_a_bowl_in_few_evaluations(found):
    """41 evaluations; the best of 41 random points of the box is at about 0.5."""
    random = bowl(4 * torch.rand(200, 41, 3, generator=torch.Generator().manual_seed(0)).view(-1, 3) - 2)
    assert found.loss < 0.05 < float(random.view(200, 41).min(1).values.median())
    assert found.history.loss[0] >= found.loss and len(found.history.steps) == 9


def test_the_same_seed_gives_the_same_search_and_leaves_torch_alone(found):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    again = run(evaluations=15)
    assert torch.equal(torch.rand(3), wanted)
    assert again.history.loss == found.history.loss[:3]


def test_it_stays_in_its_box_and_counts_what_it_asks():
    pytest.importorskip("botorch")
    asked = []

    def far(z):
        asked.append(z)
        return (z - 9).square().sum(1)

    run(far, evaluations=17, width=0.5)
    points = torch.cat(asked)
    assert len(points) == 16 and float(points.abs().max()) <= 0.5 + 1e-6  # six to begin with, and two batches
    assert torch.equal(points[0], torch.zeros(3))


def test_nan_counts_as_the_worst_and_a_batch_of_it_ends_the_search():
    pytest.importorskip("botorch")
    some = run(lambda z: torch.where(z[:, 0] < 0, torch.nan, bowl(z)), evaluations=15)
    assert some.loss < float(bowl(torch.zeros(1, 3))) and float(some.variables[0][0]) >= 0
    with pytest.raises(RuntimeError, match="diverged before its first step"):
        run(lambda z: torch.full((len(z),), torch.nan), evaluations=15)


def test_a_region_doubles_halves_and_collapses():
    region = Region(patience=2)
    for improved, length in ((1, 0.8), (1, 0.8), (1, 1.6), (0, 1.6), (1, 1.6), (0, 1.6), (0, 0.8)):
        region.update(bool(improved))
        assert region.length == length
    for _ in range(14):
        assert not region.collapsed
        region.update(False)
    assert region.collapsed and Region(1, length=1.6, successes=2).length == turbo.LONGEST


@pytest.mark.parametrize(
    "how, message",
    [
        ({"evaluations": 14}, "evaluations must be at least 15, got 14"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"width": 0}, "width must be greater than 0, got 0"),
    ],
)
def test_bad_arguments(how, message):
    pytest.importorskip("botorch")
    with pytest.raises(ValueError, match=message):
        run(**how)


def observed():
    public = gl.data.public("digits", count=200, device="cpu")
    batch = gl.data.sample("digits", seed=1, device="cpu")
    model = gl.models.build("mlp", batch, seed=0, hidden=(16,))
    protocol = gl.protocols.FedSGD()
    payload = protocol.transmit(model, batch.images, batch.labels)
    return batch, gl.observe(model, protocol, payload, batch, knows={"labels"}), PCA.fit(public, 4)


def test_ggl_by_turbo_finds_a_digit_of_the_latents_range():
    """40 evaluations: 12.7 and 14.2 dB for two seeds; the nearest digit that z can draw 14.3, the mean digit 11.6."""
    pytest.importorskip("botorch")
    batch, seen, pca = observed()
    how = {"prior": pca, "solver": "turbo", "latent_weight": 0, "iterations": 40, "seed": 1}
    result = gl.attack("ggl", seen, **how)
    flat = gl.metrics.psnr(pca.decode(torch.zeros(1, 4)).float(), batch.images)
    found = gl.score(result, batch).psnr
    assert float(found) > float(flat) + 1 and result.diagnostics["evaluations"] <= 40


def test_without_botorch_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "botorch", None)
    monkeypatch.setattr(ggl, "candidates", lambda *a, **k: pytest.fail("worked"))
    _, seen, pca = observed()
    with pytest.raises(ImportError, match=r"solver='turbo' needs BoTorch: pip install \"leaky-scalars\[turbo\]\""):
        gl.attack("ggl", seen, prior=pca, solver="turbo")
