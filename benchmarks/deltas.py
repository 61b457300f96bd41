"""What an attacker makes of a parameter difference, by the client's steps: scaled, unscaled, simulated.

Clients of four photographs (IG, labels told, ReLU network) or of one digit (DLG and iDLG, smooth network) take 1
to 40 steps of 0.1. A target is the mean gradient (``"scaled"``), the bare difference that a survey's code takes for a
gradient (``"unscaled"``), or the difference itself, simulated step by step (``"exact"``) or by one step an epoch
(``"epochs"``, as that code does). Controls: the mean colour, and a payload of the same norm in a random direction. Also
DLF in all its variants, on a network of three convolutions. Rows that are in the record already are kept.

    python benchmarks/deltas.py [--seeds 3] [--part steps cnn3]

Records in benchmarks/results (OMP_NUM_THREADS=1):

    deltas_cpu: python benchmarks/deltas.py --seeds 2 --part steps
    dlf_cnn3_cpu: python benchmarks/deltas.py --seeds 2 --part cnn3
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import torch
from common import arguments, measure, scores
from torch import nn

import glutils as gl

RATE = 0.1
STEPS = (1, 2, 4, 10, 20, 40)
DIGITS = {"one digit": RATE, "one digit, small steps": 0.004}
"""Cases with a digit, and their step sizes: at the small one the gradient hardly turns."""
SEARCHED = (1, 4, 10, 40)
"""... for DLG and iDLG, whose iterations take some 25 gradients."""
SEARCHES = (("four photos", "ig"), ("one digit", "idlg"), ("one digit", "dlg"), ("one digit, small steps", "idlg"))
UNROLLED = (2, 10, 20)
"""At which numbers of steps the client is simulated: an iteration costs as many steps."""
ITERATIONS = {"ig": 120, "dlg": 24, "idlg": 24}
EPOCHS, BATCH, IMAGES, DESCENT = 2, 2, 4, 150
"""Of DLF: the client's epochs, batch size and photographs, and the attack's iterations."""
AIMS = {"scaled": True, "unscaled": False}


def client_of(case: str, steps: int, seed: int) -> tuple[gl.data.Batch, nn.Module, gl.protocols.FedAvg]:
    """Private images, network and protocol of a case: its data, images, and batch size."""
    if case in DIGITS:
        batch = gl.data.sample("digits", count=1, seed=seed, device="cpu")
        return batch, gl.models.build("lenet", batch, seed=seed), gl.protocols.FedAvg(steps, 1, DIGITS[case])
    batch = gl.data.sample("photos", size=12, count=4, seed=seed, device="cpu")
    model = gl.models.build("convnet", batch, seed=seed)
    size, epochs = (4, 1) if steps == 1 else (2, steps // 2)
    return batch, model, gl.protocols.FedAvg(epochs, size, RATE, shuffle=seed)


def run(case: str, attack: str, target: str, steps: int, tampered: str, seed: int) -> dict:
    """One attack on one message."""
    batch, model, protocol = client_of(case, steps, seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    knows = {"labels"} if attack == "ig" else set()
    seen = gl.observe(model, protocol, payload, batch, knows=knows)
    gradient = gl.protocols.FedSGD().transmit(model, batch.images, batch.labels)
    sent, first = gl.models.flatten(payload), gl.models.flatten(gradient)
    about = {"cosine": float(sent @ first / sent.norm() / first.norm()), "length": float(sent.norm() / first.norm())}
    if tampered != "none":
        seen = gl.tamper(seen, tampered, seed=seed)
    if target in AIMS:
        seen = gl.observation.as_gradient(seen, scaled=AIMS[target])
    how = {"iterations": ITERATIONS[attack], "seed": seed, "progress": False}
    how |= {"local": target} if target in ("exact", "epochs") else {"restarts": 1} if attack != "ig" else {}
    return about | scores(gl.attack(attack, seen, **how), batch)


def steps_of(seeds: int) -> Iterator[dict]:
    """The cells of the curves: all cheap ones, then the client simulated step by step."""
    for seed in range(seeds):
        for case, attack in SEARCHES:
            for steps in STEPS if attack == "ig" else SEARCHED:
                cell = {"case": case, "attack": attack, "steps": steps, "tampered": "none", "seed": seed}
                yield from (cell | {"target": target} for target in AIMS)
            yield cell | {"target": "scaled", "tampered": "wrong_gradient"}
    for steps in UNROLLED:
        for seed in range(seeds):
            for target in ("exact", "epochs"):
                cell = {"case": "four photos", "attack": "ig", "steps": steps, "tampered": "none", "seed": seed}
                yield cell | {"target": target}


def cnn3(batch: gl.data.Batch, seed: int) -> nn.Module:
    """Three 3x3 convolutions (strides 1, 1, 2) and a linear layer, ReLU, PyTorch's default initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers, before = [], batch.shape[0]
        for after, stride in ((16, 1), (32, 1), (32, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]
            before = after
        side = (batch.shape[1] + 1) // 2
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side * side, len(batch.classes)))
    model.classes, model.shape, model.name = len(batch.classes), batch.shape, "cnn3"
    return model.eval()


def dlf(simulator: str, rule: str, lr: float, tampered: str, seed: int) -> dict:
    """DLF on four photographs, two shuffled epochs of two batches, through three convolutions."""
    batch = gl.data.sample("photos", size=16, count=IMAGES, seed=seed, device="cpu")
    model = cnn3(batch, seed)
    protocol = gl.protocols.FedAvg(epochs=EPOCHS, batch_size=BATCH, lr=lr, shuffle=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch, knows={"labels"} if rule == "told" else set())
    if simulator == "true order":  # what nobody but the client can do: its own shuffled order, unrolled
        rounds = tuple(dataclasses.replace(entry, protocol=protocol) for entry in seen.rounds)
        seen = dataclasses.replace(seen, rounds=rounds)
    if tampered != "none":
        seen = gl.tamper(seen, tampered, seed=seed)
    how = {"iterations": DESCENT, "seed": seed, "progress": False}
    how |= {"labels": rule} if rule != "told" else {}
    name = "full" if simulator in ("true order", "cyclic") else simulator
    return scores(gl.attack("dlf", seen, simulator=name, **how), batch)


def dlf_cells(seeds: int) -> Iterator[dict]:
    """Simulators with labels told, then the best of them with labels counted, then the tampered payload."""
    small, large = 0.004, 0.05
    tries = [(name, "told", lr) for lr in (small, large) for name in ("full_many", "none")]
    later = [(name, "told", lr) for lr in (small, large) for name in ("true order", "cyclic", "none_epoch")]
    later += [("full_many", rule, lr) for lr in (small, large) for rule in ("dlf", "ilrg")]
    for group in (tries, later):
        for seed in range(seeds):
            for simulator, rule, lr in group:
                yield {"simulator": simulator, "rule": rule, "lr": lr, "tampered": "none", "seed": seed}
    for seed in range(seeds):
        yield {"simulator": "full_many", "rule": "told", "lr": small, "tampered": "wrong_gradient", "seed": seed}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", nargs="*", default=["steps", "cnn3"], choices=["steps", "cnn3"])
    options = arguments(parser)
    if "steps" in options.part:
        measure("deltas_cpu", steps_of(options.seeds), run, {"iterations": ITERATIONS, "lr": RATE})
    if "cnn3" in options.part:
        about = {"iterations": DESCENT, "epochs": EPOCHS, "batch": BATCH, "images": IMAGES}
        measure("dlf_cnn3_cpu", dlf_cells(options.seeds), dlf, about)


if __name__ == "__main__":
    main()
