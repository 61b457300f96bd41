"""RTF: the malicious block, exact images, aggregates, a trap that does not close, bad input."""

import copy
import statistics

import pytest
import torch
from torch import nn

import glutils as gl
from glutils.attacks.malicious import imprint as blocks
from glutils.data.batch import Batch
from glutils.protocols import FedAvg, FedSGD

pytestmark = pytest.mark.usefixtures("no_lpips")


@pytest.fixture(scope="module")
def public():
    return gl.data.load("photos", split="public", size=16, device="cpu")


def photos(count=8, seed=0):
    return gl.data.sample("photos", size=16, count=count, seed=seed, device="cpu")


def trapped(batch, public, name="convnet", **options):
    return blocks.imprint(gl.models.build(name, batch, seed=0), public, **options)


def seen_of(model, batch, protocol=None):
    protocol = FedSGD() if protocol is None else protocol
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)


def best(images, truth):
    """PSNR in dB of the copy of each truth that is nearest to it."""
    return gl.metrics.psnr(gl.metrics.pixels.nearest(images.clamp(0, 1), truth).float(), truth)


# --- the block ---


@pytest.mark.parametrize("statistic", blocks.STATISTICS)
@pytest.mark.parametrize("two_sided", [False, True])
def test_bins_hold_equal_shares_of_the_public_images(public, statistic, two_sided):
    model = trapped(public, public, bins=8, statistic=statistic, two_sided=two_sided)
    shares = torch.bincount(blocks.bin_of(model, public.images), minlength=8)
    assert int(shares.min()) >= len(public) / 8 - 1 and int(shares.max()) <= len(public) / 8 + 1
    active = model[0].active_neurons(public.images)
    places = blocks.bin_of(model, public.images)
    if two_sided:
        assert torch.equal(active, torch.nn.functional.one_hot(places, 8).bool())
    else:
        assert torch.equal(active, torch.arange(8) <= places[:, None])


@pytest.mark.parametrize("statistic", blocks.STATISTICS)
def test_no_image_is_below_the_first_cut(public, statistic):
    model = trapped(public, public, statistic=statistic)
    row = model[0].encode.weight[0].detach()
    ends = torch.stack([(row < 0).float(), (row > 0).float(), torch.zeros_like(row), torch.ones_like(row)])
    bins = blocks.bin_of(model, ends.view(4, *public.shape))
    assert int(bins[0]) == 0 and int(bins[1]) == model[0].bins - 1 and int(bins.min()) >= 0


def test_quantiles_of_the_laws():
    values = torch.linspace(-1, 2, 1001, dtype=torch.float64)
    assert blocks.quantiles(values, 4, "empirical").tolist() == pytest.approx([-0.25, 0.5, 1.25])
    centre, spread = float(values.mean()), float(values.std())
    normal = statistics.NormalDist(centre, spread)
    assert blocks.quantiles(values, 4, "gaussian").tolist() == pytest.approx([normal.inv_cdf(q / 4) for q in (1, 2, 3)])
    draws = torch.distributions.Laplace(centre, spread / 2**0.5)
    wanted = draws.icdf(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert blocks.quantiles(values, 4, "laplace").tolist() == pytest.approx(wanted.tolist())


def test_the_model_behind_the_block_is_a_copy_and_sees_nearly_the_same_image(public):
    batch = photos()
    model = gl.models.build("convnet", batch)
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    trap = blocks.imprint(model, public)
    with torch.no_grad():
        seen, shown = trap[0](batch.images) - batch.images, trap[0](public.images)
    assert float(seen.flatten(1).std(1).max()) < 1e-6 and abs(float(shown.mean() - public.images.mean())) < 1e-4
    with torch.no_grad():
        trap[1][-1].weight.zero_()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model[0].weight.requires_grad and model[2].weight.requires_grad
    assert trap.classes == model.classes and trap.shape == model.shape and trap.name == "imprint + convnet"
    assert trap.training == model.training


def test_a_trapped_model_still_learns(public):
    clients = gl.data.partition("digits", clients=2, per_client=50, seed=0, device="cpu")
    digits = gl.data.load("digits", split="public", device="cpu")
    model = gl.models.build("mlp", clients[0], hidden=(32,))
    how = {"rounds": 30, "lr": 0.5, "seed": 0, "progress": False}
    plain, added, replaced = (
        float(gl.federation.train(FedSGD(), net, clients, **how).accuracy[-1])
        for net in (
            model,
            blocks.imprint(model, digits, bins=16),
            blocks.imprint(model, digits, bins=16, connection="replace", strength=1e3),
        )
    )
    assert plain > 0.5 and added > plain - 0.1
    assert replaced < 0.3


@pytest.mark.parametrize(("images", "bins"), [(1, 5), (8, 64), (8, 16), (20, 10)])
def test_expected_number_of_images_alone_against_a_simulation(images, bins):
    thrown = torch.randint(bins, (4000, images), generator=torch.Generator().manual_seed(0))
    counts = torch.nn.functional.one_hot(thrown, bins).sum(1)
    simulated = (counts == 1).sum(1).double()
    apart = abs(float(simulated.mean()) - blocks.expected_alone_count(images, bins))
    assert apart <= 4 * float(simulated.std()) / 4000**0.5 + 1e-12


# --- the attack ---


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"statistic": "random"}, {"two_sided": True}, {"law": "gaussian"}], ids=str)
def test_every_image_alone_in_its_bin_is_exact(public, seed, options):
    batch = photos(8, seed)
    model = trapped(batch, public, bins=64, **options)
    seen = seen_of(model, batch)
    result = gl.attack("rtf", seen)
    single = blocks.is_alone(model, batch.images)
    assert int(single.sum()) >= 4
    assert float(best(result.images, batch.images)[single].min()) > 100
    assert torch.equal(gl.metrics.recovery_mask(result.images, batch.images), single)
    assert result.diagnostics["hits"] == len(set(blocks.bin_of(model, batch.images).tolist()))


def test_the_top_bin_is_read(public):
    batch = photos(4)
    bright = Batch(torch.cat([batch.images, torch.ones(1, 3, 16, 16)]), torch.arange(5), batch.classes)
    model = trapped(bright, public)
    assert int(blocks.bin_of(model, bright.images)[4]) == model[0].bins - 1
    assert float(best(gl.attack("rtf", seen_of(model, bright)).images, bright.images)[4]) > 100


def test_the_trap_does_not_close_with_a_random_second_layer(public):
    """Unless the neurons are two-sided: their rows hold one bin each, and nothing has to cancel."""
    batch = photos()
    for two_sided in (False, True):
        model = trapped(batch, public, equal=False, two_sided=two_sided)
        found = gl.metrics.recovery_mask(gl.attack("rtf", seen_of(model, batch)).images, batch.images)
        single = blocks.is_alone(model, batch.images)
        assert torch.equal(found, single) if two_sided else int(found.sum()) <= 1


@pytest.mark.parametrize("how", ["wrong_gradient", "permuted", "zero"])
def test_rtf_fails_on_a_tampered_gradient(public, how):
    batch = photos()
    seen = gl.tamper(seen_of(trapped(batch, public), batch), how)
    result = gl.attack("rtf", seen)
    assert float(best(result.images, batch.images).max()) < 30 and not bool(result.images.isnan().any())


def test_adding_clients_up_does_not_protect_them(public):
    """Four clients behind secure aggregation: the server sees the mean of their gradients, and reads the images."""
    whole = photos(16, seed=3)
    clients = [whole[k : k + 4] for k in range(0, 16, 4)]
    model = trapped(whole, public, bins=128)
    sent = [FedSGD().transmit(model, client.images, client.labels) for client in clients]
    mean = {name: torch.stack([payload[name] for payload in sent]).mean(0) for name in sent[0]}
    result = gl.attack("rtf", gl.observe(model, FedSGD(), mean, whole))
    found, single = gl.metrics.recovery_mask(result.images, whole.images), blocks.is_alone(model, whole.images)
    assert torch.equal(found, single) and int(found.sum()) >= 8


def test_one_local_step_of_fedavg_is_a_gradient(public):
    batch = photos()
    model = trapped(batch, public)
    result = gl.attack("rtf", seen_of(model, batch, FedAvg(epochs=1, batch_size=8, lr=0.1)))
    single = blocks.is_alone(model, batch.images)
    assert float(best(result.images, batch.images)[single].min()) > 100


def test_two_sided_neurons_survive_several_local_steps(public):
    batch, protocol = photos(), FedAvg(epochs=1, batch_size=4, lr=0.01)
    found = {}
    for two_sided in (False, True):
        model = trapped(batch, public, two_sided=two_sided, gain=1e-5)
        result = gl.attack("rtf", seen_of(model, batch, protocol))
        found[two_sided] = int((best(result.images, batch.images) > 60).sum())
    assert found[True] == int(blocks.is_alone(model, batch.images).sum()) > found[False]


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_inside_fedavg_a_sparse_block_with_a_small_gain_still_copies(public, epochs, seed):
    """Twenty photographs in shuffled batches of five, step size 0.1: a neuron that has fired once is dead."""
    batch = photos(20, seed=seed)
    model = trapped(batch, public, bins=64, two_sided=True, gain=1e-5, seed=seed)
    protocol = FedAvg(epochs=epochs, batch_size=5, lr=0.1, shuffle=seed)
    seen = seen_of(model, batch, protocol)
    copied = best(gl.attack("rtf", seen).images, batch.images) >= 40
    single = blocks.is_alone(model, batch.images)
    assert int(single.sum()) >= 6 and float(copied[single].double().mean()) >= 0.5
    wrong = gl.attack("rtf", gl.tamper(seen, "wrong_gradient"))
    assert not bool((best(wrong.images, batch.images) >= 40).any())


def test_a_dead_neuron_stays_dead(public):
    """With a small gain more epochs add nothing: what the block sent after one epoch is what it sends after five."""
    batch = photos(20)
    model = trapped(batch, public, bins=64, two_sided=True, gain=1e-6)
    sent = []
    for epochs in (1, 5):
        protocol = FedAvg(epochs=epochs, batch_size=5, lr=0.1, shuffle=0)
        sent.append(protocol.transmit(model, batch.images, batch.labels)["0.encode.weight"])
    moved = [part.norm(dim=1) > 0 for part in sent]
    same = ((sent[0] - sent[1]).norm(dim=1) <= 1e-3 * sent[0].norm(dim=1))[moved[0]]
    assert bool((moved[0] <= moved[1]).all()) and float(same.double().mean()) > 0.8


def test_images_that_share_a_bin_come_out_as_their_mean_and_places_left_over_are_grey(public):
    batch = photos(2)
    mirrored = Batch(torch.cat([batch.images[:1], batch.images[:1].flip(3)]), batch.labels, batch.classes)
    model = trapped(batch, public)
    result = gl.attack("rtf", seen_of(model, mirrored))
    assert result.diagnostics["hits"] == 1 and bool((result.images[1] == 0.5).all())
    assert any("1 bins were hit by 2 images" in note for note in result.notes)
    assert not bool(gl.metrics.recovery_mask(result.images, mirrored.images).any())


def test_labels_are_as_told_or_zero(public):
    batch = photos(3)
    model = trapped(batch, public)
    payload = FedSGD().transmit(model, batch.images, batch.labels)
    told = gl.attack("rtf", gl.observe(model, FedSGD(), payload, batch, knows={"labels"}))
    assert torch.equal(told.labels, batch.labels) and any("as told" in note for note in told.notes)
    assert not gl.attack("rtf", gl.observe(model, FedSGD(), payload, batch)).labels.any()


def test_bad_arguments_are_refused(public):
    batch = photos(2)
    model = gl.models.build("convnet", batch)
    with pytest.raises(ValueError, match="begins with a malicious block.*cpa"):
        gl.attack("rtf", seen_of(model, batch))
    with pytest.raises(ValueError, match="threshold"):
        gl.attack("rtf", seen_of(trapped(batch, public), batch), threshold=2)
    with pytest.raises(ValueError, match="must begin with an imprint"):
        blocks.bin_of(model, batch.images)
    wrong = {
        "bins": 1,
        "statistic": "median",
        "law": "uniform",
        "connection": "cat",
        "gain": 0,
        "strength": -1,
        "seed": -1,
    }
    for option, value in wrong.items():
        with pytest.raises(ValueError, match=option):
            blocks.imprint(model, public, **{option: value})
    for option in ("equal", "two_sided"):
        with pytest.raises(TypeError, match=option):
            blocks.imprint(model, public, **{option: 1})
    with pytest.raises(TypeError, match="model"):
        blocks.imprint("convnet", public)
    with pytest.raises(TypeError, match="public"):
        blocks.imprint(model, public.images)
    with pytest.raises(ValueError, match="public must hold 2 or more images"):
        blocks.imprint(model, public[0])
    with pytest.raises(ValueError, match="public must hold 2 or more images"):
        blocks.imprint(model, gl.data.sample("digits", count=4, device="cpu"))
    same = Batch(public.images[[0] * 9], public.labels[[0] * 9], public.classes)
    with pytest.raises(ValueError, match="different values at its 64 quantiles"):
        blocks.imprint(model, same)


def test_the_block_alone_is_a_model_too(public):
    batch = photos(2)
    block = trapped(batch, public)[0]
    assert blocks.block_of(block) is block and blocks.block_of(nn.Sequential()) is None
