"""SME beside AGA, its special case: one gradient a step, at a network on the client's way or at its first.

Photographs, four to a client, from differences after local steps; labels told. AGA (IG on the mean gradient) gets twice
the steps, which is no less processor time than SME takes. Beside them DLF with AGA's simulator, IG with every step
simulated, SME with a spoiled message, and every image in its mean colour. The step size of the mixing was chosen on
other photographs.

    python benchmarks/surrogate.py [--seeds 3] [--iterations 100]

Record in benchmarks/results (OMP_NUM_THREADS=1):

    surrogate_cpu: python benchmarks/surrogate.py --seeds 5
"""

from __future__ import annotations

import argparse
import time

from common import arguments, measure

import glutils as gl

CLIENTS = {
    "5 small steps": {"epochs": 5, "batch_size": 4, "lr": 0.02},
    "5 steps": {"epochs": 5, "batch_size": 4, "lr": 0.1},
    "10 steps": {"epochs": 10, "batch_size": 4, "lr": 0.1},
    "10 shuffled steps": {"epochs": 5, "batch_size": 2, "lr": 0.05},
    "10 large shuffled steps": {"epochs": 5, "batch_size": 2, "lr": 0.1},
}
FIRST = 100
"""First of the seeds; those below were used to choose settings."""
ATTACKS = ("AGA", "SME", "AGA in DLF", "every step", "SME, wrong message")
SIZE, COUNT = 12, 4


def attack(seed: int, client: str, attack: str, iterations: int) -> dict:
    """One attack on one client: a PSNR for each image."""
    batch = gl.data.sample("photos", size=SIZE, count=COUNT, seed=seed, distinct=True, device="cpu")
    model = gl.models.build("convnet", batch, seed=seed)
    protocol = gl.protocols.FedAvg(**CLIENTS[client], shuffle=seed)
    payload = protocol.transmit(model, batch.images, batch.labels)
    seen = gl.observe(model, protocol, payload, batch, knows={"labels"})
    if attack.endswith("wrong message"):
        seen = gl.tamper(seen, "wrong_gradient", seed=seed)
    name, view, how = {
        "AGA": ("ig", gl.observation.as_gradient(seen), {"iterations": 2 * iterations}),
        "AGA in DLF": ("dlf", seen, {"iterations": iterations, "simulator": "none"}),
        "every step": ("ig", seen, {"iterations": iterations}),
    }.get(attack, ("sme", seen, {"iterations": iterations}))
    begin = time.process_time()
    found = gl.attack(name, view, seed=seed, progress=False, **how)
    spent = time.process_time() - begin
    score = gl.score(found, batch)
    return {
        "psnr": score.psnr.tolist(), "mean colour": score.controls["mean_colour"].tolist(), "spent": spent,
        "evaluations": found.evaluations, "mixing": found.diagnostics.get("mixing"),
    }  # fmt: skip


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=100)
    options = arguments(parser)
    cells = [
        {"seed": seed, "client": client, "attack": name, "iterations": options.iterations}
        for seed in range(FIRST, FIRST + options.seeds)
        for client in CLIENTS
        for name in ATTACKS
    ]
    measure("surrogate_cpu", cells, attack, {"size": SIZE, "count": COUNT, "clients": CLIENTS})


if __name__ == "__main__":
    main()
