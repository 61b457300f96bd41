"""Decoders: shapes that follow the features, training on public images, checkpoints that resume, files refused."""

import json
import shutil

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.attacks.closed_form import decoder as decoders

SMALL = {"width": 2, "units": 0, "epochs": 2, "batch_size": 8, "progress": False}


@pytest.fixture(scope="module")
def public():
    return gl.data.sample("digits", count=40, split="public", device="cpu")


@pytest.fixture(scope="module")
def model(public):
    return gl.models.build("convnet", public, channels=(2, 3), hidden=None, seed=0)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def weights(decoder):
    return torch.cat([tensor.flatten().float() for tensor in decoder.state_dict().values()])


# --- features and shapes ---


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("convnet", {"hidden": None}, (32, 16, 16)),
        ("convnet", {"hidden": 20}, (20, 1, 1)),
        ("lenet", {}, (12, 8, 8)),
        ("resnet8", {}, (64, 1, 1)),
        ("mlp", {"hidden": (24,)}, (24, 1, 1)),
    ],
)
def test_the_shape_of_the_features_is_that_before_they_are_flattened(name, options, shape):
    batch = gl.data.sample("photos", count=2, device="cpu")
    model = gl.models.build(name, batch, **options)
    assert decoders.feature_shape(model, batch.shape) == shape
    found = decoders.features(model, batch.images)
    assert found.shape == (2, shape[0] * shape[1] * shape[2]) and not found.requires_grad
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    torch.testing.assert_close(last(found), model(batch.images))


def test_without_its_pool_a_network_keeps_the_map_and_its_backbone():
    batch = gl.data.sample("photos", count=2, device="cpu")
    stock = gl.models.build("resnet8", batch, seed=3)
    changed = decoders.remove_pooling(stock, seed=1)
    assert decoders.feature_shape(changed, batch.shape) == (64, 8, 8)
    assert decoders.backbone_digest(changed) == decoders.backbone_digest(stock)
    mean = decoders.features(changed, batch.images).view(2, 64, 64).mean(2)
    torch.testing.assert_close(mean, decoders.features(stock, batch.images))
    gl.protocols.FedSGD().transmit(changed, batch.images, batch.labels)  # as good a victim as any
    with pytest.raises(ValueError, match="average pool"):
        decoders.remove_pooling(gl.models.build("lenet", batch))


def test_features_leave_running_statistics_alone():
    batch = gl.data.sample("photos", count=2, size=16, device="cpu")
    model = gl.models.build("resnet8", batch).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    decoders.features(model, batch.images)
    assert model.training and all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("doublings", [0, 1, 3])
def test_a_decoder_doubles_as_often_as_it_must(doublings):
    decoder = decoders.Decoder((5, 2, 3), (1, 2 * 2**doublings, 3 * 2**doublings), width=2, units=1).eval()
    images = decoder(torch.randn(4, 5 * 2 * 3, generator=torch.Generator().manual_seed(0))).detach()
    assert images.shape == (4, *decoder.image) and 0 <= float(images.min()) and float(images.max()) <= 1
    ups = sum(isinstance(module, nn.ConvTranspose2d) for module in decoder.modules())
    assert ups == doublings


@pytest.mark.parametrize("image", [(3, 7, 7), (3, 12, 12), (3, 8, 16), (3, 2, 2)])
def test_a_decoder_of_an_impossible_shape_is_refused(image):
    with pytest.raises(ValueError, match="image must be"):
        decoders.Decoder((5, 4, 4), image)


# --- training ---


def test_training_learns_from_public_images_and_changes_nothing_else(model, public):
    before, state = decoders.backbone_digest(model), torch.random.get_rng_state()
    found = decoders.train(model, public, width=8, units=1, epochs=12, batch_size=4, lr=1e-2, progress=False)
    assert torch.equal(state, torch.random.get_rng_state()) and decoders.backbone_digest(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not found.decoder.training and found.stopped is None and found.folder is None
    assert len(found.losses) == 12 * 10 and len(found.psnr) == 12  # 38 images for training, two held out
    assert sum(found.losses[-10:]) < 0.5 * sum(found.losses[:10]) and found.psnr[-1] > found.psnr[0]


def test_the_same_seed_gives_the_same_decoder(model, public):
    one, two, other = (decoders.train(model, public, **SMALL, seed=seed).decoder for seed in (0, 0, 1))
    assert torch.equal(weights(one), weights(two)) and not torch.equal(weights(one), weights(other))


def test_labels_of_public_images_are_not_used(model, public):
    other = gl.data.Batch(public.images, public.labels.flip(0), public.classes, public.source)
    one, two = (decoders.train(model, batch, **SMALL).decoder for batch in (public, other))
    assert torch.equal(weights(one), weights(two))


# --- on disk ---


def test_a_finished_experiment_is_complete_and_is_not_redone(model, public, tmp_path, monkeypatch):
    first = decoders.train(model, public, folder=tmp_path / "one", **SMALL)
    there = files(first.folder)
    assert set(there) == {
        "state.json", "epoch-0002.safetensors", "weights.safetensors", "record.json", "loss.png", "samples.png",
    }  # fmt: skip
    record = json.loads(there["record.json"])
    assert record["losses"] == list(first.losses) and record["parameters"] == first.parameters
    monkeypatch.setattr(decoders.training._Run, "one_epoch", lambda *_: pytest.fail("nothing is left to train"))
    again = decoders.train(model, public, folder=first.folder, **SMALL)
    assert files(first.folder) == there
    assert torch.equal(weights(again.decoder), weights(first.decoder)) and again.losses == first.losses
    assert torch.equal(weights(decoders.load(first.folder)), weights(first.decoder))


def interrupt(monkeypatch, at):
    """Ctrl-C in training step ``at``, counted from now."""
    step, calls = torch.optim.Adam.step, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)


@pytest.mark.parametrize("at", [1, 7, 12])  # five steps an epoch: in the first, the second and the third epoch
def test_an_interrupted_training_goes_on_to_the_same_bytes(model, public, tmp_path, monkeypatch, at):
    asked = SMALL | {"epochs": 3}
    whole = decoders.train(model, public, folder=tmp_path / "whole", **asked)
    with monkeypatch.context() as patch:
        interrupt(patch, at)
        part = decoders.train(model, public, folder=tmp_path / "parts", **asked)
    assert part.stopped == f"interrupted in epoch {(at + 4) // 5} of 3"
    assert not (part.folder / "weights.safetensors").exists()
    rest = decoders.train(model, public, folder=tmp_path / "parts", **asked)
    assert rest.losses == whole.losses and rest.psnr == whole.psnr
    for name in ("weights.safetensors", "epoch-0003.safetensors", "loss.png", "samples.png"):
        assert (rest.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


def test_interrupted_without_a_folder_it_returns_what_it_has(model, public, monkeypatch):
    interrupt(monkeypatch, 7)
    found = decoders.train(model, public, **SMALL)
    assert found.stopped and len(found.psnr) == 1 and not found.decoder.training


@pytest.fixture(scope="module")
def finished(model, public, tmp_path_factory):
    return decoders.train(model, public, folder=tmp_path_factory.mktemp("experiment") / "one", **SMALL).folder


@pytest.mark.parametrize("other", [{"seed": 1}, {"epochs": 3}, {"width": 3}, {"lr": 0.1}, {"flip": False}])
def test_another_experiment_is_refused_by_name_and_left_alone(model, public, finished, other):
    before = files(finished)
    with pytest.raises(ValueError, match=f"{next(iter(other))}="):
        decoders.train(model, public, folder=finished, **(SMALL | other))
    assert files(finished) == before


def test_another_network_or_other_images_are_refused(model, public, finished):
    other = gl.models.build("convnet", public, channels=(2, 3), hidden=None, seed=9)
    with pytest.raises(ValueError, match="backbone="):
        decoders.train(other, public, folder=finished, **SMALL)
    with pytest.raises(ValueError, match="pixels="):
        decoders.train(model, public[list(range(39, -1, -1))], folder=finished, **SMALL)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


DAMAGE = {
    "cut weights": lambda folder: cut(folder / "epoch-0002.safetensors"),
    "no weights": lambda folder: (folder / "epoch-0002.safetensors").unlink(),
    "cut state": lambda folder: cut(folder / "state.json"),
    "another program's state": lambda folder: (folder / "state.json").write_text('{"epoch": 3}'),
    "a list": lambda folder: (folder / "state.json").write_text("[]"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_refused_with_one_error(model, public, finished, tmp_path, how):
    folder = shutil.copytree(finished, tmp_path / "copy")
    DAMAGE[how](folder)
    before = files(folder)
    with pytest.raises(ValueError, match="cannot be used"):
        decoders.train(model, public, folder=folder, **SMALL)
    assert files(folder) == before


def test_a_folder_of_something_else_is_refused(model, public, tmp_path):
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(ValueError, match="something else"):
        decoders.train(model, public, folder=tmp_path, **SMALL)
    assert set(files(tmp_path)) == {"letter.txt"}


def test_weights_are_not_overwritten_and_strangers_are_not_loaded(finished, tmp_path):
    decoder = decoders.load(finished / "weights.safetensors")
    assert decoder.save(tmp_path / "mine.safetensors").is_file()
    assert torch.equal(weights(decoders.load(tmp_path / "mine.safetensors")), weights(decoder))
    with pytest.raises(FileExistsError, match="never overwritten"):
        decoder.save(tmp_path / "mine.safetensors")
    with pytest.raises(FileNotFoundError, match="no decoder"):
        decoders.load(tmp_path / "yours.safetensors")
    for stranger in (b"", b"no safetensors at all", (finished / "epoch-0002.safetensors").read_bytes()):
        (tmp_path / "strange.safetensors").write_bytes(stranger)
        with pytest.raises(ValueError, match="cannot be read"):
            decoders.load(tmp_path / "strange.safetensors")


def test_experiments_lie_below_data_or_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("GLUTILS_DATA", raising=False)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert decoders.folder("my.exp-1") == tmp_path / "data" / "train_generator" / "my.exp-1"
    monkeypatch.setenv("GLUTILS_DATA", str(tmp_path / "elsewhere"))
    assert decoders.folder("e") == tmp_path / "elsewhere" / "train_generator" / "e"
    assert decoders.folder("e", tmp_path) == tmp_path / "train_generator" / "e"
    for wrong in ("", "../up", "a/b", 3):
        with pytest.raises(ValueError, match="exp_name must be"):
            decoders.folder(wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": 1}, {"lr": 0}, {"seed": -1}, {"width": 0}, {"units": -1}, {"flip": 1}],
)
def test_bad_arguments_are_named_before_anything_is_written(model, public, tmp_path, wrong):
    name = next(iter(wrong))
    with pytest.raises((ValueError, TypeError), match=name):
        decoders.train(model, public, folder=tmp_path / "new", **(SMALL | wrong))
    assert not (tmp_path / "new").exists()
    with pytest.raises(TypeError, match="public"):
        decoders.train(model, public.images, **SMALL)
