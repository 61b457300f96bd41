"""What defences do to a payload, what the adversary learns of them, and what they refuse."""

import copy
import dataclasses

import pytest
import torch

import glutils as gl
from glutils import defenses, models
from glutils.defenses.precode import Bottleneck
from glutils.defenses.soteria import feature_scores
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

EVERY = {
    "gaussian_noise": {"sigma": 0.1},
    "laplace_noise": {"sigma": 0.1},
    "clip": {"bound": 0.5},
    "clip_scalars": {"bound": 0.01},
    "topk": {"keep": 0.1},
    "randomk": {"keep": 0.1},
    "sign": {},
    "qsgd": {"levels": 4},
    "bits": {"bits": 4},
    "half": {},
    "dpsgd": {"clip": 0.5, "sigma": 1.0},
    "dp_update": {"clip": 0.5, "sigma": 1.0},
    "dp_scalars": {"clip": 0.05, "sigma": 1.0},
    "soteria": {"prune": 0.5},
    "precode": {},
    "mixup": {},
    "prune_last": {},
    "resample": {"images": 2},
}


@pytest.fixture(scope="module")
def batch():
    return gl.data.sample("digits", count=4, seed=0, device="cpu")


@pytest.fixture(scope="module")
def model(batch):
    return models.build("mlp", batch, hidden=(16,), seed=0)


def protocol_for(defense):
    return FedSGD() if "gradient" in defense.kinds else ZerothOrder(directions=12, dtype="float64", mu=1e-4)


def sent(defense, model, batch, protocol=None, private=0):
    defended = defenses.Defended(protocol or protocol_for(defense), defense, private=private)
    return defended, defended.transmit(model, batch.images, batch.labels)


def vector(payload):
    return payload.flat


def plain(model, batch, protocol=None):
    return vector((protocol or FedSGD()).transmit(model, batch.images, batch.labels))


def test_every_defence_is_listed_here():
    assert sorted(defenses.names()) == sorted(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_a_defended_protocol_is_a_protocol(name, model, batch):
    """Same seed, same bytes; another seed, other chance; the adversary's copy simulates and cannot transmit."""
    defense = defenses.get(name, **EVERY[name])
    model = defenses.precode(model, 8) if name == "precode" else model
    defended, payload = sent(defense, model, batch)
    again = defended.transmit(model, batch.images, batch.labels)
    assert torch.equal(vector(payload), vector(again)) and torch.isfinite(vector(payload)).all()
    chance = name in ("gaussian_noise", "laplace_noise", "randomk", "qsgd", "dpsgd", "dp_update", "dp_scalars",
                      "precode", "mixup", "resample")  # fmt: skip
    other = sent(defense, model, batch, private=1)[1]
    assert torch.equal(vector(payload), vector(other)) is not chance
    seen = gl.observe(model, defended, payload, batch, knows={"labels"})
    assert seen.protocol.private is None and seen.kind == defended.kind
    with pytest.raises(ValueError, match="private must be the client's seed"):
        seen.protocol.transmit(model, batch.images, batch.labels)
    images = batch.images.clone().requires_grad_()
    simulated = vector(seen.protocol.simulate(seen.model, images, batch.labels))
    assert simulated.shape == vector(payload).shape
    assert torch.autograd.grad(simulated.square().sum(), images)[0].abs().sum() > 0
    assert dataclasses.replace(defended, private=3).private == 3


@pytest.mark.parametrize("name", ["gaussian_noise", "laplace_noise"])
@pytest.mark.parametrize("relative", [False, True])
def test_noise_has_the_stated_size(name, relative, model, batch):
    clean = plain(model, batch)
    _, payload = sent(defenses.get(name, sigma=0.5, relative=relative), model, batch)
    unit = float(clean.square().mean().sqrt()) if relative else 1.0
    error = vector(payload) - clean
    assert float(error.std()) == pytest.approx(0.5 * unit, rel=0.1) and abs(float(error.mean())) < 0.05 * unit
    kurtosis = float((error / error.std()).pow(4).mean())
    assert kurtosis > 4 if name == "laplace_noise" else kurtosis < 4


def test_what_is_known_of_relative_noise_is_its_true_size(model, batch):
    z = ZerothOrder(directions=2000, scheme="exact", dtype="float64")
    defended, payload = sent(defenses.get("gaussian_noise", sigma=0.5, relative=True), model, batch, z)
    seen = gl.observe(model, defended, payload, batch)
    truth = 0.5 * float(plain(model, batch, z).square().mean().sqrt())
    assert seen.protocol.noise(seen.payload, 4) == pytest.approx(truth, rel=0.05)


def test_clipping_keeps_the_direction_and_bounds_the_length(model, batch):
    clean = plain(model, batch)
    _, payload = sent(defenses.get("clip", bound=0.25), model, batch)
    assert float(vector(payload).norm()) == pytest.approx(0.25, rel=1e-5)
    assert float(torch.cosine_similarity(vector(payload), clean, 0)) == pytest.approx(1, abs=1e-5)
    _, untouched = sent(defenses.get("clip", bound=1e6), model, batch)
    torch.testing.assert_close(vector(untouched), clean)


def test_clipped_scalars_are_known_to_the_adversary_and_left_out(model, batch):
    z = ZerothOrder(directions=40, scheme="exact", dtype="float64", seed=3)
    clean = plain(model, batch, z)
    bound = float(clean.abs().median())
    defended, payload = sent(defenses.get("clip_scalars", bound=bound), model, batch, z)
    cut = clean.abs() >= bound
    assert torch.equal(payload[~cut], clean[~cut]) and bool((payload[cut].abs() == bound).all())
    seen = gl.observe(model, defended, payload, batch)
    assert torch.equal(seen.protocol.scalar_weights(seen.payload), (~cut).double())


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_topk_sends_the_largest(scope, model, batch):
    clean = FedSGD().transmit(model, batch.images, batch.labels)
    defended, payload = sent(defenses.get("topk", keep=0.1, scope=scope), model, batch)
    groups = [(vector(clean), vector(payload))] if scope == "global" else [
        (clean[n].flatten(), payload[n].flatten()) for n in clean
    ]  # fmt: skip
    for before, after in groups:
        kept = after != 0
        assert int(kept.sum()) == -(-before.numel() // 10)
        assert torch.equal(after[kept], before[kept]) and before[kept].abs().min() >= before[~kept].abs().max()
    seen = gl.observe(model, defended, payload, batch)
    twin = seen.protocol.simulate(seen.model, batch.images, batch.labels)
    torch.testing.assert_close(vector(twin), vector(payload))  # the truth explains the payload, mask and all


def test_random_k_and_stochastic_rounding_have_the_right_mean(model, batch):
    clean = plain(model, batch)
    for defense in (defenses.get("randomk", keep=0.25), defenses.get("qsgd", levels=8),
                    defenses.get("bits", bits=3, stochastic=True)):  # fmt: skip
        mean = sum(vector(sent(defense, model, batch, private=k)[1]) for k in range(200)) / 200
        assert float((mean - clean).norm() / clean.norm()) < 0.2, defense
        assert float(torch.cosine_similarity(mean, clean, 0)) > 0.98, defense


def test_fixed_point_has_so_many_levels_and_a_known_error(model, batch):
    clean = FedSGD().transmit(model, batch.images, batch.labels)
    defended, payload = sent(defenses.get("bits", bits=4), model, batch)
    assert max(len(tensor.unique()) for tensor in payload.values()) <= 15
    error = float((vector(payload) - vector(clean)).square().mean().sqrt())
    assert defended.noise(payload, 4) == pytest.approx(error, rel=0.5)


def test_signs_and_half_precision(model, batch):
    clean = plain(model, batch)
    assert torch.equal(vector(sent(defenses.get("sign"), model, batch)[1]), clean.sign())
    _, scaled = sent(defenses.get("sign", scaled=True), model, batch)
    assert all(len(tensor.abs().unique()) <= 2 for tensor in scaled.values())
    error = vector(sent(defenses.get("half", format="bfloat16"), model, batch)[1]) - clean
    assert 0 < float((error / clean.abs().clamp_min(1e-6)).abs().max()) < 2**-8 + 1e-3


def test_dp_sgd_without_noise_is_the_mean_of_clipped_gradients(model, batch):
    """Oracle: one image at a time."""
    expected = 0
    for one in batch:
        g = plain(model, one)
        expected = expected + g * min(1.0, 0.5 / float(g.norm())) / len(batch)
    defended, payload = sent(defenses.get("dpsgd", clip=0.5, sigma=0), model, batch)
    torch.testing.assert_close(vector(payload), expected)
    twin = gl.observe(model, defended, payload, batch).protocol.simulate(model, batch.images, batch.labels)
    torch.testing.assert_close(vector(twin), expected)
    noisy = vector(sent(defenses.get("dpsgd", clip=0.5, sigma=2.0), model, batch)[1]) - expected
    assert float(noisy.std()) == pytest.approx(2.0 * 0.5 / 4, rel=0.1)


def test_dp_scalars_bound_what_one_image_contributes(model, batch):
    z = ZerothOrder(directions=30, scheme="exact", dtype="float64")
    slopes = torch.stack([plain(model, one, z) for one in batch])
    bound = float(slopes.abs().median())
    _, payload = sent(defenses.get("dp_scalars", clip=bound, sigma=0), model, batch, z)
    torch.testing.assert_close(payload.scalars, slopes.clamp(-bound, bound).mean(0))
    defended, noisy = sent(defenses.get("dp_scalars", clip=bound, sigma=1.5), model, batch, z)
    assert defended.noise(noisy, 4) == pytest.approx(1.5 * bound / 4)


def test_accountant_is_opacus_and_gives_the_published_number():
    """Abadi et al. 2016: q = 0.01, sigma = 4, 10,000 steps, delta = 1e-5 is epsilon 1.26 by the moments accountant."""
    from opacus.accountants import RDPAccountant

    oracle = RDPAccountant()
    oracle.history = [(4.0, 0.01, 10_000)]
    tight = defenses.epsilon(4.0, 0.01, 10_000, 1e-5, accountant="rdp")
    assert tight == pytest.approx(oracle.get_epsilon(1e-5), abs=1e-6)
    assert defenses.epsilon(4.0, 0.01, 10_000, 1e-5, conversion="classic") == pytest.approx(1.26, abs=0.005)
    sigma = defenses.noise_multiplier(2.0, 0.05, 500, 1e-5)
    assert defenses.epsilon(sigma, 0.05, 500, 1e-5) <= 2.0 < defenses.epsilon(0.995 * sigma, 0.05, 500, 1e-5)
    for wanted in (0.05, 2.0, 500.0):
        reached = defenses.epsilon(defenses.noise_multiplier(wanted, 1.0, 2, 1e-3), 1.0, 2, 1e-3)
        assert (1 - 5e-4) * wanted <= reached <= wanted
    assert defenses.noise_multiplier(1e6, 1.0, 2, 1e-3) == 0.01  # the least that is looked at
    with pytest.raises(ValueError, match="epsilon_wanted must be reachable with a noise multiplier of at most 10000"):
        defenses.noise_multiplier(1e-9, 1.0, 1000, 1e-5)
    assert defenses.epsilon(1.0, 1.0, 10, 1e-5) > defenses.epsilon(2.0, 1.0, 10, 1e-5)


def test_soteria_zeroes_the_lowest_scores(model, batch):
    """Oracle: the definition, one feature and one image at a time."""
    one = batch[[0]]
    features = lambda x: model[:-1](x)  # noqa: E731
    rows = torch.autograd.functional.jacobian(features, one.images)[0].flatten(1)
    expected = rows.norm(dim=1) / features(one.images)[0].detach().abs()
    torch.testing.assert_close(feature_scores(model, one.images), expected, rtol=1e-4, atol=1e-5)
    _, payload = sent(defenses.get("soteria", prune=0.25), model, one)
    clean = FedSGD().transmit(model, one.images, one.labels)
    gone = expected.argsort()[:4]
    assert not payload["3.weight"][:, gone].any() and torch.equal(payload["1.weight"], clean["1.weight"])
    rest = [f for f in range(16) if f not in gone.tolist()]
    assert torch.equal(payload["3.weight"][:, rest], clean["3.weight"][:, rest])


def test_precode_hides_chance_behind_a_bottleneck(model, batch):
    protected = defenses.precode(model, 8, seed=1)
    assert not any(isinstance(module, Bottleneck) for module in model.modules())
    _, one = sent(defenses.get("precode", beta=0), protected, batch)
    _, other = sent(defenses.get("precode", beta=0), protected, batch, private=5)
    assert 0 < float((vector(one) - vector(other)).norm() / vector(one).norm())
    torch.testing.assert_close(protected(batch.images), protected(batch.images))  # without a client there is no chance
    with pytest.raises(ValueError, match="no bottleneck yet"):
        defenses.precode(protected)
    with pytest.raises(ValueError, match="must have one bottleneck"):
        sent(defenses.get("precode"), model, batch)


def test_chance_behind_a_bottleneck_does_not_protect_a_linear_layer_in_front_of_it(model, batch):
    one, protected = batch[[0]], defenses.precode(model, 8, seed=1)
    for module in protected.modules():
        if isinstance(module, Bottleneck):  # deviations near 1, as after long training
            module.encoder.bias.data[module.decoder.in_features :] += 5.5
    defended, payload = sent(defenses.get("precode"), protected, one)
    seen = gl.observe(protected, defended, payload, one)
    assert float(gl.score(gl.attack("fc_inversion", seen), one).psnr[0]) > 60
    wrong = gl.attack("fc_inversion", gl.tamper(seen, "permuted"))
    assert float(gl.score(wrong, one).psnr[0]) < 20


def test_several_defences_in_order(model, batch):
    both = (defenses.get("clip", bound=0.25), defenses.get("gaussian_noise", sigma=0.01))
    defended, payload = sent(both[0], model, batch)
    _, noisy = sent(both, model, batch, FedSGD())
    assert float((vector(noisy) - vector(payload)).std()) == pytest.approx(0.01, rel=0.1)
    with pytest.raises(ValueError, match="must be the first defence"):
        defenses.Defended(FedSGD(), (both[0], defenses.get("dpsgd", clip=1, sigma=1)))


def test_training_draws_fresh_noise_for_every_client_and_round(model):
    clients = gl.data.partition("digits", clients=2, per_client=3, seed=0)
    quiet = ZerothOrder(directions=4, scheme="exact", dtype="float64", seed=5)
    loud = defenses.Defended(quiet, defenses.get("gaussian_noise", sigma=1.0), private=11)
    said = {}
    for name, protocol in (("quiet", quiet), ("loud", loud)):
        said[name] = gl.federation.train(protocol, model, clients, rounds=2, lr=1e-9, seed=0)
    noise = [[said["loud"].messages[t][k][0].payload - said["quiet"].messages[t][k][0].payload for k in (0, 1)]
             for t in (0, 1)]  # fmt: skip
    drawn = torch.stack([entry for row in noise for entry in row]).flatten()
    assert len(drawn.round(decimals=6).unique()) == 16 and 0.4 < float(drawn.std()) < 1.8
    seen = gl.observe(said["loud"], client=1, knows={"labels"})
    assert all(message.protocol.private is None for message in seen.rounds)


def test_gauss_newton_knows_the_noise_and_leaves_out_what_was_cut(batch):
    """Half of the scalars cut: the other half determines the digit; with noise the misfit is the noise."""
    one = batch[[0]]
    net = models.build("mlp", one, hidden=(16,), seed=0)
    z = ZerothOrder(directions=160, scheme="exact", dtype="float64")
    bound = float(plain(net, one, z).abs().median())
    for defense, check in (
        (defenses.get("clip_scalars", bound=bound), lambda result, score: float(score.psnr) > 100),
        (defenses.get("gaussian_noise", sigma=1e-3, relative=True),
         lambda result, score: 0.3e-3 < result.diagnostics["noise"] < 3e-3),
    ):  # fmt: skip
        defended, payload = sent(defense, net, one, z)
        seen = gl.observe(net, defended, payload, one, knows={"labels"})
        result = gl.attack("zerogla", seen, seed=0)
        assert check(result, gl.score(result, one)), defense


def test_knowing_the_mask_helps(batch):
    """Top-k: an attacker who simulates the mask comes closer than one who takes zeros for gradients."""
    one = batch[[1]]
    net = models.build("lenet", one, seed=0)
    defended, payload = sent(defenses.get("topk", keep=0.5), net, one)
    aware = gl.observe(net, defended, payload, one, knows={"labels"})
    naive = gl.observation.naive(aware)
    assert type(naive.protocol) is FedSGD
    psnr = [
        float(gl.score(gl.attack("dlg", seen, seed=0, iterations=12, restarts=1), one).psnr) for seen in (aware, naive)
    ]
    assert psnr[0] > psnr[1] + 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gaussian_noise", {"sigma": -1}, "sigma must be at least 0"),
        ("gaussian_noise", {"sigma": float("nan")}, "sigma must be finite"),
        ("gaussian_noise", {}, "needs sigma"),
        ("clip", {"bound": 0}, "bound must be greater than 0"),
        ("clip_scalars", {"bound": 0}, "bound must be greater than 0"),
        ("topk", {"keep": 0}, "keep must be greater than 0"),
        ("topk", {"keep": 1.5}, "keep must be"),
        ("topk", {"keep": 0.5, "scope": "layer"}, "scope must be one of"),
        ("topk", {"keep": 0.5, "feedback": 1}, "feedback"),
        ("dp_scalars", {"clip": 0, "sigma": 1}, "clip must be greater than 0"),
        ("dp_update", {"clip": 1, "sigma": -1}, "sigma must be at least 0"),
        ("resample", {"images": 0}, "images must be at least 1"),
        ("resample", {"images": 1, "per": "pixel"}, "per must be one of"),
        ("qsgd", {"levels": 0}, "levels must be at least 1"),
        ("bits", {"bits": 1}, "bits must be between 2 and 16"),
        ("half", {"format": "float8"}, "format must be one of"),
        ("dpsgd", {"clip": 0, "sigma": 1}, "clip must be greater than 0"),
        ("soteria", {"prune": 1.0}, "prune must be less than 1"),
        ("mixup", {"alpha": 0}, "alpha must be greater than 0"),
        ("prune_last", {"keep": 2}, "keep must be between 0 and 1"),
        ("topk", {"kept": 0.5}, "no option 'kept'"),
        ("nonsense", {}, "valid names: "),
    ],
)
def test_strengths_out_of_range_are_refused(name, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        defenses.get(name, **options)


def test_defences_that_cannot_work_are_refused(model, batch):
    with pytest.raises(ValueError, match="protects payloads of kind scalars"):
        defenses.Defended(FedSGD(), defenses.get("clip_scalars", bound=1))
    with pytest.raises(ValueError, match="protects payloads of kind gradient"):
        defenses.Defended(ZerothOrder(), defenses.get("soteria", prune=0.5))
    photo = gl.data.sample("photos", size=16, count=2, seed=0, device="cpu")
    with pytest.raises(ValueError, match="must have no batch norm"):
        sent(defenses.get("dpsgd", clip=1, sigma=1), models.build("resnet8", photo), photo)
    with pytest.raises(ValueError, match="at least 2 images"):
        sent(defenses.get("mixup"), model, batch[[0]])
    with pytest.raises(ValueError, match="delta must be less than 1"):
        defenses.epsilon(1.0, 0.1, 10, 1.0)
    with pytest.raises(TypeError, match="defense must be a Defense"):
        defenses.Defended(FedSGD(), "gaussian_noise")
    with pytest.raises(ValueError, match="format must be able to hold"):
        sent(defenses.get("half"), model, batch, FedAvg(lr=1e9, batch_size=4))


def test_signs_of_scalars_give_a_digit_away(batch):
    """One bit a direction: Gauss-Newton says that it cannot, L-BFGS on the soft sign can."""
    one = batch[[0]]
    net = models.build("mlp", one, hidden=(16,), seed=0)
    z = ZerothOrder(directions=600, scheme="exact", dtype="float64")
    defended, payload = sent(defenses.get("sign"), net, one, z)
    seen = gl.observe(net, defended, payload, one, knows={"labels"})
    with pytest.raises(ValueError, match="solver must be 'lbfgs' or 'adam'"):
        gl.attack("zerogla", seen)
    results = {
        how: gl.score(gl.attack("zerogla", view, solver="lbfgs", seed=0, iterations=5, tv_weight=0), one)
        for how, view in (("signs", seen), ("permuted", gl.tamper(seen, "permuted")))
    }
    assert float(results["signs"].psnr) > 15
    assert float(results["permuted"].psnr) < float(results["permuted"].controls["mean_colour"]) + 2


def test_a_clipped_gradient_is_that_of_a_softer_label(model, batch):
    """Cross entropy is linear in the label: c (p - y) = p - y' with y' = c y + (1 - c) p. So DLG loses nothing."""
    one = batch[[2]]
    clean = plain(model, one)
    share = 0.3
    defense = defenses.get("clip", bound=share * float(clean.norm()))
    _, payload = sent(defense, model, one)
    hard = torch.nn.functional.one_hot(one.labels, 10).float()
    softer = share * hard + (1 - share) * model(one.images).softmax(1).detach()
    torch.testing.assert_close(
        vector(payload), vector(FedSGD().transmit(model, one.images, softer)), rtol=1e-4, atol=1e-6
    )


def test_precode_can_be_copied_and_attacked_after_a_pass():
    batch = gl.data.sample("photos", size=8, seed=0)
    model = gl.defenses.precode(gl.models.build("lenet", batch, seed=0), width=4)
    model(batch.images)  # leaves a divergence with its graph
    twin = copy.deepcopy(model)
    assert torch.equal(twin(batch.images), model(batch.images))
    protocol = gl.protocols.FedSGD()
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, knows={"labels"})
    model(batch.images)
    for name in ("ig", "stg"):
        assert gl.attack(name, seen, iterations=2, seed=0).images.shape == batch.images.shape
