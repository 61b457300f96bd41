"""What an attack says of its evaluations is what its network was asked; a closed form has none; else: not counted."""

import dataclasses

import pytest

import glutils as gl
from glutils.attacks.zerogla.equations import ScalarEquations
from glutils.protocols import FedAvg, FedSGD, ZerothOrder
from glutils.solvers import Tally

GRADIENT = FedSGD()
DELTA = FedAvg(epochs=2, batch_size=1, lr=0.05)  # two digits: four local steps
SCALARS = ZerothOrder(directions=40, mu=1e-4, dtype="float64", seed=7)

# attack, options, protocol, images, network's passes for one evaluation
SEARCHES = {
    "dlg": ("dlg", {"restarts": 1}, GRADIENT, 1, 1),
    "idlg": ("idlg", {"restarts": 1}, GRADIENT, 1, 1),
    "dlg_adam": ("dlg_adam", {}, GRADIENT, 1, 1),
    "dlg_cosine": ("dlg_cosine", {"restarts": 2}, GRADIENT, 1, 1),
    "ig": ("ig", {"restarts": 2}, GRADIENT, 2, 1),
    "ig, local steps": ("ig", {}, DELTA, 2, 4),
    "stg": ("stg", {"kinks": 0}, GRADIENT, 2, 1),
    "stg, copies": ("stg", {"kinks": 0, "group": 2}, GRADIENT, 1, 1),
    "dlf": ("dlf", {}, DELTA, 2, 4),
    "fedleak, local steps": ("fedleak", {"flatness": 0}, DELTA, 2, 4),
    "rog": ("rog", {"components": 4}, GRADIENT, 1, 1),
    "sme": ("sme", {}, DELTA, 2, 1),
    "grnn": ("grnn", {}, GRADIENT, 1, 1),
    "gias": ("gias", {"prior": "pca", "components": 4, "restarts": 1}, GRADIENT, 1, 1),
    "igims": ("igims", {"prior": "pca", "components": 4, "latent_solver": "adam"}, GRADIENT, 1, 1),
    "zerogla, adam": ("zerogla", {"solver": "adam"}, SCALARS, 2, 1),
    "zerogla, L-BFGS": ("zerogla", {"solver": "lbfgs"}, SCALARS, 1, 1),
    "zerogla, L-BFGS, restarts": ("zerogla", {"solver": "lbfgs", "restarts": 2}, SCALARS, 1, 1),
}
CLOSED = {"april": 0, "fc_inversion": 0, "rtf": 0, "fgla": 0, "rgap": 1}
ELSEWHERE = ("cpa", "cpa_fi", "dmgan")
"""They search for an unmixing, or play inside the rounds."""
POPULATIONS = ("ggl",)
THEIR_OWN = (
    "dager", "fishing", "gifd", "inverter", "lamp", "loki", "spear", "tableak", "tag", "zerogla_label_word",
    "zerogla_text",
)  # fmt: skip
"""Attacks on texts, on batches, and in stages; their own tests look at them."""


def held(protocol, count, network="mlp", public=False, **options):
    batch = gl.data.sample("digits", count=count, seed=3, distinct=count > 1, device="cpu")
    model = gl.models.build(network, batch, seed=0, **options)
    payload = protocol.transmit(model, batch.images, batch.labels)
    told = {"public": gl.data.public(batch, count=24, seed=0)} if public else {}
    return gl.observe(model, protocol, payload, batch, knows={"labels", *told}, **told)


def asked(name, seen, calls, **options):
    """A result, and how often the network was asked on the way."""
    calls.clear()
    return gl.attack(name, seen, seed=0, progress=False, **options), len(calls)


@pytest.mark.parametrize("case", SEARCHES)
def test_evaluations_are_what_a_hook_on_the_network_counts(case):
    """The difference of a long and a short run: whatever an attack asks before it searches cancels."""
    name, options, protocol, count, passes = SEARCHES[case]
    seen, calls = held(protocol, count, public="prior" in options or name == "rog"), []
    gl.models.last_linear(seen.model, seen.shape)  # found by a forward pass, and remembered
    seen.model.register_forward_hook(lambda *_: calls.append(1))
    (short, few), (long, many) = (asked(name, seen, calls, iterations=n, **options) for n in (3, 6))
    assert many > few and passes * (long.evaluations - short.evaluations) == many - few
    assert passes * short.evaluations <= few and long.evaluations == long.pullbacks
    restarts = options.get("restarts", 1)
    if name not in ("dlg", "idlg") and options.get("solver") != "lbfgs":
        copies = options.get("group", 1)
        assert long.evaluations == 7 * restarts * copies + (copies if copies > 1 else 0)  # and each copy by itself


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_form_evaluates_nothing_but_what_it_checks(name):
    options, network, count = {}, {"network": "mlp", "activation": "relu"}, 1
    if name == "rgap":
        network = {"network": "convnet", "activation": "leaky_relu", "hidden": None, "channels": (4, 4)}
    if name == "fgla":
        network = {"network": "convnet", "channels": (4, 4), "hidden": None}
    if name == "april":
        network = {"network": "vit"}
    seen = held(GRADIENT, count, public=True, **network)
    if name == "rtf":
        model = gl.imprint.imprint(seen.model, seen.public, seed=0)
        batch = gl.data.sample("digits", count=1, seed=3, device="cpu")
        payload = GRADIENT.transmit(model, batch.images, batch.labels)
        seen = gl.observe(model, GRADIENT, payload, batch, knows={"labels"})
    if name == "fgla":
        options["decoder"] = gl.decoder.train(seen.model, seen.public, seed=0, epochs=1, progress=False).decoder
    result = gl.attack(name, seen, seed=0, **options)
    assert (result.evaluations, result.pullbacks) == (CLOSED[name], 0)


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if name != "dmgan"])  # dmgan's own tests look at it
def test_what_is_no_evaluation_is_not_counted(name):
    seen = held(GRADIENT, 2, **({"activation": "relu"} if name == "cpa" else {"network": "convnet"}))
    result = gl.attack(name, seen, seed=0, iterations=3, progress=False)
    assert result.evaluations is None and result.pullbacks is None


def test_each_candidate_of_a_population_is_an_evaluation(monkeypatch):
    seen, drawn = held(GRADIENT, 1, public=True), []
    add = Tally.add

    def noted(self, evaluations=1, pullbacks=1):
        drawn.append(evaluations)
        add(self, evaluations, pullbacks)

    monkeypatch.setattr(Tally, "add", noted)
    result = gl.attack("ggl", seen, prior="pca", components=4, iterations=30, restarts=2, progress=False)
    assert result.evaluations == sum(drawn) == result.diagnostics["evaluations"] <= 60
    assert result.evaluations == 2 * (3 * 8 + 1) and result.pullbacks == 0  # three generations and the mean


def test_gauss_newton_counts_every_pullback(monkeypatch):
    """More scalars than are kept whole: every look at the network is one evaluation, a Jacobian a pullback a scalar."""
    seen, calls, scalars = held(dataclasses.replace(SCALARS, directions=600), 1), [], 600
    seen.model.register_forward_hook(lambda *_: calls.append(1))
    differences, aside = ScalarEquations._found, []  # what a calibration asks of the network, and a glance before it

    def counted_apart(self, u, most=None):
        before = len(calls)
        found = differences(self, u, most)
        aside.append(len(calls) - before)
        return found

    gram, grams = ScalarEquations.gram, []
    monkeypatch.setattr(ScalarEquations, "gram", lambda self, u, **how: grams.append(u) or gram(self, u, **how))
    monkeypatch.setattr(ScalarEquations, "_found", counted_apart)
    for iterations in (2, 8):
        aside.clear()
        grams.clear()
        result, passes = asked("zerogla", seen, calls, iterations=iterations)
        looks = 1  # at a blank card: which switches has the network?
        assert aside and result.evaluations - len(aside) == passes - sum(aside) - looks
    steps = result.history.steps[-1]
    assert result.evaluations > steps >= len(grams) >= 1
    assert result.pullbacks // scalars == len(grams) and result.pullbacks % scalars < result.evaluations


def test_every_stage_of_gauss_newton_is_counted():
    """Coarse steps, soft labels, bounds and the check of a transcript all add to the count."""
    plain = gl.attack("zerogla", held(dataclasses.replace(SCALARS, directions=90), 1), iterations=4, progress=False)
    assert plain.evaluations > plain.history.steps[-1] and plain.pullbacks > plain.evaluations
    boxed = gl.attack(
        "zerogla", held(dataclasses.replace(SCALARS, directions=90), 1), iterations=4, box=True, progress=False
    )
    assert boxed.evaluations > plain.evaluations
    clients = gl.data.partition("digits", clients=2, per_client=1, seed=1)
    protocol = dataclasses.replace(SCALARS, directions=8)
    run = gl.federation.train(protocol, gl.models.build("mlp", clients[0], seed=0), clients, rounds=12, lr=0.01)
    seen = gl.observe(run, client=0, knows={"labels"})
    how = {"restarts": 1, "progress": False}
    trusting, checking = (gl.attack("zerogla", seen, check=check, **how) for check in (False, True))
    assert checking.evaluations == trusting.evaluations + 2  # the client's arithmetic once more, and the misfit


def test_every_attack_says_something():
    searched = {name for name, *_ in SEARCHES.values()}
    assert searched | set(CLOSED) | set(ELSEWHERE) | {*POPULATIONS, *THEIR_OWN} == {*gl.attacks.names(), "dmgan"}
