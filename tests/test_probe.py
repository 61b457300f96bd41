"""A network is tried, not judged by its type: what can be attacked runs, the rest is refused in one sentence."""

import math
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import glutils as gl
from glutils import models

pytestmark = pytest.mark.usefixtures("no_lpips")
FEDSGD = gl.protocols.FedSGD()
SCALARS = gl.protocols.ZerothOrder(directions=4, mu=1e-4, dtype="float64", seed=7)


class Net(nn.Module):
    """A layer, something in between, a head."""

    def __init__(self, between=nn.Tanh, width=16, out=None, inputs=64, classes=10):
        super().__init__()
        self.body, self.between = nn.Linear(inputs, width), between()
        self.head = nn.Linear(width if out is None else out, classes)

    def forward(self, x):
        return self.head(self.between(torch.tanh(self.body(x.flatten(1)))))


class Attention(nn.Module):
    """Scaled dot products as they are, over four tokens of four."""

    def forward(self, x):
        q = x.view(-1, 1, 4, 4)
        return F.scaled_dot_product_attention(q, q, q).flatten(1)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x.view(-1, 4, 4)).flatten(1)


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = x.view(-1, 4, 4)
        return self.layer(tokens, tokens, tokens)[0].flatten(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        return self.layer(x.view(-1, 4, 4))[0].flatten(1)


class LooksAtValues(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum().item() > 1e9 else x


class Chance(nn.Module):
    """Noise that no type tells of."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return self.draw(x)


class Counts(nn.Module):
    """A buffer that every call moves, and that decides nothing."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


class Wrapped(Net):
    """Returns ``wrap(logits)``."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(super().forward(x))


class Tied(nn.Module):
    """One matrix used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))


def one_module_twice():
    shared = nn.Linear(16, 16)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), shared, nn.Tanh(), shared, nn.Linear(16, 10))


class HeadFirst(nn.Module):
    """The head is registered before the body."""

    def __init__(self, width):
        super().__init__()
        self.head, self.body = nn.Linear(width, 10), nn.Linear(64, width)

    def forward(self, x):
        return self.head(F.relu(self.body(x.flatten(1))))


def frozen_backbone():
    net = Net()
    net.body.requires_grad_(False)
    return net


def with_unused():
    net = Net()
    net.pooler = nn.Linear(3, 3)
    return net


def channels_last():
    layers = nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(64, 10)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


CLIENTS = {
    "attention": lambda: Net(Attention),
    "multi-head attention": lambda: Net(MultiHead),
    "encoder layer": lambda: Net(Encoder),
    "layer norm": lambda: Net(lambda: nn.LayerNorm(16)),
    "GRU": lambda: Net(Recurrent),
    "looks at values": lambda: Net(LooksAtValues),
    "counts calls": lambda: Net(Counts),
    "object with logits": lambda: Wrapped(lambda y: SimpleNamespace(logits=y, loss=None)),
    "mapping with logits": lambda: Wrapped(lambda y: OrderedDict(logits=y, hidden=(y, y))),
    "DataParallel": lambda: nn.DataParallel(Net()),
    "tied": Tied,
    "one module twice": one_module_twice,
    "frozen backbone": frozen_backbone,
    "unused parameters": with_unused,
    "channels last": channels_last,
}


def built(make):
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.filterwarnings("ignore:.*enable_nested_tensor.*", "ignore:`torch.jit.script`:DeprecationWarning")
@pytest.mark.parametrize("name", CLIENTS)
def test_any_network_of_ours_or_others_sends_and_is_attacked(name, digit):
    model = built(CLIENTS[name])
    before = [(t, t.clone()) for t in (*model.parameters(), *model.buffers())]
    seen = gl.observe(model, FEDSGD, FEDSGD.transmit(model, digit.images, digit.labels), digit, knows={"labels"})
    found = gl.attack("ig", seen, iterations=2)
    assert found.images.shape == digit.images.shape and math.isfinite(found.loss)
    assert math.isfinite(gl.attack("dlg", seen, iterations=2).loss)
    scalars = SCALARS.transmit(model, digit.images, digit.labels)
    exact = FEDSGD.transmit(model, digit.images.double(), digit.labels)
    slopes = SCALARS.draw(model).project(models.flatten(exact).double())
    torch.testing.assert_close(scalars.scalars, slopes, rtol=1e-3, atol=1e-5 * float(slopes.abs().max()))
    told = gl.observe(model, SCALARS, scalars, digit, knows={"labels"})
    for solver in ("adam", "gauss-newton"):
        assert math.isfinite(gl.attack("zerogla", told, solver=solver, iterations=2, restarts=1).loss)
    for now, (tensor, value) in zip((*model.parameters(), *model.buffers()), before, strict=True):
        assert now is tensor and torch.equal(now, value)


@pytest.mark.parametrize("make", [lambda: Net(Recurrent), lambda: Net(LooksAtValues)], ids=["GRU", "looks at values"])
def test_what_cannot_be_vectorised_gives_the_same_scalars_one_by_one(make, digit, monkeypatch):
    model = built(make)
    many = SCALARS.transmit(model, digit.images, digit.labels)
    monkeypatch.setattr(gl.zo.Directions, "blocks", lambda self, size=None: [(i, i + 1) for i in range(self.count)])
    assert torch.equal(many.scalars, SCALARS.transmit(model, digit.images, digit.labels).scalars)


@pytest.mark.parametrize("name", ["frozen backbone", "unused parameters", "tied", "one module twice"])
def test_the_message_names_what_is_trained_and_no_more(name, digit):
    model = built(CLIENTS[name])
    sent = FEDSGD.transmit(model, digit.images, digit.labels)
    assert list(sent.keys()) == [n for n, p in model.named_parameters() if p.requires_grad]
    if name == "unused parameters":
        assert float(sent["pooler.weight"].abs().max()) == 0
    F.cross_entropy(model(digit.images), digit.labels).backward()
    for key, part in sent.items():
        grad = model.get_parameter(key).grad
        assert torch.allclose(part, torch.zeros_like(part) if grad is None else grad, atol=1e-6)


@pytest.mark.parametrize("name", ["GRU", "looks at values", "object with logits", "unused parameters", "attention"])
def test_defences_and_federations_take_them_too(name, digits):
    model, pair = built(CLIENTS[name]), digits[:2]
    shields = gl.defenses.get("dpsgd", clip=1.0, sigma=0.1), gl.defenses.get("soteria", prune=0.3)
    for shield in shields:
        sent = gl.defenses.Defended(FEDSGD, shield).transmit(model, pair.images, pair.labels)
        assert all(bool(part.isfinite().all()) for part in sent.values())
    assert int((sent["head.weight"] == 0).all(0).sum()) >= int(0.3 * model.head.in_features)  # and no other layer's
    clients = [digits[[i]] for i in range(3)]
    for how in ({"dtype": "bfloat16"}, {"in_place": True}, {"dtype": "float16", "in_place": True, "law": "mezo"}):
        own = gl.protocols.ZerothOrder(directions=3, mu=1e-2, **how).transmit(model, pair.images, pair.labels)
        assert bool(own.scalars.isfinite().all())
    for protocol in (FEDSGD, gl.protocols.FedAvg(1, 1, 0.1), SCALARS):
        how = {} if protocol.kind == "delta" else {"lr": 0.1}
        runs = [gl.federation.train(protocol, model, clients, rounds=1, record=record, **how) for record in ([0], None)]
        for one, other in zip(runs[0].states[1].values(), runs[1].states[1].values(), strict=True):
            torch.testing.assert_close(one, other)


CHANCE = {
    "functional dropout": lambda x: F.dropout(x, 0.5, training=True),
    "noise of torch": lambda x: x + 0.1 * torch.randn_like(x),
    "noise of NumPy": lambda x: x + float(np.random.rand()),
    "a rare event": lambda x: x if float(torch.rand(())) > 0.5 else x + 1,
}


@pytest.mark.parametrize("name", CHANCE)
def test_chance_is_refused_wherever_it_comes_from_and_left_where_it_was(name, digit):
    model = built(lambda: Net(lambda: Chance(CHANCE[name])))
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    for protocol in (FEDSGD, SCALARS, gl.protocols.FedAvg()):
        with pytest.raises(ValueError, match=r"depends on chance .* call model.eval\(\)"):
            protocol.transmit(model, digit.images, digit.labels)
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()


def test_a_mode_is_tried_anew(digit):
    class Own(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, self.training)

    model = built(lambda: Net(Own))
    FEDSGD.transmit(model, digit.images, digit.labels)
    with pytest.raises(ValueError, match="chance"):
        FEDSGD.transmit(model.train(), digit.images, digit.labels)


def no_parameters():
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10))


def all_frozen():
    return Net().requires_grad_(False)


REFUSED = {
    "a tuple": (lambda: Wrapped(lambda y: (y, y)), r"one tensor \(B, classes\).* got a tuple of \(1, 10\), \(1, 10\)"),
    "a mapping without": (lambda: Wrapped(lambda y: {"scores": y}), "an object with one tensor 'logits'; got a dict"),
    "pixels of logits": (lambda: Wrapped(lambda y: y[:, :, None, None]), r"\(B, classes\).* gives \(1, 10, 1, 1\)"),
    "one logit": (lambda: Net(classes=1), r"at least 2 classes for cross entropy, gives \(1, 1\)"),
    "a number": (lambda: Wrapped(lambda y: y.sum()), r"gives \(\)"),
    "too few logits": (lambda: Net(classes=3), r"labels must lie in 0..2"),
    "other records": (lambda: Net(inputs=50), r"model does not take records of shape \(1, 1, 8, 8\)"),
    "no parameters": (no_parameters, "at least one trainable parameter"),
    "all frozen": (all_frozen, "at least one trainable parameter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_attacked_is_refused_in_one_sentence(name, digit):
    make, said = REFUSED[name]
    labels = torch.tensor([7])
    for protocol in (FEDSGD, SCALARS):
        with pytest.raises(ValueError, match=said) as caught:
            protocol.transmit(built(make), digit.images, labels)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [10, 32])
def test_the_head_is_the_layer_that_computes_the_output(width):
    torch.manual_seed(width)
    model = HeadFirst(width)
    right = 0
    for seed in range(10):
        batch = gl.data.sample("digits", seed=seed, device="cpu")
        seen = gl.observe(model, FEDSGD, FEDSGD.transmit(model, batch.images, batch.labels), batch)
        right += int(gl.labels.infer("idlg", seen).labels.item() == batch.labels.item())
    assert right == 10 and models.last_linear(model, (1, 1, 8, 8))[0] == "head"
    assert [name for name, _ in models.layers_with_parameters(model, (1, 1, 8, 8))] == ["body", "head"]
    found = gl.attack("fc_inversion", seen)
    assert float(gl.score(found, batch).psnr) > 100


def test_layers_that_keep_statistics_share_their_mode_whatever_their_class(digit):
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(16))

        def forward(self, x):
            if self.training:
                self.mean.lerp_(x.detach().mean(0), 0.1)
                return x - x.mean(0)
            return x - self.mean

    model = built(lambda: Net(Centred))
    pair = gl.data.sample("digits", count=2, seed=0, device="cpu")
    assert models.batchnorm_mode(model) == "eval"
    payload = FEDSGD.transmit(model.train(), pair.images, pair.labels)
    assert float(model.between.mean.abs().max()) == 0  # no buffer moved
    with pytest.raises(ValueError, match="payload was computed in 'train' mode"):
        gl.observe(model.eval(), FEDSGD, payload, pair)


def test_compiled_networks_are_taken_without_their_wrapper(digit):
    model = built(Net)
    compiled = torch.compile(model, backend="eager")
    sent = FEDSGD.transmit(compiled, digit.images, digit.labels)
    plain = FEDSGD.transmit(model, digit.images, digit.labels)
    assert all(torch.equal(sent[f"_orig_mod.{name}"], part) for name, part in plain.items())
    seen = gl.observe(compiled, FEDSGD, sent, digit, knows={"labels"})
    assert math.isfinite(gl.attack("dlg", seen, iterations=2).loss)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_is_refused(digit):
    with pytest.raises(ValueError, match="torch.jit script"):
        FEDSGD.transmit(torch.jit.script(built(Net)), digit.images, digit.labels)
