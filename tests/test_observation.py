"""What the adversary holds: what was sent and told, checked on arrival, and nothing else."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import glutils as gl
from glutils import models, priors, protocols
from glutils.protocols import FedAvg, FedSGD, ZerothOrder

SCALARS = ZerothOrder(directions=6, dtype="float64", seed=2)


def observed(batch, protocol=SCALARS, name="mlp", mode=False, **options):
    model = models.build(name, batch, **({"width": 2} if name == "resnet8" else {})).train(mode)
    return gl.observe(model, protocol, protocol.transmit(model, batch.images, batch.labels), batch, **options)


def tensors(value):
    """Every tensor that can be reached from a value through dataclasses, containers and modules."""
    if isinstance(value, torch.Tensor):
        yield value
        if value.grad is not None:
            yield value.grad
    elif isinstance(value, nn.Module):
        for module in value.modules():
            for entry in vars(module).values():
                yield from tensors(entry) if not isinstance(entry, nn.Module) else ()
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple, set, frozenset)):
        for entry in value:
            yield from tensors(entry)


# --- what is in it ---


@pytest.mark.parametrize("name", ["mlp", "resnet8"])
@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(batch_size=2), SCALARS], ids=lambda p: type(p).__name__)
def test_the_observation_does_not_hold_the_private_images(digits, protocol, name):
    knows = {"labels"} | ({"batch_stats"} if name == "resnet8" else set())
    seen = observed(digits, protocol, name, knows=knows)
    found = list(tensors(seen))
    assert len(found) > 3
    addresses = {digits.images.data_ptr(), digits.labels.data_ptr()}
    pixels = digits.images.sum()
    for tensor in found:
        assert tensor.untyped_storage().data_ptr() not in addresses
        assert tensor.numel() != digits.images.numel() or abs(float(tensor.detach().sum() - pixels)) > 1e-3
        assert not any(torch.equal(tensor.flatten(), image.flatten()) for image in digits.images)
        assert tensor.grad_fn is None  # a graph would lead back to them


def test_labels_are_passed_on_only_if_told(digits):
    assert observed(digits).labels is None
    told = observed(digits, knows=["labels"])
    assert torch.equal(told.labels, digits.labels) and told.knows == {"labels"}


def test_public_facts_are_there(digits):
    seen = observed(digits)
    assert seen.shape == (5, 1, 8, 8) and seen.classes == 10
    assert (seen.kind, seen.protocol, seen.batchnorm) == ("scalars", SCALARS, None)
    assert seen.payload.shape == (6,) and len(seen.rounds) == 1 and not seen.beyond_protocol
    assert dataclasses.replace(seen, knows=frozenset({"public"})).knows == {"public"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.labels = digits.labels


def test_the_model_is_the_attackers_own_copy(digit):
    model = models.build("mlp", digit)
    (model(digit.images).sum()).backward()  # a client that trains has gradients lying about
    payload = SCALARS.transmit(model, digit.images, digit.labels)
    seen = gl.observe(model, SCALARS, payload, digit)
    weights = models.flatten(models.parameters(seen.model)).clone()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    payload.scalars.zero_()
    assert torch.equal(models.flatten(models.parameters(seen.model)), weights)
    assert float(seen.payload.abs().sum()) > 0
    assert all(p.grad is None for p in seen.model.parameters())


def test_frozen_layers_stay_frozen_for_the_attacker(digit):
    model = models.build("mlp", digit, hidden=(4,))
    model[1].requires_grad_(False)
    for protocol in (SCALARS, FedSGD()):
        seen = gl.observe(model, protocol, protocol.transmit(model, digit.images, digit.labels), digit)
        assert list(models.parameters(seen.model)) == ["3.weight", "3.bias"]
        twin = protocol.simulate(seen.model, digit.images, digit.labels)
        assert twin.numel() == (50 if protocol == FedSGD() else 6)


def test_named_tensors_are_put_in_the_models_order(digit):
    model = models.build("mlp", digit)
    payload = FedSGD().transmit(model, digit.images, digit.labels)
    seen = gl.observe(model, FedSGD(), dict(reversed(payload.items())), digit)
    assert list(seen.payload) == list(payload)
    assert all(torch.equal(seen.payload[name], tensor) for name, tensor in payload.items())


def test_statistics_are_exact_and_marked_as_beyond_the_protocol(digits):
    seen = observed(digits, name="resnet8", mode=True, knows={"batch_stats"})
    assert seen.beyond_protocol == {"batch_stats"} and seen.batchnorm == "train"
    norms = [n for n, m in seen.model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert list(seen.statistics) == norms
    first = seen.model[0](digits.images).detach()
    torch.testing.assert_close(seen.statistics["1"][0], first.mean((0, 2, 3)))
    torch.testing.assert_close(seen.statistics["1"][1], first.transpose(0, 1).flatten(1).var(1))
    distance = priors.batchnorm_distance(priors.batchnorm_statistics(seen.model, digits.images), seen.statistics)
    assert float(distance.detach()) < 1e-10
    assert observed(digits, name="resnet8").statistics is None


def test_public_data_are_passed_on_if_and_only_if_named(digits):
    public = gl.data.public(digits, count=3)
    assert observed(digits, knows={"public"}, public=public).public is public
    for options in ({"knows": {"public"}}, {"public": public}):
        with pytest.raises(ValueError, match="public must be given if and only if knows names 'public'"):
            observed(digits, **options)


def test_moving_keeps_everything(digits):
    public = gl.data.public(digits, count=3)
    knows = {"labels", "batch_stats", "public"}
    for protocol in (FedSGD(), SCALARS):
        seen = observed(digits, protocol, "resnet8", knows=knows, public=public)
        moved = seen.to("cpu")
        assert moved is not seen and moved.model is not seen.model
        assert moved.public.images.device.type == "cpu" and moved.shape == seen.shape
        for a, b in zip(tensors(seen), tensors(moved), strict=True):
            assert torch.equal(a, b)


# --- no client's secret is in it ---

PRIVATE = iter(range(314_159_265, 315_000_000, 1009))  # seeds that do not come about otherwise
CLIENTS = {
    "FedSGD": FedSGD(),
    "FedAvg": FedAvg(batch_size=2, shuffle=next(PRIVATE)),
    "ZerothOrder": ZerothOrder(directions=6, dtype="float64", seed=2, memory=0),
    "SeedPool": protocols.SeedPool(directions=6, dtype="float64", seed=2, memory=0, order=next(PRIVATE)),
    "HiddenDirections": protocols.HiddenDirections(directions=6, dtype="float64", memory=0, seed=next(PRIVATE)),
}
STRENGTHS = {
    "gaussian_noise": {"sigma": 0.1}, "laplace_noise": {"sigma": 0.1}, "clip": {"bound": 0.5}, "qsgd": {"levels": 4},
    "clip_scalars": {"bound": 0.01}, "topk": {"keep": 0.1, "feedback": True}, "randomk": {"keep": 0.1},
    "bits": {"bits": 4}, "dpsgd": {"clip": 0.5, "sigma": 1.0}, "dp_update": {"clip": 0.5, "sigma": 1.0},
    "dp_scalars": {"clip": 0.05, "sigma": 1.0}, "soteria": {"prune": 0.5}, "resample": {"images": 2},
}  # fmt: skip


def defended():
    """Every defence around every protocol that it protects, alone and within a second one."""
    for name in gl.defenses.names():
        defense = gl.defenses.get(name, **STRENGTHS.get(name, {}))
        for inner, protocol in CLIENTS.items():
            if protocol.kind in defense.kinds and not (defense.needs_data and inner not in ("FedSGD", "ZerothOrder")):
                yield f"{name}-{inner}", gl.defenses.Defended(protocol, defense, private=next(PRIVATE))
                if not defense.keeps_memory:
                    wrapped = gl.defenses.Defended(protocol, defense, private=next(PRIVATE))
                    half = gl.defenses.get("half")
                    yield f"half-{name}-{inner}", gl.defenses.Defended(wrapped, half, private=next(PRIVATE))


EVERY = CLIENTS | dict(defended())


def reachable(value, found=None):
    """Everything that can be reached from a value: fields, attributes, entries, parameters, states of generators."""
    found = {} if found is None else found
    if id(value) in found:
        return list(found.values())
    found[id(value)] = value
    inner = [value.initial_seed()] if isinstance(value, torch.Generator) else []
    inner += list(value.values()) + list(value.keys()) if isinstance(value, dict) else []
    inner += list(value) if isinstance(value, (list, tuple, set, frozenset)) else []
    if isinstance(value, torch.Tensor):
        inner += [value.grad, value.grad_fn]
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        inner += list(vars(value).values())
    for entry in inner:
        reachable(entry, found)
    return list(found.values())


def secrets_of(client):
    """Seeds of a client's own protocol, and the tensors that it remembers."""
    everything = reachable(client)
    seeds = {v for v in everything if type(v) is int and v > 10**6}
    return seeds, [v for v in everything if isinstance(v, torch.Tensor)]


def holds(seen, seeds, tensors):
    """Which of these secrets can be reached from an observation."""
    everything = reachable(seen)
    numbers = {v for v in everything if type(v) is int}
    held = [t.detach().flatten().double() for t in everything if isinstance(t, torch.Tensor)]
    same = lambda t: any(t.numel() == h.numel() and torch.allclose(t.flatten().double(), h) for h in held)  # noqa: E731
    return sorted(seeds & numbers), [tuple(t.shape) for t in tensors if t.numel() > 1 and t.any() and same(t.detach())]


def test_every_protocol_and_every_defence_is_asked():
    kinds = [getattr(protocols, name) for name in protocols.__all__]
    kinds = {k.__name__ for k in kinds if isinstance(k, type) and issubclass(k, protocols.Protocol)}
    assert kinds - {"Protocol", "Along"} == set(CLIENTS)  # the latter is the adversary's own
    assert {name.split("-")[0] for name in EVERY if "-" in name} == set(gl.defenses.names())


@pytest.mark.parametrize("name", EVERY)
def test_no_secret_of_the_client_is_in_an_observation(digits, name):
    protocol = EVERY[name]
    model = models.build("mlp", digits, hidden=(8,))
    model = gl.defenses.precode(model, 4) if "precode" in name else model
    images, labels = digits.images, digits.labels
    client = protocol.for_round(3).for_client(1)
    if client.keeps_memory:
        client = client.with_memory(client.transmit_with_memory(model, images, labels)[1])
    payload, memory = client.transmit_with_memory(model, images, labels)
    seeds, remembered = secrets_of(client)
    later = [t for t in reachable(memory) if isinstance(t, torch.Tensor)]
    assert bool(seeds) is (protocol is not CLIENTS["FedSGD"] and protocol is not CLIENTS["ZerothOrder"])
    assert bool(remembered) is bool(later) is ("topk" in name and "half" not in name)
    private = [*images, images, *remembered, *later]
    assert holds(client, seeds, remembered) == (sorted(seeds), [tuple(t.shape) for t in remembered])  # they are found
    assert holds(gl.observe(model, client, payload, digits), seeds, private) == ([], [])


@pytest.mark.parametrize("name", [name for name in EVERY if "half-" not in name and "precode" not in name])
def test_no_secret_of_a_client_is_in_the_observation_of_a_run(digits, name):
    clients = [digits[[0, 1, 2]], digits[[3, 4]]]
    model = models.build("mlp", digits, hidden=(8,))
    own = {"lr": 0.1} if EVERY[name].kind != "delta" else {}
    run = gl.federation.train(EVERY[name], model, clients, rounds=2, test=digits, progress=False, **own)
    told = [EVERY[name].for_round(turn).for_client(k) for turn in range(2) for k in range(2)]
    seeds = secrets_of(EVERY[name])[0].union(*(secrets_of(client)[0] for client in told))
    private = [t for client in clients for t in (client.images, *client.images)]
    for client in range(2):
        assert holds(gl.observe(run, client=client), seeds, private) == ([], [])


# --- refused on arrival ---


def test_bad_scalars_are_refused(digit):
    model = models.build("mlp", digit)
    payload = SCALARS.transmit(model, digit.images, digit.labels)
    spoilt = payload.clone()
    spoilt.scalars[2:4] = torch.tensor([float("nan"), float("inf")])
    for wrong, error, text in [
        (payload[:5], ValueError, r"payload must hold 6 scalars, got shape \(5,\)"),
        (payload[None], ValueError, r"payload must hold 6 scalars, got shape \(1, 6\)"),
        (spoilt, ValueError, "payload must be finite, got 2 NaN or infinite entries of 6"),
        ({"0.weight": payload}, TypeError, "payload must be a Tensor, got dict"),
    ]:
        with pytest.raises(error, match=text):
            gl.observe(model, SCALARS, wrong, digit)


@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg()], ids=["gradient", "delta"])
def test_bad_named_tensors_are_refused(digit, protocol):
    model = models.build("mlp", digit, hidden=())
    good = protocol.transmit(model, digit.images, digit.labels)
    bias = good["1.bias"].clone()
    bias[0] = float("nan")
    for wrong, error, text in [
        ({"1.weight": good["1.weight"]}, ValueError, r"must name the model's parameters, differs in \['1.bias'\]"),
        ({**good, "2.bias": bias}, ValueError, r"differs in \['2.bias'\]"),
        ({**good, "1.weight": good["1.weight"].T}, ValueError, r"\['1.weight'\] must have shape \(10, 64\), got \(64"),
        ({**good, "1.bias": bias}, ValueError, r"payload\['1.bias'\] must be finite, got 1 NaN"),
        (good["1.weight"], TypeError, "payload must be a Mapping, got Tensor"),
    ]:
        with pytest.raises(error, match=text):
            gl.observe(model, protocol, wrong, digit)


def test_a_payload_of_another_model_is_refused(digit):
    payload = FedSGD().transmit(models.build("mlp", digit, hidden=(4,)), digit.images, digit.labels)
    with pytest.raises(ValueError, match="must have shape"):
        gl.observe(models.build("mlp", digit, hidden=(5,)), FedSGD(), payload, digit)


def test_unknown_knowledge_is_refused(digit):
    with pytest.raises(ValueError, match="knows must be one of 'labels', 'batch_stats', 'public'; got 'images'"):
        observed(digit, knows={"images"})
    with pytest.raises(TypeError, match="knows must be a collection of names, got the string 'labels'"):
        observed(digit, knows="labels")
    with pytest.raises(ValueError, match="the model has no batch norm layers"):
        observed(digit, knows={"batch_stats"})


def test_a_batch_norm_mode_that_is_not_the_clients_is_refused(digits):
    for protocol in (FedSGD(), SCALARS):
        model = models.build("resnet8", digits, width=2).train()
        payload = protocol.transmit(model, digits.images, digits.labels)
        with pytest.raises(ValueError, match="in 'eval' mode, but the payload was computed in 'train' mode"):
            gl.observe(model.eval(), protocol, payload, digits)
        model[1].train()
        with pytest.raises(ValueError, match="different modes"):
            gl.observe(model, protocol, payload, digits)


HANDLED = {
    "cloned": lambda p: p.clone(),
    "cast": lambda p: p.to(torch.float64),
    "added up": lambda p: (2 * p + p) / 3,
    "averaged": lambda p: sum([p, p]) / 2,
    "turned round": lambda p: -1 * p,
    "mapped": lambda p: p.map(lambda t: t + 0.01),
    "put together anew": lambda p: p.with_flat(p.flat),
    "replaced": lambda p: dataclasses.replace(p, content=p.clone().content),
}


@pytest.mark.parametrize("how", HANDLED)
@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(batch_size=5), SCALARS], ids=lambda p: type(p).__name__)
def test_the_mode_is_not_lost_on_the_way(digits, protocol, how):
    model = models.build("resnet8", digits, width=2).eval()
    payload = HANDLED[how](protocol.transmit(model, digits.images, digits.labels))
    assert not gl.observe(model, protocol, payload, digits).notes
    with pytest.raises(ValueError, match="in 'train' mode, but the payload was computed in 'eval' mode"):
        gl.observe(model.train(), protocol, payload, digits)


@pytest.mark.parametrize("name", ["gaussian_noise", "topk", "sign", "soteria", "mixup"])
def test_the_mode_is_not_lost_behind_a_defence(digits, name):
    strength = {"gaussian_noise": {"sigma": 0.1}, "topk": {"keep": 0.1}, "soteria": {"prune": 0.5}}.get(name, {})
    protocol = gl.defenses.Defended(FedSGD(), gl.defenses.get(name, **strength))
    model = models.build("resnet8", digits, width=2).train()
    payload = protocol.transmit(model, digits.images, digits.labels)
    assert payload.mode == protocol.simulate(model, digits.images, digits.labels).mode == "train"
    with pytest.raises(ValueError, match="in 'eval' mode, but the payload was computed in 'train' mode"):
        gl.observe(model.eval(), protocol, payload, digits)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_message_that_does_not_say_its_mode_is_noted(digits, mode):
    """And the note reaches the result; without layers that keep statistics there is nothing to note."""
    text = f"the message does not say in which mode batch norm ran: it is taken to be the model's, '{mode}'"
    for protocol, attack in ((FedSGD(), "ig"), (SCALARS, "zerogla")):
        how = {"iterations": 1, "restarts": 1, "progress": False} | ({"solver": "adam"} if attack == "zerogla" else {})
        for name, notes in (("resnet8", (text,)), ("mlp", ())):
            options = {"width": 2} if name == "resnet8" else {}
            model = models.build(name, digits, **options).train(mode == "train")
            payload = protocol.transmit(model, digits.images, digits.labels)
            bare = payload.scalars if payload.kind == "scalars" else dict(payload)
            seen = gl.observe(model, protocol, bare, digits, knows={"labels"})
            assert seen.notes == notes and seen.to("cpu").notes == notes and gl.tamper(seen, "zero").notes == notes
            result = gl.attack(attack, seen, **how)
            assert [note for note in result.notes if "mode" in note] == list(notes)
            said = gl.observe(model, protocol, payload, digits, knows={"labels"})
            assert not said.notes and said.payload.mode == payload.mode
            assert not any("mode" in note for note in gl.attack(attack, said, **how).notes)


def test_a_payload_of_another_kind_is_refused(digit):
    model = models.build("mlp", digit)
    sent = {p: p.transmit(model, digit.images, digit.labels) for p in (FedSGD(), FedAvg(), SCALARS)}
    for one in sent:
        for other in sent:
            if one is not other:
                text = f"payload must be of kind '{one.kind}', which the protocol sends, got kind '{other.kind}'"
                with pytest.raises(ValueError, match=text):
                    gl.observe(model, one, sent[other], digit)


def test_a_batch_that_does_not_fit_the_model_is_refused(digit, photo):
    model = models.build("mlp", digit)
    payload = SCALARS.transmit(model, digit.images, digit.labels)
    with pytest.raises(ValueError, match=r"images must have shape \(B, 1, 8, 8\)"):
        gl.observe(model, SCALARS, payload, photo)
    with pytest.raises(TypeError, match="batch"):
        gl.observe(model, SCALARS, payload, digit.images)
    with pytest.raises(TypeError, match="protocol"):
        gl.observe(model, "ZerothOrder", payload, digit)


# --- misled on purpose ---


def test_a_wrong_seed_changes_the_directions_only(digit):
    seen = observed(digit)
    wrong = gl.tamper(seen, "wrong_seed")
    assert torch.equal(wrong.payload, seen.payload) and wrong.protocol.seed != seen.protocol.seed
    a, b = (s.protocol.draw(s.model).rows() for s in (seen, wrong))
    assert float((a @ b.T).abs().max()) < 0.2  # of length one, in 4,810 dimensions
    assert dataclasses.replace(wrong.protocol, seed=2) == seen.protocol
    with pytest.raises(ValueError, match="'wrong_seed' needs a protocol with directions"):
        gl.tamper(observed(digit, FedSGD()), "wrong_seed")


def test_permuted_payloads_hold_the_same_numbers_elsewhere(digit):
    for protocol in (SCALARS, FedSGD()):
        seen = observed(digit, protocol)
        kept = copy.deepcopy(seen.payload)
        wrong = gl.tamper(seen, "permuted", seed=1)
        for before, after in zip(tensors(seen.payload), tensors(wrong.payload), strict=True):
            assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
            assert before.shape == after.shape and not torch.equal(before, after)
        for a, b in zip(tensors(kept), tensors(seen.payload), strict=True):
            assert torch.equal(a, b)  # the true observation is not touched
        again, other = gl.tamper(seen, "permuted", seed=1), gl.tamper(seen, "permuted", seed=2)
        first = [next(iter(tensors(s.payload))) for s in (wrong, again, other)]
        assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_a_wrong_gradient_has_the_length_of_the_true_one(digit):
    for protocol in (SCALARS, FedSGD()):
        seen = observed(digit, protocol)
        wrong = gl.tamper(seen, "wrong_gradient")
        for before, after in zip(tensors(seen.payload), tensors(wrong.payload), strict=True):
            assert float(after.norm()) == pytest.approx(float(before.norm()), rel=1e-5)
            assert before.dtype == after.dtype and not torch.allclose(before, after)


def test_messages_of_one_number_are_spoiled_together_and_a_single_one_not_at_all(digit):
    """Each by itself would stay the truth, and a control that is the truth controls nothing."""
    one = dataclasses.replace(SCALARS, directions=1)
    model = gl.models.build("mlp", digit, seed=0)
    log = gl.federation.train(one, model, [digit], rounds=6, lr=0.1, test=digit, progress=False)
    seen = gl.observe(log, client=0)

    def numbers(view):
        return torch.cat([r.payload.flat for r in view.rounds])

    for how in ("permuted", "wrong_gradient"):
        wrong = gl.tamper(seen, how, seed=3)
        assert not torch.equal(numbers(wrong).abs(), numbers(seen).abs())
        assert float(numbers(wrong).norm()) == pytest.approx(float(numbers(seen).norm()), rel=1e-5)
        with pytest.raises(ValueError, match=f"how='{how}' would leave a message of one number"):
            gl.tamper(dataclasses.replace(seen, rounds=seen.rounds[:1]), how)
    assert torch.equal(numbers(gl.tamper(seen, "permuted")).sort().values, numbers(seen).sort().values)


def test_two_numbers_are_never_permuted_into_their_old_order(digit):
    seen = observed(digit, dataclasses.replace(SCALARS, directions=2))
    before = seen.payload.scalars
    assert all(torch.equal(gl.tamper(seen, "permuted", seed=s).payload.scalars, before.flip(0)) for s in range(8))


def test_a_zero_payload_is_zero(digit):
    assert all(float(t.abs().max()) == 0 for t in tensors(gl.tamper(observed(digit, FedSGD()), "zero").payload))
    with pytest.raises(ValueError, match="how must be one of 'wrong_seed', 'permuted', .*got 'nonsense'"):
        gl.tamper(observed(digit), "nonsense")
