"""Losses of others: values against torch, sums over records, the street with each of them, and what refuses them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import glutils as gl
from glutils.models.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError, NextToken, find

CLASSES, COUNT = 10, 4
WEIGHTS = tuple(float(w) for w in torch.linspace(0.2, 3, CLASSES))


def huber(outputs, labels):
    return F.huber_loss(outputs, labels, reduction="none").mean(1)


def numbers(seed=0):
    return torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(seed))


def indices():
    return torch.tensor([3, 1, 1, 7])


LOSSES = {
    "cross_entropy": (None, indices, F.cross_entropy),
    "label smoothing": (
        CrossEntropy(label_smoothing=0.2), indices, lambda o, y: F.cross_entropy(o, y, label_smoothing=0.2)),
    "class weights": (
        CrossEntropy(class_weights=WEIGHTS), indices, lambda o, y: F.cross_entropy(o, y, weight=o.new_tensor(WEIGHTS))),
    "both": (
        CrossEntropy(label_smoothing=0.2, class_weights=WEIGHTS), indices,
        lambda o, y: F.cross_entropy(o, y, weight=o.new_tensor(WEIGHTS), label_smoothing=0.2)),
    "several labels": (
        "binary_cross_entropy", lambda: (numbers() > 0).float(),
        lambda o, y: F.binary_cross_entropy_with_logits(o, y.to(o.dtype))),
    "numbers": ("mse", numbers, lambda o, y: F.mse_loss(o, y.to(o.dtype))),
    "a function": (huber, numbers, lambda o, y: F.huber_loss(o, y.to(o.dtype))),
}  # fmt: skip


@pytest.fixture(params=LOSSES)
def case(request):
    loss, labels, oracle = LOSSES[request.param]
    return loss, labels(), oracle


@pytest.fixture(scope="module")
def batch():
    return gl.data.sample("digits", count=COUNT, seed=0)


@pytest.fixture(scope="module")
def model(batch):
    return gl.models.build("mlp", batch, activation="tanh", hidden=(16,), seed=0)


def test_the_mean_is_that_of_torch(case):
    loss, labels, oracle = case
    outputs = numbers(1).double()
    assert find(loss).mean(outputs, labels) == pytest.approx(float(oracle(outputs, labels)), rel=1e-6)


def test_own_losses_are_those_of_batches_of_one(case):
    loss, labels, oracle = case
    outputs = numbers(1).double()
    alone = [float(oracle(outputs[i : i + 1], labels[i : i + 1])) for i in range(COUNT)]
    assert find(loss).own(outputs, labels).tolist() == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("members", [[0, 2], [1], [0, 1, 2, 3]])
def test_weights_of_one_nth_are_the_loss_of_the_members(case, members):
    loss, labels, oracle = case
    outputs, weights = numbers(1).double(), torch.zeros(COUNT, dtype=torch.float64)
    weights[members] = 1 / len(members)
    found = find(loss).weighted(outputs, labels, weights)
    assert float(found) == pytest.approx(float(oracle(outputs[members], labels[members])), rel=1e-6)


def test_a_client_sends_the_gradient_and_the_slopes_of_its_loss(case, batch, model):
    loss, labels, oracle = case
    expected = torch.autograd.grad(oracle(model(batch.images), labels), list(model.parameters()))
    sent = gl.protocols.FedSGD(loss=loss).transmit(model, batch.images, labels)
    for name, g in zip(dict(model.named_parameters()), expected, strict=True):
        torch.testing.assert_close(sent[name], g, rtol=1e-4, atol=1e-6)
    protocol = gl.protocols.ZerothOrder(directions=5, mu=1e-5, dtype="float64", loss=loss)
    flat = torch.cat([g.flatten() for g in expected]).double()
    slopes = protocol.draw(model).rows(dtype=torch.float64) @ flat
    torch.testing.assert_close(protocol.transmit(model, batch.images, labels).scalars, slopes, rtol=1e-3, atol=1e-6)


def test_scalars_give_the_records_back_whatever_the_loss(case, batch, model):
    loss, labels, _ = case
    protocol = gl.protocols.ZerothOrder(directions=160, mu=1e-4, dtype="float64", loss=loss, seed=3)
    two, labels = batch[:2], labels[:2]
    payload = protocol.transmit(model, two.images, labels)
    seen = gl.observe(model, protocol, payload, shape=(2, 1, 8, 8), classes=CLASSES, labels=labels)
    score = gl.score(gl.attack("zerogla", seen, seed=0), replace(two, labels=labels))
    assert score.psnr.min() > 100
    assert score.label_accuracy == 1


@pytest.mark.parametrize("loss", ["several labels", "numbers", "class weights", "a function"])
def test_the_wrong_loss_does_not_pass_for_the_clients(loss, batch, model):
    """An attacker who believes in another loss is not given a poor score for a strong defence: nothing fits."""
    given, labels, _ = LOSSES[loss]
    labels = labels()[:1]
    payload = gl.protocols.ZerothOrder(directions=90, mu=1e-4, dtype="float64").transmit(
        model, batch.images[:1], batch.labels[:1])  # fmt: skip
    protocol = gl.protocols.ZerothOrder(directions=90, mu=1e-4, dtype="float64", loss=given)
    seen = gl.observe(model, protocol, payload, shape=(1, 1, 8, 8), classes=CLASSES, labels=labels)
    found = gl.attack("zerogla", seen, seed=0, iterations=15, restarts=1)
    if loss == "class weights":  # of one record alone, the weight cancels: it is the same loss
        assert labels.tolist() != batch.labels[:1].tolist()
    assert found.loss > 1e-6


@pytest.mark.parametrize("name", ["dlg", "dlg_adam", "ig"])
@pytest.mark.parametrize("loss", ["several labels", "numbers", "label smoothing", "class weights"])
def test_attacks_that_simulate_the_client_simulate_its_loss(name, loss, batch, model):
    given, labels, _ = LOSSES[loss]
    labels, one = labels()[:1], batch[:1]
    protocol = gl.protocols.FedSGD(loss=given)
    payload = protocol.transmit(model, one.images, labels)
    seen = gl.observe(model, protocol, payload, shape=(1, 1, 8, 8), classes=CLASSES, labels=labels)
    iterations = {"dlg": 40, "dlg_adam": 400, "ig": 200}[name]
    found = gl.attack(name, seen, seed=0, iterations=iterations, restarts=1)
    assert gl.score(found, replace(one, labels=labels)).psnr > 20
    if loss in ("several labels", "numbers"):
        assert torch.equal(found.labels, labels)


@pytest.mark.parametrize("rule", gl.labels.names())
def test_no_label_rule_reads_another_loss(rule, batch, model):
    protocol = gl.protocols.FedSGD(loss=CrossEntropy(label_smoothing=0.1))
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
    with pytest.raises(ValueError, match="cross entropy of class indices, got clients with the loss CrossEntropy"):
        gl.labels.infer(rule, seen)


@pytest.mark.parametrize("name", ["idlg", "fgla", "rgap", "cpa", "stg", "ggl", "grnn", "fc_inversion"])
def test_attacks_that_are_derived_for_classes_refuse_another_loss(name, batch, model):
    labels = numbers()
    protocol = gl.protocols.FedSGD(loss="mse")
    payload = protocol.transmit(model, batch.images, labels)
    seen = gl.observe(model, protocol, payload, shape=(4, 1, 8, 8), classes=CLASSES, labels=labels)
    with pytest.raises(ValueError, match=f"attack '{name}' is derived for the cross entropy of class indices"):
        gl.attack(name, seen)


@pytest.mark.parametrize("name", ["dlg", "zerogla"])
@pytest.mark.parametrize("loss", ["several labels", "class weights"])
def test_targets_that_cannot_be_solved_for_must_be_told(name, loss, batch, model):
    given, labels, _ = LOSSES[loss]
    protocol = gl.protocols.FedSGD(loss=given) if name == "dlg" else gl.protocols.ZerothOrder(loss=given)
    payload = protocol.transmit(model, batch.images, labels())
    seen = gl.observe(model, protocol, payload, shape=(4, 1, 8, 8), classes=CLASSES)
    with pytest.raises(ValueError, match="needs the labels of clients with the loss"):
        gl.attack(name, seen)


# --- messages of others: the sign of a gradient shows only where the loss is that of class indices ---


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("loss", ["several labels", "numbers", "label smoothing"])
def test_a_message_of_another_loss_is_not_judged_by_the_rule_of_classes(sign, loss, batch, model):
    given, labels, _ = LOSSES[loss]
    protocol = gl.protocols.FedSGD(loss=given)
    bare = {n: sign * g for n, g in protocol.transmit(model, batch.images, labels()).tensors.items()}
    seen = gl.observe(model, protocol, bare, shape=(4, 1, 8, 8), classes=CLASSES, labels=labels())
    assert any("cannot be seen" in note for note in seen.notes)


def test_mixed_labels_are_stated_not_refused(batch, model):
    mixed = torch.full((COUNT, CLASSES), 1 / CLASSES)
    plain, stated = gl.protocols.FedSGD(), gl.protocols.FedSGD(loss=CrossEntropy(mixed=True))
    bare = plain.transmit(model, batch.images[:1], mixed[:1]).tensors
    with pytest.raises(ValueError, match=r"contradicts.*mixed=True|wrong sign"):
        gl.observe(model, plain, bare, shape=(1, 1, 8, 8), classes=CLASSES)
    seen = gl.observe(model, stated, bare, shape=(1, 1, 8, 8), classes=CLASSES, labels=mixed[:1])
    assert torch.equal(seen.labels, mixed[:1])
    found = gl.attack("dlg", seen, seed=0, iterations=60)  # optimises the probabilities with the pixels
    assert found.loss < 1e-10


# --- local training by Adam ---


def adam(**options):
    return gl.protocols.FedAvg(epochs=2, batch_size=2, lr=0.01, optimizer="adam", **options)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_local_adam_is_that_of_torch(weight_decay, batch, model):
    sent = adam(weight_decay=weight_decay).transmit(model, batch.images, batch.labels)
    twin = gl.models.build("mlp", batch, activation="tanh", hidden=(16,), seed=0)
    optimiser = torch.optim.Adam(twin.parameters(), lr=0.01, weight_decay=weight_decay)
    for _ in range(2):
        for x, y in zip(batch.images.split(2), batch.labels.split(2), strict=True):
            optimiser.zero_grad()
            F.cross_entropy(twin(x), y).backward()
            optimiser.step()
    for (name, before), after in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(sent[name], (before - after).detach(), rtol=1e-3, atol=1e-6)


def test_local_adam_can_be_differentiated_where_a_weight_never_moves(batch):
    """Pixels that are 0 in all images leave a gradient of exactly 0, at which the square root has no slope."""
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    images = images * (torch.arange(8) > 3)
    model = gl.models.build("mlp", batch, activation="tanh", hidden=(4,), seed=0).double()
    images.requires_grad_()
    protocol = adam()
    pulled = torch.autograd.grad(protocol.simulate(model, images, batch.labels).flat.square().sum(), images)[0].detach()
    assert torch.isfinite(pulled).all()
    assert pulled.any()
    pulled = pulled * (torch.arange(8) > 3)  # beyond a gradient of 0 a step turns around within 1e-8
    step = 1e-6 * pulled / pulled.norm()
    ahead, behind = (
        protocol.simulate(model, (images + s * step).detach(), batch.labels).flat.detach().square().sum()
        for s in (1, -1)
    )
    assert float(ahead - behind) / 2e-6 == pytest.approx(float(pulled.norm()), rel=1e-2)


def test_what_needs_the_mean_gradient_refuses_adam(batch, model):
    protocol = adam()
    seen = gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch)
    for call in (lambda: gl.observation.as_gradient(seen), lambda: gl.labels.infer("ilrg", seen)):
        with pytest.raises(ValueError, match="must take steps of SGD for that, got .*optimizer='adam'"):
            call()
    with pytest.raises(ValueError, match="attack 'ig' cannot use steps that do not sum up gradients"):
        gl.attack("ig", seen)
    with pytest.raises(ValueError, match="must be a difference, start less end"):
        gl.observe(model, protocol, dict(model.named_parameters()), shape=(4, 1, 8, 8), classes=CLASSES)


def test_a_federation_with_another_loss_and_adam_learns(batch):
    clients = gl.data.partition("digits", clients=5, per_client=12, seed=0)
    model = gl.models.build("mlp", clients[0], hidden=(32,), seed=0)
    protocol = gl.protocols.FedAvg(epochs=2, lr=0.01, optimizer="adam", loss=CrossEntropy(label_smoothing=0.1))
    transcript = gl.federation.train(protocol, model, clients, rounds=20, seed=0)
    assert transcript.accuracy[-1] > 0.6


@pytest.mark.parametrize("loss", ["class weights", "label smoothing", "several labels"])
def test_clients_run_together_as_one_after_the_other(loss, batch):
    """Stacked networks and messages about everybody's images must not forget how records count."""
    given, labels, _ = LOSSES[loss]
    model = gl.models.build("mlp", batch, hidden=(8,), seed=0)
    targets = labels()
    clients = [replace(batch[[i, (i + 1) % 4]], labels=targets[[i, (i + 1) % 4]]) for i in range(4)]
    for protocol in (gl.protocols.FedAvg(batch_size=2, loss=given), gl.protocols.FedSGD(loss=given)):
        how = {"rounds": 2, "seed": 0, "test": clients[0]} | ({"lr": 0.1} if protocol.kind == "gradient" else {})
        ends = [
            gl.federation.train(protocol, model, clients, batched=batched, record=[], **how).states[-1]
            for batched in (True, False)
        ]
        for name, p in ends[0].items():
            torch.testing.assert_close(p, ends[1][name], rtol=1e-4, atol=1e-6)


# --- tokens ---


class Bigram(nn.Module):
    """Every next token depends on the token before it alone."""

    def __init__(self, vocabulary=7):
        super().__init__()
        self.table = nn.Embedding(vocabulary, vocabulary)

    def forward(self, tokens):
        return self.table(tokens)


def test_next_tokens_are_counted_as_causal_language_models_count_them():
    outputs = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3, 4, 5], [1, 6, -100, -100, -100]])
    loss = NextToken()
    expected = F.cross_entropy(outputs[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1), ignore_index=-100)
    assert loss.mean(outputs, labels) == pytest.approx(float(expected), rel=1e-6)
    assert find(None).mean(outputs, labels) == pytest.approx(float(expected), rel=1e-6)
    whole = torch.tensor([0.5, 0.5])
    assert loss.weighted(outputs, labels, whole) == pytest.approx(float(expected), rel=1e-6)
    last = torch.tensor([[-100, -100, -100, -100, 5]])
    alone = F.cross_entropy(outputs[:1, 3], torch.tensor([5]))
    assert loss.mean(outputs[:1], last) == pytest.approx(float(alone), rel=1e-6)


@pytest.mark.parametrize("name", [None, "next_token"])
def test_a_model_of_tokens_is_found_by_what_it_gives(name):
    criterion = find(name)
    tokens = torch.tensor([[1, 2, 3, 1]])
    criterion.check(tuple(Bigram()(tokens).shape), tokens)
    with pytest.raises(ValueError, match=r"labels of tokens must lie in 0\.\.6, or be -100, got 1 to 7"):
        criterion.check((1, 4, 7), torch.tensor([[1, 2, 7, 1]]))
    with pytest.raises(ValueError, match=r"labels of tokens must have shape \(1, 4\)"):
        criterion.check((1, 4, 7), torch.tensor([1]))
    with pytest.raises(ValueError, match="at least one target behind the first position"):
        criterion.check((1, 4, 7), torch.tensor([[1, -100, -100, -100]]))
    with pytest.raises(TypeError, match="labels of tokens must be int64"):
        criterion.check((1, 4, 7), torch.ones(1, 4))


# --- bad input ---


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: find("hinge"), ValueError, "loss must be one of 'cross_entropy', 'next_token'.*; got 'hinge'"),
        (lambda: find(3), TypeError, "loss must be one of .* or None; got int"),
        (lambda: gl.protocols.FedSGD(loss="l1"), ValueError, "loss must be one of"),
        (lambda: gl.protocols.FedAvg(loss=3), TypeError, "loss must be one of"),
        (lambda: gl.protocols.ZerothOrder(loss="l1"), ValueError, "loss must be one of"),
        (lambda: CrossEntropy(label_smoothing=1), ValueError, "label_smoothing must be at least 0 and below 1, got 1"),
        (lambda: CrossEntropy(class_weights=[1, 0]), ValueError, "class_weights must be greater than 0"),
        (lambda: CrossEntropy(class_weights="11"), TypeError, "class_weights must be a sequence"),
        (lambda: CrossEntropy(class_weights=[1, 2], mixed=True), ValueError, "class_weights must be None with mixed"),
        (lambda: BinaryCrossEntropy(pos_weight=[-1]), ValueError, "pos_weight must be greater than 0"),
        (lambda: adam(momentum=0.9), ValueError, "momentum must be 0 with optimizer='adam'"),
        (lambda: gl.protocols.FedAvg(optimizer="lion"), ValueError, "optimizer must be one of 'sgd', 'adam'"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "labels", "error", "message"),
    [
        ("mse", torch.zeros(COUNT), ValueError, r"labels must have shape \(4, 10\) for this loss, got \(4,\)"),
        ("mse", torch.full((COUNT, CLASSES), torch.nan), ValueError, "labels must be finite"),
        ("binary_cross_entropy", 2 * torch.ones(COUNT, CLASSES), ValueError, "labels must lie between 0 and 1"),
        ("binary_cross_entropy", torch.zeros(COUNT, dtype=torch.int64), ValueError, "labels must have shape"),
        ("next_token", torch.zeros(COUNT, 3, dtype=torch.int64), ValueError, r"model must give outputs \(B, L, V\)"),
        (CrossEntropy(class_weights=(1, 2)), torch.zeros(COUNT, dtype=torch.int64), ValueError, "of the 10 classes"),
        (BinaryCrossEntropy(pos_weight=(1,)), torch.zeros(COUNT, CLASSES), ValueError, "must have 10 entries"),
        (nn.CrossEntropyLoss(), torch.zeros(COUNT, dtype=torch.int64), ValueError, r"reduction='none'.*got \(\)"),
        (lambda o, y: o @ y, torch.zeros(COUNT, CLASSES), ValueError, "loss must take outputs"),
        ("cross_entropy", None, TypeError, "labels must be a Tensor"),
    ],
)  # fmt: skip
def test_labels_that_the_loss_does_not_take(loss, labels, error, message, batch, model):
    for protocol in (gl.protocols.FedSGD(loss=loss), gl.protocols.ZerothOrder(directions=2, loss=loss)):
        with pytest.raises(error, match=message):
            protocol.transmit(model, batch.images, "none" if labels is None else labels)


def test_one_output_is_a_regression_and_no_classification(batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    targets = torch.arange(4.0)
    sent = gl.protocols.FedSGD(loss=MeanSquaredError()).transmit(model, batch.images, targets)
    expected = torch.autograd.grad(F.mse_loss(model(batch.images)[:, 0], targets), model[1].bias)[0]
    torch.testing.assert_close(sent["1.bias"], expected)
    with pytest.raises(ValueError, match="at least 2 classes for cross entropy, gives"):
        gl.protocols.FedSGD().transmit(model, batch.images, torch.zeros(4, dtype=torch.int64))


def test_the_loss_belongs_to_the_protocol_behind_every_defence(batch):
    protocol = gl.protocols.ZerothOrder(directions=3, loss="mse")
    defended = gl.defenses.Defended(protocol, gl.defenses.get("gaussian_noise", sigma=0.1))
    assert defended.criterion == MeanSquaredError()
    assert not protocol.averages_with(replace(protocol, loss=None))
    assert protocol.averages_with(replace(protocol, loss=MeanSquaredError()))
