"""The same result on every device: public directions, payloads, attacks. CUDA cases skip where there is no GPU."""

import pytest
import torch

import glutils as gl
from glutils import models, zo
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, this machine has none")
pytestmark = pytest.mark.usefixtures("no_lpips")

SCALARS = ZerothOrder(directions=83, mu=1e-4, dtype="float64", seed=7)
PROTOCOLS = [FedSGD(), FedAvg(epochs=2, batch_size=2, lr=0.1), SCALARS]
kinds = lambda protocol: protocol.kind  # noqa: E731


def observed(batch, protocol, name="mlp", double=False, **options):
    options = {"hidden": (16,)} | options if name == "mlp" else options
    model = models.build(name, batch, **options)
    images = batch.images.double() if double else batch.images
    payload = protocol.transmit(model, images, batch.labels)
    return gl.observe(model, protocol, payload, batch, knows={"labels"})


def flat(payload):
    return payload.flat.cpu()


def psnr(result, batch):
    return float(gl.score(result, batch).psnr.min())


# --- where there is no GPU ---


def test_an_observation_and_an_attack_go_where_they_are_told(digit):
    seen = observed(digit, FedSGD())
    assert seen.to("cpu").payload["1.weight"].device.type == "cpu"
    result = gl.attack("fc_inversion", seen, device="cpu")
    assert result.images.device.type == "cpu" and psnr(result, digit) >= 100


def test_a_device_that_is_not_there_is_refused(digit):
    seen = observed(digit, FedSGD())
    for device in ("cuda:99", "quantum", "meta"):
        with pytest.raises(ValueError, match="device must be one of cpu"):
            gl.attack("fc_inversion", seen, device=device)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device must be one of cpu"):
            gl.attack("fc_inversion", seen, device="cuda")


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=kinds)
def test_images_elsewhere_than_the_model_are_refused(digit, protocol):
    model = models.build("mlp", digit)
    with pytest.raises(ValueError, match="must be on the model's device cpu, got meta, cpu"):
        protocol.transmit(model, digit.images.to("meta"), digit.labels)


# --- CUDA ---


@cuda
@pytest.mark.parametrize("memory", [0, zo.MEMORY])
@pytest.mark.parametrize("law", zo.LAWS)
def test_a_public_seed_means_the_same_directions_on_a_gpu(law, memory):
    how = {"memory": memory, "shapes": [(20, 24), (20,)]}
    here, there = (zo.Directions(3, 20, 500, law, device=device, **how) for device in ("cpu", "cuda"))
    assert there.rows().device.type == "cuda"
    torch.testing.assert_close(there.rows().cpu(), here.rows(), rtol=1e-6, atol=0)
    vector = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(there.project(vector.cuda()).cpu(), here.project(vector), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(there.combine(vector[:20].cuda()).cpu(), here.combine(vector[:20]), rtol=1e-9, atol=1e-9)


@cuda
@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet8"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=kinds)
def test_a_float64_client_on_a_gpu_sends_the_same(digits, protocol, name):
    here, there = (observed(digits.to(device), protocol, name, double=True) for device in ("cpu", "cuda"))
    assert all(p.device.type == "cuda" for p in there.model.parameters())
    size = float(flat(here.payload).norm())
    torch.testing.assert_close(flat(there.payload), flat(here.payload), rtol=0, atol=1e-7 * size)


@cuda
@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_a_float32_client_on_a_gpu_is_as_precise_as_on_the_cpu(digit, name):
    """Float32 means float32: reduced-precision convolutions would drown small differences of the loss."""
    batch = digit.to("cuda")
    model = models.build(name, batch)
    coarse = ZerothOrder(directions=50, mu=1e-3, dtype="float32")
    fine = ZerothOrder(directions=50, mu=1e-3, dtype="float64")
    errors = [p.transmit(model, batch.images, batch.labels).double() for p in (coarse, fine)]
    loss = float(models.loss(model, models.parameters(model), batch.images, batch.labels).detach())
    assert float((errors[0] - errors[1]).square().mean().sqrt()) < 10 * zo.roundoff(loss, 1e-3)


@cuda
@pytest.mark.parametrize(
    ("attack", "protocol", "name", "options", "least"),
    [
        ("fc_inversion", FedSGD(), "mlp", {}, 100),
        ("dlg", FedSGD(), "mlp", {"iterations": 15}, 60),
        ("idlg", FedSGD(), "lenet", {"iterations": 15}, 60),
        ("ig", FedSGD(), "convnet", {"iterations": 80}, 12),
        ("ig", FedAvg(epochs=2, batch_size=1, lr=0.05), "convnet", {"iterations": 80}, 12),
        ("zerogla", SCALARS, "mlp", {"solver": "gauss-newton"}, 100),
        ("zerogla", SCALARS, "mlp", {"solver": "lbfgs", "iterations": 10}, 30),
        ("zerogla", SCALARS, "mlp", {"solver": "adam", "iterations": 200}, 20),
    ],
)
def test_every_attack_works_on_a_gpu(digit, attack, protocol, name, options, least):
    seen = observed(digit, protocol, name)  # seen on the CPU, attacked on the GPU
    result = gl.attack(attack, seen, device="cuda", **options)
    assert result.images.device.type == result.labels.device.type == "cuda"
    assert psnr(result, digit) >= least and gl.score(result, digit).label_accuracy == 1
    here = gl.attack(attack, seen, device="cpu", **options)
    if here.history.loss:  # the same start
        assert result.history.loss[0] == pytest.approx(here.history.loss[0], rel=1e-3)
    assert abs(min(psnr(result, digit), 60) - min(psnr(here, digit), 60)) < 6


@cuda
def test_a_batch_is_inverted_on_a_gpu_without_labels(digits):
    batch = digits.to("cuda")
    model = models.build("mlp", batch)
    seen = gl.observe(model, FedSGD(), FedSGD().transmit(model, batch.images, batch.labels), batch)
    result = gl.attack("fc_inversion", seen)
    assert result.images.device == result.labels.device


@cuda
@pytest.mark.parametrize("how", ["permuted", "wrong_gradient", "zero"])
def test_controls_are_the_same_on_a_gpu(digit, how):
    seen = observed(digit, FedSGD())
    here, there = gl.tamper(seen, how), gl.tamper(seen.to("cuda"), how)
    for name, tensor in there.payload.to("cpu").items():
        torch.testing.assert_close(tensor, here.payload[name], rtol=1e-5, atol=1e-7)


@cuda
def test_the_model_follows_the_batch_to_the_gpu_with_the_same_weights(digit):
    here, there = (models.build("lenet", digit.to(device), seed=2) for device in ("cpu", "cuda"))
    assert torch.equal(*(models.flatten(models.parameters(m)).cpu() for m in (here, there)))
    with pytest.raises(ValueError, match="must be on the model's device cuda"):
        FedSGD().transmit(there, digit.images, digit.labels)
