"""Digits whose client defends itself: what is sent, attacked and learned at one strength of one defence."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

import glutils as gl
from glutils.defenses import Defended, Defense, Masked, get
from glutils.defenses.precode import Bottleneck
from glutils.experiments.strengths import STRENGTHS

SEEDS = (0, 1)


def strengths_of(name: str) -> tuple[str, tuple]:
    """A defence's strength, and its values from weak to strong."""
    return STRENGTHS[name].option, STRENGTHS[name].grid


GRIDS = {
    "gaussian_noise": strengths_of("gaussian_noise"),
    "topk": strengths_of("topk"),
    "topk tensor": strengths_of("topk"),
    "clip": strengths_of("clip"),
    "dpsgd": strengths_of("dpsgd"),
    "bits": strengths_of("bits"),
    "soteria": strengths_of("soteria"),
    "precode": ("deviation", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "prune_last": strengths_of("prune_last"),
    "sign": ("scaled", (True, False)),
    "batch": ("images", (2, 4, 8, 16, 32)),
    "mixup": ("alpha", (0.03, 0.1, 0.3, 1.0, 3.0, 30.0)),
    "clip_scalars": strengths_of("clip_scalars"),
    "dp_scalars": strengths_of("dp_scalars"),
    "local_batch": ("images", (4, 3, 2, 1)),
    "directions": ("count", (8, 6, 4, 3, 2, 1)),
    "qsgd": strengths_of("qsgd"),
    "half": ("format", ("float16", "bfloat16")),
    "randomk": strengths_of("randomk"),
    "dp_update": strengths_of("dp_update"),
    "laplace_noise": strengths_of("laplace_noise"),
}
"""Defence to the name of its strength, and strengths from weak to strong."""
FIXED = {name: entry.fixed for name, entry in STRENGTHS.items()} | {"topk tensor": {"scope": "tensor"}}
BUDGETS = {
    "dlg": {"iterations": 6, "restarts": 1},
    "idlg": {"iterations": 6, "restarts": 1},
    "ig": {"iterations": 100},
    "stg": {"iterations": 150, "kinks": 0.0, "noise": 0.2, "tv_weight": 3e-5},  # as the record was measured
    "fgla": {},
    "zerogla": {"restarts": 1, "check": False},
}
SETTINGS = {
    "ig": [{"tv_weight": w} for w in (1e-3, 1e-2, 3e-2)],
    "stg": [{"tv_weight": w} for w in (3e-5, 3e-4, 3e-3)],
    "fgla": [{"offset": o, "divisor": d} for o in (True, False) for d in ("sent", "uniform")],
}
"""Among which an adaptive attacker chooses by practice."""
TRAINING = {"clients": 5, "per_client": 40, "rounds": 40, "test": 300}
TRANSCRIPT = {"clients": 5, "per_client": 5, "rounds": 100, "directions": 10, "lr": 0.1, "hidden": 32}
STEPS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Step sizes of the server, among which each defence finds its own, beginning at 0.3."""


def defense(name: str, value) -> Defense | None:
    """The wrapper, where the defence is one."""
    if name in ("batch", "local_batch", "directions") or value is None:
        return None
    if name == "precode":
        return get("precode")
    return get(name.split()[0], **FIXED.get(name, {}) | {GRIDS[name][0]: value})


def network(batch, seed: int, name: str = "", value=None):
    """The convnet; for PRECODE with a bottleneck whose deviations are about ``value``."""
    model = gl.models.build("convnet", batch, seed=seed, hidden=None, activation="tanh")
    if name != "precode" or value is None:
        return model
    model = gl.defenses.precode(model, 64, seed=seed)
    layer = next(m for m in model.modules() if isinstance(m, Bottleneck))
    with torch.no_grad():
        layer.encoder.bias[layer.decoder.in_features :] = 5 + torch.tensor(value).expm1().log()
    return model


@functools.cache
def client(attack: str, name: str, value, seed: int, split: str = "private"):
    """The attacked batch."""
    count = value if name == "batch" and value else 2 if name == "mixup" else 4 if attack == "fgla" else 1
    return gl.data.sample("digits", count=count, seed=seed, split=split, distinct=count <= 8, device="cpu")


@functools.cache
def decoder(seed: int, name: str, value):
    """FGLA's, for this network: trained on public digits."""
    public = gl.data.sample("digits", count=400, seed=seed + 10, split="public", device="cpu")
    model = network(public, seed, name, value)
    return gl.decoder.train(model, public, width=16, epochs=4, lr=5e-3, seed=seed, progress=False).decoder


def front(seen):
    """The view of an attacker who compares only what lies before PRECODE's bottleneck."""
    names = list(seen.payload)
    end = next(i for i, name in enumerate(names) if "encoder" in name)
    before = {n: torch.full_like(t, float(i < end)) for i, (n, t) in enumerate(seen.payload.items())}
    mask = Masked(replace(seen.payload, content=before))
    message = seen.rounds[0]
    protocol = replace(message.protocol, defense=(*message.protocol.defenses, mask))
    return replace(seen, rounds=(replace(message, protocol=protocol, payload=mask.simulate(message.payload)),))


def view(attack: str, name: str, value, seed: int, split: str = "private"):
    """The private batch and what the server sees of it."""
    batch = client(attack, name, value, seed, split)
    model, protocol = network(batch, seed % 1000, name, value), gl.protocols.FedSGD()
    if (entry := defense(name, value)) is not None:
        protocol = Defended(protocol, entry, private=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    knows = () if attack in ("dlg", "idlg") else ("labels",)
    return batch, gl.observe(model, protocol, payload, batch, knows=knows)


def run(attack: str, seen, batch, seed: int, name: str, value, **options) -> list[float]:
    """PSNR of every image."""
    if attack == "fgla":
        own = (name, value) if name == "precode" else ("", None)  # of the other defences none changes the network
        options["decoder"] = decoder(seed % 1000, *own)
    if attack != "fgla":
        options["progress"] = False
    return gl.score(gl.attack(attack, seen, seed=seed, **BUDGETS[attack] | options), batch).psnr.tolist()


def can_simulate(name: str, value) -> bool:
    """Whether there is something of the defence that an attacker can simulate."""
    entry = defense(name, value)
    if entry is None or name == "precode":
        return name == "precode"
    return any(getattr(type(entry), m) is not getattr(Defense, m) for m in ("simulate", "attacker", "as_seen"))


@functools.cache
def test_digits():
    """Public digits on which accuracy is measured."""
    return gl.data.sample("digits", count=TRAINING["test"], seed=99, split="public", device="cpu")


@functools.cache
def accuracy_after(name: str, value, lr: float, seed: int, batch: int) -> float:
    """Accuracy after federated training under the defence."""
    sizes = {"clients": TRAINING["clients"], "per_client": TRAINING["per_client"]}
    deal = gl.data.partition("digits", **sizes, seed=seed, device="cpu")
    protocol = gl.protocols.FedSGD()
    if (entry := defense(name, value)) is not None:
        protocol = Defended(protocol, entry, private=seed)
    model = network(deal[0], seed, name, value)
    try:
        transcript = gl.federation.train(
            protocol,
            model,
            deal,
            rounds=TRAINING["rounds"],
            lr=lr,
            local_batch=batch,
            seed=seed,
            test=test_digits(),
            progress=False,
        )
    except ValueError:  # a step so large that a payload is no longer finite
        return 0.0
    return float(transcript.accuracy[-5:].mean())


@functools.cache
def accuracy(name: str, value, batch: int) -> dict:
    """Accuracy of three runs at the step size that served the first one best, from 0.3 up and down."""
    first = best = STEPS.index(0.3)
    for way in (1, -1):
        at, worse = first + way, 0
        while 0 <= at < len(STEPS) and worse < 2:
            better = accuracy_after(name, value, STEPS[at], 0, batch) > accuracy_after(
                name, value, STEPS[best], 0, batch
            )
            best, worse = (at, 0) if better else (best, worse + 1)
            at += way
    return {"lr": STEPS[best], "accuracy": [accuracy_after(name, value, STEPS[best], seed, batch) for seed in SEEDS]}


@functools.cache
def transcript(name: str, value, seed: int):
    """A client's transcript, and the accuracy of the run."""
    t = TRANSCRIPT
    deal = gl.data.partition("digits", clients=t["clients"], per_client=t["per_client"], seed=seed, device="cpu")
    model = gl.models.build("mlp", deal[0], seed=seed, hidden=(t["hidden"],))
    count = value if name == "directions" and value else t["directions"]
    protocol = gl.protocols.ZerothOrder(directions=count, mu=1e-4, dtype="float64", seed=7 + seed)
    if (entry := defense(name, value)) is not None:
        protocol = Defended(protocol, entry, private=seed)
    done = gl.federation.train(
        protocol, model, deal, rounds=t["rounds"], lr=t["lr"], seed=seed, progress=False,
        local_batch=value if name == "local_batch" else None, test=test_digits(),
    )  # fmt: skip
    return deal[0], gl.observe(done, client=0, knows={"labels"}), float(done.accuracy[-5:].mean())
