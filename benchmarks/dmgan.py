"""DMGAN on every class of digits: what two classifiers that took no part make of its samples, beside its controls.

Five clients, five rounds, 8x8 digits; the attacker holds no image of the tracked class. The judges are trained on
public digits; one is built like the global model. Settings were chosen on classes 3 and 7 with other seeds (1000 to
1006), so the other eight classes are the test. A row is written after each run, and a second start goes on from there.

    python benchmarks/dmgan.py [--classes 0 1 2 3 4 5 6 7 8 9] [--seed 2000] [--rounds 5] [--per-client 100]
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from timing import RESULTS

import glutils as gl

JUDGES = ("convnet", "mlp")
DEVELOPED = (3, 7)
BARE = {"memory": 0, "anchor": 0, "variation": 0, "diversity": 0, "lr": 2e-4}
CASES = {"DMGAN": {}, "nobody has the class": {}, "the game alone": BARE}


def judge(kind: str, public: gl.data.Batch, seed: int = 100, epochs: int = 30) -> torch.nn.Module:
    """A classifier of public digits that the federation never sees."""
    model = gl.models.build(kind, public, seed=seed)
    optimiser, order = torch.optim.Adam(model.parameters(), 2e-3), torch.Generator().manual_seed(5)
    for _ in range(epochs):
        for part in torch.randperm(len(public), generator=order).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(public.images[part]), public.labels[part]).backward()
            optimiser.step()
    return model


def share(model: torch.nn.Module, images: torch.Tensor, label: int) -> float:
    """Share of the images that the model takes for the class."""
    with torch.no_grad():
        return float((model(images).argmax(1) == label).float().mean())


def verdicts(judges: dict, images: torch.Tensor, label: int, public: gl.data.Batch) -> dict[str, float]:
    """Each judge's share, the lower of them, and the likeness to the public class mean."""
    row = {name: share(model, images, label) for name, model in judges.items()}
    mean = public.images[public.labels == label].mean(0, keepdim=True)
    return row | {"lower": min(row.values()), "correlation": float(gl.metrics.correlations(images, mean).mean())}


def played(case: str, label: int, seed: int, rounds: int, per_client: int | None) -> gl.attacks.Reconstruction:
    """One federation with its attacker."""
    clients = gl.data.partition("digits", clients=5, per_client=per_client, seed=seed, device="cpu")
    robbed = [gl.attacks.without_class(client, label) for client in clients]
    clients = robbed if case.startswith("nobody") else [robbed[0], *clients[1:]]
    how = {"tracked": label, "rounds": rounds, "samples": 50, "seed": seed, "progress": False}
    return gl.attacks.dmgan(clients, **how, **CASES[case])


def main() -> None:
    """Run what is not in the record yet, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seed", type=int, default=2000, help="of class 0; class c has this plus c")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-client", type=int, help="images of each, in a record of its own; default: all, 200")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    options = parser.parse_args()
    public, begin = gl.data.public("digits", device="cpu"), time.perf_counter()
    judges = {kind: judge(kind, public) for kind in JUDGES}
    private = gl.data.load("digits", device="cpu")
    with torch.no_grad():
        right = {k: float((m(private.images).argmax(1) == private.labels).float().mean()) for k, m in judges.items()}
    settings = {"rounds": options.rounds, "clients": 5, "data": "digits", "seed": options.seed, "judges": right}
    rows, before, record = [], 0.0, "dmgan_cpu"
    if options.per_client:
        record, settings = f"dmgan_{options.per_client}_cpu", settings | {"per_client": options.per_client}
    if (RESULTS / f"{record}.json").is_file():
        old = gl.runs.load(record, folder=RESULTS)
        if all(old.parameters.get(name) == settings[name] for name in ("rounds", "seed")):
            rows, before = list(old.rows), old.seconds
    for case in options.cases:
        for label in options.classes:
            seed = options.seed + label
            if any((row["case"], row["class"], row["seed"]) == (case, label, seed) for row in rows):
                continue
            found = played(case, label, seed, options.rounds, options.per_client)
            row = {"case": case, "class": label, "seed": seed, "developed on": label in DEVELOPED}
            row |= verdicts(judges, found.images, label, public) | {"seconds": found.seconds}
            row |= {"global model": found.diagnostics[f"tracked, round {options.rounds}"]}
            row |= {"accuracy": found.diagnostics[f"accuracy, round {options.rounds}"]}
            row |= {"spread": found.diagnostics["spread"]}
            if case == "DMGAN":
                row["untrained"] = verdicts(judges, found.history.frames[0], label, public)
                mean = public.images[public.labels == label].mean(0, keepdim=True)
                row["class mean"] = verdicts(judges, mean, label, public)
            rows.append(row)
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            gl.runs.record(
                record, parameters=settings | {"threads": torch.get_num_threads()}, rows=rows,
                seeds=sorted({row["seed"] for row in rows}), seconds=before + time.perf_counter() - begin,
                folder=RESULTS,
            )  # fmt: skip
    for case in CASES:
        for name in (*JUDGES, "lower"):
            values = [row[name] for row in rows if row["case"] == case and not row["developed on"]]
            if values:
                good = sum(value >= 0.8 for value in values)
                print(f"{case}, {name}, eight classes: {gl.metrics.summary(values)}, {good} of {len(values)} reach 0.8")


if __name__ == "__main__":
    main()
