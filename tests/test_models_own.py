"""Networks and weights of others: by name, by import path, from files in the forms that they come in."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import glutils as gl
from glutils import models


def own(batch):
    """What a reader might have."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(batch.shape)), 7), nn.Tanh(), nn.Linear(7, 10))


def a_tuple(batch):
    return 3


def fails(batch):
    return own(None)


def too_few(batch):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(models.factories, "_OWN", {})
    gl.models.register("mine", own)


@pytest.fixture
def nets(digit):
    return tuple(gl.models.build("convnet", digit, seed=seed, channels=(2, 3), hidden=5) for seed in (0, 1))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# --- names ---


@pytest.mark.parametrize("name", ["mine", f"{__name__}:own"])
def test_a_network_of_ones_own_may_stand_wherever_a_name_may(name, registered, digit, tmp_path, no_lpips):
    model = gl.models.build(name, digit, seed=3)
    assert model.name == name and model.classes == 10 and model.shape == (1, 8, 8) and not model.training
    assert same(model, gl.models.build(name, digit, seed=3)) and not same(model, gl.models.build(name, digit, seed=4))
    how = {"model": name, "max_iteration": 2, "reconstruct_num": 1, "folder": tmp_path, "device": "cpu"}
    found = gl.experiments.reconstruct("ig", "digits", **how)
    assert found.parameters["model"] == name and len(found.rows) == 1
    small = {"clients": 2, "per_client": 2, "images": 1, "rounds": 1, "evaluations": 2, "practice": 0}
    scene = gl.experiments.defended.Scene(model=name, device="cpu", **small)
    assert len(gl.experiments.defended.measure(scene)) == 2


def test_names_list_ones_own_and_a_name_may_be_registered_again(registered, digit):
    assert gl.models.names()[-1] == "mine" and "mlp" in gl.models.names()
    gl.models.register("mine", lambda batch: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert len(gl.models.build("mine", digit)) == 2
    with pytest.raises(ValueError, match="none of the book's own networks .*got 'mlp'"):
        gl.models.register("mlp", own)
    with pytest.raises(ValueError, match="name must be letters"):
        gl.models.register("a:b", own)
    with pytest.raises(TypeError, match="factory must be a function"):
        gl.models.register("other", 3)
    with pytest.raises(TypeError, match="model 'mine' has no option 'width'"):
        gl.models.build("mine", digit, width=3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "unknown model 'nothing'; valid names: lenet, .*mine, or package.module:factory"),
        ("no.such.module:make", "must name a function as package.module:factory: No module named 'no'"),
        (f"{__name__}:missing", "must name a function as package.module:factory: .*missing"),
        (f"{__name__}:__doc__", "must name a function, got str"),
        (f"{__name__}:a_tuple", "must be a torch module, its factory returned int"),
        (f"{__name__}:fails", "cannot be made: AttributeError"),
        (f"{__name__}:too_few", "must give 10 logits, one for each class, gives 3"),
    ],
)
def test_what_is_no_network_is_refused_by_name(name, said, registered, digit):
    with pytest.raises(ValueError, match=said):
        gl.models.build(name, digit)


# --- weights ---


def saved(folder, form, state):
    """A file, or an object, with these weights."""
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    path = folder / f"w{'.npz' if form.startswith('npz') else '.safetensors' if form == 'safetensors' else '.pth'}"
    match form:
        case "safetensors":
            save_file(state, path)
        case "npz":
            np.savez(path, **arrays)
        case "npz in order":
            np.savez(path, *arrays.values())
        case "list":
            return list(arrays.values())
        case "mapping":
            return arrays
        case "checkpoint":
            torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, path)
        case "model inside":
            torch.save({"model": state}, path)
        case _:
            torch.save({f"{form}{name}": tensor for name, tensor in state.items()}, path)
    return path


FORMS = ["", "module.", "_module.", "_orig_mod.", "module._orig_mod.", "safetensors", "npz", "npz in order", "list",
         "mapping", "checkpoint", "model inside"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("half", [False, True], ids=["float", "half"])
def test_weights_are_read_in_the_forms_that_they_come_in(form, half, nets, tmp_path):
    one, other = nets
    state = {name: tensor.half() if half else tensor for name, tensor in other.state_dict().items()}
    assert gl.models.load(saved(tmp_path, form, state), one) is one
    assert one[0].weight.dtype == torch.float32
    assert same(one, other.half().float() if half else other)


def test_wrapped_models_batch_norm_and_lists_of_parameters(digit):
    one, other = (gl.models.build("resnet8", digit, width=2, seed=seed) for seed in (0, 1))
    gl.models.load(nn.DataParallel(other).state_dict(), nn.DataParallel(one))
    assert same(one, other)
    third = gl.models.build("resnet8", digit, width=2, seed=2)
    gl.models.load([p.detach().numpy() for p in third.parameters()], one)  # in order, without buffers
    assert all(map(torch.equal, one.parameters(), third.parameters()))
    gl.models.load([t.numpy() for t in other.state_dict().values()], one)  # with them, as Flower's clients do
    assert same(one, other)
    old = {name: tensor for name, tensor in third.state_dict().items() if "num_batches" not in name}
    assert same(gl.models.load(old, one), third)


def test_another_head_is_refused_unless_the_models_own_is_asked_for(nets, digit):
    one, other = nets
    state = other.state_dict() | {"7.weight": torch.zeros(3, 5), "7.bias": torch.zeros(3)}
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    with pytest.raises(ValueError, match=r"7.weight has shape \(3, 5\), the model's \(10, 5\); head='keep' leaves"):
        gl.models.load(state, one)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())
    gl.models.load(state, one, head="keep")
    assert torch.equal(one[7].weight, before["7.weight"]) and torch.equal(one[0].weight, other[0].weight)
    gl.models.load({name: t for name, t in other.state_dict().items() if name[0] != "7"}, one, head="keep")
    with pytest.raises(ValueError, match="head must be one of"):
        gl.models.load(state, one, head="drop")


def broken(folder, how, state):
    path = folder / "w.pth"
    match how:
        case "missing":
            return folder / "nowhere.pt"
        case "a page":
            path.write_text("<!DOCTYPE html><html>Sign in</html>")
        case "cut off":
            torch.save(state, path)
            path.write_bytes(path.read_bytes()[:300])
        case "a module":
            torch.save(nn.Linear(2, 2), path)
        case "code":
            path.write_bytes(pickle.dumps(print))
        case "pickled arrays":
            path = folder / "w.npz"
            np.savez(path, a=np.array([{}], dtype=object))
        case "safetensors":
            path = folder / "w.safetensors"
            path.write_bytes(b"\x00" * 40)
        case "other names":
            return {f"layer{n}": tensor for n, tensor in enumerate(state.values())}
        case "one less":
            return list(state.values())[1:]
        case "other shapes":
            return state | {"0.weight": torch.zeros(2, 1, 5, 5)}
        case "not finite":
            return state | {"0.bias": torch.tensor([float("nan"), 0.0])}
        case "words":
            return {"0.weight": "heavy"}
        case "nothing":
            return {}
    return path


BROKEN = {
    "missing": "path must name an existing file", "a page": "w.pth.*(holds more than tensors|no weights that can be)",
    "cut off": "w.pth.*(not executed|no weights that can be)", "a module": "w.pth.*not executed",
    "code": "w.pth.*(not executed|no weights that can be)",
    "pickled arrays": "w.npz.*no weights that can be read", "safetensors": "w.safetensors.*no weights",
    "other names": "it has no 0.weight, 0.bias, 2.weight and 5 more; nothing in the model is called layer0",
    "one less": "must hold 8 arrays", "other shapes": r"0.weight has shape \(2, 1, 5, 5\), the model's \(2, 1, 3, 3\)$",
    "not finite": "finite numbers, but 0.bias", "words": "0.weight in what path holds must be an array of numbers",
    "nothing": "must hold named arrays",
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_what_does_not_fit_is_one_sentence_and_changes_nothing(how, nets, tmp_path):
    one, other = nets
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    with pytest.raises(ValueError, match=BROKEN[how]) as caught:
        gl.models.load(broken(tmp_path, how, other.state_dict()), one)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())


def test_torchvisions_networks_keep_a_head_that_fits(tmp_path):
    from torchvision.models import resnet18

    photo = gl.data.sample("photos", size=32, device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs, thousand = resnet18(num_classes=len(photo.classes)), resnet18()
    torch.save({"state_dict": nn.DataParallel(theirs).state_dict()}, tmp_path / "own.pth")
    model = gl.models.build("resnet18", photo, weights=tmp_path / "own.pth")
    assert torch.equal(model[1].fc.weight, theirs.fc.weight) and torch.equal(model[1].conv1.weight, theirs.conv1.weight)
    torch.save(thousand.state_dict(), tmp_path / "imagenet.pth")
    model = gl.models.build("resnet18", photo, weights=tmp_path / "imagenet.pth")
    assert model[1].fc.out_features == len(photo.classes)
    assert torch.equal(model[1].conv1.weight, thousand.conv1.weight)
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(ValueError, match="path .*page.pth"):
        gl.models.build("resnet18", photo, weights=tmp_path / "page.pth")


# --- a vision transformer ---


def test_a_vision_transformer_fits_any_image_that_patches_divide(digit, photo):
    model = gl.models.build("vit", digit, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 18_218
    assert model(digit.images).shape == (1, 10) and gl.models.build("vit", photo)(photo.images).shape == (1, 9)
    assert models.last_linear(model)[0] == "head"
    for options, said in (({"patch": 3}, "patch must divide"), ({"width": 30}, "width must be a multiple of the 4")):
        with pytest.raises(ValueError, match=said):
            gl.models.build("vit", digit, **options)


def test_its_scalars_give_a_digit_away(digit):
    model = gl.models.build("vit", digit, seed=0, blocks=1)
    protocol = gl.protocols.ZerothOrder(directions=80, mu=1e-4, dtype="float64", seed=7)
    seen = gl.observe(model, protocol, protocol.transmit(model, digit.images, digit.labels), digit, knows={"labels"})
    found, misled = (
        gl.score(gl.attack("zerogla", one, seed=0, restarts=1), digit, lpips_net=None)
        for one in (seen, gl.tamper(seen, "permuted", seed=0))
    )
    assert float(found.psnr) > 100 and float(misled.psnr) < 20
