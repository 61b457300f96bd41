"""Label counts after local training: every rule, by epochs, step size, and how well the model was trained before.

A client's digits are dealt by a Dirichlet law (0.5). Rules are told nothing but the update and, where they ask for it,
public digits. Beside them two guesses without any update: the same count for every class, and all images in one class.
Rows that are in the record already are kept.

    python benchmarks/label_drift.py [--seeds 5] [--per-client 40] [--batch 10]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    label_drift_cpu: python benchmarks/label_drift.py --seeds 2
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator

import torch
from common import arguments, measure

import glutils as gl

EPOCHS, RATES, TRAINED = (1, 2, 5), (0.004, 0.03, 0.1), (0, 20)
VARIANTS = {
    "DLF": ("dlf", {}), "DLF, class-agnostic": ("dlf", {"class_agnostic": True}),
    "DLF, first state": ("dlf", {"points": "start"}), "iLRG, both ends": ("ilrg", {"points": "average"}),
    "RLU, along the path": ("rlu", {"between": "path"}), "ALR": ("alr", {}), "Geng": ("geng", {}), "LLG": ("llg", {}),
    "bias-corrected": ("bias_corrected", {}), "iLRG": ("ilrg", {}), "RLU": ("rlu", {}), "zero-shot": ("zero_shot", {}),
    "iDLG": ("idlg", {}),
}  # fmt: skip


@functools.cache
def federation(seed: int, trained: int, per_client: int) -> tuple[list[gl.data.Batch], torch.nn.Module, float]:
    """Clients, and the global model after some rounds with its accuracy."""
    clients = gl.data.partition(
        "digits", clients=10, per_client=per_client, law="dirichlet", beta=0.5, min_samples=20, seed=seed, device="cpu"
    )
    model = gl.models.build("convnet", clients[0], seed=seed)
    test = gl.data.public(clients[0])
    if trained:
        protocol = gl.protocols.FedAvg(epochs=2, batch_size=10, lr=0.1)
        run = gl.federation.train(protocol, model, clients, rounds=trained, test=test, seed=seed, progress=False)
        model.load_state_dict(run.states[-1])
    with torch.no_grad():
        accuracy = float((model(test.images).argmax(1) == test.labels).float().mean())
    return clients, model, accuracy


def count(trained: int, lr: float, epochs: int, rule: str, seed: int, per_client: int, batch: int) -> dict:
    """Share of a client's images whose labels are accounted for."""
    clients, model, accuracy = federation(seed, trained, per_client)
    private, public = clients[0], gl.data.public(clients[0])
    about = {"images": len(private), "accuracy": accuracy}
    held = torch.bincount(private.labels, minlength=len(private.classes))
    if rule == "the same for all":
        even = gl.labels.round_counts(torch.full((len(held),), len(private) / len(held)), len(private))
        return about | {"counted": float(torch.minimum(even, held).sum() / len(private))}
    if rule == "one class":
        return about | {"counted": float(held.double().mean() / len(private))}
    protocol = gl.protocols.FedAvg(epochs=epochs, batch_size=batch, lr=lr, shuffle=seed)
    with torch.no_grad():
        payload = protocol.transmit(model, private.images, private.labels)
    seen = gl.observe(model, protocol, payload, private, knows={"public"}, public=public)
    steps = gl.observation.local_steps(seen)
    name, how = VARIANTS[rule]
    if name in ("geng", "idlg"):  # they read gradients: the mean one along the way
        seen = gl.observation.as_gradient(seen)
    found = gl.labels.infer(name, seen, **how)
    return about | {"steps": steps, "counted": gl.metrics.count_accuracy(found, private)}


def cells(seeds: int, per_client: int, batch: int) -> Iterator[dict]:
    """Every rule in every setting, and the guesses once."""
    for seed in range(seeds):
        for trained in TRAINED:
            fixed = {"trained": trained, "seed": seed, "per_client": per_client, "batch": batch}
            for rule in ("the same for all", "one class"):
                yield fixed | {"rule": rule, "lr": RATES[0], "epochs": EPOCHS[0]}
            for lr in RATES:
                for epochs in EPOCHS:
                    for rule in VARIANTS:
                        yield fixed | {"rule": rule, "lr": lr, "epochs": epochs}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--per-client", type=int, default=40)
    parser.add_argument("--batch", type=int, default=10)
    options = arguments(parser)
    measure("label_drift_cpu", cells(options.seeds, options.per_client, options.batch), count, {"beta": 0.5})


if __name__ == "__main__":
    main()
