"""Messages that cannot be what they are said to be: wrong sign, a sum for a mean, another step size; honest ones."""

import pytest
import torch

import glutils as gl
from glutils import models
from glutils.protocols import FedAvg, FedSGD

PROTOCOLS = [
    FedSGD(), FedAvg(epochs=1, batch_size=99, lr=0.1), FedAvg(epochs=3, batch_size=2, lr=0.05),
    FedAvg(epochs=2, batch_size=2, lr=0.2, momentum=0.9), FedAvg(epochs=1, batch_size=99, lr=0.1, weight_decay=0.01),
]  # fmt: skip
NETWORKS = [("mlp", {"hidden": ()}), ("lenet", {}), ("convnet", {"hidden": None}), ("resnet8", {"width": 2})]


def told(batch, **more):
    return {"shape": tuple(batch.images.shape), "classes": len(batch.classes)} | more


def sent(protocol, name, options, batch):
    model = gl.models.build(name, batch, seed=0, **options)
    return model, dict(protocol.transmit(model, batch.images, batch.labels))


def unseen(seen):
    return [note for note in seen.notes if "cannot be seen" in note]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n[0])
def test_honest_messages_pass_and_turned_ones_are_refused_or_noted(network):
    """Whatever sign they have: nothing honest is refused, nothing turned round passes without a word."""
    for count in (1, 8):
        batch = gl.data.sample("digits", count=count, seed=count, device="cpu")
        for protocol in PROTOCOLS:
            model, payload = sent(protocol, *network, batch)
            for labels in (None, batch.labels):
                gl.observe(model, protocol, payload, **told(batch, labels=labels))
                back = {n: -t for n, t in payload.items()}
                try:
                    turned = gl.observe(model, protocol, back, **told(batch, labels=labels))
                except ValueError as error:
                    assert "payload has the wrong sign" in str(error)
                else:
                    assert unseen(turned) and (count == 8 or protocol != FedSGD())


@pytest.mark.parametrize("protocol", PROTOCOLS[:3], ids=["gradient", "one step", "three epochs"])
def test_the_error_names_the_sign(protocol):
    batch = gl.data.sample("digits", count=2, seed=0, device="cpu")
    model, payload = sent(protocol, "mlp", {}, batch)
    asked = "the gradient itself" if protocol == FedSGD() else r"start less end \(theta_0 - theta_U\)"
    text = rf"payload has the wrong sign, it must be {asked}.*in '3.bias' \d of 10 entries"
    with pytest.raises(ValueError, match=text):
        gl.observe(model, protocol, {n: -t for n, t in payload.items()}, batch)


def test_with_labels_known_many_images_do_not_hide_the_sign():
    batch = gl.data.sample("digits", count=8, seed=8, device="cpu")
    assert len(batch.labels.unique()) < 10
    model, payload = sent(FedSGD(), "mlp", {}, batch)
    turned = {n: -t for n, t in payload.items()}
    assert unseen(gl.observe(model, FedSGD(), turned, batch))
    for how in ({"batch": batch, "knows": {"labels"}}, told(batch, labels=batch.labels)):
        with pytest.raises(ValueError, match="class ., which no image has, shows a negative entry"):
            gl.observe(model, FedSGD(), turned, **how)


def test_what_is_no_mean_or_has_another_step_size_is_refused():
    batch = gl.data.sample("digits", count=4, seed=1, device="cpu")
    model, payload = sent(FedSGD(), "mlp", {}, batch)
    with pytest.raises(ValueError, match=r"contradicts FedSGD\(.*\).*no mean over the images"):
        gl.observe(model, FedSGD(), {n: 4 * t for n, t in payload.items()}, batch)
    slow, fast = FedAvg(batch_size=4, lr=0.01), FedAvg(batch_size=4, lr=0.1)
    model, payload = sent(fast, "mlp", {}, batch)
    with pytest.raises(ValueError, match=r"contradicts FedAvg.*lr or number of local steps"):
        gl.observe(model, slow, payload, batch)


def test_parameters_in_place_of_a_difference_are_refused(digits):
    model, payload = sent(FedAvg(lr=0.01), "mlp", {}, digits)
    end = {name: p - payload[name] for name, p in models.parameters(model).items()}
    with pytest.raises(ValueError, match="holds the client's parameters; it must be a difference, start less end"):
        gl.observe(model, FedAvg(lr=0.01), end, digits)


DEFENSES = {
    "gaussian_noise": {"sigma": 0.3}, "clip": {"bound": 0.01}, "topk": {"keep": 0.1}, "sign": {},
    "half": {}, "mixup": {},
}  # fmt: skip


@pytest.mark.parametrize("name", DEFENSES)
def test_defended_messages_are_not_judged(digits, name):
    protocol = gl.defenses.Defended(FedSGD(), gl.defenses.get(name, **DEFENSES[name]))
    model = gl.models.build("mlp", digits, seed=0)
    payload = dict(protocol.transmit(model, digits.images, digits.labels))
    for sign in (1, -1):
        assert not unseen(gl.observe(model, protocol, {n: sign * t for n, t in payload.items()}, digits))


def test_a_head_that_says_nothing_is_noted_for_messages_of_others(digit):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10, bias=False))
    payload = FedSGD().transmit(network, digit.images, digit.labels)
    assert not gl.observe(network, FedSGD(), payload, digit).notes
    (note,) = gl.observe(network, FedSGD(), dict(payload), digit).notes
    assert "no trainable bias" in note and "sign" in note


def test_a_run_is_judged_message_by_message(digits):
    run = gl.federation.train(FedAvg(lr=0.05), gl.models.build("mlp", digits), [digits], rounds=2, progress=False)
    assert not gl.observe(run, client=0, knows={"labels"}).notes
