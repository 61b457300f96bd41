"""Verified leaks: exact reconstructions are certified; spoiled, thin, noisy and blind ones are not; bad input."""

import pytest
import torch

import glutils as gl
from glutils.protocols import FedSGD, ZerothOrder

pytestmark = pytest.mark.usefixtures("no_lpips")
QUICK = {"progress": False, "restarts": 1}


@pytest.fixture(scope="module")
def record():
    return gl.data.sample("wine", count=1, seed=0, device="cpu")


def seen_of(batch, directions=60, dtype="float64", model=None, **how):
    model = gl.models.build("mlp", batch, hidden=(16,), seed=0) if model is None else model
    protocol = ZerothOrder(directions=directions, dtype=dtype, seed=3, **how)
    payload = protocol.transmit(model, batch.images, batch.labels)
    return gl.observe(model, protocol, payload, batch, knows={"labels"})


def leak_of(seen, seed=0, **options):
    fit, held = gl.attacks.hold_out(seen, seed=seed)
    result = gl.attack("zerogla", fit, seed=seed, **QUICK | options)
    return gl.attacks.certify(result, fit, held), result


def test_the_parts_are_the_whole(record):
    seen = seen_of(record)
    fit, held = gl.attacks.hold_out(seen, share=0.25, seed=1)
    assert (fit.scalars, held.scalars) == (45, 15)
    whole = {float(s) for s in seen.payload.scalars}
    one, other = ({float(s) for s in part.payload.scalars} for part in (fit, held))
    assert one | other == whole and not one & other
    rows = seen.protocol.draw(seen.model).rows()
    place = (seen.payload.scalars == held.payload.scalars[0]).nonzero()[0, 0]
    torch.testing.assert_close(held.protocol.draw(seen.model).rows()[0], rows[place])
    again = gl.attacks.hold_out(seen, share=0.25, seed=1)[1]
    assert torch.equal(held.payload.scalars, again.payload.scalars)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_exact_reconstruction_is_certified_and_its_error_foretold(record, dtype):
    leak, result = leak_of(seen_of(record, dtype=dtype))
    assert leak.certified and leak.rank == leak.unknowns == 13 and leak.held == 12
    error = float((result.records.double() - record.images.double()).square().mean().sqrt())
    assert error < 10 * leak.error < 10 * leak.within


@pytest.mark.parametrize("how", ["wrong_seed", "permuted"])
def test_a_spoiled_message_is_not_certified(record, how):
    for seed in range(3):
        leak, _ = leak_of(gl.tamper(seen_of(record), how, seed=seed), seed)
        assert not leak.certified and leak.misfit > 0.1


def test_a_perfect_fit_of_too_few_scalars_is_not_certified(record):
    leak, result = leak_of(seen_of(record, directions=12))
    assert not leak.certified and result.loss < 1e-8  # nine scalars are fitted, and three not predicted
    assert leak.misfit > leak.tolerance


def test_columns_that_the_network_does_not_look_at_are_not_certified(record):
    model = gl.models.build("mlp", record, hidden=(16,), seed=0)
    with torch.no_grad():
        model[1].weight[:, 4] = 0  # the gradient still sees it; the equations do not, once its row is gone
        model[1].weight.requires_grad_(False)
    leak, _ = leak_of(seen_of(record, model=model))
    assert leak.misfit <= leak.tolerance and leak.rank < leak.unknowns and not leak.certified


def test_noise_that_the_client_does_not_own_up_to_is_not_certified(record):
    seen = seen_of(record)
    noise = 1e-3 * seen.payload.scalars.std() * torch.randn(60, generator=torch.Generator().manual_seed(0)).double()
    entry = gl.transcripts.Round(seen.protocol, seen.payload.scalars + noise)
    leak, _ = leak_of(gl.observe(seen.model, seen.protocol, entry.payload, record, knows={"labels"}))
    assert not leak.certified and 1e-4 < leak.misfit < 1e-2


def test_bad_input_is_refused(record):
    seen = seen_of(record)
    fit, held = gl.attacks.hold_out(seen)
    result = gl.attack("zerogla", fit, **QUICK | {"iterations": 1})
    gradient = gl.observe(seen.model, FedSGD(), FedSGD().transmit(seen.model, record.images, record.labels), record)
    with pytest.raises(ValueError, match="must hold scalars.*'spear'"):
        gl.attacks.hold_out(gradient)
    with pytest.raises(ValueError, match="share must be"):
        gl.attacks.hold_out(seen, share=0.7)
    with pytest.raises(ValueError, match="enough scalars"):
        gl.attacks.hold_out(seen_of(record, directions=2))
    defended = gl.defenses.Defended(seen.protocol, gl.defenses.get("gaussian_noise", sigma=0.1))
    with pytest.raises(ValueError, match="undefended messages"):
        payload = defended.transmit(seen.model, record.images, record.labels)
        gl.attacks.hold_out(gl.observe(seen.model, defended, payload, record))
    with pytest.raises(ValueError, match="must be of one batch"):
        two = gl.data.sample("wine", count=2, seed=0, device="cpu")
        gl.attacks.certify(result, *gl.attacks.hold_out(seen_of(two)))
    with pytest.raises(ValueError, match="held must hold scalars"):
        gl.attacks.certify(result, fit, gradient)
    with pytest.raises(ValueError, match="within"):
        gl.attacks.certify(result, fit, held, within=0)
