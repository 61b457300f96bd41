"""ROG: what its encoder cannot say comes back by regression, few bits beside IG, controls, refusals."""

from dataclasses import replace

import pytest
import torch

import glutils as gl
from glutils.attacks.generative.rog import Remainder
from glutils.defenses import Defended, get
from glutils.priors import latent
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

FEW = {"iterations": 4, "progress": False}


def observed(protocol, seed=0, count=1, knows=("labels", "public")):
    batch = gl.data.sample("digits", count=count, seed=seed, distinct=count > 1, device="cpu")
    model, public = gl.models.build("mlp", batch, seed=seed), gl.data.public(batch, count=200, seed=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    told = {"public": public} if "public" in knows else {}
    return gl.observe(model, protocol, payload, batch, knows=set(knows), **told), batch


def coarse(**strength):
    return Defended(FedSGD(), get("bits", bits=2) if not strength else get("sign", **strength), private=0)


def test_a_digit_from_signs_beats_ig_on_them_and_a_spoiled_message_gives_nothing():
    seen, batch = observed(coarse(scaled=True))
    how = {"progress": False, "iterations": 60}
    misled = gl.attack("rog", gl.tamper(seen, "wrong_gradient"), **how)
    score = gl.score(gl.attack("rog", seen, **how), batch, controls={"misled": misled})
    assert score.mean_psnr > gl.score(gl.attack("ig", seen, **how), batch).mean_psnr and not score.beaten_by


def test_without_penalty_and_with_an_exact_message_the_truth_has_no_misfit():
    """An image that the encoder can say, sent without rounding: the attack's own loss at its number is zero."""
    seen, batch = observed(FedSGD())
    encoder = latent.PCA.fit(seen.public, 30)
    said = encoder.decode(encoder.encode(batch.images))
    seen, _ = observed(FedSGD())
    payload = FedSGD().transmit(seen.model, said, batch.labels)
    seen = gl.observe(seen.model, FedSGD(), payload, batch, knows={"labels", "public"}, public=seen.public)
    found = gl.attack("rog", seen, components=30, latent_weight=0, postprocess=False, progress=False)
    assert found.loss < 0.01 and float(gl.metrics.psnr(found.images.float().clamp(0, 1), said.clamp(0, 1))) > 20


def test_the_remainder_is_learned_and_vanishes_far_from_every_public_image():
    public = gl.data.public(gl.data.sample("digits", device="cpu"), count=200, seed=0)
    encoder = latent.PCA.fit(public, 8)
    rest = Remainder.fit(encoder, public)
    codes = encoder.encode(public.images.double())
    before = (public.images - encoder.decode(codes)).square().mean()
    after = (public.images - encoder.decode(codes) - rest.of(codes)).square().mean()
    assert after < 0.6 * before
    assert float(rest.of(codes[:1] + 1e3).abs().max()) == 0
    assert rest.of(codes[:3].float()).shape == (3, 1, 8, 8)


def test_seeds_labels_batches_and_local_steps():
    seen, batch = observed(coarse())
    first, again, other = (gl.attack("rog", seen, seed=s, **FEW) for s in (1, 1, 2))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert first.evaluations == 5 and first.diagnostics["components"] == 48
    assert gl.attack("rog", seen, components=4, postprocess=False, **FEW).diagnostics["components"] == 4
    blind, batch = observed(FedSGD(), knows=("public",))
    assert gl.attack("rog", blind, **FEW).labels.tolist() == batch.labels.tolist()
    steps, batch = observed(FedAvg(epochs=2, batch_size=1, lr=0.05), count=2)
    assert gl.attack("rog", steps, **FEW).images.shape == batch.images.shape


def test_it_refuses_what_it_cannot_do():
    seen, _ = observed(coarse())
    with pytest.raises(ValueError, match="public images.*without them, 'ig' simulates the same defence"):
        gl.attack("rog", replace(seen, public=None, knows=frozenset({"labels"})))
    with pytest.raises(ValueError, match="attack 'rog' needs the labels of a batch"):
        gl.attack("rog", observed(FedSGD(), count=2, knows=("public",))[0])
    scalars, _ = observed(ZerothOrder(directions=4, mu=1e-4, dtype="float64", seed=7))
    with pytest.raises(ValueError, match=r"gradient or delta, got 'scalars'; it is read by .*'zerogla'"):
        gl.attack("rog", scalars)
    bad = {"lr": 0, "latent_weight": -1, "components": 65, "iterations": -1}
    for option, value in bad.items():
        with pytest.raises(ValueError, match=option):
            gl.attack("rog", seen, **FEW | {option: value})
    with pytest.raises(TypeError, match="postprocess"):
        gl.attack("rog", seen, postprocess=1)
