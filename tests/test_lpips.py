"""LPIPS: weights found on this disk or NaN, never a download and never a random network's number."""

import pytest
import torch

from glutils import metrics
from glutils.data.batch import Batch
from glutils.metrics import pixels


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    """A machine without LPIPS weights that has not warned yet, whatever machine this is."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(pixels, "_warned", set())
    return tmp_path


def photos(count, channels=3):
    images = torch.rand((count, channels, 16, 16), generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count), tuple("abcde"))


def alexnet_like(generator):
    """Random convolutions under the names of torchvision's AlexNet: good for a test of loading, for nothing else."""
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    state = {}
    for index, (out, into, side) in shapes.items():
        state[f"features.{index}.weight"] = 0.1 * torch.randn(out, into, side, side, generator=generator)
        state[f"features.{index}.bias"] = torch.zeros(out)
    return state


def test_lpips_without_weights_is_nan_and_says_so_once(recwarn):
    batch = photos(2)
    for _ in range(2):
        assert metrics.lpips(batch.images, batch.images).isnan().all()
    assert [w.category for w in recwarn] == [metrics.LPIPSUnavailable]
    assert "alexnet-owt" in str(recwarn[0].message)


def test_score_without_weights_is_quiet_unless_a_network_is_named():
    batch = photos(2)
    score = metrics.score(batch, batch)
    assert score.lpips.isnan().all() and "LPIPS is nan" in score.notes[0] and "note: LPIPS" in repr(score)
    with pytest.warns(metrics.LPIPSUnavailable, match="vgg"):
        metrics.score(batch, batch, lpips_net="vgg")


def test_lpips_reads_the_hub_cache_and_leaves_the_random_state_alone(no_weights):
    folder = no_weights / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(alexnet_like(torch.Generator().manual_seed(0)), folder / "alexnet-owt-7be5be79.pth")
    batch = photos(2)
    before = torch.get_rng_state()
    same = metrics.lpips(batch.images, batch.images)
    noise = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(1))
    far, further = (metrics.lpips(batch.images + s * noise, batch.images) for s in (0.1, 0.5))
    assert torch.equal(before, torch.get_rng_state())
    assert (same == 0).all() and torch.isfinite(far).all() and (0 < far).all() and (far < further).all()
    score = metrics.score(batch, batch)
    assert (score.lpips == 0).all() and not score.notes
    assert torch.isfinite(score.controls["mean_colour"].lpips).all()
    grey = photos(2, channels=1).images
    assert (metrics.lpips(grey * 0.8, grey) > 0).all()


def test_lpips_takes_a_file_and_refuses_a_wrong_one(tmp_path):
    batch, state = photos(1), alexnet_like(torch.Generator().manual_seed(0))
    torch.save(state, tmp_path / "own.pth")
    assert torch.isfinite(metrics.lpips(batch.images, batch.images, weights=tmp_path / "own.pth")).all()
    del state["features.6.bias"]
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=r"broken.pth has no fitting 'features.6.bias'"):
        metrics.lpips(batch.images, batch.images, weights=tmp_path / "broken.pth")
    with pytest.raises(ValueError, match="weights must be a file"):
        metrics.lpips(batch.images, batch.images, weights=tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="net must be one of 'alex', 'vgg', 'squeeze'"):
        metrics.lpips(batch.images, batch.images, net="resnet")
