"""Breaking points: the smallest strength of each defence at which an attack is no better than its control.

For every defence, attack and attacker: strengths on a stated grid, from weak to strong, are tried by bisection. An
attack is broken where the median over seeds and images of PSNR less control is at most 1 dB; the control of an image is
the higher of its mean colour and what the same attack makes of a permuted, undefended payload (median over seeds).
Bisection finds a strength that breaks the attack while the next weaker one does not; it takes for granted that stronger
is not weaker. Then the accuracy left: a training run in which every client defends itself like that, step size tuned by
tens and threes for the defender's benefit (on the same test digits, which flatters the defence a little).

Gradient attacks: one 8x8 digit (FGLA: four of different classes), a small smooth convnet. ZeroGLA: the transcript of a
client with five digits. Naive attackers take the payload at its word. Adaptive ones simulate the defence, and choose
among a few settings by practising on a public digit that they defend themselves.

    python benchmarks/breaking_points.py [--only topk ...] [--attacks dlg ...]
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from dataclasses import replace

import torch
from timing import RESULTS

import glutils as gl
from glutils.defenses import Defended, Defense, Masked, get
from glutils.defenses.precode import Bottleneck

SEEDS = (0, 1)
MARGIN = 1.0
NOISE = (0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0, 100.0)
KEEP = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
GRIDS = {
    "gaussian_noise": ("sigma", NOISE),
    "topk": ("keep", KEEP),
    "topk tensor": ("keep", KEEP),
    "clip": ("bound", (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)),
    "dpsgd": ("sigma", (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "bits": ("bits", (8, 6, 4, 3, 2)),
    "soteria": ("prune", (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)),
    "precode": ("deviation", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "prune_last": ("keep", (0.5, 0.2, 0.1, 0.03, 0.01, 0.0)),
    "sign": ("scaled", (True, False)),
    "batch": ("images", (2, 4, 8, 16, 32)),
    "mixup": ("alpha", (0.03, 0.1, 0.3, 1.0, 3.0, 30.0)),
    "clip_scalars": ("bound", (0.1, 0.03, 0.01, 0.003, 0.001)),
    "dp_scalars": ("sigma", (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)),
    "local_batch": ("images", (4, 3, 2, 1)),
    "directions": ("count", (8, 6, 4, 3, 2, 1)),
    "qsgd": ("levels", (64, 16, 4, 2, 1)),
    "half": ("format", ("float16", "bfloat16")),
    "randomk": ("keep", KEEP),
    "dp_update": ("sigma", (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "laplace_noise": ("sigma", NOISE),
}
"""Defence to the name of its strength, and strengths from weak to strong."""
FIXED = {
    "gaussian_noise": {"relative": True},
    "laplace_noise": {"relative": True},
    "dpsgd": {"clip": 1.0},
    "dp_update": {"clip": 1.0},
    "dp_scalars": {"clip": 0.05},
    "topk": {"scope": "global"},
    "topk tensor": {"scope": "tensor"},
}
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


def practised(attack: str, name: str, value) -> dict:
    """The setting with the best result on a public digit, which the attacker defends itself."""
    choices = SETTINGS.get(attack, [{}])
    if len(choices) == 1:
        return choices[0]
    batch, seen = view(attack, name, value, 1000, "public")
    seen = front(seen) if name == "precode" and attack != "fgla" else seen
    return max(choices, key=lambda how: statistics.mean(run(attack, seen, batch, 1000, name, value, **how)))


def known(name: str, value) -> bool:
    """Whether there is something of the defence that an attacker can simulate."""
    entry = defense(name, value)
    if entry is None or name == "precode":
        return name == "precode"
    return any(getattr(type(entry), m) is not getattr(Defense, m) for m in ("simulate", "attacker", "informed"))


@functools.cache
def gradient(attack: str, name: str, value, attacker: str) -> dict:
    """PSNR of an attack on a gradient, by image."""
    if attacker == "adaptive" and not known(name, value) and attack not in SETTINGS:
        return gradient(attack, name, value, "naive")
    how = practised(attack, name, value) if attacker == "adaptive" else {}
    psnr, colour = [], []
    for seed in SEEDS:
        batch, seen = view(attack, name, value, seed)
        if attacker == "naive":
            seen = gl.observation.naive(seen)
        elif name == "precode" and value is not None and attack != "fgla":
            seen = front(seen)
        psnr += run(attack, seen, batch, seed, name, value, **how)
        flat = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
        colour += gl.metrics.psnr(flat, batch.images).tolist()
    return {"psnr": psnr, "mean colour": colour, "setting": how}


@functools.cache
def permuted(attack: str, name: str) -> float:
    """Median PSNR from a permuted, undefended payload of as many images."""
    found = []
    for seed in SEEDS:
        batch, seen = view(attack, "mixup" if name == "mixup" else "", None, seed)
        found += run(attack, gl.tamper(seen, "permuted", seed=seed), batch, seed, "", None)
    return statistics.median(found)


@functools.cache
def held_out():
    """Public digits on which accuracy is measured."""
    return gl.data.sample("digits", count=TRAINING["test"], seed=99, split="public", device="cpu")


@functools.cache
def trained(name: str, value, lr: float, seed: int, batch: int) -> float:
    """Accuracy after federated training under the defence."""
    sizes = {"clients": TRAINING["clients"], "per_client": TRAINING["per_client"]}
    deal = gl.data.partition("digits", **sizes, seed=seed, device="cpu")
    protocol = gl.protocols.FedSGD()
    if (entry := defense(name, value)) is not None:
        protocol = Defended(protocol, entry, private=seed)
    model = network(deal[0], seed, name, value)
    try:
        transcript = gl.federation.train(
            protocol, model, deal, rounds=TRAINING["rounds"], lr=lr, local_batch=batch, seed=seed, test=held_out(),
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
            better = trained(name, value, STEPS[at], 0, batch) > trained(name, value, STEPS[best], 0, batch)
            best, worse = (at, 0) if better else (best, worse + 1)
            at += way
    return {"lr": STEPS[best], "accuracy": [trained(name, value, STEPS[best], seed, batch) for seed in SEEDS]}


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
        local_batch=value if name == "local_batch" else None, test=held_out(),
    )  # fmt: skip
    return deal[0], gl.observe(done, client=0, knows={"labels"}), float(done.accuracy[-5:].mean())


@functools.cache
def scalars(attack: str, name: str, value, attacker: str) -> dict:
    """PSNR of Gauss-Newton on a transcript, by image; signs, which it refuses, go to L-BFGS on a soft sign."""
    psnr, colour, kept = [], [], []
    soft = (name, attacker) == ("sign", "adaptive")
    for seed in SEEDS:
        batch, seen, left = transcript(name, value, seed)
        how = {"solver": "lbfgs", "iterations": 6, "restarts": 1, "tv_weight": 0.0} if soft else BUDGETS[attack]
        seen = gl.observation.naive(seen) if attacker == "naive" else seen
        result = gl.attack(attack, seen, seed=seed, progress=False, **how)
        score = gl.score(result, batch)
        psnr += score.psnr.tolist()
        colour += score.controls["mean_colour"].tolist()
        kept.append(left)
    return {"psnr": psnr, "mean colour": colour, "accuracy": kept}


@functools.cache
def shuffled() -> float:
    """Median PSNR from permuted scalars."""
    found = []
    for seed in SEEDS:
        batch, seen, _ = transcript("none", None, seed)
        seen = gl.tamper(seen, "permuted", seed=seed)
        result = gl.attack("zerogla", seen, seed=seed, progress=False, **BUDGETS["zerogla"])
        found += gl.score(result, batch).psnr.tolist()
    return statistics.median(found)


def point(name: str, attack: str, attacker: str) -> dict:
    """One row: where the attack breaks, and what is left there."""
    key, grid = GRIDS[name]
    if (name, attack) == ("batch", "fgla"):
        grid = tuple(count for count in grid if count < 10)  # it refuses a batch without an absent class
    measure = scalars if attack == "zerogla" else gradient
    control = shuffled() if attack == "zerogla" else permuted(attack, name)
    tried = {}

    def broken(index: int) -> bool:
        found = measure(attack, name, grid[index], attacker)
        tried[str(grid[index])] = statistics.median(found["psnr"])
        over = [p - max(c, control) for p, c in zip(found["psnr"], found["mean colour"], strict=True)]
        return statistics.median(over) <= MARGIN

    free = measure(attack, name if name == "mixup" and attack != "zerogla" else "none", None, "naive")
    row = {"strength": key, "grid": list(grid), "permuted": control, "undefended": statistics.median(free["psnr"])}
    low, high = -1, len(grid) - 1
    if broken(high):
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if broken(middle) else (middle, high)
    else:
        high = None
    row |= {"breaks at": None if high is None else grid[high], "median psnr": tried}
    row["mean colour"] = statistics.median(measure(attack, name, grid[-1], attacker)["mean colour"])
    value = grid[-1] if high is None else grid[high]
    batch = len(client(attack, name, value, 0)) if attack != "zerogla" else None
    left = measure(attack, name, value, attacker) if attack == "zerogla" else accuracy(name, value, batch)
    clean = free if attack == "zerogla" else accuracy("none", None, batch)
    row |= {"at": value, "accuracy": left["accuracy"], "lr": left.get("lr", TRANSCRIPT["lr"])}
    row["undefended accuracy"] = clean["accuracy"]
    if name in ("dpsgd", "dp_scalars") and high is not None:
        many = TRANSCRIPT["rounds"] * TRANSCRIPT["directions"] if attack == "zerogla" else TRAINING["rounds"]
        rate = 1.0 if attack == "zerogla" else batch / TRAINING["per_client"]
        row["epsilon"] = gl.defenses.epsilon(value, rate, many, 1e-2)
    return row


GRADIENT = [n for n in GRIDS if n not in ("clip_scalars", "dp_scalars", "local_batch", "directions")]
SCALARS = [n for n in GRIDS if n != "batch"]


def main() -> None:
    """Run what is missing, and write the record after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--attacks", nargs="*", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--name", default="breaking_points_cpu")
    parser.add_argument("--again", action="store_true", help="replace the rows that are asked for")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"{options.name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    asked = [
        {"defence": name, "attack": attack, "attacker": attacker}
        for name in options.only for attack in options.attacks for attacker in ("naive", "adaptive")
        if name in (SCALARS if attack == "zerogla" else GRADIENT)
    ]  # fmt: skip
    if options.again:
        rows = [row for row in rows if {k: row[k] for k in asked[0]} not in asked]
    done = [{k: row[k] for k in ("defence", "attack", "attacker")} for row in rows]
    for case in asked:
        if case in done:
            continue
        begin = time.process_time()
        try:
            row = point(case["defence"], case["attack"], case["attacker"])
        except (ValueError, TypeError) as refusal:  # the attack, or the wrapper, says that it cannot
            row = {"reason": str(refusal)}
        rows.append(case | row | {"seconds": time.process_time() - begin})
        print(*case.values(), {k: row.get(k) for k in ("breaks at", "median psnr", "accuracy", "reason")}, flush=True)
        parameters = {"training": TRAINING, "transcript": TRANSCRIPT, "margin": MARGIN, "budgets": BUDGETS}
        gl.runs.record(options.name, parameters=parameters, rows=rows, seeds=SEEDS,
                       seconds=sum(r["seconds"] for r in rows), folder=RESULTS)  # fmt: skip


if __name__ == "__main__":
    main()
