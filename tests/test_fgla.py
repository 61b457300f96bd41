"""FGLA: features against closed forms, what compression leaves of them, images, negative controls, bad input."""

import math

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.attacks.closed_form import decoder as decoders
from glutils.attacks.closed_form.fgla import feature_cosine, separate_features
from glutils.labels import last_linear
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

pytestmark = pytest.mark.usefixtures("no_lpips")


def classed(batch, classes=100, seed=0):
    """The same images, each with a class of its own out of ``classes``."""
    labels = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))[: len(batch)]
    return gl.data.Batch(batch.images, labels, tuple(map(str, range(classes))), batch.source)


def photos(count, seed=0, size=32, classes=100):
    return classed(gl.data.sample("photos", count=count, size=size, seed=seed, device="cpu"), classes, seed)


def last_layer(model, payload):
    name, _ = last_linear(model)
    return payload[f"{name}.weight"], payload[f"{name}.bias"]


def cosines(model, batch, defense=None, **how):
    protocol = FedSGD() if defense is None else gl.defenses.Defended(FedSGD(), defense)
    payload = protocol.transmit(model, batch.images, batch.labels)
    found = separate_features(*last_layer(model, payload), batch.labels, **how)
    return feature_cosine(found, decoders.features(model, batch.images))


def kept(scope, keep=0.008):
    return gl.defenses.get("topk", keep=keep, scope=scope)


# --- stage A: features ---


def test_features_where_all_predictions_are_equal():
    batch = photos(5, size=8, classes=7)
    model = gl.models.build("convnet", batch, channels=(2, 3), hidden=None).double()
    nn.init.zeros_(model[-1].weight), nn.init.constant_(model[-1].bias, 0.3)
    payload = FedSGD().transmit(model, batch.images.double(), batch.labels)
    truth = decoders.features(model, batch.images.double())
    stronger = truth + (truth - truth.mean(0)) / (7 - 1)  # what (B - 1) / B of the absent rows leaves over
    for divisor in ("sent", "uniform"):
        for share, wanted in (("full", truth), ("paper", stronger)):
            found = separate_features(*last_layer(model, payload), batch.labels, share=share, divisor=divisor)
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    shine = (truth - 5 / 7 * truth.mean(0)) / (1 - 5 / 7)  # the mean of the batch shines through, negatively
    found = separate_features(*last_layer(model, payload), batch.labels, False)
    torch.testing.assert_close(found, shine, rtol=1e-9, atol=1e-12)


def test_the_formula_written_out():
    generator = torch.Generator().manual_seed(0)
    W, b = torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)
    labels, share = torch.tensor([4, 0, 3]), 2 / 3
    o_w, o_b = share * (W[1] + W[2] + W[5]) / 3, share * (b[1] + b[2] + b[5]) / 3
    for row, y in enumerate(labels.tolist()):
        wanted = ((W[y] - o_w) / (b[y] - o_b)).double()
        torch.testing.assert_close(separate_features(W, b, labels)[row], wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(separate_features(W, b, labels, False)[row], (W[y] / b[y]).double())
        uniform = (W[y] - o_w).double() / ((1 / 6 - 1) / 3)
        torch.testing.assert_close(separate_features(W, b, labels, divisor="uniform")[row], uniform)


def test_one_image_needs_no_offset():
    batch = photos(1, size=8)
    model = gl.models.build("lenet", batch)
    payload = FedSGD().transmit(model, batch.images, batch.labels)
    for offset in (True, False):
        found = separate_features(*last_layer(model, payload), batch.labels, offset)
        torch.testing.assert_close(found.float(), decoders.features(model, batch.images), rtol=1e-3, atol=1e-5)


def test_a_quotient_that_is_not_finite_is_zero():
    W, b = torch.ones(3, 2), torch.tensor([0.0, 1.0, 0.0])
    found = separate_features(W, b, torch.tensor([0, 1]), offset=False)
    assert found.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("seed", range(3))
def test_untrained_with_100_classes_and_8_images_the_features_are_there(seed):
    batch = photos(8, seed)
    model = gl.models.build("convnet", batch, hidden=None, seed=seed)
    assert float(cosines(model, batch).min()) > 0.95
    name, _ = last_linear(model)
    truth = decoders.features(model, batch.images)
    payload = FedSGD().transmit(model, batch.images, batch.labels)
    apart = [
        float((separate_features(*last_layer(model, payload), batch.labels, offset) - truth).norm() / truth.norm())
        for offset in (True, False)
    ]
    assert apart[0] < 0.01 and apart[0] < apart[1] / 3  # the offset is what the other images add


def test_features_of_other_images_are_far():
    batch, other = photos(8, 0), photos(8, 1)
    model = gl.models.build("convnet", batch, hidden=None)
    strangers = feature_cosine(decoders.features(model, other.images), decoders.features(model, batch.images))
    assert float(strangers.median()) < 0.5


def test_training_spoils_the_separation_and_leaving_out_the_offset_saves_most_of_it():
    public = gl.data.sample("digits", count=797, split="public", device="cpu")
    model, order = gl.models.build("convnet", public, hidden=None), torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(400):
        chosen = torch.randint(len(public), (32,), generator=order)
        adam.zero_grad()
        nn.functional.cross_entropy(model(public.images[chosen]), public.labels[chosen]).backward()
        adam.step()
    batches = [gl.data.sample("digits", count=4, seed=seed, distinct=True, device="cpu") for seed in range(10)]
    reached = [
        float(torch.stack([cosines(model, batch, offset=offset) for batch in batches]).median())
        for offset in (True, False)
    ]
    assert reached[0] < 0.9 < reached[1]


# --- compression ---


def test_global_compression_to_0_8_percent_leaves_the_features_and_compression_by_tensor_does_not():
    batch = photos(8, 0)
    model = gl.models.build("resnet18", batch)
    payload, truth = FedSGD().transmit(model, batch.images, batch.labels), decoders.features(model, batch.images)
    reached = {
        scope: float(feature_cosine(separate_features(*last_layer(model, sent), batch.labels), truth).median())
        for scope in ("global", "tensor")
        if (sent := kept(scope).apply(payload, torch.Generator()))
    }
    assert reached["global"] > 0.9 and reached["tensor"] < 0.6  # by tensor, of 100 biases one is left


def test_what_counts_is_how_many_numbers_are_kept_for_each_image():
    """0.8 % of 1,000 rows are eight rows: enough for the rows of eight images, and not of 100 rows."""
    enough, few = (photos(8, classes=classes) for classes in (1000, 100))
    reached = [
        float(cosines(gl.models.build("convnet", batch, hidden=None), batch, kept("global")).median())
        for batch in (enough, few)
    ]
    assert reached[0] > 0.95 and reached[1] < 0.8


def test_an_attacker_who_knows_the_lost_bias_undoes_compression_by_tensor():
    batch = photos(8, classes=1000)
    model = gl.models.build("convnet", batch, hidden=None)
    assert float(cosines(model, batch, kept("tensor", 0.004)).median()) < 0.6
    assert float(cosines(model, batch, kept("tensor", 0.004), divisor="uniform").median()) > 0.8


# --- the attack ---


@pytest.fixture(scope="module")
def public():
    return gl.data.sample("photos", count=400, size=16, split="public", device="cpu")


@pytest.fixture(scope="module")
def model():
    return gl.models.build("convnet", photos(4, size=16), channels=(16, 24), hidden=None)


@pytest.fixture(scope="module")
def trained(model, public, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment") / "one"
    return decoders.train(
        model, public, width=16, units=0, epochs=5, batch_size=8, lr=1e-2, folder=folder, progress=False
    )


def observed(model, batch, protocol=None, knows=("labels",)):
    protocol = FedSGD() if protocol is None else protocol
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows=knows)


def psnr(result, batch):
    score = gl.score(result, batch)
    return float(score.psnr.median()), float(score.controls["mean_colour"].psnr.median())


@pytest.mark.parametrize("seed", range(3))
def test_private_images_come_out_and_controls_do_not(model, trained, seed):
    batch = photos(4, seed, size=16)
    seen = observed(model, batch)
    reached, control = psnr(gl.attack("fgla", seen, decoder=trained.decoder), batch)
    assert reached > 16 and reached > control + 3
    for how in ("permuted", "wrong_gradient", "zero"):
        misled, _ = psnr(gl.attack("fgla", gl.tamper(seen, how), decoder=trained.decoder), batch)
        assert misled < control, how


def test_it_reads_nothing_but_the_gradient(model, trained):
    batch, other = photos(4, 0, size=16), photos(4, 1, size=16)
    mixed = gl.data.Batch(other.images, batch.labels, batch.classes)
    own, foreign = (gl.attack("fgla", observed(model, b), decoder=trained.decoder) for b in (batch, mixed))
    assert psnr(own, batch)[0] > psnr(foreign, batch)[0] + 6
    assert psnr(foreign, mixed)[0] > psnr(foreign, mixed)[1] + 3


def test_the_decoder_may_be_a_file_or_a_folder(model, trained):
    seen = observed(model, photos(4, size=16))
    wanted = gl.attack("fgla", seen, decoder=trained.decoder)
    assert wanted.attack == "fgla" and not wanted.notes and wanted.diagnostics == {"empty": 0.0}
    for decoder in (trained.folder, str(trained.folder / "weights.safetensors")):
        assert torch.equal(gl.attack("fgla", seen, decoder=decoder).images, wanted.images)


def test_labels_that_were_not_told_are_found(model, trained):
    batch = photos(4, size=16)
    told, guessed = (
        gl.attack("fgla", observed(model, batch, knows=knows), decoder=trained.decoder) for knows in (("labels",), ())
    )
    assert gl.score(guessed, batch).label_accuracy == 1 and any("zero_shot" in note for note in guessed.notes)
    order = torch.argsort(batch.labels)
    torch.testing.assert_close(guessed.images, told.images[order])


def test_one_local_step_is_a_gradient(model, trained):
    batch = photos(4, size=16)
    results = [
        gl.attack("fgla", observed(model, batch, protocol), decoder=trained.decoder)
        for protocol in (FedSGD(), FedAvg(epochs=1, batch_size=4, lr=0.1), FedAvg(epochs=1, batch_size=1, lr=0.01))
    ]
    assert float((results[0].images - results[1].images).abs().max()) < 0.02  # theta_0 - theta_1 rounds
    assert any("one local step" in note for note in results[1].notes)
    assert psnr(results[2], batch)[0] > psnr(results[2], batch)[1]  # four steps of one image: an approximation


def test_the_gradient_estimated_from_scalars_holds_too_little(model, trained):
    batch = photos(4, size=16)
    protocol = ZerothOrder(directions=64, scheme="exact", seed=1)
    estimate = gl.observation.as_gradient(observed(model, batch, protocol))
    reached, control = psnr(gl.attack("fgla", estimate, decoder=trained.decoder), batch)
    assert reached < control


def test_compressed_by_tensor_rows_are_lost_and_said_to_be(model, trained):
    batch = photos(4, size=16)
    protocol = gl.defenses.Defended(FedSGD(), kept("tensor", 0.01))
    seen = observed(model, batch, protocol)
    result = gl.attack("fgla", seen, decoder=trained.decoder)
    assert result.diagnostics["empty"] >= 3 and any("zero" in note for note in result.notes)


def test_train_mode_is_the_reference_codes_and_leaves_no_trace(model, trained):
    seen = observed(model, photos(4, size=16))
    before = {name: tensor.clone() for name, tensor in trained.decoder.state_dict().items()}
    usual, reference = (gl.attack("fgla", seen, decoder=trained.decoder, train_mode=mode) for mode in (False, True))
    assert not torch.equal(usual.images, reference.images) and not trained.decoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.decoder.state_dict().items())


def test_a_decoder_for_another_network_is_pointed_out(trained):
    batch = photos(4, size=16)
    other = gl.models.build("convnet", batch, channels=(16, 24), hidden=None, seed=5)
    assert any(
        "other weights" in note for note in gl.attack("fgla", observed(other, batch), decoder=trained.decoder).notes
    )


# --- what it refuses ---


def test_without_a_decoder_the_error_says_how_to_train_one(model, public):
    with pytest.raises(ValueError, match=r"needs a trained decoder.*gl\.decoder\.train"):
        gl.attack("fgla", observed(model, photos(4, size=16)))
    with pytest.raises(TypeError, match="decoder must be a Decoder"):
        gl.attack("fgla", observed(model, photos(4, size=16)), decoder=model)


def test_batches_and_networks_it_cannot_read_are_refused_with_an_attack_that_can(model, trained):
    batch = photos(4, size=16)
    twice = gl.data.Batch(batch.images, torch.tensor([3, 9, 3, 1]), batch.classes)
    with pytest.raises(ValueError, match="class 3 occurs more than once.*'ig'"):
        gl.attack("fgla", observed(model, twice), decoder=trained.decoder)
    full = classed(batch, 4)
    small = gl.models.build("convnet", full, channels=(16, 24), hidden=None)
    with pytest.raises(ValueError, match="labels must leave a class absent.*'ig'"):
        gl.attack("fgla", observed(small, full), decoder=trained.decoder)
    bare = gl.models.build("convnet", batch, channels=(16, 24), hidden=None)
    bare[-1] = nn.Linear(bare[-1].in_features, 100, bias=False)
    with pytest.raises(ValueError, match="without a bias.*'ig'"):
        gl.attack("fgla", observed(bare, batch), decoder=trained.decoder)
    wide = gl.models.build("convnet", batch, hidden=None)
    with pytest.raises(ValueError, match=r"decoder must turn features \(32, 8, 8\)"):
        gl.attack("fgla", observed(wide, batch), decoder=trained.decoder)
    with pytest.raises(ValueError, match="reads payloads of kind gradient or delta, got 'scalars'"):
        gl.attack("fgla", observed(model, batch, ZerothOrder(directions=8)), decoder=trained.decoder)
    with pytest.raises(ValueError, match="divisor='uniform' needs a gradient"):
        gl.attack("fgla", observed(model, batch, FedAvg()), decoder=trained.decoder, divisor="uniform")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"W_grad": torch.ones(5)}, ValueError),
        ({"b_grad": torch.ones(4)}, ValueError),
        ({"labels": torch.tensor([5])}, ValueError),
        ({"labels": torch.tensor([0.5])}, ValueError),
        ({"labels": [1, 2]}, TypeError),
        ({"offset": 1}, TypeError),
        ({"divisor": "none"}, ValueError),
    ],
)
def test_bad_arguments_are_named(change, error):
    good = {"W_grad": torch.ones(5, 3), "b_grad": torch.ones(5), "labels": torch.tensor([1, 2])}
    assert separate_features(**good).shape == (2, 3) and math.isfinite(float(separate_features(**good).sum()))
    with pytest.raises(error, match=next(iter(change))):
        separate_features(**(good | change))
